//! The text format itself.

use std::fmt::Write as _;

use crate::telemetry::Snapshot;

/// A page under way. A metric's lines stand together, under its HELP and TYPE.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// One metric, for its lines.
pub(super) struct Metric<'a> {
    out: &'a mut String,
    name: &'a str,
}

impl Text {
    pub fn gauge<'a>(&'a mut self, name: &'a str, help: &str) -> Metric<'a> {
        self.metric(name, "gauge", help)
    }

    pub fn counter<'a>(&'a mut self, name: &'a str, help: &str) -> Metric<'a> {
        self.metric(name, "counter", help)
    }

    pub fn histogram<'a>(&'a mut self, name: &'a str, help: &str) -> Metric<'a> {
        self.metric(name, "histogram", help)
    }

    /// What is said in labels: its value is 1.
    pub fn info(&mut self, name: &str, help: &str, labels: &[(&str, &str)]) {
        self.gauge(name, help).count(labels, 1);
    }

    pub fn done(self) -> String {
        self.0
    }

    fn metric<'a>(&'a mut self, name: &'a str, kind: &str, help: &str) -> Metric<'a> {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Metric { out: &mut self.0, name }
    }
}

impl Metric<'_> {
    pub fn count(&mut self, labels: &[(&str, &str)], value: u64) {
        self.line("", labels, None, &value);
    }

    pub fn value(&mut self, labels: &[(&str, &str)], value: f64) {
        self.line("", labels, None, &value);
    }

    pub fn buckets(&mut self, labels: &[(&str, &str)], latencies: &Snapshot) {
        for (bound, count) in &latencies.cumulative {
            self.line("_bucket", labels, Some(&bound.to_string()), count);
        }
        self.line("_bucket", labels, Some("+Inf"), &latencies.count);
        self.line("_sum", labels, None, &latencies.sum);
        self.line("_count", labels, None, &latencies.count);
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: &[(&str, &str)],
        le: Option<&str>,
        value: &dyn std::fmt::Display,
    ) {
        let Self { out, name } = self;
        out.push_str(name);
        out.push_str(suffix);
        let bound = le.map(|bound| ("le", bound));
        for (n, (key, text)) in labels.iter().copied().chain(bound).enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(out, "{}{key}=\"{text}\"", if n == 0 { '{' } else { ',' });
        }
        let _ = writeln!(out, "{} {value}", if labels.is_empty() && le.is_none() { "" } else { "}" });
    }
}
