//! What the console's tests share: the recorded node, keys, the screen as text.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part; tests may unwrap")]

use std::path::{Path, PathBuf};

use crossterm::event::{Event as Terminal, KeyCode, KeyEvent, KeyModifiers};
use jiff::tz::TimeZone;
use ratatui::backend::TestBackend;
use sandboxd_api::console::WatchResponse;
use sandboxd_tui::app::{App, Command, Event, Settings};
use sandboxd_tui::feed::{FeedEvent, Request, replay};
use sandboxd_tui::link::Link;
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

pub const COLOR: Theme = Theme { color: true, ascii: false };
pub const NO_COLOR: Theme = Theme { color: false, ascii: false };
pub const ASCII: Theme = Theme { color: false, ascii: true };

/// The console over the recorded node, its clock standing still at the recording's end.
pub struct Console {
    pub app: App,
    pub terminal: ratatui::Terminal<TestBackend>,
    pub now_ns: i64,
    /// What the console asked for and was answered.
    pub asked: Vec<Request>,
    pub quit: bool,
}

impl Console {
    pub fn new(width: u16, height: u16, theme: Theme) -> Self {
        let mut console = Self::empty(width, height, theme);
        console.now_ns = entries().last().unwrap().at_ns;
        console.feed(FeedEvent::Live);
        for message in messages() {
            console.feed(FeedEvent::Message(message));
        }
        console
    }

    pub fn empty(width: u16, height: u16, theme: Theme) -> Self {
        let settings =
            Settings { theme, tz: TimeZone::UTC, filter: Default::default(), sort: Default::default() };
        Self {
            app: App::new(settings, Link::Connecting, 0),
            terminal: ratatui::Terminal::new(TestBackend::new(width, height)).unwrap(),
            now_ns: 0,
            asked: Vec::new(),
            quit: false,
        }
    }

    pub fn feed(&mut self, event: FeedEvent) {
        self.event(Event::Feed(event));
    }

    fn event(&mut self, event: Event) {
        for command in self.app.handle(event, self.now_ns) {
            match command {
                Command::Quit => self.quit = true,
                Command::Ask(request) => {
                    self.asked.push(request.clone());
                    if let Request::Explain { seq } = request {
                        self.feed(FeedEvent::Explained { seq, answer: recorded(seq) });
                    }
                }
            }
        }
    }

    pub fn press(&mut self, code: KeyCode) {
        self.event(Event::Terminal(Terminal::Key(KeyEvent::new(code, KeyModifiers::NONE))));
    }

    /// Presses each character as a key.
    pub fn keys(&mut self, keys: &str) {
        for key in keys.chars() {
            self.press(KeyCode::Char(key));
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

fn recorded(seq: u64) -> Result<sandboxd_api::console::ExplainCheckResponse, String> {
    let found = entries().into_iter().find_map(|entry| match entry.what {
        What::Explained(answer) if answer.check.as_ref().is_some_and(|check| check.seq == seq) => {
            Some(answer)
        }
        _ => None,
    });
    found.ok_or_else(|| "not recorded".to_owned())
}
