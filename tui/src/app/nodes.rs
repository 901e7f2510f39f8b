//! What the nodes' feeds say, and the rows of the pod table that come of it.

use super::App;
use crate::feed::FeedEvent;
use crate::fleet::{self, NodeId, PodKey};
use crate::link::Link;
use crate::model::clean;
use crate::model::sort::Sort;
use crate::{actions, text};

/// Answers kept; the oldest go all at once, they can be asked for again.
const ANSWERS: usize = 256;

/// What the rows were made from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RowsOf {
    revision: u64,
    membership: u64,
    stale: usize,
    filter: String,
    sort: Sort,
}

impl App {
    pub(super) fn feed(&mut self, id: NodeId, event: FeedEvent) {
        self.dirty = true;
        let now_ns = self.now_ns;
        let Some(node) = self.nodes.get_mut(id.0) else { return };
        match event {
            FeedEvent::Connecting => {
                if !matches!(node.link, Link::Waiting { lost_at_ns: Some(_), .. }) {
                    node.link = Link::Connecting;
                }
            }
            FeedEvent::Live => {
                node.link = if node.link == Link::Replay { Link::Replay } else { Link::Live };
                // A log that was followed is followed on.
                self.following = self.following.take().filter(|(of, _)| *of != id);
            }
            FeedEvent::Ended => node.link = Link::Ended,
            FeedEvent::Waiting { reason, retry_in } => {
                let since = match node.link {
                    Link::Waiting { lost_at_ns, .. } => lost_at_ns,
                    _ => node.model.filled.then_some(now_ns),
                };
                let retry = i64::try_from(retry_in.as_nanos()).unwrap_or(i64::MAX);
                let retry_at_ns = now_ns.saturating_add(retry);
                node.link = Link::Waiting { reason, lost_at_ns: since, retry_at_ns };
            }
            FeedEvent::Message(message) => {
                let daemon = node.model.node.started_at_ns;
                node.model.apply(message);
                if node.model.node.started_at_ns != daemon {
                    node.answers.forget();
                }
            }
            FeedEvent::Answered { query, answer } => node.answers.readings.take(query, answer, now_ns),
            FeedEvent::Explained { seq, mut answer } => {
                if let Ok(answer) = &mut answer {
                    answer.check.iter_mut().for_each(clean::check);
                    answer.explanation.iter_mut().for_each(clean::explanation);
                }
                if node.answers.explained.len() >= ANSWERS {
                    node.answers.explained.clear();
                }
                node.answers.explained.insert(seq, answer);
            }
            FeedEvent::Timeline { pod_id, mut answer } => {
                answer.iter_mut().for_each(clean::timeline);
                if node.answers.timelines.len() >= ANSWERS {
                    node.answers.timelines.clear();
                }
                node.answers.timelines.insert(pod_id, answer);
            }
            FeedEvent::Log { container_id, lines } => {
                if let Some(log) = node.answers.log.as_mut().filter(|log| log.container_id == container_id) {
                    lines.iter().for_each(|line| log.push(line));
                }
            }
            FeedEvent::LogEnded { container_id, ended } => {
                if let Some(log) = node.answers.log.as_mut().filter(|log| log.container_id == container_id) {
                    log.end(ended);
                }
            }
            FeedEvent::Acted { action, answer } => self.notice = Some(action.outcome(&answer)),
            FeedEvent::Notice(words) => self.notice = Some(words),
        }
    }

    /// Brings the rows up to date; the selection stays on its pod, or where its pod was.
    pub fn refresh(&mut self) {
        let sum = |of: fn(&fleet::Node) -> u64| self.nodes.iter().map(of).sum::<u64>();
        let key = RowsOf {
            revision: sum(|node| node.model.revision),
            membership: sum(|node| node.model.membership),
            stale: self.nodes.iter().filter(|node| node.is_stale()).count(),
            filter: self.shared.pod_filter.text().to_owned(),
            sort: self.shared.sort,
        };
        if self.rows_of.as_ref() == Some(&key) {
            return;
        }
        let before = std::mem::take(&mut self.shared.rows);
        let at = self
            .shared
            .selected
            .as_ref()
            .and_then(|selected| before.iter().position(|key| key == selected))
            .unwrap_or(0);
        // The same pods are nearly in their order already, and sorting what is nearly sorted is cheap.
        let same = self.rows_of.as_ref().is_some_and(|of| {
            of.membership == key.membership && of.filter == key.filter && self.shared.pod_filter.is_empty()
        });
        let keys = if same { before.clone() } else { self.matching() };
        let nodes = &self.nodes;
        let mut pods: Vec<_> = keys
            .into_iter()
            .filter_map(|key| {
                let node = nodes.get(key.node.0)?;
                Some((node.name(), node.model.pods.get(&key.id)?, key))
            })
            .collect();
        let sort = self.shared.sort;
        pods.sort_by(|a, b| sort.compare((a.0, a.1), (b.0, b.1)).then_with(|| a.2.node.cmp(&b.2.node)));
        self.shared.longest_name = pods.iter().map(|(_, pod, _)| text::width(&pod.name)).max().unwrap_or(0);
        let rows: Vec<PodKey> = pods.into_iter().map(|(_, _, key)| key).collect();
        if !self.shared.selected.as_ref().is_some_and(|selected| rows.contains(selected)) {
            self.shared.selected = rows.get(at.min(rows.len().saturating_sub(1))).cloned();
        }
        if rows != before {
            self.shared.rows_version += 1;
        }
        self.shared.rows = rows;
        self.rows_of = Some(key);
        self.dirty = true;
    }

    /// The pods that pass the filter.
    fn matching(&self) -> Vec<PodKey> {
        let filter = &self.shared.pod_filter;
        fleet::pods(&self.nodes)
            .filter(|(id, pod)| filter.pod(pod, &self.nodes[id.0].model))
            .map(|(id, pod)| PodKey::new(id, &pod.id))
            .collect()
    }

    /// Why the pod or container under the keys may not be changed; `None` where it may.
    pub(super) fn refusal(&self, id: NodeId) -> Option<String> {
        let node = &self.nodes[id.0];
        let away = || "not connected to the daemon".to_owned();
        actions::refusal(self.allow_actions, &node.model.access)
            .or_else(|| (node.link != Link::Live).then(away))
    }
}
