//! Puts it together: which source, which output, and the loop of the live console.
//!
//! The loop sleeps until something happens. It draws only when the state changed, and at most thirty times a
//! second: what comes in between is taken in and drawn together.

use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, bail};
use crossterm::event::Event as Terminal;
use jiff::tz::TimeZone;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::app::{App, Command, Event, Settings};
use crate::args::Args;
use crate::config::{self, Config};
use crate::exec::{self, Exec, ExecError};
use crate::feed::feeds::Feeds;
use crate::feed::target::Target;
use crate::feed::{Request, live, replay, wall_clock};
use crate::fleet::{Node, NodeId};
use crate::input::Keys;
use crate::link::Link;
use crate::once;
use crate::record::{self, Entry, Recorder, Recording};
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
        allow_actions: args.allow_actions,
        config,
    };
    let source = Source::of(&args)?;
    if args.once {
        return once(&args, settings, source).await;
    }
    if args.json {
        let names = source.names();
        once::stream(source.feeds(), &names, &mut stdout().lock()).await?;
        return Ok(ExitCode::SUCCESS);
    }
    if !stdout().is_terminal() {
        bail!("the output is not a terminal: use --once for one frame as text, or --json");
    }
    console(&args, settings, source, config_path.as_deref()).await
}

/// What is watched: daemons, or what was recorded of them.
enum Source {
    Daemons(Vec<Target>, Option<Arc<Mutex<Recorder>>>),
    Recorded(Vec<(Option<String>, Vec<Entry>)>),
}

impl Source {
    fn of(args: &Args) -> anyhow::Result<Self> {
        if let Some(path) = &args.replay {
            return Ok(Self::Recorded(record::by_node(record::read(path)?)));
        }
        let targets = args.targets()?;
        let recorder = args.record.as_deref().map(Recorder::create).transpose()?;
        Ok(Self::Daemons(targets, recorder.map(|recorder| Arc::new(Mutex::new(recorder)))))
    }

    /// The names of several nodes; one needs none.
    fn names(&self) -> Vec<Option<String>> {
        match self {
            Self::Daemons(targets, _) if targets.len() == 1 => vec![None],
            Self::Daemons(targets, _) => targets.iter().map(|target| Some(target.name.clone())).collect(),
            Self::Recorded(nodes) => nodes.iter().map(|(name, _)| name.clone()).collect(),
        }
    }

    fn nodes(&self, named: bool) -> Vec<Node> {
        match self {
            Self::Daemons(targets, _) => targets
                .iter()
                .map(|target| Node::new(&target.name, named, &target.address.to_string(), Link::Connecting))
                .collect(),
            Self::Recorded(nodes) => nodes
                .iter()
                .map(|(name, _)| {
                    let label = name.as_deref().map(crate::text::clean).unwrap_or_default();
                    Node::new(&label, name.is_some(), "recorded", Link::Replay)
                })
                .collect(),
        }
    }

    /// The time of the first entry, and of the last.
    fn span(&self) -> Option<(i64, i64)> {
        let Self::Recorded(nodes) = self else { return None };
        let times = || nodes.iter().flat_map(|(_, entries)| entries).map(|entry| entry.at_ns);
        Some((times().min().unwrap_or(0), times().max().unwrap_or(0)))
    }

    fn feeds(self) -> Feeds {
        let names = self.names();
        let base_ns = self.span().map_or(0, |span| span.0);
        Feeds::new(match self {
            Self::Daemons(targets, recorder) => targets
                .into_iter()
                .zip(names)
                .map(|(target, name)| {
                    live::start(target, recorder.as_ref().map(|recorder| Recording::new(recorder, name)))
                })
                .collect(),
            Self::Recorded(nodes) => {
                nodes.into_iter().map(|(_, entries)| replay::start_at(entries, base_ns)).collect()
            }
        })
    }
}

async fn once(args: &Args, settings: Settings, source: Source) -> anyhow::Result<ExitCode> {
    let mut nodes = source.nodes(args.nodes.is_some());
    let end = source.span().map(|span| span.1);
    let mut app = match source {
        Source::Recorded(recorded) => {
            for (node, (_, entries)) in nodes.iter_mut().zip(recorded) {
                node.link = Link::Ended;
                for message in entries.into_iter().filter_map(|entry| replay::message(entry.what)) {
                    node.model.apply(message);
                }
            }
            App::over(settings, nodes, end.unwrap_or(0))
        }
        Source::Daemons(..) => {
            let mut app = App::over(settings, nodes, wall_clock());
            once::fill(&mut app, &mut source.feeds()).await?;
            app
        }
    };
    let out = if args.json { once::json(&mut app)? } else { once::text(&app.report(width())) };
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
    source: Source,
    config_path: Option<&Path>,
) -> anyhow::Result<ExitCode> {
    let unread = settings.config.problem.is_some();
    let clock = match source.span() {
        None => Clock::Wall,
        Some((base_ns, _)) => Clock::Replay { base_ns, since: Instant::now() },
    };
    let nodes = source.nodes(args.nodes.is_some());
    let mut feeds = source.feeds();
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let mut resized = signal(SignalKind::window_change()).context("cannot listen for signals")?;
    let mut screen = Screen::take(!args.no_mouse).context("cannot set the terminal up")?;
    let mut keys = Keys::start().context("cannot read the terminal")?;
    let mut app = App::over(settings, nodes, clock.now_ns());
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
            key = keys.events.recv() => match key {
                Some(key) => events.push(Event::Terminal(key)),
                // The terminal is gone.
                None => return Ok(ExitCode::SUCCESS),
            },
            _ = resized.recv() => events.push(Event::Terminal(Terminal::Resize(0, 0))),
            event = feeds.recv(), if feeding => {
                feeding = event.is_some();
                events.extend(event.map(|(node, event)| Event::Feed(node, event)));
                while events.len() < BATCH && let Some((node, event)) = feeds.try_recv() {
                    events.push(Event::Feed(node, event));
                }
            }
            () = tokio::time::sleep_until(next_frame), if app.is_dirty() => {}
            () = tokio::time::sleep(Duration::from_secs(1)), if app.shows_ages() => events.push(Event::Tick),
        }
        for event in events {
            for command in app.handle(event, clock.now_ns()) {
                match command {
                    Command::Quit => return Ok(ExitCode::SUCCESS),
                    Command::Ask(node, request) => ask(&mut app, &feeds, node, &request),
                    Command::Copy(text) => screen.copy(&text).context("cannot write to the terminal")?,
                    Command::Remember(columns) => {
                        let path = config_path.filter(|_| !unread);
                        let kept = path.map_or(Ok(()), |path| config::remember(path, &columns));
                        if let Err(error) = kept {
                            let why = std::error::Error::source(&error).map(|why| format!(": {why}"));
                            app.tell(format!("{error}{}", why.unwrap_or_default()));
                        }
                    }
                    Command::Exec(node, exec) => {
                        let mut lent = Lent { screen: &mut screen, keys: &mut keys, mouse: !args.no_mouse };
                        if let Some(code) =
                            lent.run(node, &exec, &mut app, &mut feeds, &mut signals, clock).await?
                        {
                            return Ok(code);
                        }
                    }
                }
            }
        }
    }
}

fn ask(app: &mut App, feeds: &Feeds, node: NodeId, request: &Request) {
    if !feeds.ask(node, request.clone()) {
        app.not_asked(node, request);
    }
}

/// The terminal while a command in a container has it.
struct Lent<'a> {
    screen: &'a mut Screen,
    keys: &'a mut Keys,
    mouse: bool,
}

impl Lent<'_> {
    /// Runs the command to its end; the exit code of the console where a signal ends that meanwhile.
    async fn run(
        &mut self,
        node: NodeId,
        exec: &Exec,
        app: &mut App,
        feeds: &mut Feeds,
        signals: &mut Signals,
        clock: Clock,
    ) -> anyhow::Result<Option<ExitCode>> {
        let channel = feeds.channel(node);
        if !self.keys.pause() {
            app.tell("the terminal cannot be handed over: its keys are still being read".to_owned());
            return Ok(None);
        }
        self.screen.lend().context("cannot hand the terminal over")?;
        let mut feeding = true;
        let ended: Result<exec::Ended, ExecError> = {
            let session = exec::run(exec, channel);
            tokio::pin!(session);
            // The console goes on watching, so that it is up to date when it is back.
            loop {
                tokio::select! {
                    ended = &mut session => break ended,
                    code = signals.next() => return Ok(Some(code)),
                    event = feeds.recv(), if feeding => match event {
                        None => feeding = false,
                        Some((node, event)) => {
                            for command in app.handle(Event::Feed(node, event), clock.now_ns()) {
                                if let Command::Ask(node, request) = command {
                                    ask(app, feeds, node, &request);
                                }
                            }
                        }
                    },
                }
            }
        };
        self.screen.take_back(self.mouse).context("cannot take the terminal back")?;
        self.keys.resume();
        app.tell(exec::outcome(exec, &ended));
        Ok(None)
    }
}
