//! Where a cgroup goes: below the parent that kubelet names, in the driver's way of naming.

use std::path::{Path, PathBuf};

use super::Driver;
use super::error::CgroupError;

/// The parent of pods without one.
pub(super) const DEFAULT: &str = "/sandboxd";
const DEFAULT_SLICE: &str = "sandboxd.slice";

/// The planned cgroup of a pod's infra container or of a container. The same parent and id always give the
/// same plan, so that a restarted daemon finds what it made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Below each hierarchy's mount point, with a leading '/'.
    path: String,
    /// The daemon's own default parent, removed when empty.
    pub(super) default_parent: bool,
    /// The pod's scope, which it is in.
    pub(super) unit: Option<Unit>,
    /// The infra container's: the scope comes and goes with it.
    pub(super) first: bool,
}

/// The cgroup of a pod's infra container inside the pod's scope.
const INFRA: &str = "infra";

/// A systemd scope: one for each pod, and what is in it is ours (`Delegate`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub scope: String,
    pub slice: String,
    /// Its cgroup, below each hierarchy's mount point, with a leading '/'.
    pub path: String,
}

impl Unit {
    /// Its directory in a hierarchy.
    pub(super) fn below(&self, mount: &Path) -> PathBuf {
        mount.join(self.path.trim_start_matches('/'))
    }
}

impl Planned {
    /// The cgroup's path as the kernel shows it in /proc/PID/cgroup.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its directory in a hierarchy.
    pub(super) fn below(&self, mount: &Path) -> PathBuf {
        mount.join(self.path.trim_start_matches('/'))
    }
}

/// Plans the cgroup of a pod's infra container, or of one of its containers.
pub(super) fn plan(
    driver: Driver,
    parent: &str,
    pod: &str,
    container: Option<&str>,
) -> Result<Planned, CgroupError> {
    for id in [Some(pod), container].into_iter().flatten() {
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(CgroupError::BadParent {
                parent: id.to_owned(),
                problem: "the id of a pod or container is a file name",
            });
        }
    }
    let first = container.is_none();
    match driver {
        Driver::Cgroupfs => {
            let clean = cgroupfs_parent(parent)?;
            let default_parent = parent.is_empty();
            let path = format!("{}/{}", clean.trim_end_matches('/'), container.unwrap_or(pod));
            Ok(Planned { path, default_parent, unit: None, first })
        }
        Driver::Systemd => {
            let slice = if parent.is_empty() { DEFAULT_SLICE } else { systemd_parent(parent)? };
            let scope = format!("sandboxd-{pod}.scope");
            let expanded = expand_slice(slice)?;
            let within = format!("{}/{scope}", expanded.trim_end_matches('/'));
            let path = format!("{within}/{}", container.unwrap_or(INFRA));
            let unit = Some(Unit { scope, slice: slice.to_owned(), path: within });
            Ok(Planned { path, default_parent: false, unit, first })
        }
    }
}

/// Cleans a cgroupfs path: absolute, no empty or "." components; ".." could climb out and is refused.
fn cgroupfs_parent(parent: &str) -> Result<String, CgroupError> {
    if parent.is_empty() {
        return Ok(DEFAULT.to_owned());
    }
    let bad = |problem| CgroupError::BadParent { parent: parent.to_owned(), problem };
    if parent.bytes().any(|b| b.is_ascii_control()) {
        return Err(bad("it has control characters"));
    }
    let parts: Vec<&str> = parent.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if parts.contains(&"..") {
        return Err(bad("'..' would lead out of the parent"));
    }
    if parts.last().is_some_and(|p| p.ends_with(".slice")) {
        return Err(CgroupError::SliceForCgroupfs { parent: parent.to_owned() });
    }
    Ok(format!("/{}", parts.join("/")))
}

/// The slice that a parent names: kubelet sends its cgroup ("/a.slice/a-b.slice", CgroupName.ToSystemd), others its
/// name, and the CRI has "/" for the root.
fn systemd_parent(parent: &str) -> Result<&str, CgroupError> {
    if parent.split('/').any(|part| part == "..") {
        let problem = "'..' would lead out of the parent";
        return Err(CgroupError::BadParent { parent: parent.to_owned(), problem });
    }
    let path = parent.trim_end_matches('/');
    let name = path.rsplit('/').next().unwrap_or(path);
    match name {
        "" => Ok("-.slice"),
        slice if slice.ends_with(".slice") => Ok(slice),
        _ => Err(CgroupError::PathForSystemd { parent: parent.to_owned() }),
    }
}

/// "a-b.slice" is the cgroup "/a.slice/a-b.slice"; "-.slice" is the root (systemd.slice(5)).
fn expand_slice(slice: &str) -> Result<String, CgroupError> {
    let wrong = || CgroupError::PathForSystemd { parent: slice.to_owned() };
    let name = slice.strip_suffix(".slice").filter(|n| !n.is_empty()).ok_or_else(wrong)?;
    if name == "-" {
        return Ok("/".to_owned());
    }
    let bad = |problem| CgroupError::BadParent { parent: slice.to_owned(), problem };
    // Unit names: letters, digits, and ":-_.\" (systemd.unit(5)).
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.' | '\\' | '@');
    if !name.chars().all(valid) || slice.len() > 255 {
        return Err(bad("it is no name of a systemd unit"));
    }
    let mut path = String::new();
    let mut prefix = String::new();
    for part in name.split('-') {
        if part.is_empty() {
            return Err(bad("a slice's name has no empty part between its dashes"));
        }
        prefix.push_str(part);
        path.push_str(&format!("/{prefix}.slice"));
        prefix.push('-');
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(driver: Driver, parent: &str) -> Result<String, CgroupError> {
        plan(driver, parent, "p1", None).map(|c| c.path().to_owned())
    }

    #[test]
    fn cgroupfs_paths_are_cleaned_and_confined() {
        for (parent, expected) in [
            ("", "/sandboxd/p1"),
            ("/kubepods/burstable/podx", "/kubepods/burstable/podx/p1"),
            ("kubepods//./x/", "/kubepods/x/p1"),
            ("/", "/p1"),
        ] {
            assert_eq!(path(Driver::Cgroupfs, parent).unwrap(), expected);
        }
        for parent in ["/a/../../b", "..", "a\nb"] {
            let error = path(Driver::Cgroupfs, parent).unwrap_err();
            assert!(matches!(error, CgroupError::BadParent { .. }), "{error}");
        }
        let error = path(Driver::Cgroupfs, "kubepods-pod1.slice").unwrap_err();
        assert!(error.to_string().contains("cgroup driver is cgroupfs"), "{error}");
    }

    #[test]
    fn slices_are_expanded_and_validated() {
        for (parent, expected) in [
            ("", "/sandboxd.slice/sandboxd-p1.scope/infra"),
            (
                "kubepods-burstable-pod1_2.slice",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/sandboxd-p1.scope/infra",
            ),
            ("-.slice", "/sandboxd-p1.scope/infra"),
            ("/", "/sandboxd-p1.scope/infra"),
            ("/test.slice", "/test.slice/sandboxd-p1.scope/infra"),
            // As kubelet.
            ("/a.slice/a-b.slice/a-b-c_d.slice/", "/a.slice/a-b.slice/a-b-c_d.slice/sandboxd-p1.scope/infra"),
        ] {
            assert_eq!(path(Driver::Systemd, parent).unwrap(), expected);
        }
        let container = plan(Driver::Systemd, "a-b.slice", "p1", Some("c1")).unwrap();
        assert_eq!(container.path(), "/a.slice/a-b.slice/sandboxd-p1.scope/c1");
        assert_eq!(container.unit.unwrap().path, "/a.slice/a-b.slice/sandboxd-p1.scope");
        for name in ["a-b.slice", "/a.slice/a-b.slice"] {
            assert_eq!(plan(Driver::Systemd, name, "p1", None).unwrap().unit.unwrap().slice, "a-b.slice");
        }
        for parent in ["/kubepods/x", "kubepods", ".slice", "/a.slice/b"] {
            let error = path(Driver::Systemd, parent).unwrap_err();
            assert!(error.to_string().contains("cgroup driver is systemd"), "{error}");
        }
        for parent in ["a--b.slice", "-a.slice", "a-.slice", "a b.slice", "/a.slice/../b.slice"] {
            let error = path(Driver::Systemd, parent).unwrap_err();
            assert!(matches!(error, CgroupError::BadParent { .. }), "{parent}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_parent_leads_out(parent in "[a./\\-]{0,16}(slice)?") {
            for driver in [Driver::Cgroupfs, Driver::Systemd] {
                if let Ok(cgroup) = path(driver, &parent) {
                    proptest::prop_assert!(cgroup.starts_with('/'));
                    proptest::prop_assert!(!cgroup.split('/').any(|p| p == ".." || p == "."));
                }
            }
        }
    }
}
