//! The process, from /proc.

use std::fs;

use crate::metrics::Exposition;

/// What /proc tells; what can't be read is 0.
struct Process {
    status: String,
    stat: String,
    limits: String,
    netstat: String,
}

impl Process {
    fn read() -> Process {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Process {
            status: read("/proc/self/status"),
            stat: read("/proc/self/stat"),
            limits: read("/proc/self/limits"),
            netstat: read("/proc/self/net/netstat"),
        }
    }

    /// A line of KiB in /proc/self/status, in bytes.
    fn bytes(&self, name: &str) -> f64 {
        let line = self.status.lines().find(|line| line.starts_with(name));
        let kib = line.and_then(|line| line.split_ascii_whitespace().nth(1)).and_then(|kib| kib.parse::<f64>().ok());
        kib.unwrap_or(0.0) * 1024.0
    }

    /// A soft limit. Without one Prometheus' client for Go shows 2^64 - 1.
    fn limit(&self, name: &str) -> f64 {
        let line = self.limits.lines().find_map(|line| line.strip_prefix(name));
        let soft = line.and_then(|line| line.split_ascii_whitespace().next()).unwrap_or("0");
        soft.parse().unwrap_or(u64::MAX as f64)
    }

    /// A field of /proc/self/stat, counted from 1 as in proc(5); those behind the name of the program.
    fn stat(&self, field: usize) -> f64 {
        let behind_name = self.stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        behind_name.split_ascii_whitespace().nth(field - 3).and_then(|text| text.parse().ok()).unwrap_or(0.0)
    }

    /// A field of the line `IpExt:`.
    fn network(&self, name: &str) -> f64 {
        let mut lines = self.netstat.lines().filter_map(|line| line.strip_prefix("IpExt:"));
        let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
        let place = names.split_ascii_whitespace().position(|known| known == name);
        place
            .and_then(|place| values.split_ascii_whitespace().nth(place))
            .and_then(|text| text.parse().ok())
            .unwrap_or(0.0)
    }
}

/// Clock ticks of /proc a second: the kernel shows it to programs as 100 on all machines.
const TICKS_PER_S: f64 = 100.0;

fn boot_time_s() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()).unwrap_or(0.0)
}

pub(super) fn write(out: &mut Exposition) {
    let process = Process::read();
    let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count()) as f64;
    let descriptors = process.limit("Max open files");
    let (utime, stime, start) = (14, 15, 22);
    let gauges = [
        ("process_resident_memory_bytes", "Resident memory size in bytes.", process.bytes("VmRSS:")),
        (
            "ringstone_resident_anonymous_bytes",
            "Resident memory that is not a file's: what --memory-limit is about.",
            process.bytes("RssAnon:"),
        ),
        (
            "ringstone_resident_file_bytes",
            "Resident pages of mapped files: the kernel takes them back when it needs to.",
            process.bytes("RssFile:"),
        ),
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", process.bytes("VmSize:")),
        (
            "process_virtual_memory_max_bytes",
            "Maximum amount of virtual memory available in bytes.",
            process.limit("Max address space"),
        ),
        (
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            boot_time_s() + process.stat(start) / TICKS_PER_S,
        ),
        ("process_open_fds", "Number of open file descriptors.", open),
        ("process_max_fds", "Maximum number of open file descriptors.", descriptors),
        ("os_fd_used", "The number of used file descriptors.", open),
        ("os_fd_limit", "The file descriptor limit.", descriptors),
    ];
    for (name, help, value) in gauges {
        out.single(name, "gauge", help, value);
    }
    let counters = [
        (
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            (process.stat(utime) + process.stat(stime)) / TICKS_PER_S,
        ),
        (
            "process_network_receive_bytes_total",
            "Number of bytes received by the process over the network.",
            process.network("InOctets"),
        ),
        (
            "process_network_transmit_bytes_total",
            "Number of bytes sent by the process over the network.",
            process.network("OutOctets"),
        ),
    ];
    for (name, help, value) in counters {
        out.single(name, "counter", help, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let process = Process::read();
        assert!(process.bytes("VmRSS:") > 1e6 && process.bytes("VmSize:") >= process.bytes("VmRSS:"));
        assert!(process.limit("Max open files") >= 1.0 && process.stat(22) > 0.0 && boot_time_s() > 1.7e9);
        let made = Process {
            status: String::new(),
            stat: "7 (a) b) S 1".to_owned(),
            limits: "Max open files            20000                65536                files".to_owned(),
            netstat: "TcpExt: A\nTcpExt: 1\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 17 19\n".to_owned(),
        };
        assert_eq!((made.network("OutOctets"), made.network("None"), made.stat(4)), (19.0, 0.0, 1.0));
        assert_eq!((made.limit("Max open files"), made.limit("Max address space")), (20_000.0, 0.0));
    }
}
