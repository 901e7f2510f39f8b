//! The `/` filter: words that all must match.
//!
//! ```text
//! filter := term*                 separated by blanks
//! term   := ["!"] (field ":" value | "/" regex "/" | text)
//! ```
//!
//! Text and values match as substrings, regardless of case; `state`, `owner`, `verdict` and `ns` match whole.

use regex::{Regex, RegexBuilder};
use sandboxd_api::console::{Check, Event, HostNamespace, Pod};

use super::{Model, facts};
use crate::theme::WRONG;

/// Fields of a pod that `field:value` can name.
pub const POD_FIELDS: &[&str] = &[
    "name", "ns", "state", "owner", "verdict", "sysfs", "ip", "handler", "flow", "id", "userns", "netns",
    "range", "pid", "label", "node",
];
/// Fields of a check; those of its pod work too.
pub const CHECK_FIELDS: &[&str] =
    &["verdict", "cap", "call", "comm", "pid", "reason", "pod", "container", "target"];

/// Fields of an event.
pub const EVENT_FIELDS: &[&str] = &["kind", "pod", "ns", "container", "severity", "message"];
/// Fields of a namespace of the node.
pub const SPACE_FIELDS: &[&str] = &["kind", "state", "owner", "inode", "pod", "pid", "comm", "holds"];

#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    #[error("no field {0:?} to filter by: use one of {1}")]
    UnknownField(String, String),
    #[error("the pattern {0:?} is not a regular expression")]
    Pattern(String, #[source] Box<regex::Error>),
    #[error("the pattern /{0} has no closing /")]
    OpenPattern(String),
}

/// What a filter is for: its terms may name other fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Pods,
    Checks,
    Events,
    Spaces,
}

impl Kind {
    /// The fields that a filter for it may name, those of its own first.
    fn fields(self) -> impl Iterator<Item = &'static str> {
        let (own, more): (&[_], &[_]) = match self {
            Self::Pods => (POD_FIELDS, &[]),
            Self::Checks => (CHECK_FIELDS, POD_FIELDS),
            Self::Events => (EVENT_FIELDS, &[]),
            Self::Spaces => (SPACE_FIELDS, &[]),
        };
        own.iter().chain(more).copied()
    }
}

#[derive(Debug, Clone, Default)]
pub struct Filter {
    text: String,
    terms: Vec<Term>,
}

#[derive(Debug, Clone)]
struct Term {
    negated: bool,
    test: Test,
}

#[derive(Debug, Clone)]
enum Test {
    Text(String),
    Pattern(Regex),
    Field(String, String),
}

impl Filter {
    pub fn parse(text: &str, kind: Kind) -> Result<Self, FilterError> {
        let mut terms = Vec::new();
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (negated, body) = rest.strip_prefix('!').map_or((false, rest), |body| (true, body));
            let (test, after) = next_test(body, kind)?;
            if let Some(test) = test {
                terms.push(Term { negated, test });
            }
            rest = after.trim_start();
        }
        Ok(Self { text: text.trim().to_owned(), terms })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    pub fn pod(&self, pod: &Pod, model: &Model) -> bool {
        self.passes(|| pod_text(pod), |field, value| pod_field(pod, field, value, model))
    }

    pub fn check(&self, check: &Check, model: &Model) -> bool {
        let of_pod = |field: &str, value: &str| {
            model.pod(Some(&check.pod_id)).is_some_and(|pod| pod_field(pod, field, value, model))
        };
        let field = |field: &str, value: &str| {
            check_field(check, field, value, model).unwrap_or_else(|| of_pod(field, value))
        };
        self.passes(|| check_text(check), field)
    }

    pub fn event(&self, event: &Event) -> bool {
        self.passes(|| event_text(event), |field, value| event_field(event, field, value))
    }

    /// `init` is the host's user namespace.
    pub fn space(&self, space: &HostNamespace, init: u64) -> bool {
        self.passes(|| space_text(space), |field, value| space_field(space, init, field, value))
    }

    /// Whether all terms hold of something that reads `text` and whose fields `field` compares.
    fn passes(&self, text: impl Fn() -> String, field: impl Fn(&str, &str) -> bool) -> bool {
        self.terms.iter().all(|term| {
            let hit = match &term.test {
                Test::Text(words) => text().to_lowercase().contains(words),
                Test::Pattern(pattern) => pattern.is_match(&text()),
                Test::Field(name, value) => field(name, value),
            };
            hit != term.negated
        })
    }
}

/// Reads one test off the front; `None` for an empty one ("!" alone, "//", "field:" while it is typed).
fn next_test(body: &str, kind: Kind) -> Result<(Option<Test>, &str), FilterError> {
    if let Some(pattern) = body.strip_prefix('/') {
        let Some((pattern, after)) = pattern.split_once('/') else {
            return Err(FilterError::OpenPattern(pattern.to_owned()));
        };
        let regex = RegexBuilder::new(pattern)
            .case_insensitive(true)
            .size_limit(1 << 20)
            .build()
            .map_err(|error| FilterError::Pattern(pattern.to_owned(), Box::new(error)))?;
        return Ok(((!pattern.is_empty()).then_some(Test::Pattern(regex)), after));
    }
    let (word, after) = body.split_once(char::is_whitespace).unwrap_or((body, ""));
    let test = match word.split_once(':') {
        // An IPv6 address is text, not a field.
        Some((field, value)) if !field.is_empty() && field.chars().all(|c| c.is_ascii_alphabetic()) => {
            let field = field.to_lowercase();
            let known = kind.fields().any(|known| known == field);
            if !known && !value.is_empty() && field.chars().any(|c| !c.is_ascii_hexdigit()) {
                return Err(FilterError::UnknownField(field, kind.fields().collect::<Vec<_>>().join(", ")));
            }
            if known {
                (!value.is_empty()).then(|| Test::Field(field, value.to_lowercase()))
            } else {
                Some(Test::Text(word.to_lowercase()))
            }
        }
        _ => (!word.is_empty()).then(|| Test::Text(word.to_lowercase())),
    };
    Ok((test, after))
}

fn pod_text(pod: &Pod) -> String {
    let netns = facts::inode(pod, "net");
    let userns = facts::inode(pod, "user");
    format!(
        "{}/{} {} {} {} {} {} {} {netns} {userns} {}",
        pod.namespace,
        pod.name,
        pod.id,
        facts::state(pod),
        pod.handler,
        pod.flow,
        pod.ips.join(" "),
        facts::owner(pod),
        pod.error,
    )
}

fn pod_field(pod: &Pod, field: &str, value: &str, model: &Model) -> bool {
    let has = |text: &str| text.to_lowercase().contains(value);
    match field {
        "name" => has(&pod.name),
        "ns" => pod.namespace.to_lowercase() == value,
        "state" => facts::state(pod) == value.replace(['-', '_'], ""),
        "owner" => facts::owner(pod).trim_start_matches(WRONG).trim() == value,
        "verdict" => match value {
            "denied" | "refused" => facts::denied(pod) > 0,
            _ => facts::denied(pod) == 0,
        },
        "sysfs" => has(facts::sysfs(pod)),
        "ip" => pod.ips.iter().any(|ip| has(ip)),
        "handler" => has(&pod.handler),
        "flow" => has(&pod.flow),
        "id" => pod.id.starts_with(value),
        "userns" => facts::inode(pod, "user").to_string().contains(value),
        "netns" => facts::inode(pod, "net").to_string().contains(value),
        "range" => has(&facts::range(pod)),
        "node" => on_node(model, value),
        "pid" => pod.processes.iter().any(|process| process.pid.to_string() == value),
        "label" => pod.labels.iter().any(|(key, set)| has(&format!("{key}={set}"))),
        _ => false,
    }
}

/// By what the operator calls the node or by what it calls itself.
fn on_node(model: &Model, value: &str) -> bool {
    [&model.label, &model.node.name].into_iter().any(|name| name.to_lowercase().contains(value))
}

fn check_text(check: &Check) -> String {
    format!(
        "{} {} {} {} {} {} {} {} {}",
        check.pod_name,
        check.container,
        check.comm,
        facts::call(check),
        check.capability_name,
        facts::verdict(check),
        check.pid,
        check.reason,
        check.summary,
    )
}

/// `None`: not a field of a check, so the pod is asked.
fn check_field(check: &Check, field: &str, value: &str, model: &Model) -> Option<bool> {
    let has = |text: &str| text.to_lowercase().contains(value);
    Some(match field {
        "verdict" => facts::verdict(check) == value,
        "cap" => has(&check.capability_name) || check.capability.to_string() == value,
        "call" => has(&facts::call(check)),
        "comm" => has(&check.comm),
        "pid" => check.pid.to_string() == value || check.tid.to_string() == value,
        "reason" => has(&check.reason),
        "pod" => has(&check.pod_name),
        "container" => has(&check.container),
        "target" => check.target_userns.to_string() == value,
        "ns" => check.pod_name.split('/').next().is_some_and(|ns| ns.to_lowercase() == value),
        "name" => has(&check.pod_name),
        "node" => on_node(model, value),
        _ => return None,
    })
}

fn event_text(event: &Event) -> String {
    format!("{} {} {} {}", event.kind, event.pod_name, event.container, event.message)
}

fn event_field(event: &Event, field: &str, value: &str) -> bool {
    let has = |text: &str| text.to_lowercase().contains(value);
    match field {
        "kind" => has(&event.kind),
        "pod" => has(&event.pod_name) || !event.pod_id.is_empty() && event.pod_id.starts_with(value),
        "ns" => event.pod_name.split('/').next().is_some_and(|ns| ns.to_lowercase() == value),
        "container" => has(&event.container),
        "severity" => facts::severity(event) == value,
        "message" => has(&event.message),
        _ => false,
    }
}

fn space_text(space: &HostNamespace) -> String {
    let mut text = format!(
        "{} {} {} {} {}",
        space.kind,
        space.inode,
        facts::space_state(space),
        space.pod_name,
        space.message
    );
    for process in &space.processes {
        text += &format!(" {} {}", process.pid, process.comm);
    }
    for hold in &space.holds {
        text += &format!(" {} {}", hold.what, hold.comm);
    }
    text
}

fn space_field(space: &HostNamespace, init: u64, field: &str, value: &str) -> bool {
    let has = |text: &str| text.to_lowercase().contains(value);
    match field {
        "kind" => space.kind == value,
        "state" => match value {
            "wrong" => space.wrong_owner,
            _ => facts::space_state(space).to_lowercase().replace(' ', "") == value.replace(['-', '_'], ""),
        },
        "owner" => match value {
            "init" => space.owner_inode == init,
            _ => space.owner_inode.to_string().contains(value),
        },
        "inode" => space.inode.to_string().contains(value),
        "pod" => has(&space.pod_name) || !space.pod_id.is_empty() && space.pod_id.starts_with(value),
        "pid" => space.processes.iter().any(|process| process.pid.to_string() == value),
        "comm" => space.processes.iter().any(|process| has(&process.comm)),
        "holds" => space.holds.iter().any(|hold| has(&hold.what) || has(&hold.kind)),
        _ => false,
    }
}
