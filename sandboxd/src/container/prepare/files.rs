//! The pod's files that its containers find under /etc.

use std::fmt::Write as _;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::PrepareError;
use crate::pod::model::Pod;
use crate::pod::spec::NetworkMode;

const HOST_HOSTS: &str = "/etc/hosts";
/// Longest /etc/hosts of the node that is passed on.
const HOSTS_MAX: u64 = 1 << 20;

/// The name in the pod's UTS namespace, as the pod's flow has written it down.
pub(super) fn hostname(pod: &Pod, pod_dir: &Path) -> Result<String, PrepareError> {
    let path = pod_dir.join("hostname");
    match std::fs::read_to_string(&path) {
        Ok(name) => Ok(name.trim_end().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(pod.spec.hostname.clone()),
        Err(source) => Err(PrepareError::Io { action: format!("reading {}", path.display()), source }),
    }
}

/// Where a container finds each, and where it is. /etc/hosts is kubelet's work: this one is for callers that
/// leave it out.
pub(super) fn files(
    pod: &Pod,
    hostname: &str,
    pod_dir: &Path,
    dir: &Path,
) -> Result<Vec<(&'static str, PathBuf)>, PrepareError> {
    let hosts = dir.join("hosts");
    // Readable by everybody, whatever umask the daemon has.
    let mode = std::fs::Permissions::from_mode(0o644);
    std::fs::write(&hosts, hosts_file(pod, hostname)?)
        .and_then(|()| std::fs::set_permissions(&hosts, mode))
        .map_err(|source| PrepareError::Io { action: format!("writing {}", hosts.display()), source })?;
    let mut files = vec![("/etc/hosts", hosts)];
    for (inside, name) in [("/etc/hostname", "hostname"), ("/etc/resolv.conf", "resolv.conf")] {
        let path = pod_dir.join(name);
        if path.exists() {
            files.push((inside, path));
        }
    }
    Ok(files)
}

fn hosts_file(pod: &Pod, hostname: &str) -> Result<Vec<u8>, PrepareError> {
    if pod.spec.namespaces.network == NetworkMode::Node {
        let mut text = Vec::new();
        let file = match std::fs::File::open(HOST_HOSTS) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(text),
            other => other,
        };
        let read = file.and_then(|file| file.take(HOSTS_MAX).read_to_end(&mut text));
        return read
            .map(|_| text)
            .map_err(|source| PrepareError::Io { action: format!("reading {HOST_HOSTS}"), source });
    }
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    for ip in &pod.ips {
        let _ = writeln!(text, "{ip}\t{hostname}");
    }
    Ok(text.into_bytes())
}
