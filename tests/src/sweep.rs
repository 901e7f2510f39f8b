//! Takes away by force what a node left: the last resort after everybody was asked nicely, so that one
//! failed test never spoils the next, and Ctrl-C leaves the machine as it was.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cni::tool;
use crate::leftovers::{self, Leftover, Scope};
use crate::patience::patient;
use crate::proc;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whether portmap's chains are there.
#[must_use]
pub fn portmap_chains() -> bool {
    tool("iptables-save", &["-t", "nat"]).is_ok_and(|text| text.contains(":CNI-HOSTPORT-DNAT"))
}

/// net.ipv4.ip_forward.
#[must_use]
pub fn ip_forward() -> Option<String> {
    fs::read_to_string(IP_FORWARD).ok()
}

/// Removes everything of the node. Never fails: what could not be removed is found by the next look.
pub fn everything(scope: &Scope) {
    kill_processes(scope);
    unmount_all(&scope.dir);
    remove_bridge(&scope.name);
    remove_rules(scope);
    remove_cgroups(&scope.name);
    let _ = fs::remove_dir_all(&scope.dir);
    if let Some(before) = &scope.ip_forward_before
        && ip_forward().as_ref() != Some(before)
    {
        let _ = fs::write(IP_FORWARD, before);
    }
}

/// Kills by the pids just read, children first, until none is left.
fn kill_processes(scope: &Scope) {
    let end = Instant::now() + patient(Duration::from_secs(5));
    loop {
        let found = leftovers::processes(scope, None);
        if found.is_empty() || Instant::now() > end {
            return;
        }
        let mut pids: Vec<i32> = Vec::new();
        for leftover in &found {
            if let Leftover::Process { pid, .. } = leftover {
                // An infra container carries no name of ours: it is known by its parent, the shim.
                let children = proc::all().into_iter().filter(|p| p.parent == *pid).map(|p| p.pid);
                pids.extend(children);
                pids.push(*pid);
            }
        }
        for pid in pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        sleep(Duration::from_millis(20));
    }
}

fn unmount_all(dir: &Path) {
    let prefix = format!("{}/", dir.display());
    // Later mounts may lie on earlier ones.
    for point in proc::mount_points().iter().rev().filter(|point| point.starts_with(&prefix)) {
        let _ = umount2(point.as_str(), MntFlags::MNT_DETACH);
    }
}

/// Removes the bridge. A pod's veth goes with its network namespace.
pub fn remove_bridge(name: &str) {
    if Path::new("/sys/class/net").join(name).exists() {
        let _ = tool("ip", &["link", "delete", name]);
    }
}

fn remove_rules(scope: &Scope) {
    for rule in leftovers::rules(scope) {
        delete_rule(&rule);
    }
    if !scope.portmap_before {
        remove_portmap_chains();
    }
}

/// Deletes a rule of the nat or filter table as `iptables-save` printed it, and the chain it jumps to
/// when that is one of CNI's for a single pod.
fn delete_rule(rule: &str) {
    let words = split_quoted(rule);
    let delete: Vec<&str> = words.iter().map(|w| if w == "-A" { "-D" } else { w.as_str() }).collect();
    let chain = words.iter().position(|w| w == "-j").and_then(|at| words.get(at + 1));
    for program in ["iptables", "ip6tables"] {
        for table in ["nat", "filter"] {
            let args: Vec<&str> = ["-w", "-t", table].into_iter().chain(delete.iter().copied()).collect();
            if tool(program, &args).is_err() {
                continue;
            }
            if let Some(chain) = chain.filter(|c| c.starts_with("CNI-") && !c.starts_with("CNI-HOSTPORT")) {
                let _ = tool(program, &["-w", "-t", table, "-F", chain]);
                let _ = tool(program, &["-w", "-t", table, "-X", chain]);
            }
        }
    }
}

/// portmap makes CNI-HOSTPORT-DNAT, -SETMARK and -MASQ with its first mapping and keeps them for the
/// next. With no mapping left on the node they are only litter.
fn remove_portmap_chains() {
    for program in ["iptables", "ip6tables"] {
        let Ok(text) = tool(&format!("{program}-save"), &["-t", "nat"]) else { continue };
        if !text.contains(":CNI-HOSTPORT-") || text.contains("-A CNI-HOSTPORT-DNAT") {
            continue;
        }
        let jumps = text.lines().filter(|l| l.starts_with("-A") && l.contains("-j CNI-HOSTPORT-"));
        for jump in jumps {
            delete_rule(jump);
        }
        for chain in ["CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-MASQ"] {
            let _ = tool(program, &["-w", "-t", "nat", "-F", chain]);
            let _ = tool(program, &["-w", "-t", "nat", "-X", chain]);
        }
    }
}

fn remove_cgroups(name: &str) {
    for dir in leftovers::cgroup_dirs(name) {
        remove_cgroup(&dir);
    }
}

fn remove_cgroup(dir: &Path) {
    if let Ok(entries) = fs::read_dir(dir) {
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            remove_cgroup(&entry.path());
        }
    }
    // A killed process leaves its cgroup a moment after it is gone from /proc.
    for _ in 0..50 {
        match fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => sleep(Duration::from_millis(10)),
            _ => return,
        }
    }
}

/// Words of a line in which double quotes may hold blanks.
fn split_quoted(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut escaped) = (String::new(), false, false);
    for c in line.chars() {
        match c {
            _ if escaped => {
                word.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            _ => word.push(c),
        }
    }
    words.push(word);
    words.retain(|w| !w.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::Subnet;
    use crate::skip::Need;

    #[test]
    fn a_saved_rule_becomes_words() {
        let rule = r#"-A POSTROUTING -s 10.1.0.2/32 -m comment --comment "name: \"n\" id: \"i\"" -j CNI-1"#;
        let words = split_quoted(rule);
        assert_eq!(words[7], r#"name: "n" id: "i""#);
        assert_eq!(words.last().unwrap(), "CNI-1");
    }

    /// Everything a node can leave, made by hand and taken away.
    #[test]
    fn nothing_survives_the_sweep() {
        if crate::skip::skipped("nothing_survives_the_sweep", &[Need::Root, Need::Iptables]) {
            return;
        }
        let dir = tempfile::Builder::new().prefix("sdv").rand_bytes(8).tempdir().unwrap().keep();
        let name = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let scope = Scope {
            name: name.clone(),
            dir: dir.clone(),
            subnet: Subnet::claim().unwrap(),
            portmap_before: true,
            ip_forward_before: None,
        };
        let address = scope.subnet.cidr().replace("0/24", "2");
        let chain = format!("CNI-{name}");
        let comment = format!("name: \"{name}\" id: \"x y\"");
        tool("ip", &["link", "add", &name, "type", "bridge"]).unwrap();
        tool("iptables", &["-w", "-t", "nat", "-N", &chain]).unwrap();
        tool("iptables", &["-w", "-t", "nat", "-A", &chain, "-d", &address, "-j", "ACCEPT"]).unwrap();
        let jump = ["-s", &address, "-m", "comment", "--comment", &comment, "-j", &chain];
        let args: Vec<&str> = ["-w", "-t", "nat", "-A", "POSTROUTING"].into_iter().chain(jump).collect();
        tool("iptables", &args).unwrap();
        let pin = dir.join("run/pin");
        fs::create_dir_all(pin.parent().unwrap()).unwrap();
        fs::write(&pin, "").unwrap();
        let bind = nix::mount::MsFlags::MS_BIND;
        nix::mount::mount(Some("/proc/self/ns/uts"), &pin, None::<&str>, bind, None::<&str>).unwrap();
        let cgroup =
            leftovers::cgroup_dirs("").into_iter().find(|d| d.join("cgroup.procs").exists()).unwrap();
        fs::create_dir_all(cgroup.join(&name).join("pod")).unwrap();
        let mut child = leftovers::sleeper(&dir);

        let found = leftovers::of_pods(&scope, None);
        everything(&scope);
        let status = child.wait().unwrap();
        let left = leftovers::of_pods(&scope, None);
        let bridge = Path::new("/sys/class/net").join(&name).exists();
        let saved = tool("iptables-save", &["-t", "nat"]).unwrap();

        for kind in ["process", "mount", "iptables", "cgroup"] {
            assert!(found.iter().any(|l| l.to_string().starts_with(kind)), "no {kind} among {found:?}");
        }
        assert_eq!(left, Vec::new());
        assert!(!status.success() && !bridge && !dir.exists());
        assert!(!saved.contains(&name), "{saved}");
    }
}
