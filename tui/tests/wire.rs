//! The feed and the outputs against a server that speaks the real protocol.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

#[path = "support/daemon.rs"]
mod daemon;
mod support;

use std::collections::HashMap;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use daemon::Daemon;
use sandboxd_api::console::{Check, Delta, Lagged, LogLine, Snapshot, WatchResponse, delta, watch_response};
use sandboxd_sim::{Sim, world};
use sandboxd_tui::feed::log::Follow;
use sandboxd_tui::feed::query::Query;
use sandboxd_tui::feed::target::{Address, Target};
use sandboxd_tui::feed::{Feed, FeedEvent, Request, live, replay};
use sandboxd_tui::record::{self, Entry, Recorder, Recording, What};
use support::{COLOR, Console, entries, fixture, messages};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandboxd-tui"));
    command.env("TZ", "UTC").env("COLUMNS", "100").stdin(Stdio::null()).kill_on_drop(true);
    command
}

fn target(socket: &Path) -> Target {
    Target::of_endpoint(Address::Unix(socket.to_owned()), None).unwrap()
}

fn recording(file: &Path) -> Recording {
    Recording::new(&Arc::new(Mutex::new(Recorder::create(file).unwrap())), None)
}

async fn run(endpoint: &Path, args: &[&str]) -> Output {
    let run = command().arg("--endpoint").arg(endpoint).args(args).output();
    tokio::time::timeout(Duration::from_secs(20), run).await.unwrap().unwrap()
}

fn delta(change: delta::Change) -> WatchResponse {
    let delta = Delta { time_ns: 7, change: Some(change) };
    WatchResponse { message: Some(watch_response::Message::Delta(delta)) }
}

/// Feeds the console until the screen satisfies `seen`; fails after ten seconds.
async fn until(console: &mut Console, feed: &mut Feed, seen: impl Fn(&Console) -> bool) {
    let all = async {
        while !seen(console) {
            let event = feed.events.recv().await.expect("the feed goes on for ever");
            console.feed(event);
        }
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.expect("what was waited for did not come");
}

#[tokio::test]
async fn the_console_comes_back_when_the_daemon_does() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("console.sock");
    let mut feed = live::start(target(&socket), None);
    let mut console = Console::empty(80, 24, COLOR);
    until(&mut console, &mut feed, |console| console.app.link().is_stale()).await;

    let first = Daemon::start(&socket);
    until(&mut console, &mut feed, |console| console.app.model().filled).await;
    assert!(console.draw().contains("● live"));

    first.stop().await;
    until(&mut console, &mut feed, |console| console.app.link().is_stale()).await;
    let screen = console.draw();
    assert!(screen.contains("!! stale") && screen.contains("old-order"), "{screen}");
    // What is asked meanwhile is answered at once, with the reason.
    feed.requests.send(Request::Explain { seq: 1 }).await.unwrap();
    let refused = |event: &FeedEvent| matches!(event, FeedEvent::Explained { seq: 1, answer: Err(_) });
    while !refused(&feed.events.recv().await.unwrap()) {}

    let second = Daemon::start(&socket);
    until(&mut console, &mut feed, |console| !console.app.link().is_stale()).await;
    second.send(delta(delta::Change::Check(Check { seq: 9_001, ..Check::default() }))).await;
    until(&mut console, &mut feed, |console| console.app.model().check(9_001).is_some()).await;
    second.stop().await;
}

#[tokio::test]
async fn a_console_that_lagged_takes_the_fresh_snapshot_and_says_what_it_missed() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("console.sock"));
    let mut feed = live::start(target(&daemon.socket), None);
    let mut console = Console::empty(80, 24, COLOR);
    until(&mut console, &mut feed, |console| console.app.model().filled).await;
    daemon.send(delta(delta::Change::Lagged(Lagged { messages: 312 }))).await;
    let mut fresh = match messages().swap_remove(0).message.unwrap() {
        watch_response::Message::Snapshot(snapshot) => snapshot,
        watch_response::Message::Delta(_) => panic!("the recording begins with a snapshot"),
    };
    fresh.pods.truncate(3);
    fresh.recent_checks.push(Check { seq: 9_001, ..Check::default() });
    daemon.send(WatchResponse { message: Some(watch_response::Message::Snapshot(fresh)) }).await;
    until(&mut console, &mut feed, |console| console.app.model().check(9_001).is_some()).await;
    assert_eq!(console.app.model().pods.len(), 3);
    assert!(console.draw().contains("! 312 missed here"));
    daemon.stop().await;
}

#[tokio::test]
async fn an_explanation_is_asked_of_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("console.sock"));
    let feed = live::start(target(&daemon.socket), None);
    let mut events = feed.events;
    for (seq, known) in [(recorded_seq(), true), (1, false)] {
        feed.requests.send(Request::Explain { seq }).await.unwrap();
        let answer = loop {
            if let FeedEvent::Explained { seq: of, answer } = events.recv().await.unwrap() {
                assert_eq!(of, seq);
                break answer;
            }
        };
        match answer {
            Ok(answer) => assert!(known && !answer.explanation.unwrap().fix.is_empty()),
            Err(words) => assert!(!known && words.contains("no longer kept"), "{words}"),
        }
    }
    drop((feed.requests, events));
    daemon.stop().await;
}

#[tokio::test]
async fn what_was_read_while_recording_is_there_in_the_replay() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("console.sock"));
    let file = dir.path().join("session.jsonl");
    let mut feed = live::start(target(&daemon.socket), Some(recording(&file)));
    let mut console = Console::empty(80, 24, COLOR);
    until(&mut console, &mut feed, |console| console.app.model().filled).await;
    let pod_id = console.app.model().pods.keys().next().unwrap().clone();
    let queries =
        [Query::Usage { pod_id }, Query::Namespaces, Query::Capabilities, Query::Doctor, Query::Pulls];
    for query in &queries {
        feed.requests.send(Request::Read(query.clone())).await.unwrap();
    }
    let mut live_answers = HashMap::new();
    while live_answers.len() < queries.len() {
        if let FeedEvent::Answered { query, answer } = feed.events.recv().await.unwrap() {
            live_answers.insert(query, answer);
        }
    }
    // This daemon serves no images: that is told, and nothing is recorded of it.
    let refused = live_answers.remove(&Query::Pulls).unwrap().unwrap_err();
    assert!(refused.contains("older than the console"), "{refused}");
    drop(feed);
    daemon.stop().await;

    let mut replayed = replay::start(record::read(&file).unwrap());
    for (query, answer) in live_answers {
        replayed.requests.send(Request::Read(query.clone())).await.unwrap();
        let played = loop {
            if let FeedEvent::Answered { query: of, answer } = replayed.events.recv().await.unwrap() {
                assert_eq!(of, query);
                break answer;
            }
        };
        assert_eq!(played.unwrap(), answer.unwrap());
    }
}

#[tokio::test]
async fn a_log_that_was_read_while_recording_is_there_in_the_replay() {
    let dir = tempfile::tempdir().unwrap();
    let sim = Sim::start(&dir.path().join("console.sock"), world::node("here", 2));
    let [read, other] = [0, 1].map(|pod| sim.snapshot().containers[pod].id.clone());
    sim.log(&read, false, "first");
    sim.log(&read, true, "\u{1b}[31msecond");
    sim.log(&other, false, "only");
    let file = dir.path().join("session.jsonl");
    let mut feed = live::start(target(&sim.socket), Some(recording(&file)));
    let follow = |container_id: &str, since_ns| {
        Request::Follow(Follow { container_id: container_id.to_owned(), tail_lines: 2_000, since_ns })
    };
    let texts = |lines: Vec<LogLine>| {
        lines.into_iter().map(|line| String::from_utf8(line.text).unwrap()).collect::<Vec<_>>()
    };
    while !matches!(feed.events.recv().await.unwrap(), FeedEvent::Message(_)) {}
    // Read, left for another and read again: it is in the replay once.
    let whole = ["first", "\u{1b}[31msecond", "third"];
    for (container, expected) in [(&read, &whole[..2]), (&other, &["only"]), (&read, &whole)] {
        feed.requests.send(follow(container, 0)).await.unwrap();
        let expected: Vec<_> = expected.iter().map(|line| (*line).to_owned()).collect();
        let mut seen: Vec<String> = Vec::new();
        while !seen.ends_with(&expected) {
            if let FeedEvent::Log { lines, .. } = feed.events.recv().await.unwrap() {
                seen.extend(texts(lines));
            }
        }
        if expected.len() == 2 {
            sim.log(&read, false, "third");
        }
    }
    drop(feed);
    sim.stop().await;

    let mut replayed = replay::start(record::read(&file).unwrap());
    for (container, since_ns, expected) in [
        (&read, 0, Some(&whole[..])),
        (&read, i64::MAX, Some(&[])),
        (&other, 0, Some(&["only"])),
        (&"nobody".to_owned(), 0, None),
    ] {
        replayed.requests.send(follow(container, since_ns)).await.unwrap();
        let played = loop {
            match replayed.events.recv().await.unwrap() {
                FeedEvent::Log { lines, .. } => break Some(texts(lines)),
                FeedEvent::LogEnded { ended, .. } => {
                    assert_eq!(ended.unwrap_err(), "not part of this recording");
                    break None;
                }
                _ => {}
            }
        };
        let expected = expected.map(|lines| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
        assert_eq!(played, expected);
    }
}

fn recorded_seq() -> u64 {
    let explained = entries().into_iter().find_map(|entry| match entry.what {
        What::Explained(answer) => answer.check.map(|check| check.seq),
        What::Snapshot(_) | What::Delta(_) | What::Answered(_) | What::Log(_) => None,
    });
    explained.unwrap()
}

#[tokio::test]
async fn once_prints_a_frame_without_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("console.sock"));
    let output = run(&daemon.socket, &["--once", "--sort", "denied"]).await;
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("!! init") && text.contains("owned by init, not by this userns"), "{text}");
    assert!(text.contains("tp_btf running") && text.contains("0 lost"), "{text}");
    assert!(!text.contains('\u{1b}'));
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let first = text.lines().find(|line| line.contains("ready") || line.contains("failed")).unwrap();
    assert!(first.contains("builder"), "sorted by denials: {text}");

    let output = run(&daemon.socket, &["--once", "--filter", "owner:init"]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("1 of 11 pods") && !text.contains("coredns"), "{text}");
    daemon.stop().await;
}

#[tokio::test]
async fn once_without_a_daemon_fails_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let began = std::time::Instant::now();
    let output = run(&dir.path().join("nobody.sock"), &["--once"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("nobody.sock: No such file") && words.contains("--endpoint"), "{words}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn json_once_is_one_document_of_the_pods_that_match() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("console.sock"));
    let output = run(&daemon.socket, &["--once", "--json", "--filter", "state:failed"]).await;
    let snapshot: Snapshot = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(snapshot.pods.len(), 1);
    assert_eq!(snapshot.pods[0].name, "old-order");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["pods"][0]["state"], "FAILED");
    assert_eq!(document["pods"][0]["namespaces"][1]["owner"], "INIT");
    assert!(document["pods"][0]["namespaces"][1]["inode"].is_u64());
    daemon.stop().await;
}

#[tokio::test]
async fn json_streams_every_message_as_a_line_that_replays() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("console.sock"));
    let mut child =
        command().arg("--endpoint").arg(&daemon.socket).arg("--json").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await;
        serde_json::from_str::<Entry>(&line.unwrap().unwrap().unwrap()).unwrap()
    };
    assert!(matches!(next().await.what, What::Snapshot(snapshot) if snapshot.pods.len() == 11));
    daemon.send(delta(delta::Change::PodRemoved("gone".to_owned()))).await;
    let entry = next().await;
    assert!(entry.at_ns > 0);
    assert!(matches!(entry.what, What::Delta(change) if change.time_ns == 7
        && change.change == delta::Change::PodRemoved("gone".to_owned())));
    child.kill().await.unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn a_recording_replays_to_the_same_frame() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("console.sock"));
    let file = dir.path().join("session.jsonl");
    let path = file.to_str().unwrap();
    let recorded = run(&daemon.socket, &["--once", "--record", path]).await;
    assert!(recorded.status.success(), "{recorded:?}");
    let again = run(&daemon.socket, &["--once", "--record", path]).await;
    assert_eq!(again.status.code(), Some(1), "a recording is never overwritten");
    daemon.stop().await;
    let replayed = run(Path::new("/nowhere"), &["--once", "--replay", path]).await;
    // All but the connection's state on the first line and the ages, which are measured from different moments.
    let body = |output: Output| {
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(body(recorded), body(replayed));
}

#[tokio::test]
async fn wrong_command_lines_say_what_is_wrong() {
    for (args, words) in [
        (vec!["--filter", "nosuch:x", "--once"], "no field \"nosuch\""),
        (vec!["--sort", "size", "--once"], "no column \"size\""),
        (vec!["--json", "--filter", "x"], "need --once"),
        (vec!["--replay", "/nowhere.jsonl", "--once"], "/nowhere.jsonl"),
        (vec![], "use --once"),
    ] {
        let output = command().args(&args).output().await.unwrap();
        assert!(!output.status.success(), "{args:?}");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains(words), "{args:?}: {told}");
    }
    assert!(fixture().exists());
}
