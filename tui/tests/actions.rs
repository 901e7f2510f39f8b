//! Logs, stop, remove and exec as an operator does them, against a simulated daemon.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

#[path = "support/driven.rs"]
mod driven;

use crossterm::event::KeyCode;
use driven::{Driven, unix};
use sandboxd_api::console::{Access, Snapshot, delta, pod};
use sandboxd_sim::{Sim, world};

async fn start(dir: &tempfile::TempDir, snapshot: Snapshot, allow: bool) -> (Sim, Driven) {
    let sim = Sim::start(&dir.path().join("console.sock"), snapshot);
    let mut console = Driven::over(vec![unix("here", &sim.socket)], allow);
    console.until_shown("● live").await;
    console.until("the pods", |screen| screen.contains("● ready")).await;
    (sim, console)
}

#[tokio::test]
async fn without_the_flag_nothing_is_even_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (sim, mut console) = start(&dir, world::node("here", 2), false).await;
    for key in ["x", "X"] {
        console.keys(key);
        let screen = console.screen();
        assert!(screen.contains("read-only") && screen.contains("--allow-actions"), "{screen}");
    }
    console.press(KeyCode::Enter);
    console.keys("e");
    assert!(console.screen().contains("--allow-actions"));
    assert!(sim.acted().is_empty() && console.execs.is_empty());
    sim.stop().await;
}

#[tokio::test]
async fn what_the_daemon_does_not_allow_is_said_before_it_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let mut snapshot = world::node("here", 2);
    snapshot.access = Some(Access {
        may_act: false,
        identity: "uid 1000".into(),
        why_not: "be in the group sandboxd".into(),
    });
    let (sim, mut console) = start(&dir, snapshot, true).await;
    console.keys("x");
    let screen = console.screen();
    assert!(screen.contains("uid 1000") && screen.contains("be in the group sandboxd"), "{screen}");
    assert!(sim.acted().is_empty());
    sim.stop().await;
}

#[tokio::test]
async fn stopping_asks_by_name_and_anything_but_y_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (sim, mut console) = start(&dir, world::node("here", 2), true).await;
    let pod = sim.snapshot().pods.into_iter().min_by(|a, b| a.name.cmp(&b.name)).unwrap();
    console.keys("x");
    let screen = console.screen();
    assert!(screen.contains(&format!("Stop pod {}/{}?", pod.namespace, pod.name)), "{screen}");
    assert!(screen.contains("containers are killed"), "{screen}");
    // Also keys that mean something elsewhere: quit, Esc.
    for key in [KeyCode::Char('q'), KeyCode::Esc, KeyCode::Enter] {
        console.press(key);
        assert!(console.screen().contains("nothing was changed"));
        console.keys("x");
    }
    assert!(sim.acted().is_empty());
    console.keys("y");
    console.until("the result", |screen| screen.contains("stopped pod")).await;
    assert_eq!(sim.acted(), [format!("stop-pod {}", pod.id)]);
    // Stopped, so removing it asks for no more than a key.
    console.until_shown("notready").await;
    console.keys("X");
    assert!(console.screen().contains("y does it"), "{}", console.screen());
    console.keys("y");
    console.until_shown("removed pod").await;
    assert_eq!(sim.snapshot().pods.len(), 1);
    sim.stop().await;
}

#[tokio::test]
async fn removing_a_running_pod_wants_its_name_typed() {
    let dir = tempfile::tempdir().unwrap();
    let (sim, mut console) = start(&dir, world::node("here", 1), true).await;
    let pod = sim.snapshot().pods[0].clone();
    console.keys("X");
    console.keys("wrong");
    console.press(KeyCode::Enter);
    assert!(console.screen().contains("nothing was changed"));
    console.keys("Xy");
    assert!(console.screen().contains("Remove pod"), "y alone is a letter of the name: {}", console.screen());
    console.press(KeyCode::Backspace);
    console.keys(&pod.name);
    console.press(KeyCode::Enter);
    console.until_shown("no pods on this node yet").await;
    assert_eq!(sim.acted(), [format!("remove-pod {}", pod.id)]);
    sim.stop().await;
}

#[tokio::test]
async fn errors_and_denials_are_shown_in_the_daemons_words() {
    let dir = tempfile::tempdir().unwrap();
    let (sim, mut console) = start(&dir, world::node("here", 1), true).await;
    sim.fail_with("the cgroup is busy\u{1b}[2J");
    console.press(KeyCode::Enter);
    console.keys("xy");
    let screen = console.until_shown("cannot stop container").await;
    assert!(screen.contains("the cgroup is busy?[2J"), "{screen}");
    assert!(sim.acted()[0].starts_with("stop-container "), "{:?}", sim.acted());
    sim.stop().await;
}

#[tokio::test]
async fn a_log_is_followed_searched_paused_and_left() {
    let dir = tempfile::tempdir().unwrap();
    let (sim, mut console) = start(&dir, world::node("here", 1), false).await;
    let main = sim.snapshot().containers[0].id.clone();
    for number in 0..200 {
        sim.log(&main, number % 50 == 7, &format!("line {number:03} of the log"));
    }
    console.press(KeyCode::Enter);
    console.keys("l");
    let screen = console.until_shown("line 199 of the log").await;
    assert!(screen.contains("following") && screen.contains("200 lines"), "{screen}");
    sim.log(&main, true, "\u{1b}[31mit failed\u{1b}[0m");
    console.until_shown("it failed").await;
    assert!(console.line("it failed").starts_with("E it failed"), "{}", console.line("it failed"));

    // Paused, what comes is counted and not shown.
    console.keys(" ");
    sim.log(&main, false, "while paused");
    let screen = console.until_shown("1 waiting").await;
    assert!(screen.contains("paused") && !screen.contains("while paused"), "{screen}");
    console.keys(" ");
    assert!(console.screen().contains("while paused"));

    // The search goes up, n and N from match to match, and every key is a letter while it is typed.
    console.keys("/line 157q");
    console.press(KeyCode::Backspace);
    console.press(KeyCode::Enter);
    let bottom = |screen: &str| {
        screen.lines().rfind(|line| line.contains("of the log")).unwrap_or_default().to_owned()
    };
    let screen = console.screen();
    assert!(bottom(&screen).starts_with("E line 157") && screen.contains("held"), "{screen}");
    console.keys("n");
    assert!(console.screen().contains("is not below"));
    console.keys("/LINE 0");
    console.press(KeyCode::Enter);
    assert!(bottom(&console.screen()).contains("line 099"), "{}", console.screen());
    console.keys("N");
    assert!(bottom(&console.screen()).contains("line 098"));
    console.keys("n");
    assert!(bottom(&console.screen()).contains("line 099"));
    console.keys("g");
    assert!(console.screen().contains("line 000"));
    console.keys("G");
    assert!(console.screen().contains("following"));

    // The other container's log, and away.
    console.keys("]");
    console.until_shown("no lines yet").await;
    assert!(console.screen().contains("log of proxy"));
    console.press(KeyCode::Esc);
    assert!(!console.screen().contains("log of"));
    sim.stop().await;
}

#[tokio::test]
async fn long_lines_wrap_or_shift() {
    let dir = tempfile::tempdir().unwrap();
    let (sim, mut console) = start(&dir, world::node("here", 1), false).await;
    let main = sim.snapshot().containers[0].id.clone();
    sim.log(&main, false, &format!("{}the end", "x".repeat(200)));
    console.keys("l");
    console.until_shown("xxxx").await;
    assert!(!console.screen().contains("the end"));
    console.keys("w");
    assert!(console.screen().contains("the end"));
    console.keys("w");
    for _ in 0..7 {
        console.press(KeyCode::Right);
    }
    assert!(console.screen().contains("the end"), "{}", console.screen());
    console.keys("t");
    assert!(console.screen().contains(':'));
    sim.stop().await;
}

#[tokio::test]
async fn a_log_goes_on_where_it_was_when_the_daemon_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (sim, mut console) = start(&dir, world::node("here", 1), false).await;
    let snapshot = sim.snapshot();
    let main = snapshot.containers[0].id.clone();
    sim.log(&main, false, "before");
    console.keys("l");
    console.until_shown("before").await;
    sim.stop().await;
    console.until_shown("!! stale").await;
    let again = Sim::start(&dir.path().join("console.sock"), snapshot);
    again.log(&main, false, "after");
    let screen = console.until_shown("after").await;
    assert!(screen.contains("before"), "{screen}");
    again.stop().await;
}

#[tokio::test]
async fn exec_names_the_container_and_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let (sim, mut console) = start(&dir, world::node("here", 1), true).await;
    let snapshot = sim.snapshot();
    console.press(KeyCode::Enter);
    console.keys("e");
    let (_, exec) = console.execs.pop().unwrap();
    assert_eq!(exec.command, ["/bin/sh"]);
    assert_eq!(exec.container_id, snapshot.containers[0].id);
    console.keys("E");
    assert!(console.screen().contains("Run in container main of"), "{}", console.screen());
    for _ in 0.."/bin/sh".len() {
        console.press(KeyCode::Backspace);
    }
    console.keys("cat '/etc/os release'");
    console.press(KeyCode::Enter);
    let (_, exec) = console.execs.pop().unwrap();
    assert_eq!(exec.command, ["cat", "/etc/os release"]);
    // None is running: nothing to run in.
    let mut stopped = snapshot.pods[0].clone();
    stopped.set_state(pod::State::NotReady);
    sim.change(&delta::Change::Pod(stopped));
    for mut container in snapshot.containers {
        container.set_state(sandboxd_api::console::container::State::Exited);
        sim.change(&delta::Change::Container(container));
    }
    console.until_shown("exited").await;
    console.until("both", |screen| !screen.contains("● running")).await;
    console.keys("e");
    assert!(console.screen().contains("no container is running here") && console.execs.is_empty());
    sim.stop().await;
}
