//! The console's state and what keys, mouse and messages do to it. It draws into a buffer and knows neither
//! the terminal nor the clock: both are handed in.
//!
//! ```text
//!  Event ──▶ App::handle ──▶ Command (quit, ask the daemon)
//!               │
//!               └─ dirty ──▶ App::draw
//! ```

mod act;
mod draw;
mod input;
mod nodes;

use crossterm::event::{Event as Terminal, KeyEventKind};
use jiff::tz::TimeZone;
use ratatui::layout::Rect;

use crate::config::Config;
use crate::exec::Exec;
use crate::feed::{FeedEvent, Request};
use crate::fleet::{Node, NodeId};
use crate::link::Link;
use crate::model::Model;
use crate::model::filter::{Filter, Kind};
use crate::model::sort::{Column, Sort};
use crate::panel::caps::Caps;
use crate::panel::checks::Checks;
use crate::panel::events::Events;
use crate::panel::flow::Flow;
use crate::panel::footer::Prompt;
use crate::panel::modal::Modal;
use crate::panel::node::NodeView;
use crate::panel::pods::Pods;
use crate::panel::spaces::Spaces;
use crate::panel::tree::Tree;
use crate::panel::{Context, Panel, Shared};
use crate::theme::{Theme, WRONG};

/// The views; other panels open over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    Pods,
    Tree,
    Checks,
    Flow,
    Caps,
    Spaces,
    Events,
    Node,
}

impl View {
    const ALL: [Self; 8] = [
        Self::Pods,
        Self::Tree,
        Self::Checks,
        Self::Flow,
        Self::Caps,
        Self::Spaces,
        Self::Events,
        Self::Node,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Pods => "Pods",
            Self::Tree => "Tree",
            Self::Checks => "Checks",
            Self::Flow => "Flow",
            Self::Caps => "Caps",
            Self::Spaces => "Spaces",
            Self::Events => "Events",
            Self::Node => "Node",
        }
    }

    fn filters(self) -> Kind {
        match self {
            Self::Pods | Self::Tree | Self::Flow | Self::Caps | Self::Node => Kind::Pods,
            Self::Checks => Kind::Checks,
            Self::Spaces => Kind::Spaces,
            Self::Events => Kind::Events,
        }
    }
}

/// What is drawn how, and what is shown at first.
#[derive(Debug, Clone)]
pub struct Settings {
    pub theme: Theme,
    pub tz: TimeZone,
    pub filter: Filter,
    pub sort: Sort,
    /// Whether anything may be changed, as far as this console is concerned.
    pub allow_actions: bool,
    /// What the operator's file says.
    pub config: Config,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "made and taken apart at once, never kept")]
pub enum Event {
    Terminal(Terminal),
    Feed(NodeId, FeedEvent),
    /// A second went by.
    Tick,
}

/// What the outside must do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Quit,
    Ask(NodeId, Request),
    /// Hands the terminal over.
    Exec(NodeId, Exec),
    /// Put on the clipboard.
    Copy(String),
    /// Keep the columns of the pod table for the next start.
    Remember(Vec<Column>),
}

/// A panel over the view, and the node it is about.
#[derive(Debug)]
struct Over {
    node: NodeId,
    panel: Box<dyn Panel>,
}

#[derive(Debug)]
pub struct App {
    nodes: Vec<Node>,
    /// The node that is looked at where no pod is selected.
    at_node: NodeId,
    allow_actions: bool,
    shared: Shared,
    theme: Theme,
    tz: TimeZone,
    now_ns: i64,
    view: View,
    pods: Pods,
    tree: Tree,
    checks: Checks,
    flow: Flow,
    caps: Caps,
    spaces: Spaces,
    events: Events,
    node: NodeView,
    /// Panels opened over the view, the topmost last.
    over: Vec<Over>,
    modal: Option<Modal>,
    /// The log that is followed.
    following: Option<(NodeId, String)>,
    prompt: Option<Prompt>,
    notice: Option<String>,
    dirty: bool,
    /// Whether what is on the screen is read again and again.
    polls: bool,
    /// What `shared.rows` was made from.
    rows_of: Option<nodes::RowsOf>,
    /// Where the tabs were drawn, for the mouse.
    tabs: Vec<(Rect, View)>,
    /// Where the way back was drawn, and the hints of the footer with their keys.
    breadcrumb: Rect,
    buttons: Vec<(Rect, char)>,
}

impl App {
    /// About one node.
    pub fn new(settings: Settings, link: Link, now_ns: i64) -> Self {
        Self::over(settings, vec![Node::new("", false, "", link)], now_ns)
    }

    /// About these nodes, at least one.
    pub fn over(settings: Settings, nodes: Vec<Node>, now_ns: i64) -> Self {
        let Settings { theme, tz, filter, sort, allow_actions, config } = settings;
        let Config { columns, keys, problem, .. } = config;
        Self {
            nodes,
            at_node: NodeId::default(),
            allow_actions,
            shared: Shared { pod_filter: filter, sort, columns, keys, ..Shared::default() },
            theme,
            tz,
            now_ns,
            view: View::Pods,
            pods: Pods::default(),
            tree: Tree::default(),
            checks: Checks::default(),
            flow: Flow::default(),
            caps: Caps::default(),
            spaces: Spaces::default(),
            events: Events::default(),
            node: NodeView::default(),
            over: Vec::new(),
            modal: None,
            following: None,
            prompt: None,
            notice: problem.map(|problem| format!("{WRONG} {problem}: the manual's settings are used")),
            dirty: true,
            polls: false,
            rows_of: None,
            tabs: Vec::new(),
            breadcrumb: Rect::ZERO,
            buttons: Vec::new(),
        }
    }

    /// Whether the screen is older than the state.
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node that is looked at: the topmost panel's, else the selected pod's.
    pub fn focus(&self) -> NodeId {
        let over = self.over.last().map(|over| over.node);
        over.or_else(|| self.shared.selected.as_ref().map(|key| key.node)).unwrap_or(self.at_node)
    }

    /// What is known of the node that is looked at.
    pub fn model(&self) -> &Model {
        &self.nodes[self.focus().0].model
    }

    pub fn link(&self) -> &Link {
        &self.nodes[self.focus().0].link
    }

    /// Whether any node ever said what is there.
    pub fn is_filled(&self) -> bool {
        self.nodes.iter().any(|node| node.model.filled)
    }

    /// Whether something on the screen grows older by itself.
    pub fn shows_ages(&self) -> bool {
        // A recording that ended stands still.
        if self.nodes.iter().all(|node| node.link == Link::Ended) {
            return false;
        }
        let waiting = self.nodes.iter().any(|node| matches!(node.link, Link::Waiting { .. }));
        let pods = !self.shared.rows.is_empty() && self.view == View::Pods && self.over.is_empty();
        waiting || self.polls || pods
    }

    /// Takes in one event at the time `now_ns`.
    pub fn handle(&mut self, event: Event, now_ns: i64) -> Vec<Command> {
        self.now_ns = now_ns;
        let mut commands = match event {
            // The rows are made anew when they are looked at: a flood of changes costs one look.
            Event::Feed(node, event) => {
                self.feed(node, event);
                let mut commands = self.follow_log();
                commands.extend(self.missing_timeline());
                commands.extend(self.wanted());
                return commands;
            }
            Event::Tick => {
                self.dirty |= self.shows_ages();
                Vec::new()
            }
            Event::Terminal(Terminal::Key(key)) if key.kind != KeyEventKind::Release => {
                self.refresh();
                self.key(key)
            }
            Event::Terminal(Terminal::Mouse(mouse)) => {
                self.refresh();
                self.mouse(mouse)
            }
            Event::Terminal(Terminal::Resize(..)) => {
                self.dirty = true;
                Vec::new()
            }
            Event::Terminal(_) => return Vec::new(),
        };
        self.refresh();
        commands.extend(self.missing_timeline());
        commands.extend(self.follow_log());
        commands.extend(self.wanted());
        commands
    }

    /// Asks for the timeline that is looked at and did not come with its pod.
    fn missing_timeline(&mut self) -> Option<Command> {
        if self.view != View::Flow {
            return None;
        }
        let key = self.shared.selected.as_ref()?;
        let node = &mut self.nodes[key.node.0];
        let pod = node.model.pod(Some(&key.id))?;
        if pod.timeline.is_some() || node.answers.timelines.contains_key(&pod.id) {
            return None;
        }
        let pod_id = pod.id.clone();
        node.answers.timelines.insert(pod_id.clone(), Err("asking the daemon".to_owned()));
        Some(Command::Ask(key.node, Request::Timeline { pod_id }))
    }

    /// Asks for what the topmost panel wants read and is due.
    fn wanted(&mut self) -> Vec<Command> {
        let (id, now_ns) = (self.focus(), self.now_ns);
        let filled = self.nodes[id.0].model.filled;
        let wants = if filled { self.with_panel(|panel, cx| panel.wants(cx)) } else { Vec::new() };
        self.polls = !wants.is_empty();
        let readings = &mut self.nodes[id.0].answers.readings;
        let due = wants.into_iter().filter(|want| readings.due(want, now_ns));
        due.map(|want| Command::Ask(id, Request::Read(want.query))).collect()
    }

    /// The topmost panel together with what it may look at.
    fn with_panel<T>(&mut self, then: impl FnOnce(&mut dyn Panel, &Context<'_>) -> T) -> T {
        let node = self.focus();
        let of = &self.nodes[node.0];
        let cx = Context {
            nodes: &self.nodes,
            node,
            model: &of.model,
            answers: &of.answers,
            shared: &self.shared,
            theme: self.theme,
            tz: &self.tz,
            now_ns: self.now_ns,
        };
        let view: &mut dyn Panel = match self.view {
            View::Pods => &mut self.pods,
            View::Tree => &mut self.tree,
            View::Checks => &mut self.checks,
            View::Flow => &mut self.flow,
            View::Caps => &mut self.caps,
            View::Spaces => &mut self.spaces,
            View::Events => &mut self.events,
            View::Node => &mut self.node,
        };
        match self.over.last_mut() {
            Some(over) => then(over.panel.as_mut(), &cx),
            None => then(view, &cx),
        }
    }
}

impl App {
    /// The pods of a node that pass the filter, sorted, with everything else: what `--once --json` prints.
    pub fn shown(&mut self, id: NodeId) -> sandboxd_api::console::Snapshot {
        self.refresh();
        let model = &self.nodes[id.0].model;
        let rows = self.shared.rows.iter().filter(|key| key.node == id);
        model.snapshot(rows.filter_map(|key| model.pods.get(&key.id)).cloned().collect())
    }
}
