//! Security context.

use super::*;

fn profile(kind: ProfileType, localhost_ref: &str) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: localhost_ref.into() })
}

#[test]
fn security() {
    const S: &str = "config.linux.security_context";
    fn value(value: i64) -> Option<cri::Int64Value> {
        Some(cri::Int64Value { value })
    }
    let cases: Vec<Change<cri::LinuxSandboxSecurityContext, Why>> = vec![
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.run_as_user = value(-1)),
            "run_as_user",
            "-1",
            Why::IdRange,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.run_as_user = value(4_294_967_295)),
            "run_as_user",
            "4294967295",
            Why::IdRange,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.run_as_user = value(65_536)),
            "run_as_user",
            "65536",
            Why::IdUnmapped { length: 65_536 },
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.run_as_group = value(5)),
            "run_as_group",
            "5",
            Why::GroupWithoutUser,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.supplemental_groups = vec![1, 70_000]),
            "supplemental_groups[1]",
            "70000",
            Why::IdUnmapped { length: 65_536 },
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.supplemental_groups_policy = 2),
            "supplemental_groups_policy",
            "2",
            Why::UnknownEnum,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| {
                s.seccomp = profile(ProfileType::Localhost, "x.json");
            }),
            "seccomp.localhost_ref",
            "\"x.json\"",
            Why::NotAbsolute,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.seccomp = profile(ProfileType::Unconfined, "/x")),
            "seccomp.localhost_ref",
            "\"/x\"",
            Why::RefWithoutLocalhost,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.seccomp_profile_path = "localhost/x".into()),
            "seccomp_profile_path",
            "\"localhost/x\"",
            Why::SeccompPath,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.seccomp_profile_path = "default".into()),
            "seccomp_profile_path",
            "\"default\"",
            Why::SeccompPath,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.apparmor = profile(ProfileType::Localhost, "web")),
            "apparmor.localhost_ref",
            "\"web\"",
            Why::AppArmorOff,
        ),
    ];
    for (change, name, value, why) in cases {
        let mut c = config();
        change(context(&mut c));
        assert_eq!(
            validate(c).expect_err(name),
            Invalid { field: format!("{S}.{name}"), value: value.into(), why }
        );
    }
}

// cri: LinuxSandboxSecurityContext.seccomp_profile_path
#[test]
fn what_security_may_ask() {
    let mut c = config();
    let s = context(&mut c);
    s.run_as_user = Some(cri::Int64Value { value: 65_535 });
    s.run_as_group = Some(cri::Int64Value { value: 0 });
    // The deprecated path is not looked at beside it.
    s.seccomp_profile_path = "localhost/b.json".into();
    s.seccomp = profile(ProfileType::Localhost, "/var/lib/kubelet/seccomp/a.json");
    s.apparmor = profile(ProfileType::RuntimeDefault, "");
    // There is no SELinux on this host.
    s.selinux_options = Some(cri::SeLinuxOption { level: "s0".into(), ..Default::default() });
    s.privileged = true;
    let security = validate(c).expect("valid").security;
    assert_eq!(security.seccomp, Seccomp::Localhost("/var/lib/kubelet/seccomp/a.json".into()));
    assert!(security.privileged);
}
