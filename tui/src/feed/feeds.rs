//! The feeds of all nodes, read as one.

use std::task::Poll;

use tokio::sync::mpsc::error::TrySendError;
use tonic::transport::Channel;

use super::{Feed, FeedEvent, Request};
use crate::fleet::NodeId;

#[derive(Debug)]
pub struct Feeds {
    feeds: Vec<Feed>,
    /// Where the next look begins, so that a busy node does not starve the others.
    next: usize,
}

impl Feeds {
    pub fn new(feeds: Vec<Feed>) -> Self {
        Self { feeds, next: 0 }
    }

    /// The next event of any node; `None` once all of them ended. May be dropped at any time.
    pub async fn recv(&mut self) -> Option<(NodeId, FeedEvent)> {
        std::future::poll_fn(|cx| {
            let count = self.feeds.len();
            let mut ended = 0;
            for offset in 0..count {
                let index = (self.next + offset) % count;
                match self.feeds[index].events.poll_recv(cx) {
                    Poll::Ready(Some(event)) => {
                        self.next = index + 1;
                        return Poll::Ready(Some((NodeId(index), event)));
                    }
                    Poll::Ready(None) => ended += 1,
                    Poll::Pending => {}
                }
            }
            if ended == count { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }

    /// An event that is there already.
    pub fn try_recv(&mut self) -> Option<(NodeId, FeedEvent)> {
        let count = self.feeds.len();
        for offset in 0..count {
            let index = (self.next + offset) % count;
            if let Ok(event) = self.feeds[index].events.try_recv() {
                self.next = index + 1;
                return Some((NodeId(index), event));
            }
        }
        None
    }

    /// Whether the node's feed took the request: one that is too busy does not, and the operator asks again.
    pub fn ask(&self, node: NodeId, request: Request) -> bool {
        match self.feeds.get(node.0).map(|feed| feed.requests.try_send(request)) {
            Some(Ok(())) => true,
            Some(Err(TrySendError::Full(_) | TrySendError::Closed(_))) | None => false,
        }
    }

    /// The connection of a node that has one.
    pub fn channel(&self, node: NodeId) -> Option<Channel> {
        self.feeds.get(node.0)?.channel.borrow().clone()
    }
}
