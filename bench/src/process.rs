//! CPU and memory of the server's process, and of the machine.

use std::fs;

use crate::BenchError;

/// Figures at one moment; differences of two count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// The server's own, where its pids are known and all of them live.
    pub server: Option<ServerFigures>,
    /// Non-idle time of the machine, in microseconds.
    pub machine_cpu_us: u64,
    /// User and system time of this process, in microseconds.
    pub own_cpu_us: u64,
}

/// Those of the server's process, or of all of its processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerFigures {
    /// User and system time of the server, in microseconds.
    pub cpu_us: u64,
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

/// Binds the calling thread to a core. Threads and processes that it makes from now on inherit that.
///
/// # Errors
/// The core does not exist, or is not allowed.
pub fn pin(core: usize) -> std::io::Result<()> {
    // SAFETY: an all-zero cpu_set_t is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if core >= libc::CPU_SETSIZE as usize {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the set lives on this stack, and the core is below its size.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the pointer is to a set of the size that is passed, which lives through the call.
    let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Looks at the machine, this process, and the server's processes if their pids are known and all of them live.
#[must_use]
pub fn look(servers: &[u32]) -> Figures {
    let tick = tick_us();
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    Figures {
        machine_cpu_us: machine_ticks(&read("/proc/stat")).unwrap_or(0) * tick,
        own_cpu_us: process_ticks(&read("/proc/self/stat")).unwrap_or(0) * tick,
        server: if servers.is_empty() { None } else { look_at_all(servers).ok() },
    }
}

/// Looks at several processes: the sums.
///
/// # Errors
/// [`BenchError::Process`]: there is not one of them.
pub fn look_at_all(pids: &[u32]) -> Result<ServerFigures, BenchError> {
    let mut sum = ServerFigures::default();
    for pid in pids {
        let one = look_at(*pid)?;
        sum.cpu_us += one.cpu_us;
        sum.resident_bytes += one.resident_bytes;
        sum.anonymous_bytes += one.anonymous_bytes;
    }
    Ok(sum)
}

/// Looks at a process.
///
/// # Errors
/// [`BenchError::Process`]: there is none.
pub fn look_at(pid: u32) -> Result<ServerFigures, BenchError> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let ticks = process_ticks(&read("stat")).ok_or(BenchError::Process { pid })?;
    let status = read("status");
    Ok(ServerFigures {
        cpu_us: ticks * tick_us(),
        resident_bytes: status_bytes(&status, "VmRSS:"),
        anonymous_bytes: status_bytes(&status, "RssAnon:"),
    })
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
