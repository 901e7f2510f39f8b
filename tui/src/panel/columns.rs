//! The columns of the pod table: which fit, how wide they are, and what their cells say.

use ratatui::style::Style;
use sandboxd_api::console::{Pod, pod};

use super::Context;
use crate::model::facts;
use crate::model::sort::Column;
use crate::text;
use crate::theme::WRONG;

/// Blanks between columns.
pub const GAP: usize = 2;
/// Columns at the left for the pointer at the selected row.
pub const MARGIN: usize = 2;

/// Heading, least width, and whether numbers stand at the right.
fn shape(column: Column) -> (&'static str, usize, bool) {
    match column {
        Column::Name => ("NAME", 12, false),
        Column::Node => ("NODE", 12, false),
        Column::Namespace => ("NAMESPACE", 11, false),
        Column::State => ("STATE", 10, false),
        Column::Userns => ("USERNS", 10, true),
        Column::Netns => ("NETNS", 10, true),
        Column::Owner => ("OWNER", 8, false),
        Column::Range => ("UID RANGE", 16, true),
        Column::Address => ("ADDRESS", 15, false),
        Column::Sysfs => ("SYSFS", 9, false),
        Column::Denied => ("DENIED", 7, true),
        Column::Age => ("AGE", 4, true),
        Column::Handler => ("HANDLER", 14, false),
        Column::Flow => ("FLOW", 13, false),
        Column::Ready => ("MADE IN ms", 11, true),
    }
}

/// What stays longest as the terminal narrows, first.
const BY_WEIGHT: [Column; 15] = [
    Column::Name,
    Column::Node,
    Column::State,
    Column::Owner,
    Column::Denied,
    Column::Netns,
    Column::Userns,
    Column::Sysfs,
    Column::Namespace,
    Column::Age,
    Column::Address,
    Column::Range,
    Column::Ready,
    Column::Handler,
    Column::Flow,
];

/// The heading, as the picker and "not shown" name a column.
pub fn name(column: Column) -> &'static str {
    shape(column).0
}

/// What a column says, in words.
pub fn means(column: Column) -> &'static str {
    match column {
        Column::Name => "the pod's name",
        Column::Node => "of several nodes: which one it is on",
        Column::Namespace => "its namespace in the cluster",
        Column::State => "where it is in its life",
        Column::Userns => "inode of its user namespace",
        Column::Netns => "inode of its network namespace",
        Column::Owner => "whose user namespace owns the network namespace",
        Column::Range => "the host's ids that its ids become",
        Column::Address => "its addresses",
        Column::Sysfs => "which sysfs it got, or that it was denied",
        Column::Denied => "checks denied to it",
        Column::Age => "since when it is there",
        Column::Handler => "the runtime handler",
        Column::Flow => "whether the user or the network namespace came first",
        Column::Ready => "how long it took to make",
    }
}

/// The columns an operator chose, in their order; without a choice all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chosen(Option<Vec<Column>>);

impl Chosen {
    /// Nothing chosen is no choice.
    pub fn only(columns: Vec<Column>) -> Self {
        Self(Some(columns).filter(|columns| !columns.is_empty()))
    }

    pub fn listed(&self) -> Option<&[Column]> {
        self.0.as_deref()
    }

    fn order(&self, several: bool) -> Vec<Column> {
        with_node(self.0.as_deref().unwrap_or(&Column::ALL), several)
    }

    /// What stays longest as the terminal narrows, first: an operator's own order says that too.
    fn by_weight(&self, several: bool) -> Vec<Column> {
        with_node(self.0.as_deref().unwrap_or(&BY_WEIGHT), several)
    }
}

/// The node is no matter of choice: of several it must be seen, and of one it says nothing.
fn with_node(columns: &[Column], several: bool) -> Vec<Column> {
    let mut columns = columns.to_vec();
    columns.retain(|column| several || *column != Column::Node);
    if several && !columns.contains(&Column::Node) {
        let name = columns.iter().position(|column| *column == Column::Name);
        columns.insert(name.map_or(0, |name| name + 1), Column::Node);
    }
    columns
}

/// How many of them come before the names get more room.
const ESSENTIAL: usize = 7;
/// The room that names get then.
const ROOMY_NAME: usize = 18;
/// The widest a name column grows.
const WIDEST_NAME: usize = 40;

/// A column as it is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    pub column: Column,
    pub x: usize,
    pub width: usize,
}

/// The columns that fit into `width`, in the table's order; `longest_name` of the names to be shown; the node's
/// only with `several`.
pub fn layout(width: usize, longest_name: usize, chosen: &Chosen, several: bool) -> Vec<Placed> {
    let mut room = width.saturating_sub(MARGIN);
    let mut fitting = Vec::new();
    let mut least_name = shape(Column::Name).1;
    let weights = chosen.by_weight(several);
    for column in weights.iter().copied() {
        if fitting.len() == ESSENTIAL && weights.contains(&Column::Name) {
            // Names that can be read come before more columns.
            let wider = ROOMY_NAME - least_name;
            if wider > room {
                break;
            }
            room -= wider;
            least_name = ROOMY_NAME;
        }
        let needs = shape(column).1 + if fitting.is_empty() { 0 } else { GAP };
        // The first that does not fit ends it: the table must not reshuffle by a column's luck.
        if needs > room {
            break;
        }
        room -= needs;
        fitting.push(column);
    }
    let name = (least_name + room).min(longest_name.clamp(least_name, WIDEST_NAME));
    let mut x = MARGIN;
    let order = chosen.order(several).into_iter();
    order
        .filter(|column| fitting.contains(column))
        .map(|column| {
            let width = if column == Column::Name { name } else { shape(column).1 };
            let placed = Placed { column, x, width };
            x += width + GAP;
            placed
        })
        .collect()
}

/// Headings of the chosen columns that are not among `placed`.
pub fn hidden(placed: &[Placed], chosen: &Chosen, several: bool) -> Vec<&'static str> {
    let order = chosen.order(several).into_iter();
    order
        .filter(|column| placed.iter().all(|placed| placed.column != *column))
        .map(|column| shape(column).0)
        .collect()
}

/// The heading, with the sort's direction where this is its column.
pub fn heading(placed: &Placed, cx: &Context<'_>) -> String {
    let (name, _, right) = shape(placed.column);
    let glyphs = cx.theme.glyphs();
    let sort = cx.shared.sort;
    let name = match sort.column == placed.column {
        false => name.to_owned(),
        true if sort.reversed == placed.column.descends() => format!("{name}{}", glyphs.up),
        true => format!("{name}{}", glyphs.down),
    };
    aligned(&name, placed.width, right, "")
}

fn aligned(value: &str, width: usize, right: bool, ellipsis: &str) -> String {
    if right { text::right(value, width, ellipsis) } else { text::left(value, width, ellipsis) }
}

/// The cell's text, as wide as its column, and its style.
pub fn cell(placed: &Placed, pod: &Pod, cx: &Context<'_>) -> (String, Style) {
    let (theme, glyphs) = (cx.theme, cx.theme.glyphs());
    let (value, style) = match placed.column {
        Column::Name => (text::fit_middle(&pod.name, placed.width, glyphs.ellipsis), theme.strong()),
        Column::Node => {
            let node = &cx.nodes[cx.node.0];
            // The sign says it where dimming is not seen.
            match node.is_stale() {
                true => (format!("{WRONG} {}", node.name()), theme.bad()),
                false => (node.name().to_owned(), theme.plain()),
            }
        }
        Column::Namespace => (pod.namespace.clone(), theme.plain()),
        Column::State => state(pod, cx),
        Column::Userns => match facts::namespace(pod, "user") {
            Some(user) if user.host => ("host".to_owned(), theme.dim()),
            _ => (facts::inode_text(facts::inode(pod, "user"), glyphs.none), theme.plain()),
        },
        Column::Netns => {
            let style = if facts::wrong_owner(pod) { theme.bad() } else { theme.plain() };
            (facts::inode_text(facts::inode(pod, "net"), glyphs.none), style)
        }
        Column::Owner => signed(facts::owner(pod), cx),
        Column::Range => (facts::range(pod), theme.plain()),
        Column::Address => (facts::address(pod), theme.plain()),
        Column::Sysfs => signed(facts::sysfs(pod).to_owned(), cx),
        Column::Denied => match facts::denied(pod) {
            0 => ("0".to_owned(), theme.dim()),
            some => (text::grouped(some), theme.bad()),
        },
        Column::Age => (age(pod, cx.now_ns, glyphs.none), theme.dim()),
        Column::Handler => (pod.handler.clone(), theme.plain()),
        Column::Flow => {
            let style = if pod.flow == "network-first" { theme.warn() } else { theme.plain() };
            (pod.flow.clone(), style)
        }
        Column::Ready => match &pod.timeline {
            Some(timeline) if timeline.total_ns > 0 => (text::millis(timeline.total_ns), theme.plain()),
            _ => (glyphs.none.to_owned(), theme.dim()),
        },
    };
    (aligned(&value, placed.width, shape(placed.column).2, glyphs.ellipsis), style)
}

pub fn age(pod: &Pod, now_ns: i64, unknown: &str) -> String {
    match pod.created_at_ns {
        0 => unknown.to_owned(),
        created => text::age(now_ns.saturating_sub(created)),
    }
}

/// State with its sign.
pub fn state(pod: &Pod, cx: &Context<'_>) -> (String, Style) {
    let (theme, glyphs) = (cx.theme, cx.theme.glyphs());
    let (sign, style) = match pod.state() {
        pod::State::Ready => (glyphs.ready, theme.good()),
        pod::State::Creating | pod::State::Stopping => (glyphs.creating, theme.warn()),
        pod::State::NotReady | pod::State::Unspecified => (glyphs.idle, theme.warn()),
        pod::State::Failed => (glyphs.failed, theme.bad()),
    };
    (format!("{sign} {}", facts::state(pod)), style)
}

/// Bold and red where the words carry the sign of something wrong.
fn signed(value: String, cx: &Context<'_>) -> (String, Style) {
    let style = if value.starts_with(WRONG) { cx.theme.bad() } else { cx.theme.plain() };
    (value, style)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_and_grow_with_the_terminal() {
        let mut before = 0;
        for width in 40..=220 {
            let placed = layout(width, 25, &Chosen::default(), true);
            let end = placed.last().map_or(0, |last| last.x + last.width);
            assert!(end <= width, "{width}: {placed:?}");
            assert!(placed.len() >= before, "{width} shows fewer columns than {}", width - 1);
            before = placed.len();
        }
        assert_eq!(before, Column::ALL.len());
        assert!(hidden(&layout(220, 25, &Chosen::default(), true), &Chosen::default(), true).is_empty());
        let one = layout(220, 25, &Chosen::default(), false);
        assert!(one.iter().all(|placed| placed.column != Column::Node));
        assert!(hidden(&one, &Chosen::default(), false).is_empty());
    }

    #[test]
    fn a_choice_is_an_order_and_hides_the_rest() {
        let chosen = Chosen::only(vec![Column::Denied, Column::Age, Column::Namespace]);
        let shown: Vec<_> = layout(80, 25, &chosen, false).iter().map(|placed| placed.column).collect();
        assert_eq!(shown, [Column::Denied, Column::Age, Column::Namespace]);
        assert_eq!(layout(80, 25, &chosen, false)[0].width, 7);
        let narrow: Vec<_> = layout(24, 25, &chosen, false).iter().map(|placed| placed.column).collect();
        assert_eq!(narrow, [Column::Denied, Column::Age]);
        assert_eq!(hidden(&layout(24, 25, &chosen, false), &chosen, false), ["NAMESPACE"]);
        assert_eq!(Chosen::only(Vec::new()), Chosen::default());
        let several: Vec<_> = layout(80, 25, &chosen, true).iter().map(|placed| placed.column).collect();
        assert_eq!(several, [Column::Node, Column::Denied, Column::Age, Column::Namespace]);
    }

    #[test]
    fn eighty_columns_show_both_inodes_and_their_owner() {
        let placed = layout(80, 25, &Chosen::default(), false);
        let shown: Vec<_> = placed.iter().map(|placed| placed.column).collect();
        for column in [Column::Userns, Column::Netns, Column::Owner, Column::Sysfs, Column::Denied] {
            assert!(shown.contains(&column), "{column:?} is not among {shown:?}");
        }
    }
}
