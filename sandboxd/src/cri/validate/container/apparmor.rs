//! The AppArmor profile of a container.

use sandboxd_api::cri::{self, security_profile::ProfileType};

use super::super::security::CONTEXT;
use super::super::{Host, Invalid, PATH_MAX, Why, known, text};
use crate::apparmor::{NAME, Support, USERNS};
use crate::pod::model::Pod;

/// The profile to enter, out of `apparmor`, or of the deprecated name where that alone is set.
///
/// Neither means what RuntimeDefault means (as kubelet's documentation has it), where there is a default profile.
/// Where AppArmor is off, RuntimeDefault means what kubelet means by it: nothing to apply. A privileged container is
/// not confined (CRI).
pub(super) fn profile(
    profile: Option<cri::SecurityProfile>,
    name: &str,
    privileged: bool,
    pod: &Pod,
    host: &Host,
) -> Result<Option<String>, Invalid> {
    let (field, asked) = match profile {
        Some(profile) => ("apparmor", Some(of_field(profile)?)),
        None => ("apparmor_profile", of_name(name)?),
    };
    let invalid = |value: &str, why| Err(Invalid::new(format!("{CONTEXT}.{field}"), value, why));
    let default = || match pod.spec.namespaces.user {
        Some(_) => USERNS.to_owned(),
        None => NAME.to_owned(),
    };
    match (asked, &host.apparmor) {
        (Some(Asked::Localhost(loaded)), Support::Off) => invalid(&loaded, Why::AppArmorOff),
        (Some(Asked::Localhost(loaded)), _) => Ok(Some(loaded)),
        (Some(Asked::Unconfined), _) | (_, Support::Off) | (None, Support::WithoutDefault { .. }) => Ok(None),
        (Some(Asked::RuntimeDefault) | None, _) if privileged => Ok(None),
        (Some(Asked::RuntimeDefault) | None, Support::WithDefault) => Ok(Some(default())),
        (Some(Asked::RuntimeDefault), Support::WithoutDefault { reason }) => {
            invalid("RuntimeDefault", Why::AppArmorNoDefault { reason: reason.clone() })
        }
    }
}

/// What a request asks for.
enum Asked {
    RuntimeDefault,
    Unconfined,
    Localhost(String),
}

fn of_field(profile: cri::SecurityProfile) -> Result<Asked, Invalid> {
    let reference = format!("{CONTEXT}.apparmor.localhost_ref");
    let kind = known(&format!("{CONTEXT}.apparmor.profile_type"), profile.profile_type)?;
    let name = profile.localhost_ref;
    text(&reference, &name, PATH_MAX)?;
    match kind {
        ProfileType::Localhost => match name.strip_prefix("localhost/").unwrap_or(&name) {
            "" => Err(Invalid::new(reference, name, Why::Missing)),
            loaded => Ok(Asked::Localhost(loaded.to_owned())),
        },
        _ if !name.is_empty() => Err(Invalid::new(reference, name, Why::RefWithoutLocalhost)),
        ProfileType::RuntimeDefault => Ok(Asked::RuntimeDefault),
        ProfileType::Unconfined => Ok(Asked::Unconfined),
    }
}

fn of_name(name: &str) -> Result<Option<Asked>, Invalid> {
    let field = format!("{CONTEXT}.apparmor_profile");
    text(&field, name, PATH_MAX)?;
    Ok(Some(match name {
        "" => return Ok(None),
        "runtime/default" => Asked::RuntimeDefault,
        "unconfined" => Asked::Unconfined,
        other => match other.strip_prefix("localhost/") {
            Some(loaded) if !loaded.is_empty() => Asked::Localhost(loaded.to_owned()),
            _ => return Err(Invalid::new(field, name, Why::AppArmorProfile)),
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::super::container_spec;
    use super::*;
    use crate::pod::model::test_pod;
    use crate::pod::spec::Seccomp;

    fn config() -> cri::ContainerConfig {
        cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "app".into(), attempt: 0 }),
            image: Some(cri::ImageSpec { image: "busybox:1".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    fn context(c: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
        c.linux.get_or_insert_default().security_context.get_or_insert_default()
    }

    // cri: LinuxContainerSecurityContext.apparmor, LinuxContainerSecurityContext.apparmor_profile
    #[test]
    fn the_newer_field_of_a_profile_is_the_one_that_counts() {
        let profile = |kind: ProfileType, name: &str| {
            Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() })
        };
        let armoured = Host { apparmor: Support::WithDefault, ..Host::default() };
        let mut c = config();
        context(&mut c).apparmor = profile(ProfileType::Localhost, "localhost/mine");
        context(&mut c).apparmor_profile = "localhost/other".into();
        context(&mut c).seccomp = profile(ProfileType::Unconfined, "");
        context(&mut c).seccomp_profile_path = "localhost/not absolute".into();
        let kept = container_spec(c.clone(), &test_pod("web"), &armoured).expect("valid").security;
        assert_eq!((kept.apparmor.as_deref(), kept.seccomp), (Some("mine"), Seccomp::Unconfined));
        // Set alone, the older ones do.
        context(&mut c).apparmor = None;
        context(&mut c).seccomp = None;
        context(&mut c).seccomp_profile_path = "runtime/default".into();
        let kept = container_spec(c, &test_pod("web"), &armoured).expect("valid").security;
        assert_eq!((kept.apparmor.as_deref(), kept.seccomp), (Some("other"), Seccomp::RuntimeDefault));
    }

    #[test]
    fn what_names_no_apparmor_profile_has_the_default_one_unless_it_is_privileged() {
        let with = |kind: Option<ProfileType>, pod: &Pod, support: &Support, privileged: bool| {
            let mut c = config();
            context(&mut c).privileged = privileged;
            context(&mut c).apparmor =
                kind.map(|kind| cri::SecurityProfile { profile_type: kind.into(), ..Default::default() });
            let host = Host { apparmor: support.clone(), ..Host::default() };
            container_spec(c, pod, &host)
                .map(|spec| spec.security.apparmor)
                .map_err(|error| error.to_string())
        };
        let mut userns = test_pod("web");
        userns.spec.security.privileged = true;
        let mut pod = userns.clone();
        pod.spec.namespaces.user = None;
        let without = Support::WithoutDefault { reason: "no parser".into() };
        for kind in [None, Some(ProfileType::RuntimeDefault)] {
            let default = with(kind, &pod, &Support::WithDefault, false).unwrap();
            assert_eq!(default.as_deref(), Some("sandboxd-default"), "{kind:?}");
            let default = with(kind, &userns, &Support::WithDefault, false).unwrap();
            assert_eq!(default.as_deref(), Some("sandboxd-default-userns"), "{kind:?}");
            assert_eq!(with(kind, &pod, &Support::Off, false), Ok(None), "{kind:?}");
            for support in [&Support::WithDefault, &without] {
                assert_eq!(with(kind, &pod, support, true), Ok(None), "{kind:?} {support:?}");
            }
        }
        assert_eq!(with(Some(ProfileType::Unconfined), &pod, &Support::WithDefault, false), Ok(None));
        assert_eq!(with(None, &pod, &without, false), Ok(None));
        let error = with(Some(ProfileType::RuntimeDefault), &pod, &without, false).unwrap_err();
        assert!(error.contains("security_context.apparmor") && error.contains("(no parser)"), "{error}");
    }
}
