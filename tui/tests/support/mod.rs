//! What the console's tests share: the recorded node, keys, the screen as text.
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

pub fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/node.jsonl")
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

    /// Takes in the recording.
    pub fn play(&mut self) {
        let console = self;
        // Where the messages end: the answers recorded after them are for later.
        let mut ends = entries().into_iter().filter(|entry| !matches!(entry.what, What::Answered(_)));
        console.now_ns = ends.next_back().unwrap().at_ns;
        console.feed(FeedEvent::Live);
        for message in messages() {
            console.feed(FeedEvent::Message(message));
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
                        for answer in replay::Answers::of(&entries()).to(request, self.now_ns) {
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

    /// Presses each character as a key, a newline as Enter.
    pub fn keys(&mut self, keys: &str) {
        for key in keys.chars() {
            self.press(if key == '\n' { KeyCode::Enter } else { KeyCode::Char(key) });
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
