//! The label of files that a container may use: type and role as the node's policy has them for containers, user
//! and level of the container's processes.

use std::fs;
use std::path::Path;

/// Where the policy does not say: what container-selinux has had since 2017.
const USUAL: &str = "system_u:object_r:container_file_t:s0";

/// For a container whose processes run with `process`, a label of four parts.
#[must_use]
pub fn file_label(process: &str) -> String {
    label(process, &file_context(Path::new("/")))
}

fn label(process: &str, file: &str) -> String {
    // The level may have more of ':'.
    let part = |label: &str, n: usize| label.splitn(4, ':').nth(n).unwrap_or_default().to_owned();
    [part(process, 0), part(file, 1), part(file, 2), part(process, 3)].join(":")
}

/// `file` of the policy's contexts for containers, as libselinux and go-selinux look it up.
fn file_context(root: &Path) -> String {
    let read = |path: &str| fs::read_to_string(root.join(path)).ok();
    let contexts = read("usr/share/containers/selinux/contexts").or_else(|| {
        let policy = setting(&read("etc/selinux/config")?, "SELINUXTYPE")?;
        read(&format!("etc/selinux/{policy}/contexts/lxc_contexts"))
    });
    let file = contexts.and_then(|text| setting(&text, "file"));
    file.filter(|file| file.split(':').count() >= 3).unwrap_or_else(|| USUAL.to_owned())
}

/// `key = "value"`, one a line.
fn setting(text: &str, key: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let mut settings = lines.filter_map(|line| line.split_once('='));
    let (_, value) = settings.find(|(name, _)| name.trim() == key)?;
    Some(value.trim().trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_level_are_the_processes_role_and_type_the_policys() {
        let process = "user_u:system_r:spc_t:s0:c1,c2";
        assert_eq!(label(process, USUAL), "user_u:object_r:container_file_t:s0:c1,c2");
        assert_eq!(label(process, "system_u:object_r:data_t"), "user_u:object_r:data_t:s0:c1,c2");
    }

    #[test]
    fn the_policy_says_which_type_files_have() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(file_context(root.path()), USUAL);
        write("etc/selinux/config", "# SELINUXTYPE=old\nSELINUX=enforcing\nSELINUXTYPE=targeted\n");
        assert_eq!(file_context(root.path()), USUAL);
        let lxc =
            "process = \"system_u:system_r:container_t:s0\"\n;file = \"x\"\nfile = \"u:object_r:lxc_t:s0\"\n";
        write("etc/selinux/targeted/contexts/lxc_contexts", lxc);
        assert_eq!(file_context(root.path()), "u:object_r:lxc_t:s0");
        write("usr/share/containers/selinux/contexts", "file=u:object_r:own_t:s0\n");
        assert_eq!(file_context(root.path()), "u:object_r:own_t:s0");
        write("usr/share/containers/selinux/contexts", "file = \"nonsense\"\n");
        assert_eq!(file_context(root.path()), USUAL);
    }
}
