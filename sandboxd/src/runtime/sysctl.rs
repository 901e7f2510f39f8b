//! Which sysctls belong to a namespace. The others are the node's, and a pod that sets one sets it for all.

use std::collections::BTreeMap;

use super::RuntimeError;

/// Sysctls of the ipc namespace (ipc/ipc_sysctl.c); `fs.mqueue.*` besides.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Refuses every sysctl that would reach out of the pod.
///
/// # Errors
/// [`RuntimeError::Unsupported`], with the name.
pub fn check(
    sysctls: &BTreeMap<String, String>,
    host_network: bool,
    host_ipc: bool,
) -> Result<(), RuntimeError> {
    for name in sysctls.keys() {
        let dotted = dotted(name);
        if dotted.split('.').any(|part| part.is_empty() || part.starts_with('/')) {
            return Err(refused(format!("{name:?} is not the name of a sysctl")));
        }
        if dotted.starts_with("net.") {
            if host_network {
                return Err(refused(format!(
                    "the sysctl {name} would change the node: give the pod a network of its own"
                )));
            }
        } else if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
            if host_ipc {
                return Err(refused(format!(
                    "the sysctl {name} would change the node: give the pod an ipc namespace of its own"
                )));
            }
        } else {
            return Err(refused(format!("the sysctl {name} belongs to no namespace: set it on the node")));
        }
    }
    Ok(())
}

/// The form with dots as separators, as sysctl(8) reads either form.
fn dotted(name: &str) -> String {
    let slashes = name.find('/').unwrap_or(name.len()) < name.find('.').unwrap_or(name.len());
    if slashes {
        name.chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                c => c,
            })
            .collect()
    } else {
        name.to_owned()
    }
}

fn refused(what: String) -> RuntimeError {
    RuntimeError::Unsupported { what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str, host_network: bool, host_ipc: bool) -> Result<(), RuntimeError> {
        check(&BTreeMap::from([(name.to_owned(), "1".to_owned())]), host_network, host_ipc)
    }

    #[test]
    fn a_pods_own_are_taken_in_both_forms() {
        for name in ["net.ipv4.ip_forward", "net/ipv4/conf/eth0.1/forwarding", "kernel.shm_rmid_forced"] {
            one(name, false, false).unwrap();
        }
        one("fs.mqueue.msg_max", true, false).unwrap();
    }

    #[test]
    fn the_nodes_are_refused_by_name() {
        for (name, host_network, host_ipc) in [
            ("net.ipv4.ip_forward", true, false),
            ("net/ipv4/ip_forward", true, false),
            ("kernel.sem", false, true),
            ("vm.overcommit_memory", false, false),
            ("kernel.hostname", false, false),
            ("net..ipv4", false, false),
            ("../../etc/passwd", false, false),
            ("net/../../x", false, false),
            ("", false, false),
        ] {
            let error = one(name, host_network, host_ipc).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
