//! The daemon's command line.

use std::process::{Command, Output};

use anyhow::ensure;
use sandboxd_tests::bins;
use sandboxd_tests::e2e::E2e;

fn sandboxd(args: &[&str]) -> Output {
    let program = bins::find("sandboxd").expect("sandboxd is built");
    Command::new(program).args(args).output().expect("sandboxd starts")
}

#[test]
fn the_default_configuration_is_one_that_checks() {
    let output = sandboxd(&["config", "default"]);
    assert!(output.status.success());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, &output.stdout).unwrap();
    let check = sandboxd(&["config", "check", "--config", path.to_str().unwrap()]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}

#[test]
fn a_bad_configuration_is_refused_by_file_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.toml");
    let bad = [
        ("no_such_key = 1\n", "no_such_key"),
        ("[cni]\nadd_timeout = \"soon\"\n", "add_timeout"),
        ("[handlers.x]\nruntime = \"lxc\"\n", "lxc"),
        ("root = \n", "root"),
    ];
    for (text, word) in bad {
        std::fs::write(&path, text).unwrap();
        let output = sandboxd(&["config", "check", "--config", path.to_str().unwrap()]);
        assert!(!output.status.success(), "accepted: {text}");
        let words = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(words.contains("config.toml") && words.contains(word), "{text}: {words}");
    }
}

#[test]
fn a_missing_explicit_file_and_unknown_flags_are_errors() {
    assert!(!sandboxd(&["serve", "--config", "/nonexistent/config.toml"]).status.success());
    assert!(!sandboxd(&["serve", "--no-such-flag"]).status.success());
    assert!(!sandboxd(&["dance"]).status.success());
}

#[test]
fn the_doctor_speaks_json() {
    let output = sandboxd(&["doctor", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(value.to_string().contains("verdict"), "{value}");
}

#[test]
fn the_sockets_are_for_root_alone() {
    use std::os::unix::fs::PermissionsExt;
    E2e::default().run(async |node| {
        for socket in [node.cri_socket(), node.console_socket()] {
            let mode = std::fs::metadata(&socket)?.permissions().mode() & 0o777;
            ensure!(mode == 0o600, "{} has mode {mode:o}", socket.display());
        }
        Ok(())
    });
}
