//! The pods that are not there: as many as asked for, all different, some of them with something wrong.

use std::time::{SystemTime, UNIX_EPOCH};

use sandboxd_api::console::delta::Change;
use sandboxd_api::console::{
    Access, Check, CheckCounts, Container, Event, IdRange, Namespace, Node, Observer, Pod, Process, Snapshot,
    Step, Sysfs, Timeline, check, container, event, namespace, observer, pod, sysfs,
};

const INIT_USERNS: u64 = 4_026_531_837;
/// Checks a snapshot carries.
const RECENT: usize = 256;
const SECOND: i64 = 1_000_000_000;

/// Nanoseconds since the Unix epoch.
#[must_use]
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A node with `pods` pods, two containers in each.
#[must_use]
pub fn node(name: &str, pods: u64) -> Snapshot {
    let now = now_ns();
    let pods: Vec<_> = (0..pods).map(|index| pod(name, index, now)).collect();
    let containers = pods.iter().enumerate().flat_map(|(index, pod)| containers(index as u64, pod)).collect();
    let recent_events = pods.iter().take(64).zip(1..).map(|(pod, seq)| created(pod, seq)).collect();
    Snapshot {
        node: Some(Node {
            name: name.to_owned(),
            kernel: "6.12.0".into(),
            sandboxd_version: "0.1.0".into(),
            started_at_ns: now - 3_600 * SECOND,
            cgroup: "v2".into(),
            network_ready: true,
            init_userns: INIT_USERNS,
            init_netns: 4_026_531_840,
            init_mntns: 4_026_531_841,
            init_pidns: 4_026_531_836,
            ..Node::default()
        }),
        observer: Some(Observer {
            state: observer::State::Running.into(),
            rung: "tp_btf".into(),
            ..Observer::default()
        }),
        pods,
        time_ns: now,
        containers,
        recent_events,
        access: Some(Access { may_act: true, identity: "uid 0".into(), why_not: String::new() }),
        ..Snapshot::default()
    }
}

/// 64 digits that differ from their beginning on, as real ids do.
fn id(kind: &str, node: &str, index: u64) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut out = String::new();
    for round in 0..4_u8 {
        let index = index.to_le_bytes();
        for byte in kind.bytes().chain(node.bytes()).chain(index).chain([round]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        // Without the last round of mixing the first digits of neighbours would be the same.
        let mut mixed = hash ^ (hash >> 29);
        mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        out += &format!("{:016x}", mixed ^ (mixed >> 32));
    }
    out
}

fn pod(node: &str, index: u64, now: i64) -> Pod {
    let apps = ["web", "cart", "api", "queue", "metrics-collector", "db"];
    let namespaces = ["default", "shop", "kube-system", "monitoring"];
    let at = |list: &[&str]| list[usize::try_from(index).unwrap_or(0) % list.len()].to_owned();
    let wrong = index % 50 == 49;
    let first = 4_026_540_000 + index * 8;
    let space = |offset: u64, kind: &str, owned: bool| Namespace {
        kind: kind.to_owned(),
        inode: first + offset,
        owner_inode: if owned { first } else { INIT_USERNS },
        owner: if owned { namespace::Owner::Pod } else { namespace::Owner::Init }.into(),
        pin: if kind == "net" { format!("/run/sandboxd/netns/{index}") } else { String::new() },
        wrong_owner: kind == "net" && !owned,
        ..Namespace::default()
    };
    let range = |host: u32| IdRange { container_id: 0, host_id: host, length: 65_536 };
    let host_id = 65_536 * (u32::try_from(index).unwrap_or(0) + 1);
    let pid = |offset: i32| 10_000 + i32::try_from(index).unwrap_or(0) * 8 + offset;
    let process = |offset, comm: &str, role: &str| Process {
        pid: pid(offset),
        comm: comm.to_owned(),
        role: role.to_owned(),
    };
    Pod {
        id: id("pod", node, index),
        name: format!("{}-{}-{:05}", at(&apps), &id("rs", node, index / 3)[..9], index),
        namespace: at(&namespaces),
        uid: id("uid", node, index)[..32].to_owned(),
        state: if wrong { pod::State::Failed } else { pod::State::Ready }.into(),
        handler: "userns".into(),
        flow: if wrong { "network-first" } else { "runtime-first" }.into(),
        created_at_ns: now - i64::try_from(index).unwrap_or(0) * 37 * SECOND,
        hostname: format!("host-{index}"),
        labels: [("app".to_owned(), at(&apps)), ("tier".to_owned(), "back".to_owned())].into(),
        ips: vec![format!("10.{}.{}.{}", 64 + index / 65_536, index / 256 % 256, index % 256)],
        netns_path: format!("/run/sandboxd/netns/{index}"),
        namespaces: vec![
            space(0, "user", false),
            space(1, "net", !wrong),
            space(2, "ipc", true),
            space(3, "uts", true),
            space(4, "pid", true),
            space(5, "mnt", true),
        ],
        uid_map: vec![range(host_id)],
        gid_map: vec![range(host_id)],
        sysfs: Some(Sysfs {
            verdict: if wrong { sysfs::Verdict::Denied } else { sysfs::Verdict::Mounted }.into(),
            message: String::new(),
        }),
        checks: Some(CheckCounts { allowed: 40 + index, denied: 0, sampled_out: 0 }),
        processes: vec![
            process(0, "sandboxd-shim", "shim"),
            process(1, "pause", "infra"),
            process(2, "main", "container:main"),
            process(3, "proxy", "container:proxy"),
        ],
        timeline: Some(timeline(now)),
        cgroup: format!("/kubepods/pod{index}"),
        error: if wrong { "mounting sysfs: Operation not permitted".into() } else { String::new() },
        ..Pod::default()
    }
}

fn timeline(now: i64) -> Timeline {
    let steps = ["Reserved", "Configured", "Created", "Networked", "Started", "Ready"];
    let steps = steps.iter().zip(0..).map(|(name, at)| Step {
        name: (*name).to_owned(),
        started_at_ns: now + at * 3_000_000,
        duration_ns: 3_000_000,
        cni_ns: if *name == "Networked" { 2_500_000 } else { 0 },
        ..Step::default()
    });
    Timeline { flow: "runtime-first".into(), steps: steps.collect(), total_ns: 18_000_000 }
}

fn containers(index: u64, pod: &Pod) -> Vec<Container> {
    let one = |name: &str, offset: i32| Container {
        id: id(name, &pod.id, index),
        pod_id: pod.id.clone(),
        name: name.to_owned(),
        state: container::State::Running.into(),
        image: format!("registry.example/{name}:1.{}", index % 9),
        created_at_ns: pod.created_at_ns,
        started_at_ns: pod.created_at_ns + SECOND,
        pid: pod.processes.first().map_or(0, |first| first.pid) + offset,
        log_path: format!("/var/log/pods/{}/{name}/0.log", pod.uid),
        tty: false,
        ..Container::default()
    };
    vec![one("main", 2), one("proxy", 3)]
}

fn created(pod: &Pod, seq: u64) -> Event {
    Event {
        seq,
        time_ns: pod.created_at_ns,
        severity: event::Severity::Normal.into(),
        kind: "pod-created".into(),
        pod_id: pod.id.clone(),
        pod_name: format!("{}/{}", pod.namespace, pod.name),
        message: "created".into(),
        ..Event::default()
    }
}

/// What happens next: a check, and with each tenth the pod whose counts it changed.
#[must_use]
pub fn step(snapshot: &Snapshot) -> Vec<Change> {
    let seen = snapshot.observer.as_ref().map_or(0, |observer| observer.seen);
    let seq = seen + 1;
    let count = snapshot.pods.len().max(1);
    let at = usize::try_from(seq.wrapping_mul(7_919)).unwrap_or(0) % count;
    let Some(pod) = snapshot.pods.get(at) else { return Vec::new() };
    let check = check(seq, pod);
    let mut changes = Vec::new();
    if seq.is_multiple_of(10) {
        let mut pod = pod.clone();
        let counts = pod.checks.get_or_insert_default();
        counts.allowed += 1;
        counts.denied += u64::from(check.verdict() == check::Verdict::Denied);
        changes.push(Change::Pod(pod));
    }
    changes.push(Change::Check(check));
    if seq.is_multiple_of(250) {
        let observer = snapshot.observer.clone().unwrap_or_default();
        changes.push(Change::Observer(Observer { produced: seq, seen: seq, allowed: seq, ..observer }));
    }
    changes
}

/// The check with this number, of a process of that pod.
#[must_use]
pub fn check(seq: u64, pod: &Pod) -> Check {
    let denied = seq.is_multiple_of(7);
    let userns = pod.namespaces.first().map_or(0, |user| user.inode);
    let pid = pod.processes.get(2).map_or(1, |process| process.pid);
    Check {
        seq,
        time_ns: now_ns(),
        pid,
        tid: pid,
        comm: "main".into(),
        syscall: if denied { "mount" } else { "setns" }.into(),
        argument: if denied { "sysfs" } else { "net" }.into(),
        capability: 21,
        capability_name: "CAP_SYS_ADMIN".into(),
        verdict: if denied { check::Verdict::Denied } else { check::Verdict::Allowed }.into(),
        caller_userns: userns,
        target_userns: if denied { INIT_USERNS } else { userns },
        caller_netns: userns + 1,
        caller_mntns: userns + 5,
        caller_pidns: userns + 4,
        pod_id: pod.id.clone(),
        pod_name: format!("{}/{}", pod.namespace, pod.name),
        container: "main".into(),
        reason: if denied { "netns-owned-by-other-userns" } else { "" }.into(),
        summary: if denied { "mount of sysfs denied: the netns belongs to another userns" } else { "" }
            .into(),
        result: None,
    }
}

/// Carries a change into the world, so that the next snapshot has it.
pub(crate) fn apply(snapshot: &mut Snapshot, change: &Change) {
    snapshot.time_ns = now_ns();
    match change {
        Change::Pod(pod) => match snapshot.pods.iter_mut().find(|one| one.id == pod.id) {
            Some(there) => *there = pod.clone(),
            None => snapshot.pods.push(pod.clone()),
        },
        Change::PodRemoved(id) => snapshot.pods.retain(|pod| pod.id != *id),
        Change::Check(check) => {
            if let Some(observer) = &mut snapshot.observer {
                observer.seen = observer.seen.max(check.seq);
                observer.produced = observer.seen;
            }
            snapshot.recent_checks.push(check.clone());
            // In one go now and then: a Vec has no cheap front.
            if snapshot.recent_checks.len() > 2 * RECENT {
                snapshot.recent_checks.drain(..RECENT);
            }
        }
        Change::Observer(observer) => snapshot.observer = Some(observer.clone()),
        Change::Node(node) => snapshot.node = Some(node.clone()),
        Change::Container(container) => {
            match snapshot.containers.iter_mut().find(|one| one.id == container.id) {
                Some(there) => *there = container.clone(),
                None => snapshot.containers.push(container.clone()),
            }
        }
        Change::ContainerRemoved(id) => snapshot.containers.retain(|one| one.id != *id),
        Change::Event(event) => snapshot.recent_events.push(event.clone()),
        Change::Lagged(_) => {}
    }
}
