//! The order of the pod table: any column, up or down, ties broken by name and id so that rows stay put.

use std::cmp::Ordering;
use std::net::IpAddr;

use sandboxd_api::console::Pod;

use super::facts;

/// A column of the pod table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    Name,
    /// Of several nodes: which one.
    Node,
    Namespace,
    State,
    Userns,
    Netns,
    Owner,
    Range,
    Address,
    Sysfs,
    Denied,
    Age,
    Handler,
    Flow,
    Ready,
}

impl Column {
    /// In the order of the table.
    pub const ALL: [Self; 15] = [
        Self::Name,
        Self::Node,
        Self::Namespace,
        Self::State,
        Self::Userns,
        Self::Netns,
        Self::Owner,
        Self::Range,
        Self::Address,
        Self::Sysfs,
        Self::Denied,
        Self::Ready,
        Self::Handler,
        Self::Flow,
        Self::Age,
    ];

    /// The name that `--sort` takes.
    pub fn key(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Node => "node",
            Self::Namespace => "ns",
            Self::State => "state",
            Self::Userns => "userns",
            Self::Netns => "netns",
            Self::Owner => "owner",
            Self::Range => "range",
            Self::Address => "address",
            Self::Sysfs => "sysfs",
            Self::Denied => "denied",
            Self::Age => "age",
            Self::Handler => "handler",
            Self::Flow => "flow",
            Self::Ready => "ready",
        }
    }

    /// Whether its natural order is from the most down.
    pub fn descends(self) -> bool {
        matches!(self, Self::Denied | Self::Ready)
    }

    fn compare(self, a: &Pod, b: &Pod) -> Ordering {
        match self {
            // Nodes are compared by who knows their names.
            Self::Node => Ordering::Equal,
            Self::Name => a.name.cmp(&b.name),
            Self::Namespace => a.namespace.cmp(&b.namespace),
            Self::State => state_rank(a).cmp(&state_rank(b)),
            Self::Userns => facts::inode(a, "user").cmp(&facts::inode(b, "user")),
            Self::Netns => facts::inode(a, "net").cmp(&facts::inode(b, "net")),
            // "!! init" sorts before the letters: what is wrong comes first.
            Self::Owner => facts::owner(a).cmp(&facts::owner(b)),
            Self::Range => first_host_id(a).cmp(&first_host_id(b)),
            Self::Address => first_ip(a).cmp(&first_ip(b)),
            Self::Sysfs => facts::sysfs(a).cmp(facts::sysfs(b)),
            // Most denials first: that is what one sorts by them for.
            Self::Denied => facts::denied(b).cmp(&facts::denied(a)),
            // Youngest first.
            Self::Age => b.created_at_ns.cmp(&a.created_at_ns),
            Self::Handler => a.handler.cmp(&b.handler),
            Self::Flow => a.flow.cmp(&b.flow),
            // Slowest first.
            Self::Ready => total(b).cmp(&total(a)),
        }
    }
}

fn state_rank(pod: &Pod) -> u8 {
    match facts::state(pod) {
        "failed" => 0,
        "notready" => 1,
        "creating" => 2,
        "stopping" => 3,
        "ready" => 4,
        _ => 5,
    }
}

fn first_host_id(pod: &Pod) -> Option<u32> {
    pod.uid_map.first().map(|range| range.host_id)
}

fn first_ip(pod: &Pod) -> Option<IpAddr> {
    pod.ips.first().and_then(|ip| ip.parse().ok())
}

fn total(pod: &Pod) -> u64 {
    pod.timeline.as_ref().map_or(0, |timeline| timeline.total_ns)
}

/// A column and whether its order is turned round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sort {
    pub column: Column,
    pub reversed: bool,
}

impl Default for Sort {
    fn default() -> Self {
        Self { column: Column::Name, reversed: false }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("no column {0:?} to sort by: use one of {1}, with - in front to turn the order round")]
pub struct SortError(String, String);

impl std::str::FromStr for Sort {
    type Err = SortError;

    fn from_str(text: &str) -> Result<Self, SortError> {
        let (reversed, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
        Column::ALL
            .into_iter()
            .find(|column| column.key() == name.to_lowercase())
            .map(|column| Self { column, reversed })
            .ok_or_else(|| SortError(text.to_owned(), Column::ALL.map(Column::key).join(", ")))
    }
}

impl Sort {
    /// The order of two pods, each with the name of its node.
    pub fn compare(self, (a_node, a): (&str, &Pod), (b_node, b): (&str, &Pod)) -> Ordering {
        let order = match self.column {
            Column::Node => a_node.cmp(b_node),
            column => column.compare(a, b),
        };
        let order = if self.reversed { order.reverse() } else { order };
        order.then_with(|| a.name.cmp(&b.name)).then_with(|| a.id.cmp(&b.id))
    }

    /// The next column to the right, round the end; the node's only with several.
    pub fn next(self, step: isize, several: bool) -> Self {
        let shown = || Column::ALL.into_iter().filter(|column| several || *column != Column::Node);
        let at = shown().position(|column| column == self.column).unwrap_or(0);
        let next = at.cast_signed().saturating_add(step).rem_euclid(shown().count().cast_signed());
        Self { column: shown().nth(next.cast_unsigned()).unwrap_or(Column::Name), reversed: false }
    }
}
