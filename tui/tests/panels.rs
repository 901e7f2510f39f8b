//! Every panel as it looks at 80×24, 120×40 and 40×12, without colours and in ASCII: drawn from the recording of a real
//! node. What such a node does not have is drawn from the one written by hand.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

mod support;

use std::time::Duration;

use sandboxd_tui::feed::FeedEvent;
use support::{ASCII, COLOR, Console, NO_COLOR};

/// Every panel, and the keys to it from the start. An Escape is written as it is.
const PANELS: [(&str, &str); 20] = [
    ("pods", ""),
    ("tree", "e2"),
    ("checks", "3"),
    ("flow", "4"),
    ("caps", "5"),
    ("caps-of", "5\n"),
    ("spaces", "6"),
    ("spaces-wrong", "6d"),
    ("space", "6e\n"),
    ("events", "7"),
    ("node", "8"),
    ("why", "ew"),
    ("why-check", "3dw"),
    ("pod", "eD"),
    ("containers", "/orders\n\n"),
    ("containers-failed", "e\n"),
    ("processes", "/web\n\n\n"),
    ("log", "/web\n\nl"),
    ("columns", "c"),
    ("help", "?"),
];
const SIZES: [(u16, u16); 3] = [(80, 24), (120, 40), (40, 12)];

#[test]
fn every_panel_at_every_size() {
    for (name, keys) in PANELS {
        for (width, height) in SIZES {
            let mut console = Console::real(width, height, COLOR);
            console.keys(keys);
            insta::assert_snapshot!(format!("{name}-{width}x{height}"), console.draw());
        }
    }
}

#[test]
fn without_colour_everything_is_still_said() {
    for (name, keys) in PANELS {
        let mut console = Console::real(80, 24, NO_COLOR);
        console.keys(keys);
        // What a colour says is said in words or signs as well: it is the text of the coloured one.
        insta::assert_snapshot!(format!("{name}-80x24"), console.draw());
        assert_eq!(coloured(&console), 0, "{name}");
        let mut console = Console::real(80, 24, COLOR);
        console.keys(keys);
        console.draw();
        assert!(coloured(&console) > 0, "{name} has no colour to do without");
    }
}

/// What the real node does not have: a pull under way, more pods than lines, and who else keeps a namespace.
#[test]
fn a_fuller_node() {
    for (name, keys) in
        [("pods", ""), ("tree", "e2"), ("caps-of", "5\n"), ("spaces", "6e"), ("space", "6e\n"), ("node", "8")]
    {
        for (width, height) in [(80, 24), (120, 40)] {
            let mut console = Console::new(width, height, COLOR);
            console.keys(keys);
            insta::assert_snapshot!(format!("fuller-{name}-{width}x{height}"), console.draw());
        }
    }
}

#[test]
fn wide_terminals_show_every_column() {
    let mut console = Console::real(200, 50, COLOR);
    insta::assert_snapshot!(console.draw());
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
    for (name, keys) in PANELS {
        let mut console = Console::real(120, 40, COLOR);
        console.keys(keys);
        console.draw();
        let buffer = console.terminal.backend().buffer();
        assert!(buffer.content().iter().all(|cell| cell.bg == ratatui::style::Color::Reset), "{name}");
    }
}

#[test]
fn ascii_is_ascii_everywhere() {
    for (name, keys) in PANELS {
        for console in [Console::new, Console::real] {
            let mut console = console(120, 40, ASCII);
            console.keys(keys);
            let screen = console.draw();
            assert!(screen.is_ascii(), "{name}: {screen}");
        }
    }
    let mut console = Console::real(80, 24, ASCII);
    insta::assert_snapshot!(console.draw());
}

#[test]
fn a_terminal_that_is_too_small_says_so() {
    let mut console = Console::new(39, 12, COLOR);
    assert_eq!(console.draw(), "too small: 39x12, needs 40x8\n");
    for (width, height) in [(1, 1), (40, 8), (3, 60), (60, 3)] {
        for (_, keys) in PANELS {
            let mut console = Console::real(width, height, COLOR);
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
    let mut console = Console::real(98, 25, COLOR);
    console.keys("e");
    let pods = console.draw();
    console.keys("w");
    let why = console.draw();
    let drawn = format!("{pods}\n{why}");
    picture("docs/console.txt", &drawn);
    // The README has it between other words.
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = readme.split_once("## The console\n\n```text\n").unwrap();
    let (there, tail) = rest.split_once("```\n").unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{head}## The console\n\n```text\n{drawn}```\n{tail}")).unwrap();
    } else {
        assert_eq!(there, drawn);
    }
}

/// The walk from "a pod failed" to the cause of containerd issue 6908, key by key, on a real node.
#[test]
fn the_walk_in_the_docs_is_what_the_console_draws() {
    let mut console = Console::real(98, 25, COLOR);
    let mut walk = format!(
        "A real session (tui/tests/fixtures/session.jsonl): a pod of the handler network-first has failed on this node.\n\n\
         $ sandboxd-tui\n\n{}\nThree of six pods want a look. [e] goes to the next of them: it failed, its network namespace \
         is owned\nby init, and sysfs was denied.\n\n",
        console.draw()
    );
    console.keys("e");
    walk += &format!("{}\n[w] says why.\n\n", console.draw());
    console.keys("w");
    walk += &format!("{}\n[G] goes to its end: the kernel's check, as it was recorded.\n\n", console.draw());
    console.keys("G");
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
