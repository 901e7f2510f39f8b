//! The binary's command line: good and bad input, one daemon per directory, the way out.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn sandboxd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sandboxd")).args(args).output().expect("runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn check(config: &str) -> Output {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(config.as_bytes()).expect("written");
    sandboxd(&["config", "check", "--config", file.path().to_str().expect("a path")])
}

#[test]
fn the_default_configuration_checks_as_valid() {
    let default = sandboxd(&["config", "default"]);
    assert!(default.status.success());
    let checked = check(&stdout(&default));
    assert!(checked.status.success(), "{}", stderr(&checked));
}

#[test]
fn bad_files_are_named_with_key_value_and_remedy() {
    for (config, words) in [
        ("roots = '/x'", &["roots", "line 1", "config default"][..]),
        ("root = ", &["line 1"]),
        ("[cni]\nadd_timeout = '5 moons'", &["5 moons", "line 2"]),
        (
            "[cni]\nadd_timeout = '0s'\nbin_dirs = []",
            &["cni.add_timeout = 0ns", "1s and 10m", "cni.bin_dirs = []"],
        ),
        ("default_handler = 'gvisor'", &["default_handler = \"gvisor\"", "native"]),
        ("[log]\nformat = 'xml'", &["xml", "json"]),
    ] {
        let output = check(config);
        assert_eq!(output.status.code(), Some(1), "{config}");
        let said = stderr(&output);
        assert!(words.iter().all(|w| said.contains(w)), "{config}: {said}");
    }
    let missing = sandboxd(&["config", "check", "--config", "/nonexistent.toml"]);
    assert!(!missing.status.success() && stderr(&missing).contains("/nonexistent.toml"));
}

#[test]
fn unknown_commands_and_flags_are_refused() {
    for args in [
        &["serve", "--no-such-flag"][..],
        &["serve", "--log-format", "xml"],
        &["config"],
        &["doctor", "extra"],
        &[],
    ] {
        let output = sandboxd(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains("--help"), "{args:?}: {}", stderr(&output));
    }
    let output = sandboxd(&["serve", "--state", "relative"]);
    assert!(
        !output.status.success() && stderr(&output).contains("state = \"relative\""),
        "{}",
        stderr(&output)
    );
}

#[test]
fn doctor_prints_both_forms() {
    let text = sandboxd(&["doctor"]);
    let json = sandboxd(&["doctor", "--json"]);
    let checks: Vec<serde_json::Value> = serde_json::from_slice(&json.stdout).expect("JSON");
    assert!(stdout(&text).contains(&format!("{} checks", checks.len())));
    let failed = checks.iter().any(|c| c["verdict"] == "fail");
    assert_eq!(json.status.code(), Some(i32::from(failed)));
    assert_eq!(text.status.code(), json.status.code());
}

fn serve(dir: &Path) -> Child {
    let path = |name: &str| dir.join(name).into_os_string();
    // SANDBOXD_SHIM, or beside the daemon: `cargo build -p sandboxd-shim`.
    let shim = std::env::var("SANDBOXD_SHIM").unwrap_or_default();
    let config = dir.join("config.toml");
    std::fs::write(&config, format!("[pod]\nshim_path = {shim:?}\n")).expect("written");
    Command::new(env!("CARGO_BIN_EXE_sandboxd"))
        .arg("serve")
        .arg("--config")
        .arg(config)
        .args([&"--root".into(), &path("root"), &"--state".into(), &path("state")])
        .args([&"--cri-socket".into(), &path("cri.sock")])
        .args([&"--console-socket".into(), &path("console.sock")])
        .args([&"--cni-conf-dir".into(), &path("net.d")])
        .env("NOTIFY_SOCKET", path("notify"))
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts")
}

#[test]
fn one_daemon_serves_tells_its_manager_and_drains() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(dir.path().join("net.d")).expect("made");
    let manager = std::os::unix::net::UnixDatagram::bind(dir.path().join("notify")).expect("bound");
    manager.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    let told = || {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).expect("told");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let mut first = serve(dir.path());
    let ready = told();
    assert!(ready.contains("READY=1") && ready.contains("STATUS=serving"), "{ready}");
    let socket = dir.path().join("cri.sock");
    let mode = std::fs::metadata(&socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let second = serve(dir.path()).wait_with_output().expect("ends");
    assert!(!second.status.success());
    assert!(stderr(&second).contains(&format!("pid {}", first.id())), "{}", stderr(&second));

    // A client that says nothing must not hold up the end.
    let _idle = std::os::unix::net::UnixStream::connect(&socket).expect("connected");
    let pid = rustix::process::Pid::from_child(&first);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    assert!(told().contains("STOPPING=1"));
    let until = Instant::now() + Duration::from_secs(5);
    let status = loop {
        if let Some(status) = first.try_wait().expect("waited") {
            break status;
        }
        assert!(Instant::now() < until, "did not end");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success());
    assert!(!socket.exists());
}
