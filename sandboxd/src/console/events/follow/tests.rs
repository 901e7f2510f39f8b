use super::*;
use crate::container::fake;
use crate::container::model::Ended;
use crate::pod::model::test_pod;
use crate::runtime::Exit;

fn kinds(happened: &[Happened]) -> Vec<&'static str> {
    happened.iter().map(|happened| happened.kind.name()).collect()
}

#[test]
fn a_pods_life_is_told_once() {
    let mut tracker = Tracker::default();
    let pod = test_pod("a");
    let mut tell = |state| {
        let told = tracker.pod(&Arc::new(Pod { state, ..pod.clone() }));
        (kinds(&told), told.last().map(|happened| happened.severity))
    };
    assert_eq!(tell(PodState::Creating).0, ["pod-created"]);
    assert!(tell(PodState::Creating).0.is_empty());
    assert_eq!(tell(PodState::Ready).0, ["pod-ready"]);
    assert!(tell(PodState::Stopping).0.is_empty());
    assert_eq!(tell(PodState::NotReady), (vec!["pod-stopped"], Some(Severity::Normal)));
    assert!(tell(PodState::NotReady).0.is_empty());
    assert_eq!(kinds(&tracker.pod_removed(&pod.id)), ["pod-removed"]);
    assert!(tracker.pod_removed(&pod.id).is_empty());
}

#[test]
fn a_pod_that_ends_by_itself_and_one_that_fails_are_warnings() {
    let mut tracker = Tracker::default();
    let pod = Pod { state: PodState::Ready, ..test_pod("a") };
    tracker.pod(&Arc::new(pod.clone()));
    let told = tracker.pod(&Arc::new(Pod { state: PodState::NotReady, ..pod }));
    assert_eq!((kinds(&told), told[0].severity), (vec!["pod-stopped"], Severity::Warning));
    let failed = Pod { state: PodState::Failed, error: Some("no address".into()), ..test_pod("b") };
    let told = tracker.pod(&Arc::new(failed.clone()));
    assert_eq!(kinds(&told), ["pod-created", "pod-failed"]);
    assert_eq!((told[1].severity, told[1].message.as_str()), (Severity::Warning, "no address"));
    assert!(tracker.pod_removed(&failed.id).is_empty(), "it was undone long ago");
}

#[test]
fn a_containers_life_has_words_for_its_end() {
    let mut tracker = Tracker::default();
    let mut it = fake::container();
    let pod = Pod { id: it.pod.clone(), state: PodState::Ready, ..test_pod("a") };
    tracker.pod(&Arc::new(pod.clone()));
    assert_eq!(kinds(&tracker.container(&Arc::new(it.clone()))), ["container-created"]);
    it.state = ContainerState::Running;
    it.started_at_ns = Some(1);
    let told = tracker.container(&Arc::new(it.clone()));
    assert_eq!(kinds(&told), ["container-started"]);
    assert_eq!(told[0].pod.as_ref().unwrap().name, "default/a");
    assert!(tracker.container(&Arc::new(it.clone())).is_empty(), "new limits are no news");
    it.state = ContainerState::Exited;
    it.ended = Some(Ended { exit: Exit::Signal(9), at_ns: 2, oom_killed: true, message: String::new() });
    let told = tracker.container(&Arc::new(it.clone()));
    assert_eq!(kinds(&told), ["container-oom-killed", "container-exited"]);
    assert!(told.iter().all(|happened| happened.severity == Severity::Warning));
    assert_eq!(kinds(&tracker.container_removed(&it.id)), ["container-removed"]);

    // The same end in a pod that is being stopped is no warning; and all of a life at once has all its events.
    tracker.pod(&Arc::new(Pod { state: PodState::Stopping, ..pod }));
    it.ended = Some(Ended { exit: Exit::Signal(9), at_ns: 2, oom_killed: false, message: String::new() });
    let told = tracker.container(&Arc::new(it));
    assert_eq!(kinds(&told), ["container-created", "container-started", "container-exited"]);
    assert_eq!(told[2].severity, Severity::Normal);
}

#[tokio::test]
async fn containers_go_before_their_pod_on_whatever_channel() {
    let (pods, containers) = (Arc::new(Pods::default()), Arc::new(Containers::default()));
    let status = NetworkStatus { ready: true, reason: String::new(), message: String::new() };
    let (network, watched) = watch::channel(status.clone());
    let (_observer, steps) = watch::channel(Vec::new());
    let events = Follow {
        pods: Arc::clone(&pods),
        containers: Arc::clone(&containers),
        network: watched,
        degradations: Vec::new(),
        observer: steps,
    }
    .start();
    let (_, mut news) = events.recent_and_subscribe(0);
    // All of it before the follower has its first turn.
    let it = fake::container();
    let pod = Pod { id: it.pod.clone(), state: PodState::Ready, ..test_pod("a") };
    pods.publish(pod.clone());
    containers.publish(it.clone());
    containers.remove(&it.id);
    pods.remove(&pod.id);
    let expected = [
        "network-ready",
        "pod-created",
        "pod-ready",
        "container-created",
        "container-removed",
        "pod-removed",
    ];
    for kind in expected {
        assert_eq!(news.recv().await.unwrap().kind, kind);
    }
    network.send_replace(NetworkStatus { ready: false, reason: "PluginMissing".into(), ..status });
    let lost = news.recv().await.unwrap();
    assert_eq!(lost.kind, "network-lost");
    assert!(lost.message.contains("PluginMissing"), "{lost:?}");
}

#[tokio::test]
async fn a_degradation_is_told_of_when_it_appears() {
    let status = NetworkStatus { ready: true, reason: String::new(), message: String::new() };
    let (_network, watched) = watch::channel(status);
    let gone = |problem: &str| Degradation::ReaderGone { problem: problem.to_owned() };
    let (observer, steps) = watch::channel(vec![Degradation::NoBtf { problem: "not mounted".to_owned() }]);
    let events = Follow {
        pods: Arc::default(),
        containers: Arc::default(),
        network: watched,
        degradations: vec![api::Degradation { name: "runtime.no_x".into(), message: "no x".into() }],
        observer: steps,
    }
    .start();
    let (before, mut news) = events.recent_and_subscribe(usize::MAX);
    let told: Vec<_> = before.iter().filter(|event| event.kind == "degraded").collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].message.starts_with("runtime.no_x: ") && told[1].message.contains("not mounted"));
    observer.send_modify(|all| all.extend([gone("first"), gone("second")]));
    let mut degraded = async || loop {
        let event = news.recv().await.unwrap();
        if event.kind == "degraded" {
            return event;
        }
    };
    for problem in ["first", "second"] {
        let event = degraded().await;
        assert!(event.message.starts_with("observer.no_reader: ") && event.message.contains(problem));
        assert_eq!(event.severity(), api::event::Severity::Warning);
    }
    // What was told of is not told again.
    observer.send_modify(|all| all.push(gone("third")));
    assert!(degraded().await.message.contains("third"));
}
