//! Takes out of a recording what is of this machine and not of the node: where the test's node lies, the kernel's own
//! suffix, processes and namespaces of others. Making a container takes some sixty checks that are allowed each time;
//! of those that are alike the first two stay, for the file's size. Everything else stays as the console wrote it.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use sandboxd_tests::node::Node;
use sandboxd_tests::{bins, proc};
use serde_json::Value;

use crate::world::World;

const ABOUT: &str = "# A real session of `sandboxd-tui --record` with a real daemon and real pods. \
    `cargo xtask record-session` makes it anew;\n\
    # its program (tests/src/bin/session) says what is on the node, and which names are replaced.\n";
/// Of allowed checks that differ in pod, process and time alone.
const ALIKE: u32 = 2;
/// A fixture is read by people and by git.
const MOST: usize = 300_000;

/// The cleaned recording.
pub fn recording(node: &Node, world: &World, raw: &Path) -> Result<String> {
    let names = names(node)?;
    let recorded = std::fs::read_to_string(raw).with_context(|| format!("reading {}", raw.display()))?;
    let (pids, pods) = (own_pids(node), own_pods(&recorded)?);
    let mut own = Own { alike: HashMap::new(), pids, pods, leaked: world.leaked };
    let mut text = ABOUT.to_owned();
    for line in recorded.lines() {
        let line = names.iter().fold(line.to_owned(), |line, (from, to)| line.replace(from, to));
        if let Some(line) = own.line(line)? {
            text.push_str(&line);
            text.push('\n');
        }
    }
    Ok(text)
}

/// What is written instead of where things are here, the longer ones first.
fn names(node: &Node) -> Result<Vec<(String, String)>> {
    let within = |name: &str| node.path(name).display().to_string();
    let mut names: Vec<(String, String)> = [
        ("run", "/run/sandboxd"),
        ("root", "/var/lib/sandboxd"),
        ("logs", "/var/log/pods"),
        ("net.d", "/etc/cni/net.d"),
        ("cni-bin", "/opt/cni/bin"),
        ("ipam", "/var/lib/cni"),
        ("config.toml", "/etc/sandboxd/config.toml"),
        ("cri.sock", "/run/sandboxd/cri.sock"),
        ("console.sock", "/run/sandboxd/console.sock"),
    ]
    .map(|(name, to)| (within(name), to.to_owned()))
    .into();
    names.push((bins::dir()?.display().to_string(), "/usr/local/bin".to_owned()));
    names.push((node.scope.cgroup_parent(), "/kubepods".to_owned()));
    names.push((node.scope.name.clone(), "cni0".to_owned()));
    let release = release()?;
    let numbers: String = release.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    names.push((release, numbers.trim_end_matches('.').to_owned()));
    Ok(names)
}

fn release() -> Result<String> {
    let read = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("the kernel's release")?;
    Ok(read.trim().to_owned())
}

/// The node's processes: they carry its name, or descend from one that does.
fn own_pids(node: &Node) -> HashSet<i64> {
    let all = proc::all();
    let mut own: HashSet<i32> =
        all.iter().filter(|process| process.mentions(&node.scope.name)).map(|process| process.pid).collect();
    loop {
        let before = own.len();
        own.extend(all.iter().filter(|one| own.contains(&one.parent)).map(|one| one.pid).collect::<Vec<_>>());
        if own.len() == before {
            return own.into_iter().map(i64::from).collect();
        }
    }
}

/// The ids of the pods that the daemon told of: other daemons of this machine have theirs.
fn own_pods(recorded: &str) -> Result<HashSet<String>> {
    let mut own = HashSet::new();
    for line in recorded.lines() {
        let value: Value = serde_json::from_str(line).context("a line that is no JSON")?;
        own.extend(value.pointer("/delta/pod/id").and_then(Value::as_str).map(str::to_owned));
    }
    Ok(own)
}

/// What belongs to the node.
struct Own {
    /// How often an allowed check came, by what makes it one of a kind.
    alike: HashMap<String, u32>,
    pids: HashSet<i64>,
    pods: HashSet<String>,
    leaked: u64,
}

impl Own {
    /// The line without what is of others; `None` where that is all of it.
    fn line(&mut self, line: String) -> Result<Option<String>> {
        let mut value: Value = serde_json::from_str(&line).context("a line that is no JSON")?;
        let before = value.clone();
        if let Some(delta) = value.get("delta") {
            let kept = match (delta.get("check"), delta.get("event")) {
                (Some(check), _) => self.has_check(check) && !self.is_repeated(check),
                (_, Some(event)) => self.has_event(event),
                _ => true,
            };
            return Ok(kept.then_some(line));
        }
        if let Some(snapshot) = value.get_mut("snapshot") {
            keep(snapshot, "recent_checks", |check| self.has_check(check));
            keep(snapshot, "recent_events", |event| self.has_event(event));
        }
        if let Some(listed) = value.pointer_mut("/answered/namespaces") {
            self.namespaces(listed);
        }
        // Untouched it stays as the console wrote it.
        Ok(Some(if value == before { line } else { value.to_string() }))
    }

    fn has_process(&self, process: &Value) -> bool {
        process["pid"].as_i64().is_some_and(|pid| self.pids.contains(&pid))
    }

    fn has_check(&self, check: &Value) -> bool {
        check["pod_id"] != "" || self.has_process(check)
    }

    fn is_repeated(&mut self, check: &Value) -> bool {
        if check["verdict"] != "ALLOWED" {
            return false;
        }
        let kind =
            ["comm", "container", "syscall", "argument", "capability"].map(|key| check[key].to_string());
        let seen = self.alike.entry(kind.join(" ")).or_default();
        *seen += 1;
        *seen > ALIKE
    }

    fn has_event(&self, event: &Value) -> bool {
        let leaked = format!(" {}:", self.leaked);
        event["kind"] != "namespace-leaked" || event["message"].as_str().is_some_and(|m| m.contains(&leaked))
    }

    fn namespaces(&self, listed: &mut Value) {
        keep(listed, "namespaces", |namespace| {
            let processes = namespace["processes"].as_array();
            namespace["host"] == true
                || namespace["inode"] == self.leaked
                || namespace["pod_id"].as_str().is_some_and(|id| self.pods.contains(id))
                || processes.is_some_and(|all| all.iter().any(|process| self.has_process(process)))
        });
        let all = listed["namespaces"].as_array_mut().map(std::mem::take).unwrap_or_default();
        let kept: HashSet<String> = all.iter().map(|namespace| namespace["inode"].to_string()).collect();
        let cleaned = all.into_iter().map(|mut namespace| {
            keep(&mut namespace, "processes", |process| is_first(process) || self.has_process(process));
            for process in namespace["processes"].as_array_mut().into_iter().flatten() {
                if process["pid"] == 1 {
                    process["comm"] = "systemd".into();
                }
            }
            keep(&mut namespace, "holds", |hold| {
                let what = hold["what"].as_str().unwrap_or_default();
                what.starts_with("/run/sandboxd/") || kept.contains(what) || self.has_process(hold)
            });
            namespace
        });
        listed["namespaces"] = cleaned.collect();
    }
}

/// Every machine has these two: its init, which is called as on most, and the kernel's first thread.
fn is_first(process: &Value) -> bool {
    process["pid"].as_i64().is_some_and(|pid| pid <= 2)
}

/// Keeps those of a list that fit.
fn keep(of: &mut Value, list: &str, fits: impl Fn(&Value) -> bool) {
    if let Some(all) = of.get_mut(list).and_then(Value::as_array_mut) {
        all.retain(fits);
    }
}

/// Better no new recording than one that tells of this machine.
pub fn judge(text: &str, node: &Node) -> Result<()> {
    let temporary = std::env::temp_dir().display().to_string();
    for word in [release()?.as_str(), &format!("{temporary}/"), &node.scope.name] {
        if let Some(line) = text.lines().find(|line| line.contains(word)) {
            let at = line.find(word).unwrap_or(0);
            let around: String = line.chars().skip(at.saturating_sub(80)).take(200).collect();
            bail!("{word:?} is in the recording; do other tests run here? …{around}…");
        }
    }
    ensure!(text.len() < MOST, "the recording has {} bytes, more than {MOST}", text.len());
    Ok(())
}
