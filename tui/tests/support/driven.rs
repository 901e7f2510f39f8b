//! The console over simulated daemons: real feeds over real sockets, keys, and the screen as text.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part; tests may unwrap")]

use std::time::Duration;

use crossterm::event::{Event as Terminal, KeyCode, KeyEvent, KeyModifiers};
use jiff::tz::TimeZone;
use ratatui::backend::TestBackend;
use sandboxd_tui::app::{App, Command, Event, Settings};
use sandboxd_tui::exec::Exec;
use sandboxd_tui::feed::feeds::Feeds;
use sandboxd_tui::feed::target::{Address, Target};
use sandboxd_tui::feed::{live, wall_clock};
use sandboxd_tui::fleet::{Node, NodeId};
use sandboxd_tui::link::Link;
use sandboxd_tui::theme::Theme;

pub struct Driven {
    pub app: App,
    feeds: Feeds,
    terminal: ratatui::Terminal<TestBackend>,
    /// Commands for which the terminal would have been handed over.
    pub execs: Vec<(NodeId, Exec)>,
}

pub fn unix(name: &str, socket: &std::path::Path) -> Target {
    Target { name: name.to_owned(), address: Address::Unix(socket.to_owned()), tls: None }
}

impl Driven {
    pub fn over(targets: Vec<Target>, allow_actions: bool) -> Self {
        let settings = Settings {
            theme: Theme { color: true, ascii: false, light: false },
            tz: TimeZone::UTC,
            filter: Default::default(),
            sort: Default::default(),
            config: Default::default(),
            allow_actions,
        };
        let node =
            |target: &Target| Node::new(&target.name, true, &target.address.to_string(), Link::Connecting);
        let nodes = targets.iter().map(node).collect();
        Self {
            app: App::over(settings, nodes, wall_clock()),
            feeds: Feeds::new(targets.into_iter().map(|target| live::start(target, None)).collect()),
            terminal: ratatui::Terminal::new(TestBackend::new(120, 30)).unwrap(),
            execs: Vec::new(),
        }
    }

    fn handle(&mut self, event: Event) {
        for command in self.app.handle(event, wall_clock()) {
            match command {
                Command::Ask(node, request) => assert!(self.feeds.ask(node, request)),
                Command::Exec(node, exec) => self.execs.push((node, exec)),
                Command::Quit | Command::Copy(_) | Command::Remember(_) => {}
            }
        }
    }

    pub fn press(&mut self, code: KeyCode) {
        self.handle(Event::Terminal(Terminal::Key(KeyEvent::new(code, KeyModifiers::NONE))));
    }

    /// Presses each character as a key.
    pub fn keys(&mut self, keys: &str) {
        for key in keys.chars() {
            self.press(KeyCode::Char(key));
        }
    }

    pub fn screen(&mut self) -> String {
        self.terminal
            .draw(|frame| {
                let area = frame.area();
                self.app.draw(frame.buffer_mut(), area);
            })
            .unwrap();
        sandboxd_tui::once::text(self.terminal.backend().buffer())
    }

    /// The line of the screen with these words.
    pub fn line(&mut self, words: &str) -> String {
        let screen = self.screen();
        let line = screen.lines().find(|line| line.contains(words));
        line.unwrap_or_else(|| panic!("no line with {words:?}: {screen}")).to_owned()
    }

    /// Takes in what the daemons say until the screen satisfies `seen`.
    pub async fn until(&mut self, what: &str, seen: impl Fn(&str) -> bool) -> String {
        let all = async {
            loop {
                let screen = self.screen();
                if seen(&screen) {
                    return screen;
                }
                let (node, event) = self.feeds.recv().await.expect("feeds go on for ever");
                self.handle(Event::Feed(node, event));
            }
        };
        match tokio::time::timeout(Duration::from_secs(20), all).await {
            Ok(screen) => screen,
            Err(_) => panic!("{what} never came: {}", self.screen()),
        }
    }

    pub async fn until_shown(&mut self, words: &str) -> String {
        self.until(words, |screen| screen.contains(words)).await
    }
}
