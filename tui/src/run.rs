//! Puts it together: which source, which output, and the loop of the live console.
//!
//! The loop sleeps until something happens. It draws only when the state changed, and at most thirty times a
//! second: what comes in between is taken in and drawn together.

use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use crossterm::event::Event as Terminal;
use jiff::tz::TimeZone;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::app::{App, Command, Event, Settings};
use crate::args::Args;
use crate::config::{self, Config};
use crate::feed::{Feed, FeedEvent, live, replay, wall_clock};
use crate::link::Link;
use crate::once;
use crate::record::{self, Entry, Recorder};
use crate::terminal::Screen;
use crate::theme::Theme;

/// The least time between two frames.
const FRAME: Duration = Duration::from_millis(33);
/// Messages taken in before the loop looks at the keys again.
const BATCH: usize = 512;

/// Where the time comes from: the machine, or the recording that is played.
#[derive(Debug, Clone, Copy)]
enum Clock {
    Wall,
    Replay { base_ns: i64, since: Instant },
}

impl Clock {
    fn now_ns(self) -> i64 {
        match self {
            Self::Wall => wall_clock(),
            Self::Replay { base_ns, since } => {
                base_ns.saturating_add(i64::try_from(since.elapsed().as_nanos()).unwrap_or(i64::MAX))
            }
        }
    }
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config_path = config::path();
    let config = config_path.as_deref().map(Config::load).unwrap_or_default();
    let theme = Theme {
        color: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        ascii: args.ascii,
        light: config.light(std::env::var("COLORFGBG").ok().as_deref()),
    };
    if let (Some(problem), true) = (&config.problem, args.once) {
        eprintln!("sandboxd-tui: {problem}: the manual's settings are used");
    }
    let settings = Settings {
        theme,
        tz: TimeZone::system(),
        filter: args.filter.clone().unwrap_or_default(),
        sort: args.sort.unwrap_or_default(),
        config,
    };
    let recording = args.replay.as_deref().map(record::read).transpose()?;
    if args.once {
        return once(&args, settings, recording).await;
    }
    if args.json {
        once::stream(feed(&args, recording)?, &mut stdout().lock()).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if !stdout().is_terminal() {
        bail!("the output is not a terminal: use --once for one frame as text, or --json");
    }
    console(&args, settings, recording, config_path.as_deref()).await
}

fn feed(args: &Args, recording: Option<Vec<Entry>>) -> anyhow::Result<Feed> {
    if let Some(entries) = recording {
        return Ok(replay::start(entries));
    }
    let recorder = args.record.as_deref().map(Recorder::create).transpose()?;
    Ok(live::start(args.endpoint.clone(), recorder))
}

async fn once(args: &Args, settings: Settings, recording: Option<Vec<Entry>>) -> anyhow::Result<ExitCode> {
    let mut app = if let Some(entries) = recording {
        let end = entries.last().map_or(0, |entry| entry.at_ns);
        let mut app = App::new(settings, Link::Ended, end);
        for message in entries.into_iter().filter_map(|entry| replay::message(entry.what)) {
            app.model.apply(message);
        }
        app
    } else {
        let mut app = App::new(settings, Link::Connecting, wall_clock());
        once::fill(&mut app, &mut feed(args, None)?).await?;
        app
    };
    let out = if args.json {
        let json = serde_json::to_string(&app.shown()).context("cannot write the snapshot as JSON")?;
        json + "\n"
    } else {
        once::text(&app.report(width()))
    };
    match std::io::Write::write_all(&mut stdout().lock(), out.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(once::OnceError::Output(error).into())
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The width of a frame as text: COLUMNS, else the terminal's, else 120.
fn width() -> u16 {
    let wanted = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || stdout().is_terminal().then(crossterm::terminal::size).and_then(Result::ok);
    wanted.or_else(|| terminal().map(|size| size.0)).unwrap_or(120).clamp(40, 500)
}

/// The signals that end the console, with the exit code each gives.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.terminate.recv() => ExitCode::from(128 + 15),
            _ = self.interrupt.recv() => ExitCode::from(128 + 2),
            _ = self.hangup.recv() => ExitCode::from(128 + 1),
        }
    }
}

async fn console(
    args: &Args,
    settings: Settings,
    recording: Option<Vec<Entry>>,
    config_path: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    let unread = settings.config.problem.is_some();
    let (link, clock) = match &recording {
        None => (Link::Connecting, Clock::Wall),
        Some(entries) => {
            let base_ns = entries.first().map_or(0, |entry| entry.at_ns);
            (Link::Replay, Clock::Replay { base_ns, since: Instant::now() })
        }
    };
    let mut feed = feed(args, recording)?;
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let mut screen = Screen::take(!args.no_mouse).context("cannot set the terminal up")?;
    let mut keys = keys();
    let mut app = App::new(settings, link, clock.now_ns());
    let mut next_frame = Instant::now();
    let mut feeding = true;
    loop {
        if app.is_dirty() && Instant::now() >= next_frame {
            screen
                .terminal
                .draw(|frame| {
                    let area = frame.area();
                    app.draw(frame.buffer_mut(), area);
                })
                .context("cannot draw")?;
            next_frame = Instant::now() + FRAME;
        }
        let mut events = Vec::new();
        tokio::select! {
            code = signals.next() => return Ok(code),
            key = keys.recv() => match key {
                Some(key) => events.push(Event::Terminal(key)),
                // The terminal is gone.
                None => return Ok(ExitCode::SUCCESS),
            },
            event = feed.events.recv(), if feeding => {
                feeding = event.is_some();
                events.extend(event.map(Event::Feed));
                while events.len() < BATCH && let Ok(more) = feed.events.try_recv() {
                    events.push(Event::Feed(more));
                }
            }
            () = tokio::time::sleep_until(next_frame), if app.is_dirty() => {}
            () = tokio::time::sleep(Duration::from_secs(1)), if app.shows_ages() => events.push(Event::Tick),
        }
        let mut notices = Vec::new();
        for event in events {
            for command in app.handle(event, clock.now_ns()) {
                match command {
                    Command::Quit => return Ok(ExitCode::SUCCESS),
                    // A feed that is too busy to be asked: the operator asks again.
                    Command::Ask(request) => drop(feed.requests.try_send(request)),
                    Command::Copy(text) => screen.copy(&text).context("cannot write to the terminal")?,
                    Command::Remember(columns) => {
                        let path = config_path.filter(|_| !unread);
                        let kept = path.map_or(Ok(()), |path| config::remember(path, &columns));
                        if let Err(error) = kept {
                            let why = std::error::Error::source(&error).map(|why| format!(": {why}"));
                            let words = format!("{error}{}", why.unwrap_or_default());
                            notices.push(FeedEvent::Notice(words));
                        }
                    }
                }
            }
        }
        for notice in notices {
            app.handle(Event::Feed(notice), clock.now_ns());
        }
    }
}

/// Keys and mouse from a thread of their own, which sleeps in read(2) while nothing is typed.
fn keys() -> mpsc::Receiver<Terminal> {
    let (keys_in, keys) = mpsc::channel(64);
    std::thread::spawn(move || {
        while let Ok(event) = crossterm::event::read() {
            if keys_in.blocking_send(event).is_err() {
                return;
            }
        }
    });
    keys
}
