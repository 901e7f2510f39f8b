//! What the console's tests share: the recorded node, keys, the screen as text.
//!
//! There are two recordings. `session.jsonl` is of a real node (`cargo xtask record-session`), and the panels' snapshots
//! are drawn from it. `node.jsonl` was written by hand after real ones, with more pods and what a healthy node rarely
//! has (a pull under way, a lost check's neighbours, a veth that holds a namespace): tasks are driven over it.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part; tests may unwrap")]

use std::path::{Path, PathBuf};

use crossterm::event::{Event as Terminal, KeyCode, KeyEvent, KeyModifiers};
use jiff::tz::TimeZone;
use ratatui::backend::TestBackend;
use sandboxd_api::console::WatchResponse;
use sandboxd_tui::app::{App, Command, Event, Settings};
use sandboxd_tui::config::Config;
use sandboxd_tui::exec::Exec;
use sandboxd_tui::feed::{FeedEvent, Request, replay};
use sandboxd_tui::fleet::NodeId;
use sandboxd_tui::link::Link;
use sandboxd_tui::model::sort::Column;
use sandboxd_tui::record::{self, Entry, What};
use sandboxd_tui::theme::Theme;

fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn fixture() -> PathBuf {
    recorded("node.jsonl")
}

/// The recording of a real node.
pub fn session() -> PathBuf {
    recorded("session.jsonl")
}

pub fn entries() -> Vec<Entry> {
    record::read(&fixture()).unwrap()
}

pub fn messages() -> Vec<WatchResponse> {
    entries().into_iter().filter_map(|entry| replay::message(entry.what)).collect()
}

pub const COLOR: Theme = Theme { color: true, ascii: false, light: false };
pub const NO_COLOR: Theme = Theme { color: false, ascii: false, light: false };
pub const ASCII: Theme = Theme { color: false, ascii: true, light: false };

/// The console over the recorded node, its clock standing still at the recording's end.
pub struct Console {
    entries: Vec<Entry>,
    pub app: App,
    pub terminal: ratatui::Terminal<TestBackend>,
    pub now_ns: i64,
    /// What the console asked for and was answered.
    pub asked: Vec<Request>,
    pub quit: bool,
    pub execs: Vec<Exec>,
    /// What was put on the clipboard last.
    pub copied: Option<String>,
    /// The columns to be kept for the next start.
    pub remembered: Option<Vec<Column>>,
}

impl Console {
    pub fn new(width: u16, height: u16, theme: Theme) -> Self {
        let mut console = Self::empty(width, height, theme);
        console.play();
        console
    }

    /// Over the recording of a real node.
    pub fn real(width: u16, height: u16, theme: Theme) -> Self {
        let mut console = Self::empty(width, height, theme);
        console.entries = record::read(&session()).unwrap();
        console.play();
        console
    }

    /// Takes in the recording.
    pub fn play(&mut self) {
        // Where the messages end: what was asked for after them is for later.
        let is_message = |entry: &&Entry| matches!(entry.what, What::Snapshot(_) | What::Delta(_));
        self.now_ns = self.entries.iter().rfind(is_message).unwrap().at_ns;
        self.feed(FeedEvent::Live);
        for message in self.entries.clone().into_iter().filter_map(|entry| replay::message(entry.what)) {
            self.feed(FeedEvent::Message(message));
        }
    }

    pub fn empty(width: u16, height: u16, theme: Theme) -> Self {
        Self::configured(width, height, theme, Config::default())
    }

    /// With what the operator's file says, before the first message.
    pub fn configured(width: u16, height: u16, theme: Theme, config: Config) -> Self {
        let settings = Settings {
            theme,
            tz: TimeZone::UTC,
            filter: Default::default(),
            sort: Default::default(),
            config,
            allow_actions: false,
        };
        Self {
            entries: entries(),
            app: App::new(settings, Link::Connecting, 0),
            terminal: ratatui::Terminal::new(TestBackend::new(width, height)).unwrap(),
            now_ns: 0,
            asked: Vec::new(),
            quit: false,
            execs: Vec::new(),
            copied: None,
            remembered: None,
        }
    }

    pub fn feed(&mut self, event: FeedEvent) {
        self.event(Event::Feed(NodeId(0), event));
    }

    fn event(&mut self, event: Event) {
        for command in self.app.handle(event, self.now_ns) {
            match command {
                Command::Quit => self.quit = true,
                Command::Copy(text) => self.copied = Some(text),
                Command::Remember(columns) => self.remembered = Some(columns),
                Command::Exec(_, exec) => self.execs.push(exec),
                Command::Ask(_, request) => {
                    self.asked.push(request.clone());
                    if !matches!(request, Request::Timeline { .. }) {
                        for answer in replay::Answers::of(&self.entries).to(request, self.now_ns) {
                            self.feed(answer);
                        }
                    }
                }
            }
        }
    }

    /// So much later, after a tick of the clock.
    pub fn later(&mut self, by: std::time::Duration) {
        self.now_ns += i64::try_from(by.as_nanos()).unwrap();
        self.event(Event::Tick);
    }

    pub fn press(&mut self, code: KeyCode) {
        self.event(Event::Terminal(Terminal::Key(KeyEvent::new(code, KeyModifiers::NONE))));
    }

    /// Presses each character as a key, a newline as Enter, an escape as Escape.
    pub fn keys(&mut self, keys: &str) {
        for key in keys.chars() {
            self.press(match key {
                '\n' => KeyCode::Enter,
                '\u{1b}' => KeyCode::Esc,
                key => KeyCode::Char(key),
            });
        }
    }

    pub fn terminal_event(&mut self, event: Terminal) {
        self.event(Event::Terminal(event));
    }

    pub fn draw(&mut self) -> String {
        self.terminal
            .draw(|frame| {
                let area = frame.area();
                self.app.draw(frame.buffer_mut(), area);
            })
            .unwrap();
        sandboxd_tui::once::text(self.terminal.backend().buffer())
    }
}
