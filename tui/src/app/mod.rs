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
mod nodes;

use crossterm::event::{
    Event as Terminal, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
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
use crate::panel::columns::Chosen;
use crate::panel::events::Events;
use crate::panel::flow::Flow;
use crate::panel::footer::Prompt;
use crate::panel::help::Help;
use crate::panel::modal::Modal;
use crate::panel::node::NodeView;
use crate::panel::nodes::Nodes;
use crate::panel::pods::Pods;
use crate::panel::spaces::Spaces;
use crate::panel::tree::Tree;
use crate::panel::{Context, Copied, Effect, Panel, Shared};
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

    fn key(&mut self, key: KeyEvent) -> Vec<Command> {
        self.dirty = true;
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return vec![Command::Quit];
        }
        if self.modal.is_some() {
            self.notice = None;
            return self.modal_key(key);
        }
        if self.prompt.is_some() {
            self.prompt_key(key);
            return Vec::new();
        }
        if self.with_panel(|panel, _| panel.captures()) {
            self.notice = None;
            let effects = self.with_panel(|panel, cx| panel.handle_key(key, cx)).unwrap_or_default();
            return self.carry_out(effects);
        }
        let key = self.shared.keys.translate(key);
        self.manual_key(key)
    }

    /// A key as the manual names it.
    fn manual_key(&mut self, key: KeyEvent) -> Vec<Command> {
        self.notice = None;
        match key.code {
            KeyCode::Char('q') => return vec![Command::Quit],
            KeyCode::Char(digit @ '1'..='8') => {
                let index = usize::from(digit as u8 - b'1');
                self.show(View::ALL[index]);
            }
            KeyCode::Tab | KeyCode::BackTab => {
                let at = View::ALL.iter().position(|view| *view == self.view).unwrap_or(0);
                let step = if key.code == KeyCode::Tab { 1 } else { View::ALL.len() - 1 };
                self.show(View::ALL[(at + step) % View::ALL.len()]);
            }
            KeyCode::Esc | KeyCode::Backspace => self.back(),
            KeyCode::Char('/') if self.over.is_empty() => self.open_prompt(),
            _ => {
                let effects = self.with_panel(|panel, cx| panel.handle_key(key, cx));
                match (effects, key.code) {
                    (Some(effects), _) => return self.carry_out(effects),
                    (None, KeyCode::Char('?')) => {
                        let help = self.with_panel(|panel, cx| Help::new(panel.title(cx), panel.hints()));
                        self.open(Box::new(help));
                    }
                    (None, KeyCode::Char('i')) => self.show(View::Node),
                    (None, KeyCode::Char('y')) => return self.copy(),
                    (None, KeyCode::Char('N')) => self.open(Box::new(Nodes::at(self.focus()))),
                    (None, _) => return self.subject_key(key),
                }
            }
        }
        Vec::new()
    }

    /// Opens a panel about the node that is looked at.
    fn open(&mut self, panel: Box<dyn Panel>) {
        let node = self.focus();
        self.over.push(Over { node, panel });
    }

    /// Puts what is selected on the clipboard.
    fn copy(&mut self) -> Vec<Command> {
        match self.with_panel(|panel, cx| panel.copy(cx)) {
            None => {
                self.notice = Some("nothing to copy here".to_owned());
                Vec::new()
            }
            Some(Copied { what, text }) => {
                self.notice = Some(format!("copied {what}, {} characters", text.chars().count()));
                vec![Command::Copy(text)]
            }
        }
    }

    fn show(&mut self, view: View) {
        self.over.clear();
        self.view = view;
    }

    /// Closes the topmost panel; on a view, clears its filter.
    fn back(&mut self) {
        if self.over.pop().is_none() {
            *self.filter() = Filter::default();
        }
    }

    fn filter(&mut self) -> &mut Filter {
        match self.view.filters() {
            Kind::Pods => &mut self.shared.pod_filter,
            Kind::Checks => &mut self.shared.check_filter,
            Kind::Events => &mut self.shared.event_filter,
            Kind::Spaces => &mut self.shared.space_filter,
        }
    }

    fn open_prompt(&mut self) {
        let before = self.filter().text().to_owned();
        self.prompt = Some(Prompt { text: before.clone(), error: None, before });
    }

    fn prompt_key(&mut self, key: KeyEvent) {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let Some(mut prompt) = self.prompt.take() else { return };
        let mut open = true;
        match key.code {
            KeyCode::Enter if prompt.error.is_none() => return,
            KeyCode::Esc => {
                prompt.text = prompt.before.clone();
                open = false;
            }
            KeyCode::Backspace => open = prompt.text.pop().is_some(),
            KeyCode::Char('u') if control => prompt.text.clear(),
            KeyCode::Char(c) if !c.is_control() && !control => prompt.text.push(c),
            _ => {}
        }
        // The rows follow while it is typed; a filter that does not parse yet leaves them as they are.
        let parsed = Filter::parse(&prompt.text, self.view.filters());
        prompt.error = parsed.as_ref().err().map(ToString::to_string);
        if let Ok(filter) = parsed {
            *self.filter() = filter;
        }
        self.prompt = open.then_some(prompt);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Vec<Command> {
        let mut commands = Vec::new();
        for effect in effects {
            match effect {
                Effect::Select(key) => {
                    self.at_node = key.node;
                    self.shared.selected = Some(key);
                }
                Effect::Node(node) => self.show_node(node),
                Effect::Sort(sort) => self.shared.sort = sort,
                Effect::Open(panel) => self.open(panel),
                Effect::ReadAgain => {
                    let node = self.focus();
                    for want in self.with_panel(|panel, cx| panel.wants(cx)) {
                        self.nodes[node.0].answers.readings.expire(&want.query);
                    }
                }
                Effect::Ask(request) => commands.push(Command::Ask(self.focus(), request)),
                Effect::Notice(words) => self.notice = Some(words),
                Effect::Checks(filter) => {
                    self.show(View::Checks);
                    self.checks.follow();
                    self.shared.check_filter = Filter::parse(&filter, Kind::Checks).unwrap_or_default();
                }
                Effect::Enter => {
                    let enter = KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE);
                    let effects = self.with_panel(|panel, cx| panel.handle_key(enter, cx));
                    commands.extend(self.carry_out(effects.unwrap_or_default()));
                }
                Effect::Columns(columns) => {
                    self.shared.columns = Chosen::only(columns.clone());
                    commands.push(Command::Remember(columns));
                }
            }
        }
        commands
    }

    /// The pods of one node, which is looked at also where it has none.
    fn show_node(&mut self, node: NodeId) {
        self.show(View::Pods);
        let filter = format!("node:{}", self.nodes[node.0].name().replace(char::is_whitespace, ""));
        self.shared.pod_filter = Filter::parse(&filter, Kind::Pods).unwrap_or_default();
        self.at_node = node;
        self.shared.selected = None;
    }

    fn mouse(&mut self, mouse: MouseEvent) -> Vec<Command> {
        // A question is answered by keys alone.
        if self.modal.is_some() {
            return Vec::new();
        }
        let scroll = match mouse.kind {
            MouseEventKind::ScrollDown => KeyCode::Down,
            MouseEventKind::ScrollUp => KeyCode::Up,
            MouseEventKind::Down(MouseButton::Left) => {
                self.dirty = true;
                let hit = self.tabs.iter().find(|(area, _)| area.contains((mouse.column, mouse.row).into()));
                if let Some((_, view)) = hit {
                    self.show(*view);
                    return Vec::new();
                }
                let at = (mouse.column, mouse.row).into();
                if !self.over.is_empty() && self.breadcrumb.contains(at) {
                    self.over.pop();
                    return Vec::new();
                }
                if let Some((_, key)) = self.buttons.iter().find(|(area, _)| area.contains(at)) {
                    // What is on the footer is the manual's key already.
                    return self.manual_key(KeyEvent::new(KeyCode::Char(*key), KeyModifiers::NONE));
                }
                let effects = self.with_panel(|panel, cx| panel.click(mouse.column, mouse.row, cx));
                return self.carry_out(effects);
            }
            _ => return Vec::new(),
        };
        self.dirty = true;
        let key = KeyEvent::new(scroll, KeyModifiers::NONE);
        let mut commands = Vec::new();
        for _ in 0..3 {
            let effects = self.with_panel(|panel, cx| panel.handle_key(key, cx)).unwrap_or_default();
            commands.extend(self.carry_out(effects));
        }
        commands
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
