//! The nodes that are watched: each with its own connection, its own model, its own answers. Ids and sequence
//! numbers mean something only together with their node.

use std::collections::HashMap;

use sandboxd_api::console::{ExplainCheckResponse, Pod, Timeline};

use crate::link::Link;
use crate::model::Model;
use crate::model::log::Log;
use crate::panel::readings::Readings;

/// Which of the nodes, by its place on the command line or in the nodes file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub usize);

/// A pod of a node. It stands for the pod's id wherever the node is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodKey {
    pub node: NodeId,
    pub id: String,
}

impl PodKey {
    pub fn new(node: NodeId, id: &str) -> Self {
        Self { node, id: id.to_owned() }
    }
}

impl std::ops::Deref for PodKey {
    type Target = str;

    fn deref(&self) -> &str {
        &self.id
    }
}

/// What a node was asked and answered.
#[derive(Debug, Default)]
pub struct Answers {
    pub explained: HashMap<u64, Result<ExplainCheckResponse, String>>,
    pub timelines: HashMap<String, Result<Timeline, String>>,
    pub readings: Readings,
    /// The log that is looked at.
    pub log: Option<Log>,
}

impl Answers {
    /// Another daemon counts anew, and knows nothing of what the one before said.
    pub fn forget(&mut self) {
        self.explained.clear();
        self.timelines.clear();
        self.readings.clear();
    }
}

#[derive(Debug)]
pub struct Node {
    /// As the nodes file names it, or the endpoint.
    label: String,
    /// Whether the label is a name somebody gave.
    named: bool,
    pub endpoint: String,
    pub link: Link,
    pub model: Model,
    pub answers: Answers,
}

impl Node {
    pub fn new(label: &str, named: bool, endpoint: &str, link: Link) -> Self {
        let model = Model { label: label.to_owned(), ..Model::default() };
        let (label, endpoint) = (label.to_owned(), endpoint.to_owned());
        Self { label, named, endpoint, link, model, answers: Answers::default() }
    }

    /// The name it was given; else what the daemon calls itself, as soon as it did.
    pub fn name(&self) -> &str {
        if self.named || self.model.node.name.is_empty() { &self.label } else { &self.model.node.name }
    }

    /// Whether its pods may be out of date.
    pub fn is_stale(&self) -> bool {
        self.link.is_stale()
    }
}

/// All pods of all nodes.
pub fn pods(nodes: &[Node]) -> impl Iterator<Item = (NodeId, &Pod)> {
    nodes
        .iter()
        .enumerate()
        .flat_map(|(index, node)| node.model.pods.values().map(move |pod| (NodeId(index), pod)))
}
