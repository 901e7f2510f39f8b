//! Whole tasks, driven by keys and the mouse.

mod support;

use std::time::Duration;

use crossterm::event::{Event as Terminal, KeyCode, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use sandboxd_api::console::{
    Check, Delta, Event, Lagged, Pod, WatchResponse, check, delta, pod, watch_response,
};
use sandboxd_tui::config::{self, Config};
use sandboxd_tui::feed::query::Query;
use sandboxd_tui::feed::{FeedEvent, Request};
use sandboxd_tui::model::sort::Column;
use support::{COLOR, Console};

fn delta(change: delta::Change) -> FeedEvent {
    let delta = Delta { time_ns: 1, change: Some(change) };
    FeedEvent::Message(WatchResponse { message: Some(watch_response::Message::Delta(delta)) })
}

fn denied(seq: u64) -> FeedEvent {
    delta(delta::Change::Check(Check {
        seq,
        comm: format!("comm{seq}"),
        verdict: check::Verdict::Denied.into(),
        ..Check::default()
    }))
}

/// The line of the screen that carries the pointer.
fn pointed(screen: &str) -> &str {
    screen.lines().find(|line| line.starts_with('▸')).unwrap_or_default()
}

#[test]
fn from_the_start_to_why_a_pod_failed_in_three_keys() {
    let mut console = Console::new(80, 24, COLOR);
    console.keys("eew");
    let screen = console.draw();
    assert!(screen.contains("is owned by the host's initial user namespace"), "{screen}");
    assert!(screen.contains("runtime-first"), "{screen}");
    assert!(console.asked.is_empty(), "the pod carries its explanation");
    console.press(KeyCode::Esc);
    assert!(pointed(&console.draw()).contains("old-order"));
}

#[test]
fn from_the_start_to_why_a_check_was_denied_in_three_keys() {
    let mut console = Console::new(80, 24, COLOR);
    console.keys("3dw");
    assert!(matches!(console.asked.as_slice(), [Request::Explain { .. }]), "{:?}", console.asked);
    let screen = console.draw();
    assert!(screen.contains("Asked") && screen.contains("kobj_ns_current_may_mount"), "{screen}");
}

#[test]
fn a_pod_that_was_denied_something_is_explained_by_its_newest_denied_check() {
    let mut console = Console::new(80, 24, COLOR);
    console.keys("ew");
    assert_eq!(console.asked.len(), 1);
    assert!(console.draw().contains("setns-foreign-namespace"));
    // Asked once: the answer is kept.
    console.press(KeyCode::Esc);
    console.keys("w");
    assert_eq!(console.asked.len(), 1);
}

#[test]
fn the_filter_narrows_while_it_is_typed_and_esc_undoes_it() {
    let mut console = Console::new(80, 24, COLOR);
    console.keys("/owner:init");
    assert!(console.draw().contains("1 of 12 pods"));
    console.press(KeyCode::Enter);
    let screen = console.draw();
    assert!(screen.contains("/owner:init"), "{screen}");
    assert!(pointed(&screen).contains("old-order"), "{screen}");
    console.press(KeyCode::Esc);
    assert!(console.draw().contains("web-5b"));
    console.keys("/nosuchfield:x");
    assert!(console.draw().contains("!! no field \"nosuchfield\""));
    console.press(KeyCode::Enter);
    assert!(console.draw().contains("!! no field"), "a filter that does not parse is not kept");
    console.press(KeyCode::Esc);
    assert!(console.draw().contains("Enter containers"));
}

#[test]
fn filters_take_negation_patterns_and_fields() {
    let shows = |filter: &str| {
        let mut console = Console::new(80, 24, COLOR);
        console.keys("/");
        console.keys(filter);
        let screen = console.draw();
        let count = screen.split(" of 12 pods").next().and_then(|head| head.split_whitespace().last());
        count.and_then(|count| count.parse::<u32>().ok()).unwrap_or_else(|| panic!("{filter}: {screen}"))
    };
    assert_eq!(shows("web"), 2);
    assert_eq!(shows("!web"), 10);
    assert_eq!(shows("/^shop.(cart|api)/"), 2);
    assert_eq!(shows("ns:default"), 2);
    assert_eq!(shows("state:ready"), 11);
    assert_eq!(shows("state:ready !ns:shop"), 8);
    assert_eq!(shows("verdict:denied"), 2);
    assert_eq!(shows("sysfs:denied"), 1);
    assert_eq!(shows("owner:host"), 1);
    assert_eq!(shows("ip:10.88.0.5"), 1);
}

#[test]
fn the_selection_stays_on_its_pod_when_rows_move() {
    let mut console = Console::new(80, 24, COLOR);
    console.keys("jj");
    assert!(pointed(&console.draw()).contains("cart-0"));
    for _ in 0..14 {
        console.keys("s");
        assert!(pointed(&console.draw()).contains("cart-0"));
    }
    console.keys("S");
    assert!(pointed(&console.draw()).contains("cart-0"));
    let new = Pod { id: "0".into(), name: "aaa".into(), state: pod::State::Ready.into(), ..Pod::default() };
    console.feed(delta(delta::Change::Pod(new)));
    assert!(pointed(&console.draw()).contains("cart-0"));
    // Its pod gone, the selection stays where it was.
    let id = console.app.model().pods.values().find(|pod| pod.name == "cart-0").unwrap().id.clone();
    console.feed(delta(delta::Change::PodRemoved(id)));
    assert!(!pointed(&console.draw()).is_empty());
}

#[test]
fn down_to_the_checks_of_one_process_and_back() {
    let mut console = Console::new(120, 40, COLOR);
    console.keys("e");
    console.press(KeyCode::Enter);
    assert!(console.draw().contains("Pods ▸ ci/builder-29384-fz6mh"));
    console.press(KeyCode::Enter);
    console.keys("G");
    let screen = console.draw();
    assert!(pointed(&screen).contains("runc"), "{screen}");
    console.press(KeyCode::Enter);
    let screen = console.draw();
    assert!(
        screen.contains("[3 Checks]") && screen.contains("/pid:") && screen.contains("3 match"),
        "{screen}"
    );
    console.press(KeyCode::Esc);
    assert!(console.draw().contains("all · 17 kept"));
}

#[test]
fn a_paused_stream_stands_still_and_counts_what_waits() {
    let mut console = Console::new(80, 24, COLOR);
    console.keys("3 ");
    let before = console.draw();
    assert!(before.contains("paused · 0 waiting"), "{before}");
    for seq in 9_001..=9_012 {
        console.feed(denied(seq));
    }
    let paused = console.draw();
    assert!(paused.contains("paused · 12 waiting"), "{paused}");
    assert!(!paused.contains("comm9012"));
    console.keys(" ");
    let following = console.draw();
    assert!(following.contains("following") && following.contains("comm9012"), "{following}");
}

#[test]
fn moving_up_holds_the_stream_and_the_end_follows_again() {
    let mut console = Console::new(80, 24, COLOR);
    console.keys("3kk");
    let held = console.draw();
    assert!(held.contains("held · 2 newer below"), "{held}");
    console.feed(denied(9_001));
    let screen = console.draw();
    assert_eq!(pointed(&screen), pointed(&held));
    assert!(screen.contains("held · 3 newer below"), "{screen}");
    console.keys("G");
    assert!(pointed(&console.draw()).contains("comm9001"));
}

#[test]
fn what_was_missed_and_lost_is_on_the_screen_at_every_width() {
    for width in [40, 80, 120] {
        let mut console = Console::new(width, 24, COLOR);
        let mut observer = console.app.model().observer.clone();
        observer.lost = 1_234;
        console.feed(delta(delta::Change::Observer(observer)));
        console.feed(delta(delta::Change::Lagged(Lagged { messages: 9 })));
        let screen = console.draw();
        assert!(screen.contains("!! 1,234 lost"), "{screen}");
        if width >= 80 {
            assert!(screen.contains("! 9 missed here"), "{screen}");
        }
    }
}

#[test]
fn hostile_names_never_reach_the_terminal() {
    let mut console = Console::new(120, 40, COLOR);
    let evil = "\u{1b}]0;owned\u{7}\u{202e}x\u{9b}2J";
    let hostile = Pod { id: "evil".into(), name: evil.into(), namespace: evil.into(), ..Pod::default() };
    console.feed(delta(delta::Change::Pod(hostile)));
    console.feed(delta(delta::Change::Check(Check { seq: 9_001, comm: evil.into(), ..Check::default() })));
    for keys in ["", "2", "3", "4"] {
        console.keys(keys);
        let screen = console.draw();
        assert!(screen.contains("?]0;owned"), "view {keys}: {screen}");
        assert!(screen.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'), "view {keys}");
        if keys.is_empty() {
            console.keys("/owned");
            console.press(KeyCode::Enter);
        }
    }
}

#[test]
fn the_mouse_selects_sorts_scrolls_and_changes_views() {
    let mut console = Console::new(80, 24, COLOR);
    console.draw();
    let mouse =
        |kind, column, row| Terminal::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE });
    let click = MouseEventKind::Down(MouseButton::Left);
    console.terminal_event(mouse(click, 10, 6));
    assert!(pointed(&console.draw()).contains("cart-0"));
    console.terminal_event(mouse(MouseEventKind::ScrollDown, 10, 6));
    assert!(pointed(&console.draw()).contains("old-order") || !pointed(&console.draw()).contains("cart-0"));
    let denied = console.draw().lines().nth(3).unwrap().chars().position(|c| c == 'D').unwrap();
    console.terminal_event(mouse(click, u16::try_from(denied).unwrap(), 3));
    let screen = console.draw();
    assert!(screen.contains("DENIED▼"), "{screen}");
    assert!(screen.lines().nth(4).unwrap().contains("builde"), "{screen}");
    console.terminal_event(mouse(click, 12, 1));
    assert!(console.draw().contains("[2 Tree]"));
}

#[test]
fn nothing_is_drawn_when_nothing_changed() {
    let mut console = Console::new(80, 24, COLOR);
    console.draw();
    assert!(!console.app.is_dirty());
    console.app.handle(sandboxd_tui::app::Event::Terminal(Terminal::FocusGained), console.now_ns);
    assert!(!console.app.is_dirty());
    console.keys("j");
    assert!(console.app.is_dirty());
    console.keys("q");
    assert!(console.quit);
}

#[test]
fn a_thousand_pods_and_a_flood_of_checks_can_be_walked() {
    let mut console = Console::new(120, 40, COLOR);
    for index in 0..1_000 {
        let pod = Pod { id: format!("id{index}"), name: format!("pod-{index:04}"), ..Pod::default() };
        console.feed(delta(delta::Change::Pod(pod)));
    }
    for seq in 10_000..110_000 {
        console.feed(denied(seq));
    }
    console.keys("3");
    console.draw();
    for seq in 200_000..200_020 {
        console.feed(denied(seq));
        assert!(console.draw().contains(&format!("comm{seq}")), "the newest is followed");
    }
    console.keys("1");
    for _ in 0..50 {
        console.keys("j");
        assert!(!pointed(&console.draw()).is_empty(), "the selection stays in sight");
    }
    // How long a frame takes is measured by `cargo xtask bench --only-console`.
}

#[test]
fn down_to_a_container_that_ran_out_of_memory_and_back() {
    let mut console = Console::new(80, 24, COLOR);
    console.keys("/orders\n\n");
    assert!(
        console.asked.iter().any(|asked| matches!(asked, Request::Read(Query::Usage { .. }))),
        "{:?}",
        console.asked
    );
    let screen = console.draw();
    assert!(screen.contains("!! 137 OOMKilled") && screen.contains("512 MiB"), "{screen}");
    assert!(
        pointed(&screen).contains("running") && pointed(&screen).contains(" – "),
        "no rate yet: {screen}"
    );
    console.later(Duration::from_secs(3));
    let screen = console.draw();
    assert!(pointed(&screen).contains("11.7%") && pointed(&screen).contains("!487 MiB"), "{screen}");
    console.keys("k");
    let screen = console.draw();
    assert!(screen.contains("limit of 512 MiB") && screen.contains("ostgres/0.log"), "{screen}");
    console.keys("j\n");
    let screen = console.draw();
    assert!(screen.contains("shop/orders-db-0 ▸ postgres") && pointed(&screen).contains("2169"), "{screen}");
    console.press(KeyCode::Esc);
    console.press(KeyCode::Esc);
    assert!(console.draw().contains("[1 Pods]"));
}

#[test]
fn usage_is_read_only_while_it_is_looked_at() {
    let mut console = Console::new(80, 24, COLOR);
    let usages = |console: &Console| {
        let asked = console.asked.iter();
        asked.filter(|asked| matches!(asked, Request::Read(Query::Usage { .. }))).count()
    };
    for _ in 0..5 {
        console.later(Duration::from_secs(2));
    }
    assert_eq!(usages(&console), 0);
    console.press(KeyCode::Enter);
    assert_eq!(usages(&console), 1);
    console.later(Duration::from_secs(1));
    assert_eq!(usages(&console), 1);
    console.later(Duration::from_secs(1));
    assert_eq!(usages(&console), 2);
    console.press(KeyCode::Esc);
    for _ in 0..5 {
        console.later(Duration::from_secs(2));
    }
    assert_eq!(usages(&console), 2);
}

#[test]
fn from_the_start_to_a_leaked_namespace_and_what_holds_it() {
    let mut console = Console::new(80, 24, COLOR);
    assert!(console.draw().contains("!! 1 leaked (6)"), "the events tell it at a glance");
    console.keys("6ee");
    let screen = console.draw();
    assert!(pointed(&screen).contains("!! net 4026532401  LEAKED: no process"), "{screen}");
    console.keys("\n");
    let screen = console.draw();
    assert!(screen.contains("ip netns del cni-4d1f0a52") && screen.contains("veth6b1f"), "{screen}");
    console.press(KeyCode::Esc);
    console.keys("y");
    assert_eq!(console.copied.as_deref(), Some("/run/netns/cni-4d1f0a52"));
    assert!(console.draw().contains("copied the pin's path"));
}

#[test]
fn namespaces_are_filtered_and_keep_their_owners() {
    let mut console = Console::new(80, 24, COLOR);
    console.keys("6/state:leaked");
    let screen = console.draw();
    assert!(screen.contains("/state:leaked: 1 match") && screen.contains("userns 4026531837"), "{screen}");
    console.press(KeyCode::Esc);
    console.keys("/comm:bwrap kind:net\n");
    let screen = console.draw();
    let chain = ["userns 4026531837", "userns 4026532410", "userns 4026532412", "net 4026532413"];
    let lines: Vec<_> =
        chain.iter().map(|inode| screen.lines().position(|line| line.contains(inode))).collect();
    assert!(lines.is_sorted() && lines.iter().all(Option::is_some), "{screen}");
    console.press(KeyCode::Esc);
    console.keys("d");
    let screen = console.draw();
    assert!(screen.contains("only wrong: 2 match") && screen.contains("wrong owner init"), "{screen}");
    console.keys("/nosuchfield:x");
    assert!(console.draw().contains("!! no field \"nosuchfield\""));
}

#[test]
fn a_capability_that_was_dropped_and_denied_and_what_could_be_dropped_too() {
    let mut console = Console::new(80, 24, COLOR);
    console.keys("5");
    let screen = console.draw();
    assert!(pointed(&screen).contains("shop/api") && pointed(&screen).contains("!! 14"), "{screen}");
    console.keys("\n");
    let screen = console.draw();
    assert!(screen.contains("!! NET_ADMIN is not granted and was denied 14 times"), "{screen}");
    assert!(screen.contains("✗ denied  NET_ADMIN         not granted"), "{screen}");
    assert!(
        screen.contains("Could drop  NET_BIND_SERVICE") && screen.contains("may be needed later"),
        "{screen}"
    );
    console.keys("y");
    assert_eq!(console.copied.as_deref(), Some("envoy: drop CAP_NET_BIND_SERVICE"));
}

#[test]
fn events_are_filtered_followed_and_lead_to_their_pod() {
    let mut console = Console::new(120, 40, COLOR);
    console.keys("7d");
    let screen = console.draw();
    assert!(screen.contains("warnings only") && pointed(&screen).contains("!! pod-failed"), "{screen}");
    console.keys("w");
    assert!(console.draw().contains("Why legacy/old-order"));
    console.press(KeyCode::Esc);
    console.keys("d/kind:oom\n");
    assert!(console.draw().contains("1 match"));
    console.keys("\n");
    assert!(console.draw().contains("Events ▸ shop/orders-db-0"));
    console.press(KeyCode::Esc);
    console.press(KeyCode::Esc);
    console.keys(" ");
    let event = Event { seq: 900, kind: "pod-created".into(), pod_name: "a/late".into(), ..Event::default() };
    console.feed(delta(delta::Change::Event(event)));
    let screen = console.draw();
    assert!(screen.contains("paused · 1 waiting") && !screen.contains("a/late"), "{screen}");
    console.keys("f");
    assert!(pointed(&console.draw()).contains("a/late"));
}

#[test]
fn a_column_is_hidden_moved_and_remembered() {
    let mut console = Console::new(80, 24, COLOR);
    assert!(console.draw().contains("NETNS"));
    console.keys("cjjjj ");
    console.keys("GKKKKKKKKKKKKK");
    console.press(KeyCode::Esc);
    let screen = console.draw();
    let heading = screen.lines().nth(3).unwrap();
    assert!(!heading.contains("NETNS"), "{screen}");
    assert!(heading.trim_start().starts_with("AGE"), "{screen}");
    let kept = console.remembered.clone().unwrap();
    assert!(kept[0] == Column::Age && !kept.contains(&Column::Netns), "{kept:?}");
    // The next console begins with them.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tui.toml");
    config::remember(&path, &kept).unwrap();
    let mut next = Console::configured(80, 24, COLOR, Config::load(&path));
    next.play();
    assert_eq!(next.draw().lines().nth(3).unwrap(), heading);
    next.keys("cr");
    assert_eq!(next.remembered, Some(Vec::new()));
    next.press(KeyCode::Esc);
    assert!(next.draw().contains("NETNS"));
}

#[test]
fn keys_are_bound_in_the_file_and_named_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tui.toml");
    std::fs::write(&path, "[keys]\nwhy = \"x\"\nnext-problem = \"F2\"\n").unwrap();
    let mut console = Console::configured(80, 24, COLOR, Config::load(&path));
    console.play();
    let screen = console.draw();
    assert!(screen.contains("x why   F2 next problem"), "{screen}");
    console.press(KeyCode::F(2));
    console.press(KeyCode::F(2));
    console.keys("w");
    assert!(console.draw().contains("[1 Pods]"), "w was bound away");
    console.keys("x");
    assert!(console.draw().contains("Why legacy/old-order"));
    // A prompt takes what is typed as it is.
    console.press(KeyCode::Esc);
    console.keys("/x");
    assert!(console.draw().contains("/x"));

    std::fs::write(&path, "[keys]\nwhy = \"x\"\nnode = \"x\"\n").unwrap();
    let mut console = Console::configured(200, 24, COLOR, Config::load(&path));
    console.play();
    let screen = console.draw();
    assert!(screen.contains("!! ") && screen.contains("\"why\" and \"node\""), "{screen}");
    console.keys("eew");
    assert!(console.draw().contains("Why legacy/old-order"), "the manual's keys work");
}

#[test]
fn what_is_selected_is_copied() {
    let mut console = Console::new(80, 24, COLOR);
    console.keys("y");
    assert_eq!(
        console.copied.as_deref(),
        console.app.model().pods.values().find(|p| p.name.starts_with("api")).map(|p| &*p.id)
    );
    console.keys("eewy");
    let text = console.copied.clone().unwrap();
    assert!(text.contains("may not mount sysfs") && text.contains("netns-owned-by-other-userns"), "{text}");
    console.press(KeyCode::Esc);
    console.keys("3dy");
    assert!(console.copied.unwrap().contains("mount sysfs: CAP_SYS_ADMIN denied"));
}

#[test]
fn the_mouse_opens_presses_hints_and_goes_back() {
    let mut console = Console::new(120, 40, COLOR);
    console.draw();
    let click = |console: &mut Console, column, row| {
        let kind = MouseEventKind::Down(MouseButton::Left);
        console.terminal_event(Terminal::Mouse(MouseEvent {
            kind,
            column,
            row,
            modifiers: KeyModifiers::NONE,
        }));
        console.draw()
    };
    click(&mut console, 10, 6);
    let screen = click(&mut console, 10, 6);
    assert!(screen.contains("Pods ▸ shop/cart-0"), "{screen}");
    let screen = click(&mut console, 3, 1);
    assert!(screen.contains("[1 Pods]"), "{screen}");
    let footer = screen.lines().last().unwrap();
    let describe = footer.split("D describe").next().unwrap().chars().count();
    let screen = click(&mut console, u16::try_from(describe).unwrap(), 39);
    assert!(screen.contains("Pods ▸ shop/cart-0") && screen.contains("Hostname"), "{screen}");
    click(&mut console, 3, 1);
    let spaces = console.draw().lines().nth(1).unwrap().split("6 Spaces").next().unwrap().chars().count();
    assert!(click(&mut console, u16::try_from(spaces).unwrap(), 1).contains("[6 Spaces]"));
    let first = click(&mut console, 10, 6);
    assert!(pointed(&first).contains("LEAKED"), "{first}");
    assert!(click(&mut console, 10, 6).contains("ip netns del"));
}

#[test]
fn stale_and_failed_readings_say_so_and_keep_what_was_read() {
    let mut console = Console::new(80, 24, COLOR);
    console.keys("6");
    console.feed(FeedEvent::Answered { query: Query::Namespaces, answer: Err("not connected".into()) });
    let screen = console.draw();
    assert!(screen.contains("! not connected") && screen.contains("LEAKED"), "{screen}");
    let mut new = Console::new(80, 24, COLOR);
    new.keys("8");
    let refused = "this daemon does not answer that: it is older than the console".to_owned();
    new.feed(FeedEvent::Answered { query: Query::Pulls, answer: Err(refused) });
    assert!(new.draw().contains("! this daemon does not answer that"));
}
