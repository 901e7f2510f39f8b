//! Whose pin it is, by where it is: each runtime keeps namespaces in a place of its own.

use std::path::{Path, PathBuf};

use crate::pod::model::{NsKind, PodId};

/// Whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinOf {
    /// `STATE/pods/ID/ns/KIND`, of this or another sandboxd.
    Sandboxd {
        state: PathBuf,
        pod: PodId,
    },
    /// `/run/netns/NAME`: somebody's `ip netns add`.
    IpNetns,
    Runtime(ContainerRuntime),
    /// A bind mount somewhere else: somebody wanted it.
    Other,
}

/// Others that pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerRuntime {
    Docker,
    Podman,
    CriO,
    /// `/run/netns/cni-ID`.
    Containerd,
}

impl ContainerRuntime {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "Docker",
            Self::Podman => "Podman",
            Self::CriO => "CRI-O",
            Self::Containerd => "containerd",
        }
    }

    /// Whose running means that the pin may be wanted.
    pub(super) fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &["dockerd"],
            Self::Podman => &["podman", "conmon"],
            Self::CriO => &["crio"],
            // Names of processes end after 15 letters; CRI-O pins like this, too.
            Self::Containerd => &["containerd", "crio", "k3s-server", "k3s-agent", "rke2", "kubelite"],
        }
    }
}

impl PinOf {
    pub(super) fn of(path: &Path, kind: NsKind) -> Self {
        if let Some(own) = sandboxd(path, kind) {
            return own;
        }
        let path = path.strip_prefix("/var").map_or_else(|_| path.to_owned(), |run| Path::new("/").join(run));
        let Ok(below) = path.strip_prefix("/run") else { return Self::Other };
        let parts: Vec<_> = below.iter().filter_map(|part| part.to_str()).collect();
        // Without root it is the user's own /run.
        let parts = match &parts[..] {
            ["user", _, rest @ ..] => rest,
            parts => parts,
        };
        match parts {
            ["docker", "netns", _] => Self::Runtime(ContainerRuntime::Docker),
            ["netns", name] if name.starts_with("cni-") && is_uuid(&name[4..]) => {
                Self::Runtime(ContainerRuntime::Containerd)
            }
            ["netns", name] if name.starts_with("netns-") && is_uuid(&name[6..]) => {
                Self::Runtime(ContainerRuntime::Podman)
            }
            ["netns" | "utsns" | "ipcns" | "pidns" | "userns", name] if is_uuid(name) => {
                Self::Runtime(ContainerRuntime::CriO)
            }
            ["netns", _] => Self::IpNetns,
            _ => Self::Other,
        }
    }
}

/// `STATE/pods/ID/ns/KIND`.
fn sandboxd(path: &Path, kind: NsKind) -> Option<PinOf> {
    let (name, ns) = (path.file_name()?, path.parent()?);
    let pod = ns.parent()?;
    let pods = pod.parent()?;
    let id = pod.file_name()?.to_str()?;
    let fits = name == kind.name()
        && ns.file_name()? == "ns"
        && pods.file_name()? == "pods"
        && id.len() == 64
        && id.bytes().all(|b| b.is_ascii_hexdigit());
    fits.then(|| PinOf::Sandboxd {
        state: pods.parent().unwrap_or(Path::new("/")).to_owned(),
        pod: PodId::from_string(id.to_owned()),
    })
}

fn is_uuid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12]) && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_runtime_is_known_by_its_place() {
        const UUID: &str = "1f0f9a5e-0b1c-4c7e-9d0e-0123456789ab";
        use ContainerRuntime::{Containerd, CriO, Docker, Podman};
        for (path, of) in [
            ("/run/netns/blue".to_owned(), PinOf::IpNetns),
            ("/var/run/netns/blue".to_owned(), PinOf::IpNetns),
            ("/run/netns/cni-blue".to_owned(), PinOf::IpNetns),
            (format!("/run/netns/cni-{UUID}"), PinOf::Runtime(Containerd)),
            (format!("/var/run/netns/{UUID}"), PinOf::Runtime(CriO)),
            (format!("/run/utsns/{UUID}"), PinOf::Runtime(CriO)),
            (format!("/run/user/1000/netns/netns-{UUID}"), PinOf::Runtime(Podman)),
            ("/run/docker/netns/default".to_owned(), PinOf::Runtime(Docker)),
            ("/srv/pins/net".to_owned(), PinOf::Other),
            ("/".to_owned(), PinOf::Other),
        ] {
            assert_eq!(PinOf::of(Path::new(&path), NsKind::Net), of, "{path}");
        }
    }

    #[test]
    fn a_pin_of_a_pod_names_the_state_directory_and_the_pod() {
        let id = "ab".repeat(32);
        let path = format!("/run/sandboxd/pods/{id}/ns/net");
        let of = PinOf::Sandboxd { state: "/run/sandboxd".into(), pod: PodId::from_string(id.clone()) };
        assert_eq!(PinOf::of(Path::new(&path), NsKind::Net), of);
        for other in [format!("/run/sandboxd/pods/{id}/ns/user"), format!("/run/pods/{}/ns/net", &id[1..])] {
            assert_eq!(PinOf::of(Path::new(&other), NsKind::Net), PinOf::Other, "{other}");
        }
    }
}
