//! The table, or the JSON.

use std::time::Duration;

use serde_json::{Value, json};

#[derive(Debug, Default)]
pub struct Figures {
    groups: Vec<(String, [&'static str; 3], Vec<Value>)>,
    notes: Vec<String>,
}

impl Figures {
    /// Begins a group of rows, whose three numbers are called this.
    pub fn group(&mut self, title: &str, columns: [&'static str; 3]) {
        self.groups.push((title.to_owned(), columns, Vec::new()));
    }

    pub fn row(&mut self, name: &str, unit: &str, numbers: [f64; 3], n: usize) {
        let (_, columns, rows) = self.groups.last_mut().unwrap();
        let mut row = json!({ "name": name, "unit": unit, "n": n });
        for (column, number) in columns.iter().zip(numbers) {
            row[*column] = json!(number);
        }
        rows.push(row);
    }

    /// p50, p99 and the most of these times, in milliseconds.
    pub fn times(&mut self, name: &str, times: &mut [Duration]) -> f64 {
        times.sort_unstable();
        let at = |share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "an index from a share"
            )]
            let index = ((times.len() - 1) as f64 * share).ceil() as usize;
            times[index].as_secs_f64() * 1_000.0
        };
        let numbers = [at(0.5), at(0.99), at(1.0)];
        self.row(name, "ms", numbers, times.len());
        numbers[1]
    }

    pub fn note(&mut self, words: String) {
        self.notes.push(words);
    }

    pub fn print(&self, json: bool) {
        if json {
            let groups: Vec<_> = self
                .groups
                .iter()
                .map(|(title, _, rows)| json!({ "title": title, "figures": rows }))
                .collect();
            println!("{}", json!({ "console": { "groups": groups, "notes": self.notes } }));
            return;
        }
        for (title, columns, rows) in &self.groups {
            println!("\n{title:<52} {:>10} {:>10} {:>10} {:>6}", columns[0], columns[1], columns[2], "n");
            for row in rows {
                let number = |key: &str| row[key].as_f64().unwrap_or_default();
                let name = format!("{}, {}", row["name"].as_str().unwrap(), row["unit"].as_str().unwrap());
                println!(
                    "  {name:<50} {:>10.2} {:>10.2} {:>10.2} {:>6}",
                    number(columns[0]),
                    number(columns[1]),
                    number(columns[2]),
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
