//! Counters of a pod's network interfaces, read inside its network namespace: `/proc/thread-self/net/dev` of a
//! thread that has joined it by its pin.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::pod::model::{Pod, PodState};
use crate::pod::spec::NetworkMode;

/// CNI's name for a pod's first interface, which kubelet's and all other runtimes use.
const DEFAULT: &str = "eth0";

/// What went through an interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub received: Counters,
    pub sent: Counters,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// The interfaces of each pod, the default one first; none where the pod has no network of its own, or is gone.
pub(super) fn interfaces(pods: &[Arc<Pod>]) -> Vec<Vec<Interface>> {
    let nothing = || vec![Vec::new(); pods.len()];
    thread::scope(|scope| {
        // setns(2) changes the calling thread alone, which ends afterwards.
        let reader = thread::Builder::new().name("net-stats".into());
        let reader = reader.spawn_scoped(scope, || pods.iter().map(|pod| of(pod)).collect());
        match reader {
            Ok(reader) => reader.join().unwrap_or_else(|_| nothing()),
            Err(error) => {
                tracing::warn!(%error, "no thread to read the pods' network counters");
                nothing()
            }
        }
    })
}

fn of(pod: &Pod) -> Vec<Interface> {
    let up = matches!(pod.state, PodState::Ready | PodState::Stopping);
    let Some(pin) = pod.netns_path.as_ref().filter(|_| up && pod.spec.namespaces.network == NetworkMode::Pod)
    else {
        return Vec::new();
    };
    match read(pin) {
        Ok(text) => parse(&text),
        Err(error) => {
            tracing::debug!(pod = %pod.id, pin = %pin.display(), %error, "network counters not read");
            Vec::new()
        }
    }
}

/// Leaves the thread in that namespace.
fn read(pin: &Path) -> io::Result<String> {
    let netns = File::open(pin)?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    fs::read_to_string("/proc/thread-self/net/dev")
}

/// proc_pid_net(5): two lines of headings, then "name: 8 received, 8 sent".
fn parse(text: &str) -> Vec<Interface> {
    let mut all: Vec<Interface> = text
        .lines()
        .skip(2)
        .filter_map(|line| {
            let (name, numbers) = line.split_once(':')?;
            let numbers: Vec<u64> = numbers.split_whitespace().map(|n| n.parse().unwrap_or(0)).collect();
            let counters = |at: usize| {
                let of = |n: usize| numbers.get(at + n).copied().unwrap_or(0);
                Counters { bytes: of(0), packets: of(1), errors: of(2), dropped: of(3) }
            };
            let (received, sent) = (counters(0), counters(8));
            Some(Interface { name: name.trim().to_owned(), received, sent })
        })
        .filter(|interface| interface.name != "lo")
        .collect();
    all.sort_by_key(|interface| interface.name != DEFAULT);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::model::test_pod;

    const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  net1:      10       1    0    0    0     0          0         0       20       2    0    0    0     0       0          0
  eth0:    1234      12    3    4    0     0          0         0     5678      56    7    8    0     0       0          0
";

    #[test]
    fn the_default_interface_is_first() {
        let all = parse(DEV);
        let names: Vec<&str> = all.iter().map(|i| i.name.as_str()).collect();
        assert_eq!(names, ["eth0", "net1"]);
        assert_eq!(all[0].received, Counters { bytes: 1234, packets: 12, errors: 3, dropped: 4 });
        assert_eq!(all[0].sent, Counters { bytes: 5678, packets: 56, errors: 7, dropped: 8 });
    }

    #[test]
    fn counters_are_read_in_the_namespace() {
        if !rustix::process::geteuid().is_root() {
            let _ = io::Write::write_all(&mut io::stderr(), b"SKIPPED: network counters: needs root\n");
            return;
        }
        // Another thread's namespace stands in for a pin.
        let (told, tell) = std::sync::mpsc::channel::<std::path::PathBuf>();
        let (done, finished) = std::sync::mpsc::channel::<()>();
        let owner = thread::spawn(move || {
            // SAFETY: a new network namespace for this thread alone; no descriptors are affected.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            let pid = std::process::id();
            let tid = rustix::thread::gettid().as_raw_nonzero();
            told.send(format!("/proc/{pid}/task/{tid}/ns/net").into()).unwrap();
            let _ = finished.recv();
        });
        let ready = Pod { state: PodState::Ready, netns_path: Some(tell.recv().unwrap()), ..test_pod("a") };
        let gone = Pod { netns_path: Some("/nowhere".into()), ..ready.clone() };
        let here = interfaces(&[Arc::new(ready.clone()), Arc::new(gone)]);
        let pin = ready.netns_path.unwrap();
        let raw = thread::spawn(move || read(&pin).unwrap()).join().unwrap();
        drop(done);
        owner.join().unwrap();
        assert_eq!(here, [Vec::new(), Vec::new()], "a new namespace has lo alone");
        let lines: Vec<&str> = raw.lines().skip(2).collect();
        assert!(matches!(lines.as_slice(), [lo] if lo.trim().starts_with("lo: ")), "{raw}");
    }
}
