//! Security context of a container.

use sandboxd_api::cri;

use super::super::security::{CONTEXT, GROUPS_MAX, id, seccomp};
use super::super::{Host, Invalid, PATH_MAX, Why, count, known, text};
use super::{apparmor, clean, namespaces};
use crate::container::spec::{GroupsPolicy, RunAs, Security};
use crate::pod::model::Pod;
use crate::pod::spec::Seccomp;
use crate::runtime::capabilities;

const PATHS_MAX: usize = 1024;
const CAPABILITIES_MAX: usize = 256;
/// As long as a login name may be (utmp has 32, useradd takes less): generous.
const USER_NAME_MAX: usize = 255;

pub(super) fn security(
    c: cri::LinuxContainerSecurityContext,
    pod: &Pod,
    host: &Host,
) -> Result<Security, Invalid> {
    let at = |name: &str| format!("{CONTEXT}.{name}");
    if c.privileged && !pod.spec.security.privileged {
        return Err(Invalid::new(at("privileged"), true, Why::PrivilegedInPod));
    }
    let maps = pod.spec.namespaces.user.as_ref();
    let (uids, gids) = (maps.map(|m| &m.uids[..]), maps.map(|m| &m.gids[..]));
    let user = match (c.run_as_user, c.run_as_username) {
        (None, name) if name.is_empty() => RunAs::Image,
        (Some(uid), name) if name.is_empty() => RunAs::Uid(id(&at("run_as_user"), uid.value, uids)?),
        (Some(_), name) => return Err(Invalid::new(at("run_as_username"), name, Why::TwoUsers)),
        (None, name) => {
            text(&at("run_as_username"), &name, USER_NAME_MAX)?;
            if name.contains([':', ' ', '\t']) {
                return Err(Invalid::new(at("run_as_username"), name, Why::UserName));
            }
            RunAs::Name(name)
        }
    };
    let group = c.run_as_group.map(|g| id(&at("run_as_group"), g.value, gids)).transpose()?;
    if let (RunAs::Image, Some(group)) = (&user, group) {
        return Err(Invalid::new(at("run_as_group"), group, Why::GroupWithoutUser));
    }
    count(&at("supplemental_groups"), c.supplemental_groups.len(), GROUPS_MAX)?;
    let group_id = |(i, group): (usize, &i64)| id(&at(&format!("supplemental_groups[{i}]")), *group, gids);
    let supplemental_groups =
        c.supplemental_groups.iter().enumerate().map(group_id).collect::<Result<_, _>>()?;
    let policy = known(&at("supplemental_groups_policy"), c.supplemental_groups_policy)?;
    let caps = c.capabilities.unwrap_or_default();
    Ok(Security {
        privileged: c.privileged,
        add_capabilities: bits("add_capabilities", &caps.add_capabilities)?,
        drop_capabilities: bits("drop_capabilities", &caps.drop_capabilities)?,
        add_ambient_capabilities: bits("add_ambient_capabilities", &caps.add_ambient_capabilities)?,
        pid: namespaces::pid(c.namespace_options.as_ref(), pod)?,
        user,
        run_as_group: group,
        supplemental_groups,
        groups_policy: match policy {
            cri::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
            cri::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
        },
        readonly_rootfs: c.readonly_rootfs,
        no_new_privs: c.no_new_privs,
        masked_paths: paths(&at("masked_paths"), &c.masked_paths)?,
        readonly_paths: paths(&at("readonly_paths"), &c.readonly_paths)?,
        // Unset is unconfined for a container (CRI): kubelet always says which it wants.
        seccomp: seccomp(c.seccomp, c.seccomp_profile_path)?.unwrap_or(Seccomp::Unconfined),
        apparmor: apparmor::profile(c.apparmor, &c.apparmor_profile, c.privileged, pod, host)?,
        selinux: selinux(c.selinux_options.as_ref(), host)?,
    })
}

/// Names to bits; "ALL" is every capability there is.
fn bits(name: &str, names: &[String]) -> Result<u64, Invalid> {
    let field = format!("{CONTEXT}.capabilities.{name}");
    count(&field, names.len(), CAPABILITIES_MAX)?;
    names.iter().enumerate().try_fold(0, |bits, (i, name)| {
        if name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL") {
            return Ok(capabilities::all());
        }
        let number = capabilities::number(name);
        let number = number.ok_or_else(|| Invalid::new(format!("{field}[{i}]"), name, Why::Capability))?;
        Ok(bits | 1 << number)
    })
}

/// Absolute paths in the container. An empty list masks nothing: kubelet sends the usual ones itself.
fn paths(field: &str, paths: &[String]) -> Result<Vec<String>, Invalid> {
    count(field, paths.len(), PATHS_MAX)?;
    let one = |(i, path): (usize, &String)| {
        let at = format!("{field}[{i}]");
        super::bytes(&at, path, PATH_MAX)?;
        if !path.starts_with('/') {
            return Err(Invalid::new(at, path, Why::NotAbsolute));
        }
        match clean(path) {
            root if root == "/" => Err(Invalid::new(at, path, Why::MountOnRoot)),
            path => Ok(path),
        }
    };
    paths.iter().enumerate().map(one).collect()
}

/// The label with what was left out as containers usually have it.
fn selinux(options: Option<&cri::SeLinuxOption>, host: &Host) -> Result<Option<String>, Invalid> {
    let Some(o) = options else { return Ok(None) };
    let parts = [
        ("user", &o.user, "system_u"),
        ("role", &o.role, "system_r"),
        ("type", &o.r#type, "container_t"),
        ("level", &o.level, "s0"),
    ];
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"_.,:-".contains(&b);
    for (name, value, _) in parts {
        let at = format!("{CONTEXT}.selinux_options.{name}");
        if value.len() > NAME_PART_MAX || !value.bytes().all(fine) {
            return Err(Invalid::new(at, value, Why::SelinuxLabel));
        }
    }
    // Without SELinux there are no labels: pods that name one for the nodes that have it run here as well, as
    // everywhere.
    if !host.selinux || parts.iter().all(|(_, value, _)| value.is_empty()) {
        return Ok(None);
    }
    let label = parts.map(|(_, value, usual)| if value.is_empty() { usual } else { value.as_str() });
    Ok(Some(label.join(":")))
}

const NAME_PART_MAX: usize = 255;
