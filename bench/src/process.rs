//! CPU and memory of the server's process, and of the machine.

use std::fs;

use crate::BenchError;

/// Figures at one moment; differences of two count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// User and system time of the server, in microseconds.
    pub server_cpu_us: u64,
    /// Non-idle time of the machine, in microseconds.
    pub machine_cpu_us: u64,
    /// User and system time of this process, in microseconds.
    pub own_cpu_us: u64,
    /// Resident bytes of the server.
    pub resident_bytes: u64,
    /// Of these, anonymous.
    pub anonymous_bytes: u64,
}

fn tick_us() -> u64 {
    // SAFETY: sysconf takes a number and touches no memory.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    1_000_000 / u64::try_from(ticks).unwrap_or(100).max(1)
}

/// User and system time from a /proc/PID/stat: fields 14 and 15, behind the name in parentheses.
fn process_ticks(stat: &str) -> Option<u64> {
    let rest = &stat[stat.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Busy ticks from the first line of /proc/stat: all but idle and iowait, guests are in user already.
fn machine_ticks(stat: &str) -> Option<u64> {
    let fields: Vec<u64> =
        stat.lines().next()?.split_ascii_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields[..] else { return None };
    let _ = steal;
    Some(user + nice + system + irq + softirq)
}

fn status_bytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_ascii_whitespace().nth(1)).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0)
        * 1024
}

/// Looks at the machine, this process, and the server if its pid is known.
///
/// # Errors
/// [`BenchError::Process`].
pub fn look(server: Option<u32>) -> Result<Figures, BenchError> {
    let tick = tick_us();
    let read = |path: String| fs::read_to_string(path).unwrap_or_default();
    let mut figures = Figures {
        machine_cpu_us: machine_ticks(&read("/proc/stat".to_owned())).unwrap_or(0) * tick,
        own_cpu_us: process_ticks(&read("/proc/self/stat".to_owned())).unwrap_or(0) * tick,
        ..Figures::default()
    };
    if let Some(pid) = server {
        let ticks = process_ticks(&read(format!("/proc/{pid}/stat"))).ok_or(BenchError::Process { pid })?;
        let status = read(format!("/proc/{pid}/status"));
        figures.server_cpu_us = ticks * tick;
        figures.resident_bytes = status_bytes(&status, "VmRSS:");
        figures.anonymous_bytes = status_bytes(&status, "RssAnon:");
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_formats_of_proc_are_read() {
        let stat = "12 (a b) c) S 1 2 3 4 5 6 7 8 9 10 111 222 13 14";
        assert_eq!(process_ticks(stat), Some(333));
        assert_eq!(machine_ticks("cpu  1 2 3 400 500 6 7 8 9 10\ncpu0"), Some(19));
        assert_eq!(status_bytes("VmRSS:\t  12 kB\n", "VmRSS:"), 12_288);
    }
}
