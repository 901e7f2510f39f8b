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

fn allowed(profile: &LinuxSeccomp, name: &str) -> Vec<LinuxSeccompAction> {
    let rules = profile.syscalls().iter().flatten();
    rules.filter(|rule| rule.names().iter().any(|n| n == name)).map(|rule| rule.action()).collect()
}

#[test]
fn a_capability_brings_its_calls() {
    const ALLOW: LinuxSeccompAction = LinuxSeccompAction::ScmpActAllow;
    for (capability, call) in [
        ("SYS_ADMIN", "mount"),
        ("SYS_MODULE", "init_module"),
        ("SYS_TIME", "settimeofday"),
        ("SYS_BOOT", "reboot"),
        ("SYS_NICE", "mbind"),
        ("DAC_READ_SEARCH", "open_by_handle_at"),
        ("PERFMON", "perf_event_open"),
        ("SYS_CHROOT", "chroot"),
    ] {
        let with = default::profile_for(1 << crate::runtime::capabilities::number(capability).unwrap());
        assert_eq!(allowed(&with, call), [ALLOW], "{call}");
        assert_eq!(allowed(&default::profile_for(0), call), [], "{call}");
        assert!(default::names(call));
    }
    let admin = default::profile_for(1 << 21);
    assert_eq!(allowed(&admin, "clone"), [ALLOW]);
    assert_eq!(allowed(&admin, "clone3"), [ALLOW]);
    assert_eq!(allowed(&default::profile(), "clone3"), [LinuxSeccompAction::ScmpActErrno]);
    assert_eq!(allowed(&default::profile(), "io_uring_setup"), []);
}

#[test]
fn every_set_of_capabilities_compiles_and_is_compiled_once() {
    let mut sizes = Vec::new();
    for bits in (0..41).map(|bit| 1 << bit).chain([0, u64::MAX]) {
        let profile = default::profile_for(bits);
        let first = compiled(&profile).unwrap();
        assert_eq!(compiled(&profile).unwrap().program, first.program);
        sizes.push(first.program.len());
    }
    assert!(sizes.iter().all(|size| size.is_multiple_of(8) && *size < MAX_PROGRAM), "{sizes:?}");
    let profile = default::profile_for(u64::MAX);
    assert!(Arc::ptr_eq(&compiled(&profile).unwrap(), &compiled(&profile).unwrap()));
    let calls: usize = profile.syscalls().iter().flatten().map(|rule| rule.names().len()).sum();
    assert!(calls > 400, "{calls}");
}

/// The compiled program as the kernel has it, in a process that ends with it.
/// The errno of a system call in a thread that has the filter; 0 where it succeeded.
fn filtered(program: Vec<u8>, call: impl Fn() -> i64 + Send + 'static) -> i32 {
    let thread = std::thread::spawn(move || {
        let filter = libc::sock_fprog {
            len: u16::try_from(program.len() / 8).unwrap(),
            filter: program.as_ptr().cast_mut().cast(),
        };
        // SAFETY: a filter for this thread alone, which ends; the program outlives the call.
        let installed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter)
        };
        assert_eq!(installed, 0);
        if call() < 0 { std::io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
    });
    thread.join().unwrap()
}

#[test]
fn what_is_newer_than_the_profile_does_not_exist() {
    let program = compile(&default::profile()).unwrap().program;
    // SAFETY: neither changes anything: the first is nobody's number, the second is refused.
    let (newer, named) = unsafe {
        (
            filtered(program.clone(), || libc::syscall(600, 0, 0, 0)),
            filtered(program, || libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUTS)),
        )
    };
    assert_eq!((newer, named), (libc::ENOSYS, libc::EPERM));
    let of = |default: &str, names: &str| {
        let json = format!(
            r#"{{"defaultAction": "{default}", "defaultErrnoRet": 5,
                "syscalls": [{{"names": [{names}], "action": "SCMP_ACT_ALLOW"}}]}}"#
        );
        compile(&profile(&json)).unwrap().program
    };
    // SAFETY: as above.
    let call = || unsafe { libc::syscall(600, 0, 0, 0) };
    assert_eq!(filtered(of("SCMP_ACT_ALLOW", ""), call), libc::ENOSYS, "the kernel's own");
    let all = r#""futex", "munmap", "madvise", "exit", "sched_yield", "rt_sigprocmask", "sigaltstack", "rseq", "mprotect",
                 "brk", "mmap", "write", "read", "close", "prctl", "seccomp", "set_robust_list", "restart_syscall""#;
    assert_eq!(filtered(of("SCMP_ACT_ERRNO", all), call), libc::ENOSYS);
    // SAFETY: as above.
    let older = || unsafe { libc::syscall(libc::SYS_getpid) };
    assert_eq!(filtered(of("SCMP_ACT_ERRNO", all), older), 5);
}

#[test]
fn sockets_that_leave_the_container_are_refused_by_the_kernel() {
    let program = compile(&default::profile()).unwrap().program;
    let tried = |family: i32| {
        filtered(program.clone(), move || {
            // SAFETY: no pointers; what is opened is closed.
            unsafe {
                let fd = libc::socket(family, libc::SOCK_SEQPACKET, 0);
                if fd >= 0 {
                    libc::close(fd);
                }
                fd.into()
            }
        })
    };
    assert_eq!(tried(libc::AF_ALG), libc::EPERM);
    assert_eq!(tried(libc::AF_VSOCK), libc::EPERM);
    assert_eq!(tried(libc::AF_UNIX), 0);
    // Between the two: refused, if at all, because nobody has it.
    assert_ne!(tried(libc::AF_ALG + 1), libc::EPERM);
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
