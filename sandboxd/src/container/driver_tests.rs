use std::sync::atomic::Ordering;

use super::super::fake::{Done, FakeGround, FakeTask, container};
use super::*;
use crate::container::store::ContainerChange;

const PATIENT: Duration = Duration::from_secs(60);

/// A driven container that was just made, and everything around it.
struct Rig {
    driver: Driver,
    store: Arc<Store>,
    task: Arc<FakeTask>,
    ground: Arc<FakeGround>,
    done: Done,
    made: Container,
}

impl Rig {
    /// Its task ends on `heeds`, and on SIGKILL.
    fn new(heeds: i32) -> Self {
        let done = Done::default();
        let task = Arc::new(FakeTask::new(done.clone(), heeds));
        let ground = Arc::new(FakeGround { done: done.clone(), ..FakeGround::default() });
        let store = Arc::new(Store::default());
        let made = container();
        let name = store.reserve(&made.pod, &made.spec.metadata, &made.id).unwrap();
        store.publish(made.clone());
        let record =
            Record { phase: Phase::Made, container: made.clone(), cgroup_parent: "/".into(), process: None };
        let live = Live {
            record,
            task: Some(Arc::clone(&task) as _),
            ground: Arc::clone(&ground) as _,
            store: Arc::clone(&store),
            name: Some(name),
            hold: None,
        };
        Self { driver: Driver::start(live, || {}), store, task, ground, done, made }
    }

    async fn running(heeds: i32) -> Self {
        let rig = Self::new(heeds);
        rig.driver.start_container().await.unwrap();
        rig.done.take();
        rig
    }

    fn now(&self) -> Arc<Container> {
        self.store.find(self.made.id.as_str()).unwrap().expect("it is listed")
    }

    async fn ended(&self) -> Arc<Container> {
        let (listed, mut changes) = self.store.list_and_subscribe();
        if listed[0].ended.is_some() {
            return Arc::clone(&listed[0]);
        }
        loop {
            if let ContainerChange::Upsert(container) = changes.recv().await.unwrap()
                && container.ended.is_some()
            {
                return container;
            }
        }
    }

    fn name_is_free(&self) -> bool {
        self.store.reserve(&self.made.pod, &self.made.spec.metadata, &self.made.id).is_ok()
    }
}

#[tokio::test]
async fn an_end_is_noted_before_what_tells_of_it_goes() {
    let rig = Rig::new(libc::SIGTERM);
    rig.driver.start_container().await.unwrap();
    assert_eq!(rig.now().state, ContainerState::Running);
    rig.task.end(Exit::Code(3));
    let ended = rig.ended().await;
    assert_eq!(ended.state, ContainerState::Exited);
    assert_eq!(ended.ended.as_ref().unwrap().exit, Exit::Code(3));
    assert_eq!(ended.pid, None);
    let order = ["start", "record Running", "oom read", "the rest killed", "record Exited"];
    assert_eq!(rig.done.take(), order);
    let again = rig.driver.start_container().await.unwrap_err();
    assert!(matches!(again, ContainerError::State { state: ContainerState::Exited, .. }), "{again}");
}

#[tokio::test]
async fn a_failing_start_leaves_an_ended_container_that_says_why() {
    let rig = Rig::new(libc::SIGTERM);
    rig.task.start_fails.store(true, Ordering::Relaxed);
    let error = rig.driver.start_container().await.unwrap_err();
    assert!(matches!(error, ContainerError::Runtime { .. }), "{error}");
    let now = rig.now();
    let ended = now.ended.as_ref().unwrap();
    assert_eq!((now.state, ended.exit), (ContainerState::Exited, Exit::Code(128)));
    assert!(ended.message.contains("cannot execute"), "{}", ended.message);
    assert_eq!(now.started_at_ns, None);
    assert!(!rig.name_is_free(), "it is still there");
}

#[tokio::test]
async fn a_stop_asks_waits_and_kills() {
    let rig = Rig::running(libc::SIGUSR1).await;
    let begin = Instant::now();
    let grace = Duration::from_millis(200);
    rig.driver.stop(grace).await.unwrap();
    assert!(begin.elapsed() >= grace, "no grace: {:?}", begin.elapsed());
    assert_eq!(rig.done.take()[..2], ["signal 15", "signal 9 to all"]);
    assert_eq!(rig.now().ended.as_ref().unwrap().exit, Exit::Signal(9));
    rig.driver.stop(PATIENT).await.unwrap();
    assert!(rig.done.take().is_empty(), "nothing is done to what has ended");
}

#[tokio::test]
async fn what_heeds_the_signal_is_not_killed() {
    let rig = Rig::running(libc::SIGTERM).await;
    let begin = Instant::now();
    rig.driver.stop(PATIENT).await.unwrap();
    assert!(begin.elapsed() < PATIENT);
    assert!(!rig.done.take().iter().any(|done| done.starts_with("signal 9")));
}

#[tokio::test]
async fn a_second_stop_with_less_patience_counts() {
    let rig = Rig::running(libc::SIGUSR1).await;
    let begin = Instant::now();
    let (first, second, third) = tokio::join!(
        rig.driver.stop(PATIENT),
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            rig.driver.stop(Duration::from_millis(200)).await
        },
        async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            rig.driver.stop(PATIENT).await
        }
    );
    assert!(first.is_ok() && second.is_ok() && third.is_ok());
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(250) && took < PATIENT, "{took:?}: neither the first nor the last");
    let signals: Vec<_> = rig.done.take().into_iter().filter(|done| done.starts_with("signal")).collect();
    assert_eq!(signals, ["signal 15", "signal 9 to all"], "the signal is sent once");
}

#[tokio::test]
async fn no_patience_and_nothing_started_mean_killed_at_once() {
    let rig = Rig::running(libc::SIGTERM).await;
    rig.driver.stop(Duration::ZERO).await.unwrap();
    assert_eq!(rig.done.take()[0], "signal 9 to all");
    let created = Rig::new(libc::SIGTERM);
    created.driver.stop(PATIENT).await.unwrap();
    assert_eq!(created.done.take()[0], "signal 9 to all");
    assert_eq!(created.now().state, ContainerState::Exited);
}

#[tokio::test]
async fn what_does_not_die_is_an_error_and_can_be_stopped_later() {
    let rig = Rig::running(libc::SIGTERM).await;
    rig.task.immortal.store(true, Ordering::Relaxed);
    let (stopped, removed) = tokio::join!(rig.driver.stop(Duration::ZERO), rig.driver.remove());
    assert!(stopped.is_err() && removed.is_err());
    assert_eq!(rig.now().state, ContainerState::Running);
    rig.task.immortal.store(false, Ordering::Relaxed);
    rig.driver.stop(Duration::ZERO).await.unwrap();
    assert_eq!(rig.now().state, ContainerState::Exited);
}

#[tokio::test]
async fn a_removal_kills_forgets_and_gives_the_name_back() {
    let rig = Rig::running(libc::SIGTERM).await;
    let (first, second) = tokio::join!(rig.driver.remove(), rig.driver.remove());
    assert!(first.is_ok() && second.is_ok());
    let order = ["signal 9 to all", "oom read", "the rest killed", "record Exited", "forgotten", "cleared"];
    assert_eq!(rig.done.take(), order);
    assert!(rig.store.list().is_empty() && rig.name_is_free());
    rig.driver.remove().await.unwrap();
}

#[tokio::test]
async fn a_removal_that_fails_can_be_asked_for_again() {
    let rig = Rig::running(libc::SIGTERM).await;
    rig.ground.clear_fails.store(true, Ordering::Relaxed);
    assert!(rig.driver.remove().await.is_err());
    assert_eq!(rig.now().state, ContainerState::Exited);
    assert!(!rig.name_is_free());
    rig.ground.clear_fails.store(false, Ordering::Relaxed);
    rig.driver.remove().await.unwrap();
    assert!(rig.store.list().is_empty() && rig.name_is_free());
}

#[tokio::test]
async fn the_kernels_kill_for_memory_is_told_from_others() {
    for (kills, exit, oom) in
        [(1, Exit::Signal(9), true), (0, Exit::Signal(9), false), (1, Exit::Code(0), false)]
    {
        let rig = Rig::running(libc::SIGTERM).await;
        rig.ground.oom.store(kills, Ordering::Relaxed);
        rig.task.end(exit);
        assert_eq!(rig.ended().await.ended.as_ref().unwrap().oom_killed, oom, "{kills} {exit:?}");
    }
}

fn shares(shares: u64) -> Resources {
    Resources { cpu_shares: Some(shares), ..Resources::default() }
}

#[tokio::test]
async fn limits_change_or_stay() {
    let rig = Rig::new(libc::SIGTERM);
    rig.driver.update(shares(100)).await.unwrap();
    assert_eq!(rig.now().spec.resources.cpu_shares, Some(100), "also before its start");
    rig.driver.start_container().await.unwrap();
    rig.ground.limit_fails.store(true, Ordering::Relaxed);
    assert!(rig.driver.update(shares(200)).await.is_err());
    assert_eq!(rig.now().spec.resources.cpu_shares, Some(100));
    rig.ground.limit_fails.store(false, Ordering::Relaxed);
    rig.done.take();
    rig.ground.record_fails.store(true, Ordering::Relaxed);
    assert!(rig.driver.update(shares(300)).await.is_err());
    assert_eq!(rig.done.take(), ["shares Some(300)", "record Running", "shares Some(100)"], "taken back");
    assert_eq!(rig.now().spec.resources.cpu_shares, Some(100));
    rig.ground.record_fails.store(false, Ordering::Relaxed);
    let adjusted = Resources { oom_score_adj: Some(5), ..shares(400) };
    rig.ground.score_fails.store(true, Ordering::Relaxed);
    assert!(rig.driver.update(adjusted.clone()).await.is_err(), "a change that cannot be made is no success");
    assert_eq!(
        rig.done.take()[..4],
        ["shares Some(400)", "score 0 to 5", "shares Some(100)", "score 5 to 0"]
    );
    assert_eq!(rig.now().spec.resources.oom_score_adj, None);
    rig.ground.score_fails.store(false, Ordering::Relaxed);
    rig.driver.update(adjusted.clone()).await.unwrap();
    assert_eq!(rig.done.take(), ["shares Some(400)", "score 0 to 5", "record Running"]);
    rig.driver.update(adjusted).await.unwrap();
    assert_eq!(rig.done.take(), ["shares Some(400)", "record Running"], "it has it already");
    rig.driver.stop(Duration::ZERO).await.unwrap();
    rig.done.take();
    rig.driver.update(shares(500)).await.unwrap();
    assert_eq!(rig.done.take(), ["record Exited"], "one that has ended is not limited");
}
