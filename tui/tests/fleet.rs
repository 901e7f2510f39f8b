//! Several nodes in one console, over Unix sockets and over TLS.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

#[path = "support/driven.rs"]
mod driven;
#[path = "support/pki.rs"]
mod pki;

use std::path::Path;
use std::process::Stdio;

use crossterm::event::KeyCode;
use driven::{Driven, unix};
use pki::Pki;
use sandboxd_api::console::{Check, Snapshot, check, delta};
use sandboxd_sim::{Sim, world};
use sandboxd_tui::feed::target::{Address, Target};
use sandboxd_tui::record::{Entry, What};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

async fn two(dir: &Path) -> (Sim, Sim, Driven) {
    let one = Sim::start(&dir.join("one.sock"), world::node("one", 3));
    let two = Sim::start(&dir.join("two.sock"), world::node("two", 2));
    let mut console = Driven::over(vec![unix("one", &one.socket), unix("two", &two.socket)], true);
    console.until_shown("5 pods").await;
    (one, two, console)
}

#[tokio::test]
async fn the_pods_of_all_nodes_stand_in_one_table_with_their_node() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two, mut console) = two(dir.path()).await;
    let screen = console.screen();
    assert!(screen.contains("NODE") && screen.contains("2 nodes"), "{screen}");
    for (sim, name) in [(&one, "one"), (&two, "two")] {
        for pod in sim.snapshot().pods {
            let end = &pod.name[pod.name.len() - 5..];
            let rows: Vec<_> = screen.lines().filter(|line| line.contains(end)).collect();
            assert!(rows.iter().any(|row| row.contains(&format!(" {name} "))), "{end} of {name}: {screen}");
        }
    }
    console.keys("/node:two");
    console.press(KeyCode::Enter);
    assert!(console.screen().contains("2 of 5 pods"));
    console.keys("/ name:web");
    console.press(KeyCode::Enter);
    assert!(console.screen().contains("1 of 5 pods"));
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn the_same_check_number_of_two_nodes_is_two_checks() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two, mut console) = two(dir.path()).await;
    for (sim, comm) in [(&one, "first"), (&two, "second")] {
        let pod = sim.snapshot().pods[0].clone();
        let denied = Check { comm: comm.into(), ..world::check(7, &pod) };
        assert_eq!(denied.verdict(), check::Verdict::Denied);
        sim.change(&delta::Change::Check(denied));
    }
    for node in ["one", "two"] {
        console.keys("1");
        console.press(KeyCode::Esc);
        console.keys(&format!("/node:{node}"));
        console.press(KeyCode::Enter);
        console.keys("3");
        console.until_shown("mount sysfs").await;
        console.keys("w");
        console.until_shown(&format!("{node} simulated a denied mount")).await;
        console.press(KeyCode::Esc);
    }
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_node_that_goes_away_is_shown_with_its_reason_and_its_pods_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two, mut console) = two(dir.path()).await;
    two.stop().await;
    let screen = console.until_shown("1 of 2 nodes away").await;
    assert!(screen.lines().filter(|line| line.contains("!! two ")).count() >= 2, "{screen}");
    console.keys("N");
    console.until("the reason", |screen| screen.contains("of before · cannot reach")).await;
    let line = console.line("again in");
    assert!(
        line.contains("!! stale") && line.contains("again in") && line.contains("2 pods of before"),
        "{line}"
    );
    assert!(console.line("▸").contains("one"), "{}", console.screen());
    // What is asked about it is refused with the reason; the other node answers.
    console.keys("j");
    console.press(KeyCode::Enter);
    assert!(console.screen().contains("2 of 5 pods"));
    console.keys("x");
    assert!(console.screen().contains("not connected to the daemon"), "{}", console.screen());
    let back = Sim::start(&dir.path().join("two.sock"), world::node("two", 4));
    console.until("its pods", |screen| screen.contains("4 of 7 pods") && !screen.contains("away")).await;
    one.stop().await;
    back.stop().await;
}

#[tokio::test]
async fn actions_go_to_the_node_of_the_pod() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two, mut console) = two(dir.path()).await;
    console.keys("/node:two");
    console.press(KeyCode::Enter);
    console.keys("x");
    let screen = console.screen();
    assert!(screen.contains("Stop pod") && screen.contains("on node two?"), "{screen}");
    console.keys("y");
    console.until("the end", |screen| screen.contains("stopped pod") && screen.contains("notready")).await;
    assert!(one.acted().is_empty());
    let acted = two.acted();
    assert_eq!(acted.len(), 1);
    assert!(two.snapshot().pods.iter().any(|pod| acted[0] == format!("stop-pod {}", pod.id)), "{acted:?}");
    one.stop().await;
    two.stop().await;
}

fn over_tls(address: std::net::SocketAddr, pki: &Pki, client: &str) -> Target {
    Target {
        name: client.to_owned(),
        address: Address::Https(address.to_string()),
        tls: Some(pki.files(client)),
    }
}

#[tokio::test]
async fn tls_with_a_client_certificate_and_refusals_without_the_right_one() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path());
    let sim = Sim::start_tls(&pki.server(), world::node("far", 3)).await;
    let address = sim.address.unwrap();
    let mut console = Driven::over(vec![over_tls(address, &pki, "operator")], false);
    let screen = console.until_shown("3 pods").await;
    assert!(screen.contains("● live"), "{screen}");
    // A certificate of somebody else's authority.
    let mut stranger = Driven::over(vec![over_tls(address, &pki, "stranger")], false);
    stranger
        .until("a refusal", |screen| screen.contains("!!") && screen.contains(&address.to_string()))
        .await;
    // A daemon that is somebody else.
    let mut target = over_tls(address, &pki, "operator");
    target.tls.as_mut().unwrap().server_name = Some("other.example".into());
    let mut wrong = Driven::over(vec![target], false);
    wrong.until("a refusal", |screen| screen.contains("certificate not valid for name")).await;
    // A file that is not there.
    let mut target = over_tls(address, &pki, "operator");
    target.tls.as_mut().unwrap().key = dir.path().join("gone.key");
    let mut missing = Driven::over(vec![target], false);
    missing.until("the file", |screen| screen.contains("gone.key: No such file")).await;
    sim.stop().await;
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandboxd-tui"));
    command.env("TZ", "UTC").env("COLUMNS", "140").stdin(Stdio::null()).kill_on_drop(true);
    command
}

#[tokio::test]
async fn a_nodes_file_names_nodes_over_sockets_and_tls() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path());
    let near = Sim::start(&dir.path().join("near.sock"), world::node("host-a", 2));
    let far = Sim::start_tls(&pki.server(), world::node("host-b", 1)).await;
    let file = format!(
        "[[node]]\nname = \"near\"\nendpoint = \"{}\"\n\n[[node]]\nname = \"far\"\nendpoint = \"https://{}\"\n\
         ca = \"ca.pem\"\ncert = \"operator.pem\"\nkey = \"operator.key\"\n",
        near.socket.display(),
        far.address.unwrap()
    );
    let path = dir.path().join("nodes.toml");
    std::fs::write(&path, file).unwrap();
    let output = program().arg("--nodes").arg(&path).arg("--once").output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains(" near ") && text.contains(" far ") && text.contains("3 pods"), "{text}");
    let json = program().arg("--nodes").arg(&path).args(["--once", "--json"]).output().await.unwrap();
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["nodes"][1]["node"], "far");
    assert_eq!(value["nodes"][0]["snapshot"]["pods"].as_array().unwrap().len(), 2);

    // One that is away is named beside those that are there.
    far.stop().await;
    let output = program().arg("--nodes").arg(&path).args(["--once", "--json"]).output().await.unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(value["nodes"][1]["error"].as_str().unwrap().contains("cannot reach"), "{value}");
    near.stop().await;
}

#[tokio::test]
async fn a_recording_of_several_nodes_names_them_and_replays() {
    let dir = tempfile::tempdir().unwrap();
    let one = Sim::start(&dir.path().join("one.sock"), world::node("one", 1));
    let two = Sim::start(&dir.path().join("two.sock"), world::node("two", 2));
    let file = dir.path().join("session.jsonl");
    let mut command = program();
    for sim in [&one, &two] {
        command.arg("--endpoint").arg(&sim.socket);
    }
    let mut child = command.arg("--json").arg("--record").arg(&file).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut names = Vec::new();
    while names.len() < 2 {
        let line = tokio::time::timeout(std::time::Duration::from_secs(20), lines.next_line()).await;
        let entry: Entry = serde_json::from_str(&line.unwrap().unwrap().unwrap()).unwrap();
        assert!(matches!(&entry.what, What::Snapshot(Snapshot { .. })));
        names.push(entry.node.unwrap());
    }
    names.sort_unstable();
    assert!(names[0].ends_with("one.sock") && names[1].ends_with("two.sock"), "{names:?}");
    child.kill().await.unwrap();
    let replayed = program().arg("--replay").arg(&file).args(["--once", "--json"]).output().await.unwrap();
    let value: serde_json::Value = serde_json::from_slice(&replayed.stdout).unwrap();
    let pods: usize = (0..2).map(|at| value["nodes"][at]["snapshot"]["pods"].as_array().unwrap().len()).sum();
    assert_eq!(pods, 3, "{value}");
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn wrong_nodes_and_flags_say_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nodes.toml");
    std::fs::write(&file, "[[node]]\nname = \"a\"\nendpoint = \"https://a:1\"\n").unwrap();
    let path = file.to_str().unwrap();
    for (args, words) in [
        (vec!["--nodes", path, "--once"], "name ca as well"),
        (vec!["--nodes", "/nowhere.toml", "--once"], "/nowhere.toml"),
        (vec!["--endpoint", "https://a:1", "--once"], "--ca, --cert, --key"),
        (vec!["--endpoint", "http://a:1", "--once"], "unencrypted"),
        (vec!["--endpoint", "/a.sock", "--nodes", path], "cannot be used with"),
        (vec!["--read-only", "--allow-actions"], "cannot be used with"),
        (vec!["--replay", path, "--allow-actions"], "cannot be used with"),
    ] {
        let output = program().args(&args).output().await.unwrap();
        assert!(!output.status.success(), "{args:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains(words), "{args:?}: {told}");
    }
}
