//! One watching client: a snapshot, then deltas; a client too slow gets a fresh snapshot and is told.
//!
//! ```text
//!  Snapshot ──▶ Delta … Delta ──(missed messages)──▶ Lagged ──▶ Snapshot ──▶ Delta …
//! ```
//!
//! Memory per client is bounded by the four broadcast rings, one message on its way, and the last counts of each pod.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sandboxd_api::console::{self as wire, delta::Change, watch_response::Message};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tonic::Status;

use super::{Sources, container};
use crate::container::ContainerChange;
use crate::observer::Status as ObserverStatus;
use crate::pod::PodChange;
use crate::pod::model::PodId;
use crate::pod::now_ns;

/// Counters change with every check; they are sent at most this often.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// Events in a snapshot.
const RECENT_EVENTS: usize = 256;

type Out = mpsc::Sender<Result<wire::WatchResponse, Status>>;

/// Feeds one client until it goes.
pub(super) async fn feed(sources: Arc<Sources>, recent: usize, access: wire::Access, out: Out) {
    let mut missed = 0;
    while let Some(more) = stream(&sources, recent, &access, missed, &out).await {
        missed = more;
    }
}

/// One snapshot and what follows it. `Some`: the client missed that many, and wants a new one.
async fn stream(
    sources: &Sources,
    recent: usize,
    access: &wire::Access,
    missed: u64,
    out: &Out,
) -> Option<u64> {
    // Subscribed before the snapshot is taken: a change may come twice, never not at all.
    let mut checks = sources.observer.subscribe();
    let (pods, mut pod_changes) = sources.pods.store().list_and_subscribe();
    let (containers, mut container_changes) = sources.containers.store().list_and_subscribe();
    let (recent_events, mut events) = sources.events.recent_and_subscribe(RECENT_EVENTS);
    let mut sampled = sources.observer.sampled();
    let mut counted: VecDeque<PodId> = VecDeque::new();
    // Pods whose checks were told one by one since the last tick: their counts have moved as well, unless the pod was
    // told of since.
    let mut checked: HashSet<PodId> = HashSet::new();
    let mut network = sources.network.watch();
    network.mark_unchanged();
    let mut degradations = sources.observer.degradations();
    if missed > 0 {
        send(out, delta(Change::Lagged(wire::Lagged { messages: missed }))).await?;
    }
    let mut sent_status = sources.observer.status();
    let snapshot = wire::Snapshot {
        node: Some(sources.node()),
        observer: Some((&sent_status).into()),
        pods: sources.pods(&pods, &containers),
        recent_checks: sources.recent_checks(recent),
        time_ns: now_ns(),
        containers: containers.iter().map(|it| container::container(it)).collect(),
        recent_events,
        access: Some(access.clone()),
    };
    let mut told: HashMap<String, _> = snapshot.pods.iter().map(|pod| (pod.id.clone(), pod.checks)).collect();
    send(out, wire::WatchResponse { message: Some(Message::Snapshot(snapshot)) }).await?;
    let mut tick = tokio::time::interval(STATUS_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut active = true;
    loop {
        let change = tokio::select! {
            change = pod_changes.recv() => match change {
                Ok(PodChange::Upsert(pod)) => Change::Pod(sources.pod(&pod)),
                Ok(PodChange::Removed(id)) => Change::PodRemoved(id.to_string()),
                Err(RecvError::Lagged(n)) => return Some(n),
                Err(RecvError::Closed) => return None,
            },
            change = container_changes.recv() => match change {
                Ok(ContainerChange::Upsert(it)) => {
                    send(out, delta(Change::Container(container::container(&it)))).await?;
                    // Its process is one of the pod's.
                    match sources.pods.find(it.pod.as_str()) {
                        Ok(Some(pod)) => Change::Pod(sources.pod(&pod)),
                        _ => continue,
                    }
                }
                Ok(ContainerChange::Removed(id)) => Change::ContainerRemoved(id.to_string()),
                Err(RecvError::Lagged(n)) => return Some(n),
                Err(RecvError::Closed) => return None,
            },
            event = events.recv() => match event {
                Ok(event) => Change::Event((*event).clone()),
                Err(RecvError::Lagged(n)) => return Some(n),
                Err(RecvError::Closed) => return None,
            },
            check = checks.recv() => match check {
                Ok(check) => {
                    active = true;
                    checked.extend(check.pod.as_ref().map(|pod| pod.id.clone()));
                    Change::Check(sources.check(&check))
                }
                Err(RecvError::Lagged(n)) => return Some(n),
                // The observer ended or never ran; pods are still worth watching.
                Err(RecvError::Closed) => {
                    checks = sources.observer.subscribe();
                    tokio::time::sleep(STATUS_EVERY).await;
                    continue;
                }
            },
            // Checks that were only counted: the pod's counts are all there is to tell. At most once a second.
            changed = sampled.changed(), if counted.is_empty() => {
                if changed.is_err() {
                    return None;
                }
                active = true;
                counted.extend(sampled.borrow_and_update().iter().cloned());
                continue;
            }
            () = std::future::ready(()), if !counted.is_empty() => {
                let pod = counted.pop_front().and_then(|id| sources.pods.find(id.as_str()).ok().flatten());
                match pod.map(|pod| sources.pod(&pod)) {
                    Some(pod) if told.get(&pod.id) != Some(&pod.checks) => Change::Pod(pod),
                    _ => continue,
                }
            }
            changed = network.changed() => {
                if changed.is_err() {
                    return None;
                }
                Change::Node(sources.node())
            }
            // One that reads no more has no checks to tell of: this alone says so.
            changed = degradations.changed() => {
                if changed.is_err() {
                    return None;
                }
                active = true;
                continue;
            }
            // An idle client costs no wake-up: without checks the counters stand still.
            _ = tick.tick(), if active => {
                active = false;
                counted.extend(checked.drain());
                match newer(&mut sent_status, sources.observer.status()) {
                    Some(status) => Change::Observer(status),
                    None => continue,
                }
            }
            () = out.closed() => return None,
        };
        match &change {
            Change::Pod(pod) => drop(told.insert(pod.id.clone(), pod.checks)),
            Change::PodRemoved(id) => drop(told.remove(id)),
            _ => {}
        }
        send(out, delta(change)).await?;
    }
}

fn newer(sent: &mut ObserverStatus, now: ObserverStatus) -> Option<wire::Observer> {
    if *sent == now {
        return None;
    }
    *sent = now;
    Some((&*sent).into())
}

fn delta(change: Change) -> wire::WatchResponse {
    let delta = wire::Delta { time_ns: now_ns(), change: Some(change) };
    wire::WatchResponse { message: Some(Message::Delta(delta)) }
}

async fn send(out: &Out, message: wire::WatchResponse) -> Option<()> {
    out.send(Ok(message)).await.ok()
}
