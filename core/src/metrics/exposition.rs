//! The text exposition format 0.0.4, which Prometheus and etcd's tools read.

use std::fmt::Write as _;

use super::Histogram;

/// One sample's labels, already in text form: `a="b",c="d"` or nothing.
pub type Labels<'a> = &'a str;

/// The text, as it grows.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

/// A number as Go's client writes it (`strconv.FormatFloat(value, 'g', -1, 64)`): bounds are labels, and compared as text.
fn go_number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() || (1e-4..1e6).contains(&value.abs()) {
        return value.to_string();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("the form is asked for");
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

impl Exposition {
    /// Starts a family.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One sample of the family begun last.
    pub fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        let value = go_number(value);
        let _ = if labels.is_empty() {
            writeln!(self.text, "{name} {value}")
        } else {
            writeln!(self.text, "{name}{{{labels}}} {value}")
        };
    }

    /// A family of one sample without labels.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, "", value);
    }

    /// Samples of one histogram, added up over shards that have the same buckets.
    pub fn histogram<'a>(
        &mut self,
        name: &str,
        labels: Labels<'_>,
        parts: impl Iterator<Item = &'a Histogram> + Clone,
    ) {
        let Some(first) = parts.clone().next() else { return };
        let counts = (0..first.bounds.len()).map(|bucket| parts.clone().map(|part| part.buckets[bucket].get()).sum());
        let count = parts.clone().map(Histogram::count).sum();
        let sum = parts.clone().map(Histogram::sum).sum();
        self.buckets(name, labels, first.bounds.iter().copied().zip(counts), count, sum);
    }

    /// Samples of one histogram, from its bounds with what is in each bucket.
    pub fn buckets(
        &mut self,
        name: &str,
        labels: Labels<'_>,
        buckets: impl Iterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut cumulative = 0;
        for (bound, inside) in buckets {
            cumulative += inside;
            let bound = go_number(bound);
            self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"{bound}\""), cumulative as f64);
        }
        self.sample(&format!("{name}_bucket"), &format!("{labels}{comma}le=\"+Inf\""), count as f64);
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, count as f64);
    }

    /// The whole text.
    #[must_use]
    pub fn finish(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_add_up_and_cumulate() {
        let (a, b) = (Histogram::seconds(0.001, 3), Histogram::seconds(0.001, 3));
        a.record_units(500_000);
        a.record_units(3_000_000);
        b.record_units(1_000_000);
        b.record_units(9_000_000_000);
        let mut exposition = Exposition::default();
        exposition.histogram("x", "", [&a, &b].into_iter());
        let text = exposition.finish();
        let want =
            "x_bucket{le=\"0.001\"} 2\nx_bucket{le=\"0.002\"} 2\nx_bucket{le=\"0.004\"} 3\nx_bucket{le=\"+Inf\"} 4\n";
        assert!(text.starts_with(want), "{text}");
        assert!(text.ends_with("x_sum 9.0045\nx_count 4\n"), "{text}");
    }

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (0.0001, "0.0001"),
            (0.0128, "0.0128"),
            (52.4288, "52.4288"),
            (1e-5, "1e-05"),
            (524_288.0, "524288"),
            (1_048_576.0, "1.048576e+06"),
            (1_795_834_182.0, "1.795834182e+09"),
            (2_147_483_648.0, "2.147483648e+09"),
            (1_000_000.0, "1e+06"),
        ] {
            assert_eq!(go_number(value), text);
        }
    }
}
