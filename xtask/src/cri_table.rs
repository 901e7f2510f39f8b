//! `cargo xtask cri-table`: docs/cri.md, each rpc and field of CRI with its state.
//!
//! What there is comes from the wire definition; what is shown to work from the tests, which say it in a line
//! above the test: `// cri: ExecSync, ExecSyncRequest.timeout`. What no test can show is stated with its reason
//! in `tests/cri-states.tsv`. A row that neither fills is an error, and so is a name the wire does not have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::run;

const WIRE: &str = "sandboxd/api/tests/cri-v1-wire.tsv";
const STATES: &str = "tests/cri-states.tsv";
const TABLE: &str = "docs/cri.md";
/// Where tests are.
const SOURCES: [&str; 2] = ["sandboxd", "tests"];
const MARKER: &str = "// cri: ";

/// What `cargo xtask cri-table` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only compares: fails when the file is not what would be written.
    #[arg(long)]
    pub check: bool,
}

/// Writes the table, or compares it.
pub fn cri_table(options: &Options) -> Result<()> {
    let root = run::root();
    let text = generate(&root)?;
    let path = root.join(TABLE);
    if options.check {
        let there = fs::read_to_string(&path).unwrap_or_default();
        ensure!(there == text, "{TABLE} is not up to date: run `cargo xtask cri-table`");
        return Ok(());
    }
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

fn generate(root: &Path) -> Result<String> {
    let wire = Wire::parse(&read(&root.join(WIRE))?)?;
    let states = states(&read(&root.join(STATES))?, &wire)?;
    let mut files = Vec::new();
    for dir in SOURCES {
        sources(&root.join(dir), &mut files)?;
    }
    let mut shown = BTreeMap::new();
    for file in &files {
        markers(&read(file)?, file.strip_prefix(root).unwrap_or(file), &wire, &mut shown)?;
    }
    table(&wire, &states, &shown)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// The wire definition: rpcs and, in its order, messages with their fields.
#[derive(Debug, Default)]
struct Wire {
    /// Service and name.
    rpcs: Vec<(String, String)>,
    messages: Vec<(String, Vec<Field>)>,
    names: BTreeSet<String>,
}

#[derive(Debug)]
struct Field {
    name: String,
    typ: String,
}

impl Wire {
    fn parse(text: &str) -> Result<Self> {
        let mut wire = Self::default();
        for line in text.lines() {
            let columns: Vec<_> = line.split('\t').collect();
            match columns[..] {
                ["rpc", service, name, ..] => {
                    wire.rpcs.push((service.into(), name.into()));
                    wire.names.insert(name.into());
                }
                ["message", name] => wire.messages.push((name.into(), Vec::new())),
                ["field", message, _, typ, name] => {
                    let last = wire.messages.last_mut().filter(|(last, _)| last == message);
                    let (_, fields) = last.with_context(|| format!("{line:?} is under no message"))?;
                    fields.push(Field { name: name.into(), typ: typ.into() });
                    wire.names.insert(format!("{message}.{name}"));
                }
                _ => {}
            }
        }
        Ok(wire)
    }
}

/// The stated rows: name to state and reason. `Message.*` stands for all its fields.
fn states(text: &str, wire: &Wire) -> Result<BTreeMap<String, String>> {
    let mut stated = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let [name, state, reason] = line.split('\t').collect::<Vec<_>>()[..] else {
            bail!("{STATES}: {line:?} has not three columns: name, state, reason");
        };
        ensure!(
            ["refused", "unimplemented", "ignored", "not applicable"].contains(&state),
            "{STATES}: {name}: no state {state:?}"
        );
        let names: Vec<String> = match name.strip_suffix('*') {
            Some(prefix) => wire.names.iter().filter(|name| name.starts_with(prefix)).cloned().collect(),
            None => wire.names.get(name).cloned().into_iter().collect(),
        };
        ensure!(!names.is_empty(), "{STATES}: the wire has no {name}");
        for name in names {
            stated.insert(name, format!("{state}: {reason}"));
        }
    }
    Ok(stated)
}

fn sources(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, files)?;
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}

/// Collects the names that a file's tests show, each with the tests.
fn markers(
    text: &str,
    path: &Path,
    wire: &Wire,
    shown: &mut BTreeMap<String, BTreeSet<String>>,
) -> Result<()> {
    let mut waiting: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(names) = line.strip_prefix(MARKER) {
            for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                ensure!(wire.names.contains(name), "{}: the wire has no {name}", path.display());
                waiting.push(name.to_owned());
            }
        } else if let Some(test) = function(line) {
            for name in waiting.drain(..) {
                shown.entry(name).or_default().insert(test.to_owned());
            }
        }
    }
    ensure!(waiting.is_empty(), "{}: {MARKER}{} stands above no test", path.display(), waiting.join(", "));
    Ok(())
}

/// The name of the function that begins in this line.
fn function(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("pub ").unwrap_or(line);
    let rest = rest.strip_prefix("async ").unwrap_or(rest).strip_prefix("fn ")?;
    rest.split(['(', '<']).next()
}

fn table(
    wire: &Wire,
    states: &BTreeMap<String, String>,
    shown: &BTreeMap<String, BTreeSet<String>>,
) -> Result<String> {
    let mut empty = Vec::new();
    let mut state = |name: &str| match (shown.get(name), states.get(name)) {
        (Some(tests), None) => {
            let tests: Vec<_> = tests.iter().map(|test| format!("`{test}`")).collect();
            tests.join(", ")
        }
        (None, Some(stated)) => stated.clone(),
        (Some(_), Some(_)) => {
            empty.push(format!("{name} (stated in {STATES}, but shown by a test)"));
            String::new()
        }
        (None, None) => {
            empty.push(name.to_owned());
            String::new()
        }
    };
    let mut text = String::from(
        "# CRI, rpc by rpc and field by field\n\n\
         Written by `cargo xtask cri-table` from the wire definition and the tests: each row names the tests \
         that show it, or says what sandboxd does instead.\n",
    );
    for service in ["RuntimeService", "ImageService"] {
        let _ = write!(text, "\n## {service}\n\n| rpc | shown by |\n|---|---|\n");
        for (_, rpc) in wire.rpcs.iter().filter(|(of, _)| of == service) {
            let _ = writeln!(text, "| {rpc} | {} |", state(rpc));
        }
    }
    text.push_str("\n## Messages\n");
    for (message, fields) in wire.messages.iter().filter(|(_, fields)| !fields.is_empty()) {
        let _ = write!(text, "\n### {message}\n\n| field | type | shown by |\n|---|---|---|\n");
        for Field { name, typ } in fields {
            let _ = writeln!(text, "| {name} | {typ} | {} |", state(&format!("{message}.{name}")));
        }
    }
    if !empty.is_empty() {
        bail!(
            "{} rows are empty: mark the test that shows them with `{MARKER}…`, or state them in {STATES}:\n  {}",
            empty.len(),
            empty.join("\n  ")
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str =
        "rpc\tRuntimeService\tVersion\tA\tB\nmessage\tA\nfield\tA\t1\tstring\tx\nmessage\tB\n";

    fn wire() -> Wire {
        Wire::parse(SMALL).unwrap()
    }

    #[test]
    fn a_marked_test_fills_its_rows_and_an_empty_row_fails() {
        let mut shown = BTreeMap::new();
        let marked = "// cri: Version, A.x\n#[tokio::test]\nasync fn says_it() {\n";
        markers(marked, Path::new("a.rs"), &wire(), &mut shown).unwrap();
        let text = table(&wire(), &BTreeMap::new(), &shown).unwrap();
        assert!(
            text.contains("| Version | `says_it` |") && text.contains("| x | string | `says_it` |"),
            "{text}"
        );
        let error = table(&wire(), &BTreeMap::new(), &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.starts_with("2 rows are empty") && error.ends_with("Version\n  A.x"), "{error}");
    }

    #[test]
    fn names_that_the_wire_does_not_have_are_refused() {
        let mut shown = BTreeMap::new();
        assert!(markers("// cri: A.y\nfn a() {}\n", Path::new("a.rs"), &wire(), &mut shown).is_err());
        assert!(markers("// cri: A.x\n", Path::new("a.rs"), &wire(), &mut shown).is_err());
        assert!(states("A.y\trefused\tno\n", &wire()).is_err());
        assert!(states("A.x\tperhaps\tno\n", &wire()).is_err());
        assert_eq!(states("A.*\trefused\tno\n", &wire()).unwrap()["A.x"], "refused: no");
    }

    #[test]
    fn a_row_is_either_shown_or_stated() {
        let shown = BTreeMap::from([("A.x".to_owned(), BTreeSet::from(["t".to_owned()]))]);
        let stated =
            BTreeMap::from([("A.x".into(), "refused: no".into()), ("Version".into(), "ignored: no".into())]);
        assert!(table(&wire(), &stated, &shown).unwrap_err().to_string().contains("stated in"));
    }
}
