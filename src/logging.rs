//! Log lines as etcd writes them: one JSON object a line on stderr (level, ts, caller, msg, then the fields).

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// Tab-separated words, for people.
    Console,
}

/// Where lines go.
#[derive(Debug)]
pub enum Output {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(std::fs::File),
}

/// The process's one subscriber.
pub struct Logger {
    level: Level,
    format: Format,
    outputs: Vec<Output>,
    next_span: AtomicU64,
}

impl Logger {
    /// Lines up to `level` to all of `outputs`.
    pub fn new(level: Level, format: Format, outputs: Vec<Output>) -> Logger {
        Logger { level, format, outputs, next_span: AtomicU64::new(1) }
    }
}

/// Civil date of a day count since 1970-01-01 (Gregorian, valid for all days of a u64 of seconds that we meet).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// `2026-11-21T09:36:00.000001Z`.
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since.subsec_micros())
}

struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn push(&mut self, field: &Field, json: &str) {
        if field.name() == "message" {
            return;
        }
        let _ = write!(self.rest, ",{}:{json}", serde_json::Value::from(field.name().replace('_', "-")));
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        }
        self.push(field, &serde_json::Value::from(value).to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, &value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.push(field, &serde_json::Value::from(text).to_string());
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    }
}

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= &self.level && metadata.target().starts_with("ringstone")
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(self.next_span.fetch_add(1, Ordering::Relaxed))
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields { message: String::new(), rest: String::new() };
        event.record(&mut fields);
        let metadata = event.metadata();
        let file = metadata.file().unwrap_or("?");
        // Two last parts of the path, as zap's short caller has it.
        let short = file.rsplitn(3, '/').collect::<Vec<_>>();
        let caller = match short.as_slice() {
            [name, folder, ..] => format!("{folder}/{name}:{}", metadata.line().unwrap_or(0)),
            _ => format!("{file}:{}", metadata.line().unwrap_or(0)),
        };
        let (level, ts) = (level_name(*metadata.level()), timestamp(SystemTime::now()));
        let line = match self.format {
            Format::Json => format!(
                "{{\"level\":\"{level}\",\"ts\":\"{ts}\",\"caller\":\"{caller}\",\"msg\":{}{}}}\n",
                serde_json::Value::from(fields.message),
                fields.rest
            ),
            Format::Console => {
                let rest = fields.rest.trim_start_matches(',');
                let rest = if rest.is_empty() { String::new() } else { format!("\t{{{rest}}}") };
                format!("{ts}\t{level}\t{caller}\t{}{rest}\n", fields.message)
            }
        };
        for output in &self.outputs {
            // A log line that can't be written has nowhere to be reported.
            let _ = match output {
                Output::Stderr => std::io::stderr().lock().write_all(line.as_bytes()),
                Output::Stdout => std::io::stdout().lock().write_all(line.as_bytes()),
                Output::File(file) => (&*file).write_all(line.as_bytes()),
            };
        }
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_right() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000000Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.000000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000000Z");
        assert_eq!(at(1_795_253_760), "2026-11-21T09:36:00.000000Z");
    }
}
