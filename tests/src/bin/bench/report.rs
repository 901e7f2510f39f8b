//! The table, or the JSON.

use serde_json::{Value, json};

use crate::stats::Series;

/// What was measured, in the order it was.
#[derive(Debug)]
pub struct Report {
    json: bool,
    groups: Vec<(String, Vec<Value>)>,
    notes: Vec<String>,
}

impl Report {
    pub fn new(json: bool) -> Self {
        Self { json, groups: Vec::new(), notes: Vec::new() }
    }

    /// Begins a group of rows.
    pub fn group(&mut self, title: &str) {
        self.groups.push((title.to_owned(), Vec::new()));
    }

    /// One figure; nothing where nothing was measured.
    pub fn row(&mut self, name: &str, unit: &str, series: &Series) {
        if series.is_empty() {
            return;
        }
        let (median, min, max, n) = series.summary();
        if let Some((_, rows)) = self.groups.last_mut() {
            rows.push(json!({
                "name": name, "unit": unit, "median": median, "min": min, "max": max, "n": n,
            }));
        }
    }

    /// Something a reader must know to judge the figures.
    pub fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    /// Prints all of it.
    pub fn print(&self) {
        if self.json {
            let groups: Vec<_> =
                self.groups.iter().map(|(title, rows)| json!({ "title": title, "figures": rows })).collect();
            println!("{}", json!({ "machine": machine(), "groups": groups, "notes": self.notes }));
            return;
        }
        println!("{}", machine());
        for (title, rows) in &self.groups {
            println!("\n{title:<52} {:>10} {:>10} {:>10} {:>6}", "median", "min", "max", "n");
            for row in rows {
                let number = |key: &str| row[key].as_f64().unwrap_or_default();
                let name =
                    format!("{}, {}", row["name"].as_str().unwrap_or(""), row["unit"].as_str().unwrap_or(""));
                println!(
                    "  {name:<50} {:>10.2} {:>10.2} {:>10.2} {:>6}",
                    number("median"),
                    number("min"),
                    number("max"),
                    row["n"]
                );
            }
        }
        println!();
        for note in &self.notes {
            println!("note: {note}");
        }
    }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    format!("kernel {}, {} CPUs", read("/proc/sys/kernel/osrelease").trim(), cpus)
}
