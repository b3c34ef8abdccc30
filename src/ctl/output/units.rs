//! Sizes and times in the words of the Go libraries that etcdctl uses.

use std::time::Duration;

/// A time as Go's `Duration` prints itself: no digit that is not needed.
pub fn human_duration(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    let part = |unit: u128, digits: usize| {
        let text = format!("{}.{:0digits$}", nanoseconds / unit, nanoseconds % unit);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => format!("{}µs", part(1_000, 3)),
        1_000_000..1_000_000_000 => format!("{}ms", part(1_000_000, 6)),
        _ => format!("{}s", part(1_000_000_000, 9)),
    }
}

/// A size in powers of 1000 with two digits.
pub fn human_bytes(bytes: i64) -> String {
    let mut value = bytes.max(0) as f64;
    if value < 10.0 {
        return format!("{value} B");
    }
    for unit in ["B", "kB", "MB", "GB", "TB", "PB", "EB"] {
        if value < 999.5 || unit == "EB" {
            let tenths = (value * 10.0).round() / 10.0;
            return if value < 9.95 && unit != "B" {
                format!("{tenths:.1} {unit}")
            } else {
                format!("{value:.0} {unit}")
            };
        }
        value /= 1000.0;
    }
    unreachable!("the last unit takes all")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As etcdctl printed them.
    #[test]
    fn sizes_and_times_are_those_of_etcdctl() {
        for (bytes, expected) in [(0, "0 B"), (9, "9 B"), (24_576, "25 kB"), (2_147_483_648, "2.1 GB"), (999, "999 B")]
        {
            assert_eq!(human_bytes(bytes), expected);
        }
        for (nanoseconds, expected) in [(1_000_428_240, "1.00042824s"), (7_465_284, "7.465284ms"), (15_600, "15.6µs")]
        {
            assert_eq!(human_duration(Duration::from_nanos(nanoseconds)), expected);
        }
    }
}
