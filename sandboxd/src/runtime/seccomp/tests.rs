use std::io::Write;

use super::*;

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

#[test]
fn the_default_profile_compiles_within_the_kernels_bound() {
    let filter = compile(&default::profile()).unwrap();
    assert!(!filter.program.is_empty());
    assert!(filter.program.len().is_multiple_of(8));
    assert!(filter.program.len() < MAX_PROGRAM / 2, "{}", filter.program.len());
}

#[test]
fn what_the_pause_calls_is_allowed() {
    let profile = default::profile();
    for name in ["rt_sigprocmask", "rt_sigtimedwait", "wait4", "exit_group", "execveat", "sendmsg"] {
        let allowed = profile.syscalls().iter().flatten().any(|rule| {
            rule.action() == LinuxSeccompAction::ScmpActAllow && rule.names().iter().any(|n| n == name)
        });
        assert!(allowed, "{name}");
    }
}

#[test]
fn what_reaches_out_of_a_container_is_not_in_the_default_profile() {
    let profile = default::profile();
    for name in ["mount", "bpf", "init_module", "kexec_load", "keyctl", "setns", "unshare"] {
        let named = profile.syscalls().iter().flatten().any(|rule| rule.names().iter().any(|n| n == name));
        assert!(!named, "{name}");
    }
}

#[test]
fn unknown_names_are_told() {
    let filter = compile(&profile(
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["chmod", "no_such_call"], "action": "SCMP_ACT_ERRNO"}]}"#,
    ));
    assert_eq!(filter.unwrap().unknown, ["no_such_call"]);
}

#[test]
fn what_cannot_be_installed_is_refused_by_name() {
    for (json, word) in [
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}"#, "listener"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}"#, "Log"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO",
               "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
            "argument 6",
        ),
    ] {
        let error = compile(&profile(json)).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn profiles_for_several_machines_compile() {
    let filter = compile(&profile(
        r#"{"defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_RISCV64"],
            "syscalls": [{"names": ["read", "execveat"], "action": "SCMP_ACT_ALLOW"}]}"#,
    ));
    assert!(!filter.unwrap().program.is_empty());
}

#[test]
fn a_file_is_read_or_says_what_is_wrong_with_it() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(br#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).unwrap();
    assert_eq!(load(file.path()).unwrap().default_action(), LinuxSeccompAction::ScmpActAllow);
    file.write_all(b"}").unwrap();
    assert!(matches!(load(file.path()), Err(SeccompError::Parse { .. })));
    file.as_file().set_len(MAX_FILE + 1).unwrap();
    assert!(matches!(load(file.path()), Err(SeccompError::TooLong { .. })));
    assert!(matches!(load(Path::new("/no/such/profile")), Err(SeccompError::Read { .. })));
}
