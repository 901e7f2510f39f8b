//! The order of side effects and of each undo.

mod fake;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::pod::model::{NsInode, Sysfs, test_pod};
use crate::pod::spec::NetworkMode;
use fake::{Fake, Recorder, pods};

const MADE: [&str; 14] = [
    "journal begin",
    "journal Configured",
    "files",
    "journal Created",
    "cgroup create",
    "create with new netns",
    "pin user",
    "pin net",
    "journal Networked",
    "lo up",
    "CNI ADD",
    "journal Started",
    "start",
    "journal Ready",
];

/// The undo of each effect, in the order in which undos come.
fn expected_undo(failed_at: &str) -> Vec<&'static str> {
    let at = MADE.iter().position(|l| *l == failed_at).expect("a line of the flow");
    let reached = |line: &str| MADE.iter().position(|l| *l == line).expect("a line") <= at;
    let mut undo = Vec::new();
    if failed_at == "cgroup create" {
        // The namespaces are made beside it, and come back whether or not there is a cgroup for them.
        undo.extend(["create with new netns", "kill"]);
    }
    if reached("journal Networked") {
        undo.push("CNI DEL");
    }
    if reached("pin user") {
        undo.push("kill");
    }
    for (pin, unpin) in [("pin user", "unpin user"), ("pin net", "unpin net")] {
        // What failed to be pinned is not listed; what was pinned before it is.
        if reached(pin) && failed_at != pin {
            undo.push(unpin);
        }
    }
    // A lease written before the network was reached is given back with what was configured.
    if reached("files") && !reached("journal Networked") {
        undo.push("CNI DEL");
    }
    if reached("files") {
        undo.push("cgroup remove");
    }
    undo.push("journal remove");
    undo
}

#[tokio::test]
async fn the_runtime_makes_all_namespaces_before_cni() {
    let (pods, log) = pods(FlowKind::RuntimeFirst, Recorder::default());
    let id = pods.run(test_pod("web").spec).await.unwrap();
    let mut lines = log.lines();
    // It runs beside CNI: anywhere between the namespaces and the start.
    let filled = lines.iter().position(|l| l == "cgroup fill").unwrap();
    assert!(
        lines[..filled].contains(&"pin net".to_owned()) && !lines[..filled].contains(&"start".to_owned())
    );
    lines.remove(filled);
    assert_eq!(lines, MADE);
    let pod = pods.find(id.as_str()).unwrap().unwrap();
    assert_eq!((pod.state, pod.ips.len(), pod.sysfs.clone()), (PodState::Ready, 1, Sysfs::Mounted));
    let steps: Vec<_> = pod.steps.iter().map(|s| s.name.name()).collect();
    assert_eq!(steps, ["Reserved", "Configured", "Created", "Networked", "Started", "Ready"]);
}

#[tokio::test]
async fn each_failure_is_undone_last_first() {
    for failed_at in MADE {
        let (pods, log) = pods(FlowKind::RuntimeFirst, Recorder::default());
        *log.fail.lock().unwrap() = Some(failed_at);
        pods.run(test_pod("web").spec).await.unwrap_err();
        let lines: Vec<_> = log.lines().into_iter().filter(|l| l != "cgroup fill").collect();
        let at = lines.iter().position(|l| l == failed_at).unwrap();
        assert_eq!(lines[at + 1..], expected_undo(failed_at), "after {failed_at:?} failed");
        // The name is free again, and the record tells why.
        *log.fail.lock().unwrap() = None;
        let failed = pods.list();
        assert!(failed.iter().all(|p| p.state == PodState::Failed && p.error.is_some()));
        pods.run(test_pod("web").spec).await.unwrap();
    }
}

#[tokio::test]
async fn new_limits_are_kept_or_taken_back() {
    use crate::pod::Limits;
    let (pods, log) = pods(FlowKind::RuntimeFirst, Recorder::default());
    let id = pods.run(test_pod("web").spec).await.unwrap();
    let shares = || pods.find(id.as_str()).unwrap().unwrap().spec.resources.cpu_shares;
    let limits = |shares| {
        let mut limits = Limits::default();
        limits.resources.cpu_shares = Some(shares);
        limits
    };
    pods.update(id.as_str(), limits(512)).await.unwrap();
    assert_eq!(shares(), Some(512));
    *log.fail.lock().unwrap() = Some("cgroup update");
    let error = pods.update(id.as_str(), limits(100)).await.unwrap_err();
    assert!(matches!(error, PodError::Update(_)), "{error}");
    *log.fail.lock().unwrap() = Some("journal Ready");
    let error = pods.update(id.as_str(), limits(100)).await.unwrap_err();
    assert!(matches!(error, PodError::Journal(_)), "{error}");
    let lines = log.lines();
    assert_eq!(lines[lines.len() - 3..], ["cgroup update", "journal Ready", "cgroup update"]);
    assert_eq!(shares(), Some(512));
    *log.fail.lock().unwrap() = None;
    pods.stop(id.as_str()).await.unwrap();
    let error = pods.update(id.as_str(), limits(100)).await.unwrap_err();
    assert!(matches!(error, PodError::NotReady { .. }), "{error}");
}

#[tokio::test]
async fn a_netns_of_another_owner_never_reaches_cni() {
    let recorder = Recorder { foreign_netns: true, ..Recorder::default() };
    let (pods, log) = pods(FlowKind::RuntimeFirst, recorder);
    let error = pods.run(test_pod("web").spec).await.unwrap_err();
    assert!(matches!(error, PodError::WrongOwner { owner: NsInode(1), userns: NsInode(7), .. }), "{error}");
    let lines = log.lines();
    assert!(!lines.iter().any(|l| l == "CNI ADD"));
    assert!(lines.iter().any(|l| l == "unpin net") && lines.iter().any(|l| l == "kill"));
}

#[tokio::test]
async fn network_first_fails_on_sysfs_and_gives_the_network_back() {
    let (pods, log) = pods(FlowKind::NetworkFirst, Recorder::default());
    *log.fail.lock().unwrap() = Some("create with joined netns");
    let error = pods.run(test_pod("web").spec).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("The netns is the host's.") && text.contains("mount sysfs on /sys"), "{text}");
    let lines = log.lines();
    let at =
        |line: &str| lines.iter().position(|l| l == line).unwrap_or_else(|| panic!("{line} in {lines:?}"));
    assert!(at("CNI ADD") < at("create with joined netns"), "the old order");
    assert!(at("create with joined netns") < at("CNI DEL") && at("CNI DEL") < at("unpin net"));
    assert_eq!(lines.last().map(String::as_str), Some("journal remove"));
    assert_eq!(lines.iter().filter(|l| *l == "CNI DEL").count(), 1);
    assert_eq!(lines.iter().filter(|l| *l == "unpin net").count(), 1);
    let pod = &pods.list()[0];
    assert!(pod.explanation.is_some() && matches!(pod.sysfs, Sysfs::Denied(_)));
}

#[tokio::test]
async fn a_pod_on_the_hosts_network_has_no_cni() {
    let (pods, log) = pods(FlowKind::RuntimeFirst, Recorder::default());
    let mut spec = test_pod("web").spec;
    spec.namespaces.network = NetworkMode::Node;
    spec.namespaces.user = None;
    pods.run(spec).await.unwrap();
    let lines = log.lines();
    assert!(
        lines.contains(&"create with host netns".to_owned()) && lines.contains(&"cgroup fill".to_owned())
    );
    assert!(!lines.iter().any(|l| l.contains("CNI") || l == "lo up"), "{lines:?}");
}

#[tokio::test]
async fn stop_and_remove_go_back_in_order_and_may_be_repeated() {
    let (pods, log) = pods(FlowKind::RuntimeFirst, Recorder::default());
    let id = pods.run(test_pod("web").spec).await.unwrap();
    log.lines();
    *log.fail.lock().unwrap() = Some("CNI DEL");
    assert!(matches!(pods.stop(id.as_str()).await, Err(PodError::Teardown(_))));
    assert_eq!(pods.list()[0].state, PodState::NotReady);
    assert_eq!(log.lines(), ["kill", "CNI DEL", "journal Ready"], "pins stay for the next try");
    *log.fail.lock().unwrap() = None;
    pods.stop(id.as_str()).await.unwrap();
    let back = ["CNI DEL", "unpin user", "unpin net", "cgroup remove", "journal Ready"];
    assert_eq!(log.lines(), back);
    pods.stop(id.as_str()).await.unwrap();
    assert!(log.lines().is_empty(), "a second stop has nothing to do");
    pods.remove(id.as_str()).await.unwrap();
    assert_eq!(log.lines(), ["journal remove"]);
    assert!(pods.list().is_empty());
    pods.remove(id.as_str()).await.unwrap();
    pods.stop("unknown").await.unwrap();
    pods.run(test_pod("web").spec).await.unwrap();
}

#[tokio::test]
async fn an_infra_container_that_ends_makes_the_pod_not_ready() {
    let (pods, log) = pods(FlowKind::RuntimeFirst, Recorder::default());
    let mut changes = pods.store().subscribe();
    let id = pods.run(test_pod("web").spec).await.unwrap();
    log.end.notify_one();
    loop {
        if let crate::pod::PodChange::Upsert(pod) = changes.recv().await.unwrap()
            && pod.state == PodState::NotReady
        {
            assert!(pod.error.as_deref().is_some_and(|e| e.contains("signal 9")), "{:?}", pod.error);
            break;
        }
    }
    pods.remove(id.as_str()).await.unwrap();
}

#[tokio::test]
async fn names_are_unique_and_unknown_handlers_are_refused() {
    let (pods, _log) = pods(FlowKind::RuntimeFirst, Recorder::default());
    let id = pods.run(test_pod("web").spec).await.unwrap();
    let again = pods.run(test_pod("web").spec).await.unwrap_err();
    assert!(matches!(again, PodError::NameReserved { by, .. } if by == id));
    let mut spec = test_pod("other").spec;
    spec.handler = "kata".into();
    let error = pods.run(spec).await.unwrap_err().to_string();
    assert!(error.contains("\"kata\"") && error.contains("native"), "{error}");
}

#[tokio::test]
async fn a_pod_on_its_way_is_waited_for_and_then_stopped() {
    let (pods, log) = pods(FlowKind::RuntimeFirst, Recorder { slow_add: true, ..Recorder::default() });
    let mut changes = pods.store().subscribe();
    let run = tokio::spawn({
        let pods = Arc::clone(&pods);
        async move { pods.run(test_pod("web").spec).await }
    });
    let id = loop {
        if let crate::pod::PodChange::Upsert(pod) = changes.recv().await.unwrap()
            && pod.steps.iter().any(|s| s.name == StepName::Created)
        {
            break pod.id.clone();
        }
    };
    let early = tokio::time::timeout(Duration::from_millis(50), pods.stop(id.as_str())).await;
    assert!(early.is_err(), "not stopped while it is being made: {early:?}");
    let stop = tokio::spawn({
        let (pods, id) = (Arc::clone(&pods), id.clone());
        async move { pods.stop(id.as_str()).await }
    });
    tokio::task::yield_now().await;
    log.proceed.notify_one();
    assert_eq!(run.await.unwrap().unwrap(), id);
    stop.await.unwrap().unwrap();
    assert_eq!(pods.find(id.as_str()).unwrap().unwrap().state, PodState::NotReady);
    assert!(log.lines().iter().any(|l| l == "CNI DEL"));
}

#[tokio::test]
async fn what_could_not_be_undone_stays_in_the_journal() {
    for undo in ["kill", "cgroup remove"] {
        let fail = Mutex::new(Some("CNI ADD"));
        let recorder = Recorder { fail, fail_undo: Some(undo), ..Recorder::default() };
        let (pods, log) = pods(FlowKind::RuntimeFirst, recorder);
        pods.run(test_pod("web").spec).await.unwrap_err();
        let lines = log.lines();
        assert!(lines.iter().any(|l| l == undo), "{lines:?}");
        assert!(!lines.iter().any(|l| l == "journal remove"), "{undo}: {lines:?}");
    }
}

/// Neither the state NOTREADY nor a missing netns says that a pod of the node's network was given back.
#[tokio::test]
async fn a_pod_whose_infra_container_is_lost_is_given_back_processes_first() {
    let log = Arc::new(Recorder::default());
    let fake = Fake(Arc::clone(&log));
    let mut pod = test_pod("web");
    pod.spec.namespaces.network = NetworkMode::Node;
    pod.state = PodState::Ready;
    let store = Arc::<Store>::default();
    let name = store.reserve(&pod.spec.metadata, &pod.id).unwrap();
    let base = Base {
        effects: Arc::new(fake.clone()),
        runtime: Arc::new(fake),
        store,
        pod,
        name,
        unfinished: false,
    };
    let mut ready = Ready::adopted(base, None);
    assert_eq!(ready.pod().state, PodState::NotReady);
    ready.stop().await.unwrap();
    assert_eq!(log.lines(), ["cgroup kill", "CNI DEL", "cgroup remove", "journal Ready"]);
    ready.stop().await.unwrap();
    assert_eq!(log.lines(), [""; 0]);
}
