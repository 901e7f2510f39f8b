//! The systemd driver: the pod's cgroup is a transient scope, so that systemd knows of it and leaves it be.
//!
//! `busctl` speaks D-Bus for us. A D-Bus client in the daemon (zbus) costs some sixty crates and more
//! memory than all the rest of this room, for two calls in a pod's life; busctl is part of systemd and so
//! is there wherever this driver can work.
//!
//! A scope needs a process from the start, so it is made when the first one is attached. It has no limits, and
//! systemd never writes below it (`Delegate`): limits are those of the cgroups in it, written directly. Source:
//! org.freedesktop.systemd1(5), systemd.resource-control(5).

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::error::CgroupError;
use super::layout::Layout;
use super::path::Unit;

/// runc's. systemd answers nobody while it reloads its units.
const WITHIN: Duration = Duration::from_secs(30);
/// For a question whose answer somebody waits for at a terminal.
const SOON: Duration = Duration::from_secs(5);

/// Whether systemd runs this machine (sd_booted(3)).
pub(super) fn booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The busctl executable.
pub(super) fn busctl() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("busctl")).find(|p| p.is_file())
}

/// Starts the scope with its first process, and waits until the process is in it, in every hierarchy in which
/// systemd has made it: with v1 it is moved in one after the other.
pub(super) fn start(busctl: &Path, layout: &Layout, unit: &Unit, pid: i32) -> Result<(), CgroupError> {
    call(busctl, "StartTransientUnit", unit, &start_arguments(unit, pid))?;
    // The answer names a job; that the job is done shows in /proc, which needs no signal from the bus.
    let begun = Instant::now();
    let file = format!("/proc/{pid}/cgroup");
    loop {
        let text = std::fs::read_to_string(&file).map_err(|source| CgroupError::Io {
            action: "reading",
            path: file.clone().into(),
            source,
        })?;
        if is_in(layout, unit, &text) {
            return Ok(());
        }
        if begun.elapsed() > WITHIN {
            let millis = begun.elapsed().as_millis();
            return Err(CgroupError::SystemdSlow { pid, unit: unit.scope.clone(), millis });
        }
        sleep(Duration::from_millis(5));
    }
}

/// Whether a process whose /proc/PID/cgroup this is ("4:memory:/path") is in the scope everywhere. systemd makes the
/// cgroups of all hierarchies before it moves a process into the first.
fn is_in(layout: &Layout, unit: &Unit, of_process: &str) -> bool {
    let hierarchies = of_process.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let mount = match controllers {
            "" => layout.v2.as_deref(),
            // The controllers of one hierarchy are mounted together: any of them finds it.
            _ => layout.v1_of(controllers.split(',').next()?).map(|hierarchy| hierarchy.mount.as_path()),
        };
        Some((mount, path.ends_with(&unit.path)))
    });
    let (mut any, mut all) = (false, true);
    for (mount, is_in) in hierarchies {
        any |= is_in;
        all &= is_in || !mount.is_some_and(|mount| unit.below(mount).exists());
    }
    any && all
}

/// Stops the scope. One that is not loaded is stopped already.
pub(super) fn stop(busctl: &Path, unit: &Unit) -> Result<(), CgroupError> {
    let arguments = ["ss", unit.scope.as_str(), "replace"].map(str::to_owned);
    match call(busctl, "StopUnit", unit, &arguments) {
        Err(CgroupError::Systemd { stderr, .. }) if stderr.contains("not loaded") => Ok(()),
        outcome => outcome,
    }
}

/// The signature and arguments of StartTransientUnit as busctl takes them.
fn start_arguments(unit: &Unit, pid: i32) -> Vec<String> {
    let properties: Vec<Property> = vec![
        ("Description", "s", format!("sandboxd {}", unit.scope)),
        ("Slice", "s", unit.slice.clone()),
        ("PIDs", "au", format!("1 {pid}")),
        ("Delegate", "b", "true".to_owned()),
        ("DefaultDependencies", "b", "false".to_owned()),
        ("CollectMode", "s", "inactive-or-failed".to_owned()),
        ("CPUAccounting", "b", "true".to_owned()),
        ("MemoryAccounting", "b", "true".to_owned()),
        // Its default is a share of the machine's, which nobody asked for.
        ("TasksMax", "t", u64::MAX.to_string()),
    ];
    let mut arguments = vec!["ssa(sv)a(sa(sv))".to_owned(), unit.scope.clone(), "fail".to_owned()];
    push(&mut arguments, properties);
    arguments.push("0".to_owned()); // no auxiliary units
    arguments
}

type Property = (&'static str, &'static str, String);

/// An array of properties as busctl takes it: its length, then name, signature and value of each.
fn push(arguments: &mut Vec<String>, properties: Vec<Property>) {
    arguments.push(properties.len().to_string());
    for (name, signature, value) in properties {
        arguments.push(name.to_owned());
        arguments.push(signature.to_owned());
        // An array is its length and its elements, each an argument; a string is one, spaces and all.
        if signature.starts_with('a') {
            arguments.extend(value.split(' ').map(str::to_owned));
        } else {
            arguments.push(value);
        }
    }
}

/// systemd's version as it tells it over the bus, or why it does not.
pub(super) fn version(busctl: &Path) -> Result<String, CgroupError> {
    let output = manager(busctl, SOON, "get-property", &["Version"])?;
    // `s "252.39-1~deb12u1"`
    let text = output.map_err(|stderr| CgroupError::NoBus { stderr })?;
    Ok(text.trim().trim_start_matches("s ").trim_matches('"').to_owned())
}

fn call(busctl: &Path, method: &'static str, unit: &Unit, arguments: &[String]) -> Result<(), CgroupError> {
    let words: Vec<&str> = std::iter::once(method).chain(arguments.iter().map(String::as_str)).collect();
    manager(busctl, WITHIN, "call", &words)?.map(drop).map_err(|stderr| CgroupError::Systemd {
        method,
        unit: unit.scope.clone(),
        stderr,
    })
}

/// What systemd's manager answers to a verb of busctl, or busctl's complaint.
fn manager(
    busctl: &Path,
    within: Duration,
    verb: &str,
    arguments: &[&str],
) -> Result<Result<String, String>, CgroupError> {
    let quiet = if verb == "call" { &["--quiet"][..] } else { &[] };
    let output = Command::new(busctl)
        // A tool of systemd's that fails tells the service manager, which takes it for the daemon's.
        .env_remove("NOTIFY_SOCKET")
        .arg("--system")
        .args(quiet)
        // "--": a value may begin with a dash ("-.slice").
        .args([&format!("--timeout={}", within.as_secs()), "--", verb])
        .args(["org.freedesktop.systemd1", "/org/freedesktop/systemd1"])
        .arg("org.freedesktop.systemd1.Manager")
        .args(arguments)
        .output()
        .map_err(|source: io::Error| CgroupError::Io {
            action: "running",
            path: busctl.to_owned(),
            source,
        })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok(if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) })
}

#[cfg(test)]
mod tests {
    use super::super::layout::V1;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn unit() -> Unit {
        Unit {
            scope: "sandboxd-p1.scope".into(),
            slice: "kubepods-pod1.slice".into(),
            path: "/kubepods.slice/kubepods-pod1.slice/sandboxd-p1.scope".into(),
        }
    }

    #[test]
    fn the_request_names_slice_and_process_and_no_limits() {
        let text = start_arguments(&unit(), 42).join(" ");
        assert!(
            text.starts_with("ssa(sv)a(sa(sv)) sandboxd-p1.scope fail 9 Description s sandboxd "),
            "{text}"
        );
        for part in [" Slice s kubepods-pod1.slice ", " PIDs au 1 42 ", " Delegate b true "] {
            assert!(text.contains(part), "{part:?} not in {text}");
        }
        assert!(text.ends_with(&format!(" TasksMax t {} 0", u64::MAX)), "{text}");
    }

    #[test]
    fn a_process_is_in_the_scope_once_it_is_in_all_of_its_cgroups() {
        let (dir, unit) = (tempfile::tempdir().unwrap(), unit());
        let v1 = |name: &str, controllers: &[&str]| V1 {
            mount: dir.path().join(name),
            controllers: controllers.iter().map(|&c| c.to_owned()).collect(),
        };
        let layout = Layout {
            v1: vec![
                v1("systemd", &["name=systemd"]),
                v1("cpu", &["cpu", "cpuacct"]),
                v1("freezer", &["freezer"]),
            ],
            v2: Some(dir.path().join("unified")),
        };
        for made in ["systemd", "cpu", "unified"] {
            std::fs::create_dir_all(unit.below(&dir.path().join(made))).unwrap();
        }
        let cgroup = |named: &str, cpu: &str, unified: &str| {
            let text = format!(
                "7:freezer:/\n5:net_cls:/\n4:cpu,cpuacct:{cpu}\n1:name=systemd:{named}\n0::{unified}\n"
            );
            is_in(&layout, &unit, &text)
        };
        let within = unit.path.as_str();
        assert!(cgroup(within, within, within), "systemd does not make it in freezer");
        assert!(!cgroup(within, "/", within));
        assert!(!cgroup(within, within, "/"));
        assert!(!cgroup("/", "/", "/"));
        let v2 = Layout { v1: Vec::new(), v2: layout.v2.clone() };
        assert!(is_in(&v2, &unit, &format!("0::{within}\n")));
        assert!(!is_in(&v2, &unit, "0::/\n"));
        std::fs::remove_dir(unit.below(&dir.path().join("unified"))).unwrap();
        assert!(!is_in(&v2, &unit, "0::/\n"));
    }

    #[test]
    fn refusals_are_in_systemds_words() {
        let dir = tempfile::tempdir().unwrap();
        let fake = dir.path().join("busctl");
        let script = |text: &str| {
            std::fs::write(&fake, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        script("echo 'Call failed: Unit x already exists.' >&2; exit 1");
        let layout = Layout { v1: Vec::new(), v2: Some(dir.path().to_owned()) };
        let error = start(&fake, &layout, &unit(), 1).unwrap_err().to_string();
        assert!(error.contains("StartTransientUnit") && error.contains("already exists"), "{error}");
        script("echo 'Call failed: Unit sandboxd-p1.scope not loaded.' >&2; exit 1");
        stop(&fake, &unit()).unwrap();
        script("echo 'Failed to connect to bus: No such file or directory' >&2; exit 1");
        let error = version(&fake).unwrap_err().to_string();
        assert!(error.contains("Failed to connect to bus"), "{error}");
        script("echo 's \"252.39-1~deb12u1\"'");
        assert_eq!(version(&fake).unwrap(), "252.39-1~deb12u1");
    }
}
