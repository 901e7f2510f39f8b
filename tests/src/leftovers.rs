//! Finds what a pod or a daemon left behind.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cni::{Subnet, tool};
use crate::proc;

/// All that one node may touch, by the names it carries.
#[derive(Debug)]
pub struct Scope {
    /// Also the bridge's, the CNI network's and the cgroup parent's name: at most 15 characters.
    pub name: String,
    /// Sockets, state, root, CNI's data: everything on disk.
    pub dir: PathBuf,
    pub subnet: Subnet,
    /// Whether portmap's own chains were there before this node.
    pub portmap_before: bool,
    /// net.ipv4.ip_forward before this node: the bridge plugin switches it on.
    pub ip_forward_before: Option<String>,
}

impl Scope {
    /// The `cgroup_parent` of this node's pods.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        format!("/{}", self.name)
    }
}

/// Something that is there and should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leftover {
    Process { pid: i32, command: String },
    Mount(String),
    Interface(String),
    Rule(String),
    Cgroup(PathBuf),
    Address(PathBuf),
    Record(PathBuf),
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, command } => write!(f, "process {pid}: {command}"),
            Self::Mount(point) => write!(f, "mount on {point}"),
            Self::Interface(name) => write!(f, "network interface {name}"),
            Self::Rule(rule) => write!(f, "iptables: {rule}"),
            Self::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Self::Address(path) => write!(f, "address still reserved: {}", path.display()),
            Self::Record(path) => write!(f, "record of a pod: {}", path.display()),
        }
    }
}

/// What the pods of a node left, while its daemon may still run: nothing of them may be there once the
/// last one is removed.
#[must_use]
pub fn of_pods(scope: &Scope, daemon: Option<i32>) -> Vec<Leftover> {
    let mut found = processes(scope, daemon);
    found.extend(mounts(&scope.dir));
    found.extend(ports(&scope.name).into_iter().map(Leftover::Interface));
    found.extend(rules(scope).into_iter().map(Leftover::Rule));
    found.extend(pod_cgroups(&scope.name).into_iter().map(Leftover::Cgroup));
    found.extend(addresses(&scope.dir).into_iter().map(Leftover::Address));
    found.extend(records(&scope.dir).into_iter().map(Leftover::Record));
    found
}

/// Processes that carry the node's directory or cgroup, other than the daemon itself.
#[must_use]
pub fn processes(scope: &Scope, daemon: Option<i32>) -> Vec<Leftover> {
    let dir = scope.dir.to_string_lossy();
    let cgroup = format!("{}/", scope.cgroup_parent());
    proc::all()
        .into_iter()
        .filter(|p| Some(p.pid) != daemon && (p.mentions(&dir) || p.mentions(&cgroup)))
        .map(|p| Leftover::Process { pid: p.pid, command: p.command })
        .collect()
}

fn mounts(dir: &Path) -> Vec<Leftover> {
    let prefix = format!("{}/", dir.display());
    let ours = |point: &String| point.starts_with(&prefix);
    proc::mount_points().into_iter().filter(ours).map(Leftover::Mount).collect()
}

/// What is still plugged into the bridge.
fn ports(bridge: &str) -> Vec<String> {
    names(Path::new(&format!("/sys/class/net/{bridge}/brif")))
}

/// Rules and chains that name the network or its subnet.
#[must_use]
pub fn rules(scope: &Scope) -> Vec<String> {
    let cidr = scope.subnet.cidr();
    let net = cidr.trim_end_matches("0/24");
    let mut found = Vec::new();
    for program in ["iptables-save", "ip6tables-save"] {
        let Ok(text) = tool(program, &[]) else { continue };
        let ours = |line: &&str| line.contains(&scope.name) || line.contains(net);
        found.extend(text.lines().filter(|l| l.starts_with("-A")).filter(ours).map(str::to_owned));
    }
    found
}

/// Every hierarchy's directory of a cgroup.
#[must_use]
pub fn cgroup_dirs(name: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let mut roots: Vec<_> = names(root).into_iter().map(|n| root.join(n)).collect();
    roots.push(root.to_path_buf());
    roots.into_iter().map(|r| r.join(name)).filter(|path| path.is_dir()).collect()
}

fn pod_cgroups(name: &str) -> Vec<PathBuf> {
    let dirs = cgroup_dirs(name);
    dirs.iter().flat_map(|d| names(d).into_iter().map(|n| d.join(n))).filter(|p| p.is_dir()).collect()
}

/// host-local keeps one file for each address it gave away, named after it.
fn addresses(dir: &Path) -> Vec<PathBuf> {
    let ipam = dir.join("ipam");
    let networks = names(&ipam).into_iter().map(|n| ipam.join(n));
    networks
        .flat_map(|n| names(&n).into_iter().map(move |file| n.join(file)))
        .filter(|path| {
            path.file_name().is_some_and(|n| n.to_string_lossy().parse::<std::net::IpAddr>().is_ok())
        })
        .collect()
}

/// Files and directories under the daemon's own directories that carry the id of a pod or container. Images stay:
/// nobody asked for their removal.
fn records(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.join("root"), dir.join("run")];
    while let Some(path) = todo.pop() {
        for name in names(&path) {
            let child = path.join(&name);
            let id = name.split('.').next().unwrap_or_default();
            if child == dir.join("root/images") {
                continue;
            }
            if name.starts_with(".gone-") || id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()) {
                found.push(child);
            } else if child.is_dir() && !child.is_symlink() {
                todo.push(child);
            }
        }
    }
    found
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// A process that has a directory in its environment, for tests.
#[cfg(test)]
pub fn sleeper(dir: &Path) -> std::process::Child {
    let child = std::process::Command::new("sleep").arg("60").env("D", dir).spawn().unwrap();
    // execve(2) lets the parent go on before the child's environment can be read.
    let environ = format!("/proc/{}/environ", child.id());
    for _ in 0..500 {
        if fs::read(&environ).is_ok_and(|bytes| !bytes.is_empty()) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    child
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(dir: &Path) -> Scope {
        Scope {
            name: "sdvunit".into(),
            dir: dir.to_path_buf(),
            subnet: Subnet::claim().unwrap(),
            portmap_before: true,
            ip_forward_before: None,
        }
    }

    #[test]
    fn an_address_and_a_record_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let id = "ab".repeat(32);
        let address = dir.path().join("ipam/net/10.202.0.2");
        let record = dir.path().join(format!("root/leases/{id}.json"));
        for path in [&address, &record, &dir.path().join("ipam/net/last_reserved_ip.0")] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        assert_eq!(
            of_pods(&scope(dir.path()), None),
            vec![Leftover::Address(address), Leftover::Record(record)]
        );
    }

    #[test]
    fn a_process_with_the_directory_in_its_environment_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = sleeper(dir.path());
        let pid = i32::try_from(child.id()).unwrap();
        let found = processes(&scope(dir.path()), None);
        let spared = processes(&scope(dir.path()), Some(pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(found.as_slice(), [Leftover::Process { pid: p, .. }] if *p == pid), "{found:?}");
        assert_eq!(spared, Vec::new());
    }
}
