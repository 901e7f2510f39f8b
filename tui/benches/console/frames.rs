//! The time of one frame, measured in this process: the state is that of a console that watched a busy node.

use std::time::{Duration, Instant};

use crossterm::event::{Event as Terminal, KeyCode, KeyEvent, KeyModifiers};
use jiff::tz::TimeZone;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{TerminalOptions, Viewport};
use sandboxd_api::console::delta::Change;
use sandboxd_api::console::{Delta, Snapshot, WatchResponse, watch_response};
use sandboxd_sim::world;
use sandboxd_tui::app::{App, Event, Settings};
use sandboxd_tui::feed::FeedEvent;
use sandboxd_tui::fleet::NodeId;
use sandboxd_tui::link::Link;
use sandboxd_tui::theme::Theme;

use crate::figures::Figures;
use crate::{CHECKS, PODS};

/// Checks between two frames: a thirtieth of 1,000 a second.
const BETWEEN: u32 = 33;
const GOAL_MS: f64 = 5.0;

fn message(message: watch_response::Message) -> Event {
    Event::Feed(NodeId(0), FeedEvent::Message(WatchResponse { message: Some(message) }))
}

/// The node, and what it says next.
struct Source {
    snapshot: Snapshot,
    changes: std::collections::VecDeque<Change>,
}

impl Source {
    fn next(&mut self) -> Event {
        while self.changes.is_empty() {
            self.changes.extend(world::step(&self.snapshot));
            let observer = self.snapshot.observer.as_mut().unwrap();
            observer.seen += 1;
        }
        let change = self.changes.pop_front();
        if let Some(Change::Pod(pod)) = &change {
            let at = self.snapshot.pods.iter().position(|one| one.id == pod.id).unwrap();
            self.snapshot.pods[at] = pod.clone();
        }
        message(watch_response::Message::Delta(Delta { time_ns: world::now_ns(), change }))
    }
}

fn press(app: &mut App, key: char) {
    let key = KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE);
    app.handle(Event::Terminal(Terminal::Key(key)), world::now_ns());
}

pub fn measure(frames: u32, figures: &mut Figures) {
    let snapshot = world::node("busy", PODS);
    let mut source = Source { snapshot: snapshot.clone(), changes: [].into() };
    let settings = Settings {
        theme: Theme { color: true, ascii: false, light: false },
        tz: TimeZone::UTC,
        filter: Default::default(),
        sort: Default::default(),
        config: Default::default(),
        allow_actions: false,
    };
    let mut app = App::new(settings, Link::Connecting, world::now_ns());
    app.handle(Event::Feed(NodeId(0), FeedEvent::Live), world::now_ns());
    app.handle(message(watch_response::Message::Snapshot(snapshot)), world::now_ns());
    let checks = (0..CHECKS).map(|_| source.next()).collect::<Vec<_>>();
    let began = Instant::now();
    for check in checks {
        app.handle(check, world::now_ns());
    }
    let ingest = began.elapsed();

    let mut worst: f64 = 0.0;
    for (width, height) in [(80, 24), (200, 60)] {
        figures.group(&format!("Console, a frame of {width}x{height}"), ["p50", "p99", "max"]);
        for (key, name) in [('1', "pods"), ('3', "checks"), ('2', "tree")] {
            press(&mut app, key);
            let area = Rect::new(0, 0, width, height);
            let options = TerminalOptions { viewport: Viewport::Fixed(area) };
            let backend = CrosstermBackend::new(std::io::sink());
            let mut terminal = ratatui::Terminal::with_options(backend, options).unwrap();
            let (mut whole, mut drawn) = (Vec::new(), Vec::new());
            for frame in 0..frames {
                for _ in 0..BETWEEN {
                    app.handle(source.next(), world::now_ns());
                }
                // The selection moves as well now and then: it scrolls.
                if frame % 10 == 0 {
                    press(&mut app, 'j');
                }
                let began = Instant::now();
                let mut draw = Duration::ZERO;
                terminal
                    .draw(|frame| {
                        let began = Instant::now();
                        let area = frame.area();
                        app.draw(frame.buffer_mut(), area);
                        draw = began.elapsed();
                    })
                    .unwrap();
                whole.push(began.elapsed());
                drawn.push(draw);
            }
            worst = worst.max(figures.times(&format!("{name}: the whole frame"), &mut whole));
            figures.times(&format!("{name}: drawing its cells"), &mut drawn);
        }
    }
    figures.note(format!(
        "frames over {PODS} pods, {} containers and {CHECKS} checks, with {BETWEEN} checks and their changed pods \
         taken in before each",
        PODS * 2
    ));
    figures.note(format!(
        "the slowest view's p99 is {worst:.2} ms; the goal of {GOAL_MS} ms a frame is {}",
        if worst < GOAL_MS { "met" } else { "MISSED" }
    ));
    figures.note(format!(
        "taking a message in: {:.1} µs, {CHECKS} of them",
        ingest.as_secs_f64() * 1e6 / f64::from(u32::try_from(CHECKS).unwrap())
    ));
}
