//! Sysctls of the pod: only those that live in a namespace the pod has of its own.

use std::collections::{BTreeMap, HashMap};

use super::{Invalid, Why, count, text};
use crate::pod::spec::{IpcMode, Namespaces, NetworkMode};

/// The IPC namespace's, from `ipc_sysctls` in the kernel's ipc/ipc_sysctl.c.
const IPC: [&str; 11] = [
    "kernel.msg_next_id",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.sem_next_id",
    "kernel.shm_next_id",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];
const SYSCTLS_MAX: usize = 1024;
const NAME_MAX: usize = 253;
/// A page: the most one write to /proc/sys takes.
const VALUE_MAX: usize = 4095;

/// Names come out in the form of sysctl.d(5) that starts with '.' as separator: a '/' in it is a '.' of the
/// file's name (`net.ipv4.conf.eth0/100.forwarding`).
pub(super) fn sysctls(
    asked: HashMap<String, String>,
    namespaces: &Namespaces,
) -> Result<BTreeMap<String, String>, Invalid> {
    count("config.linux.sysctls", asked.len(), SYSCTLS_MAX)?;
    let mut kept = BTreeMap::new();
    // Sorted, so that the same request is refused for the same name each time.
    for (name, value) in asked.into_iter().collect::<BTreeMap<_, _>>() {
        let field = format!("config.linux.sysctls[{name:?}]");
        let refused = |why| Err(Invalid::new(field.as_str(), &value, why));
        let canonical = match canonical(&name) {
            Some(canonical) => canonical,
            None => return refused(Why::SysctlName),
        };
        // A write of no bytes reaches no sysctl: it would succeed and change nothing.
        if value.is_empty() {
            return refused(Why::Missing);
        }
        text(&field, &value.replace('\t', " "), VALUE_MAX)?;
        if let Some(why) = refusal(&canonical, namespaces) {
            return refused(why);
        }
        if kept.contains_key(&canonical) {
            return refused(Why::SysctlTwice);
        }
        kept.insert(canonical, value);
    }
    Ok(kept)
}

fn refusal(name: &str, namespaces: &Namespaces) -> Option<Why> {
    let node_network = namespaces.network == NetworkMode::Node;
    if name.starts_with("net.") {
        node_network.then_some(Why::SysctlOnNodeNetwork)
    } else if name.starts_with("fs.mqueue.") || IPC.contains(&name) {
        (namespaces.ipc == IpcMode::Node).then_some(Why::SysctlOnNodeIpc)
    } else if name == "kernel.domainname" {
        // The UTS namespace goes with the network.
        node_network.then_some(Why::SysctlOnNodeUts)
    } else if name == "kernel.hostname" {
        Some(Why::SysctlHostname)
    } else {
        Some(Why::SysctlNotNamespaced)
    }
}

/// As sysctl(8): the first separator decides which of the two it is throughout.
fn canonical(name: &str) -> Option<String> {
    let first = name.find(['.', '/'])?;
    let swapped = |name: &str| -> String {
        name.chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect()
    };
    let dotted = if name.as_bytes().get(first) == Some(&b'/') { swapped(name) } else { name.to_owned() };
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_-./@:".contains(&b);
    let component = |part: &str| !part.is_empty() && part != "/" && part != "//";
    let fine = dotted.len() <= NAME_MAX && dotted.bytes().all(allowed) && dotted.split('.').all(component);
    fine.then_some(dotted)
}
