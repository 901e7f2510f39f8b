//! Security context of the infra container.
//!
//! `privileged` goes together with a user namespace, as in Kubernetes' own validation: the privileges are
//! those over what the pod's user namespace owns. `supplemental_groups_policy` is taken either way: the
//! infra container has no image whose groups could be merged, so Merge and Strict mean the same.

use std::path::PathBuf;

use sandboxd_api::cri::{self, security_profile::ProfileType};

use super::{Host, Invalid, Why, absolute, count, known, text};
use crate::apparmor::Support;
use crate::pod::spec::{IdMappings, Seccomp, Security};

pub(super) const CONTEXT: &str = "config.linux.security_context";
/// `NGROUPS_MAX`, setgroups(2).
pub(super) const GROUPS_MAX: usize = 65_536;

pub(super) fn security(
    context: cri::LinuxSandboxSecurityContext,
    userns: Option<&IdMappings>,
    host: &Host,
) -> Result<Security, Invalid> {
    let field = |name: &str| format!("{CONTEXT}.{name}");
    let maps = userns.map(|u| (&u.uids[..], &u.gids[..]));
    let uid = |value: i64| id(&field("run_as_user"), value, maps.map(|m| m.0));
    let gid = |name: &str, value: i64| id(&field(name), value, maps.map(|m| m.1));

    let run_as_user = context.run_as_user.map(|v| uid(v.value)).transpose()?;
    let run_as_group = context.run_as_group.map(|v| gid("run_as_group", v.value)).transpose()?;
    if let (None, Some(group)) = (run_as_user, run_as_group) {
        return Err(Invalid::new(field("run_as_group"), group, Why::GroupWithoutUser));
    }
    count(&field("supplemental_groups"), context.supplemental_groups.len(), GROUPS_MAX)?;
    let supplemental_groups = context
        .supplemental_groups
        .iter()
        .enumerate()
        .map(|(i, group)| gid(&format!("supplemental_groups[{i}]"), *group))
        .collect::<Result<_, _>>()?;
    known::<cri::SupplementalGroupsPolicy>(
        &field("supplemental_groups_policy"),
        context.supplemental_groups_policy,
    )?;
    apparmor(context.apparmor.as_ref(), host)?;
    // selinux_options: the infra container, which runs nothing of anybody's, has no label; kubelet repeats a pod's in
    // each container's request.
    Ok(Security {
        run_as_user,
        run_as_group,
        supplemental_groups,
        readonly_rootfs: context.readonly_rootfs,
        privileged: context.privileged,
        // Neither: the runtime's default.
        seccomp: seccomp(context.seccomp, context.seccomp_profile_path)?.unwrap_or_default(),
    })
}

/// A uid or gid: any but 4294967295, which setuid(2) and chown(2) take for "none".
pub(super) fn id(field: &str, value: i64, maps: Option<&[crate::pod::spec::IdMap]>) -> Result<u32, Invalid> {
    let id = u32::try_from(value).ok().filter(|id| *id != u32::MAX);
    let Some(id) = id else { return Err(Invalid::new(field, value, Why::IdRange)) };
    if let Some(maps) = maps
        && !maps.iter().any(|m| id.checked_sub(m.container_id).is_some_and(|offset| offset < m.length))
    {
        let length = maps.iter().map(|m| m.length).max().unwrap_or_default();
        return Err(Invalid::new(field, value, Why::IdUnmapped { length }));
    }
    Ok(id)
}

/// `seccomp`, or the deprecated path where that alone is set: a caller that knows the one fills in the other for
/// runtimes that do not, and means the newer.
pub(super) fn seccomp(
    profile: Option<cri::SecurityProfile>,
    path: String,
) -> Result<Option<Seccomp>, Invalid> {
    match profile {
        Some(profile) => seccomp_profile(profile).map(Some),
        None => seccomp_path(path),
    }
}

fn seccomp_profile(profile: cri::SecurityProfile) -> Result<Seccomp, Invalid> {
    let reference = format!("{CONTEXT}.seccomp.localhost_ref");
    let kind = known(&format!("{CONTEXT}.seccomp.profile_type"), profile.profile_type)?;
    match kind {
        ProfileType::Localhost => absolute(&reference, profile.localhost_ref).map(Seccomp::Localhost),
        _ if !profile.localhost_ref.is_empty() => {
            Err(Invalid::new(reference, profile.localhost_ref, Why::RefWithoutLocalhost))
        }
        ProfileType::RuntimeDefault => Ok(Seccomp::RuntimeDefault),
        ProfileType::Unconfined => Ok(Seccomp::Unconfined),
    }
}

fn seccomp_path(path: String) -> Result<Option<Seccomp>, Invalid> {
    let field = format!("{CONTEXT}.seccomp_profile_path");
    Ok(Some(match path.as_str() {
        "" => return Ok(None),
        "runtime/default" | "docker/default" => Seccomp::RuntimeDefault,
        "unconfined" => Seccomp::Unconfined,
        other => match other.strip_prefix("localhost/") {
            Some(file) if file.starts_with('/') => {
                let file: PathBuf = absolute(&field, file.to_owned())?;
                Seccomp::Localhost(file)
            }
            _ => return Err(Invalid::new(field, path, Why::SeccompPath)),
        },
    }))
}

/// The infra container runs a pause of a few kB and gets no AppArmor profile: what would need one is
/// refused. Where AppArmor is off, RuntimeDefault means what kubelet means by it: nothing to apply.
fn apparmor(profile: Option<&cri::SecurityProfile>, host: &Host) -> Result<(), Invalid> {
    let Some(profile) = profile else { return Ok(()) };
    let kind = known(&format!("{CONTEXT}.apparmor.profile_type"), profile.profile_type)?;
    let reference = format!("{CONTEXT}.apparmor.localhost_ref");
    match kind {
        ProfileType::Localhost => {
            text(&reference, &profile.localhost_ref, super::PATH_MAX)?;
            let why = if host.apparmor == Support::Off { Why::AppArmorOff } else { Why::AppArmorUnsupported };
            Err(Invalid::new(reference, &profile.localhost_ref, why))
        }
        _ if !profile.localhost_ref.is_empty() => {
            Err(Invalid::new(reference, &profile.localhost_ref, Why::RefWithoutLocalhost))
        }
        ProfileType::RuntimeDefault if host.apparmor != Support::Off => Err(Invalid::new(
            format!("{CONTEXT}.apparmor.profile_type"),
            "RuntimeDefault",
            Why::AppArmorUnsupported,
        )),
        ProfileType::RuntimeDefault | ProfileType::Unconfined => Ok(()),
    }
}
