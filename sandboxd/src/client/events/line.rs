//! One line: as JSON, or for people; and which are wanted.

use sandboxd_api::console::{Check, Event, check, event};
use serde::Serialize;

use super::super::ClientError;
use super::super::text::{clean, short_time, time};

/// What a line is about.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Line {
    Check(Check),
    Event(Event),
    Pod(PodLine),
    Container(ContainerLine),
    Gap(Gap),
}

/// A pod that changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct PodLine {
    pub time_ns: i64,
    pub pod_id: String,
    pub pod_name: String,
    /// "READY", or "REMOVED".
    pub state: String,
    pub ips: Vec<String>,
    pub error: String,
    pub handler: String,
    pub userns: u64,
    pub netns: u64,
}

/// A container that changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct ContainerLine {
    pub time_ns: i64,
    pub container_id: String,
    pub container: String,
    pub pod_id: String,
    pub pod_name: String,
    /// "RUNNING", or "REMOVED".
    pub state: String,
    pub image: String,
    pub pid: i32,
    pub exit_code: i32,
    pub reason: String,
}

/// Something that happened here is missing between the lines around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Gap {
    pub time_ns: i64,
    /// Messages that were left out; 0 where nobody counted.
    pub messages: u64,
    pub reason: String,
}

/// A JSON object: `type` and `time` before the fields of the protocol.
#[derive(Serialize)]
struct Typed<'a, T> {
    r#type: &'static str,
    time: String,
    #[serde(flatten)]
    what: &'a T,
}

impl Line {
    pub fn time_ns(&self) -> i64 {
        match self {
            Self::Check(check) => check.time_ns,
            Self::Event(event) => event.time_ns,
            Self::Pod(pod) => pod.time_ns,
            Self::Container(container) => container.time_ns,
            Self::Gap(gap) => gap.time_ns,
        }
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Check(_) => "check",
            Self::Event(_) => "event",
            Self::Pod(_) => "pod",
            Self::Container(_) => "container",
            Self::Gap(_) => "gap",
        }
    }

    /// With its newline.
    pub fn text(&self, json: bool) -> Result<String, ClientError> {
        Ok(if json { self.json()? } else { self.words() } + "\n")
    }

    fn json(&self) -> Result<String, serde_json::Error> {
        fn typed<T: Serialize>(line: &Line, what: &T) -> Result<String, serde_json::Error> {
            serde_json::to_string(&Typed { r#type: line.kind(), time: time(line.time_ns()), what })
        }
        match self {
            Self::Check(check) => typed(self, check),
            Self::Event(event) => typed(self, event),
            Self::Pod(pod) => typed(self, pod),
            Self::Container(container) => typed(self, container),
            Self::Gap(gap) => typed(self, gap),
        }
    }

    fn words(&self) -> String {
        let at = short_time(self.time_ns());
        let line = match self {
            Self::Check(check) => {
                let of = [check.pod_name.as_str(), check.container.as_str()];
                let of = of.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ");
                let of = if of.is_empty() { String::new() } else { format!("{of} ") };
                let comm = &check.comm;
                format!("{:<9} {of}{comm}({}) {} [{}]", verdict(check), check.pid, check.summary, check.seq)
            }
            Self::Event(event) => {
                let warns = if event.severity() == event::Severity::Warning { "WARNING" } else { "event" };
                let of = [event.kind.as_str(), event.pod_name.as_str(), event.container.as_str()];
                let of = of.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(" ");
                format!("{warns:<9} {of}: {}", event.message)
            }
            Self::Pod(pod) => {
                let error = if pod.error.is_empty() { String::new() } else { format!(": {}", pod.error) };
                format!("{:<9} {} {} {}{error}", "pod", pod.pod_name, pod.state, pod.ips.join(","))
            }
            Self::Container(it) => {
                let code = if it.state == "EXITED" {
                    format!(" {} {}", it.exit_code, it.reason)
                } else {
                    String::new()
                };
                format!("{:<9} {} {} {}{code}", "container", it.pod_name, it.container, it.state)
            }
            Self::Gap(gap) => {
                let count =
                    if gap.messages == 0 { String::new() } else { format!("{} messages: ", gap.messages) };
                format!("{:<9} {count}{}", "GAP", gap.reason)
            }
        };
        clean(&format!("{at}  {}", line.trim_end()))
    }
}

fn verdict(check: &Check) -> &'static str {
    match check.verdict() {
        check::Verdict::Unspecified => "check",
        check::Verdict::Allowed => "allowed",
        check::Verdict::Denied => "DENIED",
        check::Verdict::Refused => "REFUSED",
        check::Verdict::Failed => "failed",
    }
}

/// Which lines are wanted. Gaps always are: without them what is there looks complete.
#[derive(Debug, Default)]
pub(super) struct Filter {
    pub pod: Option<String>,
    pub denied: bool,
    pub kinds: Vec<String>,
}

impl Filter {
    pub fn takes(&self, line: &Line) -> bool {
        let (id, name) = match line {
            Line::Check(check) => (&check.pod_id, &check.pod_name),
            Line::Event(event) => (&event.pod_id, &event.pod_name),
            Line::Pod(pod) => (&pod.pod_id, &pod.pod_name),
            Line::Container(container) => (&container.pod_id, &container.pod_name),
            Line::Gap(_) => return true,
        };
        let denied = || {
            matches!(line, Line::Check(check)
                if matches!(check.verdict(), check::Verdict::Denied | check::Verdict::Refused))
        };
        let kind = |kind: &String| {
            kind == line.kind()
                || matches!(line, Line::Event(event) if event.kind == *kind)
                || matches!(line, Line::Check(check) if check.reason == *kind)
        };
        let pod = |pod: &String| !pod.is_empty() && (id.starts_with(pod.as_str()) || name == pod);
        self.pod.as_ref().is_none_or(pod)
            && (!self.denied || denied())
            && (self.kinds.is_empty() || self.kinds.iter().any(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(verdict: check::Verdict) -> Line {
        Line::Check(Check {
            seq: 7,
            time_ns: 1_790_000_000_000_000_001,
            verdict: verdict.into(),
            pod_id: "abcd".into(),
            pod_name: "default/web".into(),
            comm: "mount\n{}".into(),
            reason: "too-revealing".into(),
            ..Check::default()
        })
    }

    fn event(kind: &str) -> Line {
        Line::Event(Event { kind: kind.into(), pod_name: "default/db".into(), ..Event::default() })
    }

    #[test]
    fn json_is_one_object_a_line_with_type_and_time() {
        let text = check(check::Verdict::Denied).text(true).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert!(
            text.starts_with("{\"type\":\"check\",\"time\":\"2026-09-21T14:13:20.000000001Z\","),
            "{text}"
        );
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (value["time_ns"].as_i64(), &value["verdict"]),
            (Some(1_790_000_000_000_000_001), &"DENIED".into())
        );
        let gap = Line::Gap(Gap { time_ns: 1, messages: 3, reason: "r".into() }).text(true).unwrap();
        assert_eq!(
            gap,
            "{\"type\":\"gap\",\"time\":\"1970-01-01T00:00:00.000000001Z\",\"time_ns\":1,\"messages\":3,\"reason\":\"r\"}\n"
        );
    }

    #[test]
    fn words_stay_on_their_line() {
        let text = check(check::Verdict::Denied).text(false).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.contains("DENIED    default/web mount {}"), "{text}");
        let started =
            Line::Event(Event { kind: "daemon-started".into(), message: "m".into(), ..Event::default() });
        assert!(started.text(false).unwrap().ends_with("event     daemon-started: m\n"));
    }

    #[test]
    fn filters_are_and_ed_and_never_hide_a_gap() {
        let takes = |filter: Filter, line: &Line| filter.takes(line);
        let (denied, allowed) = (check(check::Verdict::Denied), check(check::Verdict::Allowed));
        let only = || Filter { denied: true, ..Filter::default() };
        assert!(takes(only(), &denied) && !takes(only(), &allowed) && !takes(only(), &event("pod-failed")));
        for (pod, here) in [("ab", true), ("default/web", true), ("web", false), ("", false)] {
            let filter = Filter { pod: Some(pod.into()), ..Filter::default() };
            assert_eq!(takes(filter, &denied), here, "{pod:?}");
        }
        let kinds = |kind: &str| Filter { kinds: vec![kind.into()], ..Filter::default() };
        assert!(
            takes(kinds("pod-failed"), &event("pod-failed"))
                && !takes(kinds("pod-failed"), &event("pod-ready"))
        );
        assert!(takes(kinds("event"), &event("pod-ready")) && !takes(kinds("event"), &denied));
        assert!(takes(kinds("too-revealing"), &denied));
        let gap = Line::Gap(Gap { time_ns: 0, messages: 0, reason: String::new() });
        assert!(takes(Filter { pod: Some("x".into()), denied: true, kinds: vec!["pod".into()] }, &gap));
    }
}
