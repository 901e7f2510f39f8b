//! Every panel as it looks at 80×24, 120×40 and 40×12, without colours and in ASCII.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

mod support;

use std::time::Duration;

use crossterm::event::KeyCode;
use sandboxd_tui::feed::FeedEvent;
use support::{ASCII, COLOR, Console, NO_COLOR};

/// The keys to every view and panel.
const EVERYWHERE: [&str; 16] =
    ["", "2", "3", "4", "5", "5e\n", "6", "6d", "6e\n", "7", "8", "eew", "eeD", "?", "c", "e\n"];
const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (40, 12)];

fn snapshots(name: &str, to: impl Fn(&mut Console)) {
    for (width, height) in SIZES {
        let mut console = Console::new(width, height, COLOR);
        to(&mut console);
        insta::assert_snapshot!(format!("{name}-{width}x{height}"), console.draw());
    }
}

#[test]
fn pods() {
    snapshots("pods", |_| ());
}

#[test]
fn tree() {
    snapshots("tree", |console| console.keys("e2"));
}

#[test]
fn checks() {
    snapshots("checks", |console| console.keys("3"));
}

#[test]
fn flow() {
    snapshots("flow", |console| console.keys("4"));
}

#[test]
fn why() {
    snapshots("why", |console| console.keys("eew"));
}

#[test]
fn pod_detail() {
    snapshots("pod", |console| {
        console.keys("eeD");
    });
}

#[test]
fn containers() {
    snapshots("containers", |console| {
        console.keys("/orders");
        console.press(KeyCode::Enter);
        console.press(KeyCode::Enter);
        console.later(Duration::from_secs(3));
    });
}

#[test]
fn containers_of_a_failed_pod() {
    snapshots("containers-failed", |console| {
        console.keys("ee");
        console.press(KeyCode::Enter);
    });
}

#[test]
fn capabilities() {
    snapshots("caps", |console| console.keys("5e"));
}

#[test]
fn capabilities_of_a_pod() {
    snapshots("caps-of", |console| {
        console.keys("5ee");
        console.press(KeyCode::Enter);
    });
}

#[test]
fn namespaces() {
    snapshots("spaces", |console| console.keys("6e"));
}

#[test]
fn only_the_namespaces_that_are_wrong() {
    snapshots("spaces-wrong", |console| console.keys("6d"));
}

#[test]
fn one_namespace() {
    snapshots("space", |console| {
        console.keys("6e");
        console.press(KeyCode::Enter);
    });
}

#[test]
fn events() {
    snapshots("events", |console| console.keys("7"));
}

#[test]
fn column_picker() {
    snapshots("columns", |console| console.keys("c"));
}

#[test]
fn processes() {
    snapshots("processes", |console| {
        console.keys("e");
        console.press(KeyCode::Enter);
        console.press(KeyCode::Enter);
    });
}

#[test]
fn help() {
    snapshots("help", |console| console.keys("?"));
}

#[test]
fn node() {
    snapshots("node", |console| console.keys("8"));
}

#[test]
fn wide_terminals_show_every_column() {
    let mut console = Console::new(200, 50, COLOR);
    insta::assert_snapshot!(console.draw());
}

#[test]
fn without_colour_everything_is_still_said() {
    for (name, keys) in [
        ("pods", ""),
        ("tree", "2"),
        ("checks", "3"),
        ("flow", "4"),
        ("caps", "5e"),
        ("caps-of", "5e\n"),
        ("spaces", "6e"),
        ("events", "7"),
        ("node", "8"),
        ("containers", "ee\n"),
        ("why", "eew"),
        ("pod", "eeD"),
        ("processes", "e\n\n"),
        ("space", "6e\n"),
        ("columns", "c"),
        ("help", "?"),
    ] {
        let mut console = Console::new(80, 24, NO_COLOR);
        console.keys(keys);
        insta::assert_snapshot!(format!("no-colour-{name}"), console.draw());
        assert_eq!(coloured(&console), 0, "{name}");
    }
}

/// Cells with a colour of their own.
fn coloured(console: &Console) -> usize {
    let buffer = console.terminal.backend().buffer();
    let coloured = buffer
        .content()
        .iter()
        .filter(|cell| cell.fg != ratatui::style::Color::Reset || cell.bg != ratatui::style::Color::Reset);
    coloured.count()
}

#[test]
fn no_theme_sets_a_background() {
    for keys in EVERYWHERE {
        let mut console = Console::new(120, 40, COLOR);
        console.keys(keys);
        console.draw();
        let buffer = console.terminal.backend().buffer();
        assert!(
            buffer.content().iter().all(|cell| cell.bg == ratatui::style::Color::Reset),
            "after {keys:?}"
        );
    }
}

#[test]
fn ascii_is_ascii_everywhere() {
    for keys in EVERYWHERE {
        let mut console = Console::new(120, 40, ASCII);
        console.keys(keys);
        let screen = console.draw();
        assert!(screen.is_ascii(), "after {keys:?}: {screen}");
    }
    let mut console = Console::new(80, 24, ASCII);
    insta::assert_snapshot!(console.draw());
}

#[test]
fn a_terminal_that_is_too_small_says_so() {
    let mut console = Console::new(39, 12, COLOR);
    assert_eq!(console.draw(), "too small: 39x12, needs 40x8\n");
    for (width, height) in [(1, 1), (40, 8), (3, 60), (60, 3)] {
        for keys in EVERYWHERE {
            let mut console = Console::new(width, height, COLOR);
            console.keys(keys);
            console.draw();
        }
    }
}

#[test]
fn before_the_first_snapshot_the_screen_says_what_is_missing() {
    let mut console = Console::empty(80, 24, COLOR);
    let reason = "cannot reach /run/sandboxd/console.sock: No such file or directory (os error 2)".to_owned();
    console.feed(FeedEvent::Connecting);
    console.feed(FeedEvent::Waiting { reason, retry_in: Duration::from_secs(3) });
    insta::assert_snapshot!(console.draw());
}

#[test]
fn stale_data_is_dimmed_and_carries_its_age() {
    let mut console = Console::new(80, 24, COLOR);
    let reason = "the daemon closed the stream".to_owned();
    console.feed(FeedEvent::Waiting { reason: reason.clone(), retry_in: Duration::from_secs(3) });
    console.now_ns += 70_000_000_000;
    console.feed(FeedEvent::Connecting);
    console.feed(FeedEvent::Waiting { reason, retry_in: Duration::from_secs(3) });
    let screen = console.draw();
    assert!(screen.contains("!! stale 1m"), "{screen}");
    assert!(screen.contains("the daemon closed the"), "{screen}");
    assert!(screen.contains("coredn"), "the last data stays: {screen}");
    let cell = &console.terminal.backend().buffer()[(2, 8)];
    assert!(cell.modifier.contains(ratatui::style::Modifier::DIM));
    console.feed(FeedEvent::Live);
    assert!(console.draw().contains("● live"));
}

/// `UPDATE_DOCS=1 cargo test -p sandboxd-tui --test panels` draws it anew.
#[test]
fn the_picture_in_the_docs_is_what_the_console_draws() {
    let mut console = Console::new(98, 25, COLOR);
    console.keys("ee");
    let pods = console.draw();
    console.keys("w");
    let why = console.draw();
    picture("docs/console.txt", &format!("{pods}\n{why}"));
}

/// The walk from "a pod failed" to the cause of containerd issue 6908, key by key.
#[test]
fn the_walk_in_the_docs_is_what_the_console_draws() {
    let mut console = Console::new(98, 25, COLOR);
    let mut walk = format!(
        "$ sandboxd-tui\n\n{}\nTwo of twelve pods want a look. [e] goes to the first of them, [e] again to the next: it failed, \
         its\nnetwork namespace is owned by init, and sysfs was denied.\n\n",
        console.draw()
    );
    console.keys("ee");
    walk += &format!("{}\n[w] says why.\n\n", console.draw());
    console.keys("w");
    walk += &console.draw();
    picture("../docs/console-6908.txt", &walk);
}

fn picture(path: &str, drawn: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, drawn).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), drawn);
}
