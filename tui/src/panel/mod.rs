//! Panels. Each is `draw` plus `handle_key -> effects`; none knows the terminal, the feed or another panel.

pub mod caps;
pub mod checks;
pub mod columns;
pub mod containers;
pub mod events;
pub mod flow;
pub mod footer;
pub mod help;
pub mod list;
pub mod log;
pub mod modal;
pub mod node;
pub mod nodes;
pub mod pager;
pub mod picker;
pub mod pod;
pub mod pods;
pub mod processes;
pub mod readings;
pub mod spaces;
pub mod status;
pub mod stream;
pub mod table;
pub mod tree;
pub mod why;

use crossterm::event::KeyEvent;
use jiff::tz::TimeZone;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use sandboxd_api::console::Pod;

use crate::actions::Subject;
use crate::feed::Request;
use crate::fleet::{self, Answers, NodeId, PodKey};
use crate::keys::Keymap;
use crate::model::Model;
use crate::model::filter::Filter;
use crate::model::sort::{Column, Sort};
use crate::theme::Theme;

use columns::Chosen;
use readings::Want;

/// What the panels share: the selection and the filters.
#[derive(Debug, Default)]
pub struct Shared {
    /// The pods of all nodes that pass the filter, sorted.
    pub rows: Vec<PodKey>,
    /// Grows whenever other rows are there, or in another order.
    pub rows_version: u64,
    /// Columns of the longest name among them.
    pub longest_name: usize,
    pub selected: Option<PodKey>,
    pub pod_filter: Filter,
    pub check_filter: Filter,
    pub event_filter: Filter,
    pub space_filter: Filter,
    pub sort: Sort,
    /// The columns of the pod table, in their order.
    pub columns: Chosen,
    pub keys: Keymap,
}

/// What a panel sees while it draws or takes a key.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// All nodes, and the one that `model` and `answers` are of: the selected pod's, or the one that the topmost
    /// panel was opened for.
    pub nodes: &'a [fleet::Node],
    pub node: NodeId,
    pub model: &'a Model,
    pub answers: &'a Answers,
    pub shared: &'a Shared,
    pub theme: Theme,
    pub tz: &'a TimeZone,
    /// The clock, injected: nanoseconds since the Unix epoch.
    pub now_ns: i64,
}

impl<'a> Context<'a> {
    /// The same about another node.
    pub fn on(&self, node: NodeId) -> Context<'a> {
        let of = &self.nodes[node.0];
        Context { node, model: &of.model, answers: &of.answers, ..*self }
    }

    /// Whether it matters whose pod it is.
    pub fn several(&self) -> bool {
        self.nodes.len() > 1
    }

    pub fn pod(&self, key: &PodKey) -> Option<&'a Pod> {
        self.nodes.get(key.node.0)?.model.pod(Some(&key.id))
    }

    /// The rows of this node.
    pub fn own_rows(&self) -> impl Iterator<Item = &'a PodKey> + use<'a> {
        let node = self.node;
        self.shared.rows.iter().filter(move |key| key.node == node)
    }
}

/// What a panel wants done.
#[derive(Debug)]
pub enum Effect {
    Select(PodKey),
    /// Shows the pods of one node.
    Node(NodeId),
    Sort(Sort),
    /// Opens a panel over this one.
    Open(Box<dyn Panel>),
    /// Shows the checks that match a filter.
    Checks(String),
    /// As if Enter was pressed: a click on the selected row.
    Enter,
    /// Which columns the pod table has, in which order; kept for the next start.
    Columns(Vec<Column>),
    Ask(Request),
    /// Reads again what the panel wants, now.
    ReadAgain,
    Notice(String),
}

/// What `y` puts on the clipboard, and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    pub what: &'static str,
    pub text: String,
}

impl Copied {
    pub fn new(what: &'static str, text: &str) -> Self {
        Self { what, text: text.to_owned() }
    }
}

/// A second click on a row opens it.
pub fn opened(click: list::Click) -> Vec<Effect> {
    if click == list::Click::Selected { vec![Effect::Enter] } else { Vec::new() }
}

/// A key and what it does, for the footer and the help.
pub type Hint = (&'static str, &'static str);

pub trait Panel: std::fmt::Debug {
    /// The words of the breadcrumb.
    fn title(&self, cx: &Context<'_>) -> String;

    fn draw(&mut self, buf: &mut Buffer, area: Rect, cx: &Context<'_>);

    /// `None`: not this panel's key.
    fn handle_key(&mut self, key: KeyEvent, cx: &Context<'_>) -> Option<Vec<Effect>>;

    /// A click on a cell of the screen.
    fn click(&mut self, _column: u16, _row: u16, _cx: &Context<'_>) -> Vec<Effect> {
        Vec::new()
    }

    /// Whether it takes every key: something is being typed.
    fn captures(&self) -> bool {
        false
    }

    /// What keys for logs, exec, stop and remove are about; without one they do nothing here.
    fn subject(&self, _cx: &Context<'_>) -> Option<Subject> {
        None
    }

    /// The container whose log it shows.
    fn follows(&self) -> Option<&str> {
        None
    }

    /// What must be read for it while it is on the screen.
    fn wants(&self, _cx: &Context<'_>) -> Vec<Want> {
        Vec::new()
    }

    /// What is selected, as text for the clipboard.
    fn copy(&self, _cx: &Context<'_>) -> Option<Copied> {
        None
    }

    /// Its keys, the most useful first.
    fn hints(&self) -> &'static [Hint];
}

/// The explanation of a pod's failure, of its newest denied check, or why there is none.
pub fn why_of_pod(id: &str, cx: &Context<'_>) -> Vec<Effect> {
    let Some(pod) = cx.model.pod(Some(id)) else {
        return Vec::new();
    };
    if pod.explanation.is_some() || !pod.error.is_empty() {
        return vec![Effect::Open(Box::new(why::Why::pod(id)))];
    }
    match cx.model.last_denied(id) {
        Some(check) => why_of_check(check.seq, cx),
        None => {
            vec![Effect::Notice(format!("nothing was denied to {}", crate::model::facts::full_name(pod)))]
        }
    }
}

/// Opens the explanation of a check and asks for it where it is not here yet.
pub fn why_of_check(seq: u64, cx: &Context<'_>) -> Vec<Effect> {
    let mut effects = vec![Effect::Open(Box::new(why::Why::check(seq)))];
    let has_reason = cx.model.check(seq).is_some_and(crate::model::facts::has_reason);
    if has_reason && !matches!(cx.answers.explained.get(&seq), Some(Ok(_))) {
        effects.push(Effect::Ask(Request::Explain { seq }));
    }
    effects
}
