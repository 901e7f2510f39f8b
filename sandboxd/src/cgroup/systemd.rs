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
use super::path::Unit;

/// runc's. systemd answers nobody while it reloads its units.
const WITHIN: Duration = Duration::from_secs(30);

/// Whether systemd runs this machine (sd_booted(3)).
pub(super) fn booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The busctl executable.
pub(super) fn busctl() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("busctl")).find(|p| p.is_file())
}

/// Starts the scope with its first process, and waits until the process is in it.
pub(super) fn start(busctl: &Path, unit: &Unit, pid: i32) -> Result<(), CgroupError> {
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
        if text.lines().any(|line| line.ends_with(&unit.path)) {
            return Ok(());
        }
        if begun.elapsed() > WITHIN {
            let millis = begun.elapsed().as_millis();
            return Err(CgroupError::SystemdSlow { pid, unit: unit.scope.clone(), millis });
        }
        sleep(Duration::from_millis(5));
    }
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

fn call(busctl: &Path, method: &'static str, unit: &Unit, arguments: &[String]) -> Result<(), CgroupError> {
    let output = Command::new(busctl)
        // A tool of systemd's that fails tells the service manager, which takes it for the daemon's.
        .env_remove("NOTIFY_SOCKET")
        // "--": a value may begin with a dash ("-.slice").
        .args(["--system", "--quiet", &format!("--timeout={}", WITHIN.as_secs()), "--", "call"])
        .args(["org.freedesktop.systemd1", "/org/freedesktop/systemd1"])
        .args(["org.freedesktop.systemd1.Manager", method])
        .args(arguments)
        .output()
        .map_err(|source: io::Error| CgroupError::Io {
            action: "running",
            path: busctl.to_owned(),
            source,
        })?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(CgroupError::Systemd { method, unit: unit.scope.clone(), stderr })
}

#[cfg(test)]
mod tests {
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
    fn refusals_are_in_systemds_words() {
        let dir = tempfile::tempdir().unwrap();
        let fake = dir.path().join("busctl");
        let script = |text: &str| {
            std::fs::write(&fake, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        script("echo 'Call failed: Unit x already exists.' >&2; exit 1");
        let error = start(&fake, &unit(), 1).unwrap_err().to_string();
        assert!(error.contains("StartTransientUnit") && error.contains("already exists"), "{error}");
        script("echo 'Call failed: Unit sandboxd-p1.scope not loaded.' >&2; exit 1");
        stop(&fake, &unit()).unwrap();
    }
}
