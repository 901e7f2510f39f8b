//! The thread that takes records out of the ring buffer. It sleeps in poll(2) until the kernel has some.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::time::{ClockId, clock_gettime};
use sandboxd_ebpf::{CheckRecord, Counters};

use super::check::{Check, Verdict};
use super::loader::{Attached, CounterMap};
use super::opened::OpenedTypes;
use super::reason::Reason;
use super::status::Degradation;
use super::{Shared, lock};

/// How long records gather after the first one woke the reader. The kernel wakes a reader for each record
/// that finds the ring empty; one that comes a little later is woken once for many. The ring has room for
/// what a machine produces meanwhile.
const GATHER: Duration = Duration::from_micros(300);

/// Stops, and detaches the program, when dropped.
pub(super) struct Reader {
    counters: Mutex<CounterMap>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    /// Keeps the program attached.
    _program: aya::Ebpf,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    pub fn start(attached: Attached, shared: Arc<Shared>) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let Attached { rung: _, ring, counters, program } = attached;
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("observer".to_string()).spawn(move || {
            let mut drain = Drain { ring, shared, opened: OpenedTypes::default() };
            if let Err(error) = drain.run(&stopped) {
                drain.shared.degrade(Degradation::ReaderGone { problem: error.to_string() });
            }
        })?;
        Ok(Self { counters: Mutex::new(counters), stop, thread: Some(thread), _program: program })
    }

    pub fn counters(&self) -> Counters {
        lock(&self.counters).read()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let told = rustix::io::write(&*self.stop, &1u64.to_ne_bytes()).is_ok();
        if told && let Some(thread) = self.thread.take() {
            // It does not panic, and if it did there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

struct Drain {
    ring: aya::maps::RingBuf<aya::maps::MapData>,
    shared: Arc<Shared>,
    opened: OpenedTypes,
}

impl Drain {
    fn run(&mut self, stop: &OwnedFd) -> io::Result<()> {
        loop {
            self.batch();
            let mut fds = [
                PollFd::new(&self.ring, PollFlags::IN),
                PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !fds[1].revents().is_empty() {
                self.batch();
                return Ok(());
            }
            std::thread::sleep(GATHER);
        }
    }

    /// Takes all there is.
    fn batch(&mut self) {
        let Self { ring, shared, opened } = self;
        let boot_to_epoch_ns = now(ClockId::Realtime).saturating_sub(now(ClockId::Boottime));
        let mut any = false;
        while let Some(item) = ring.next() {
            any = true;
            let record = CheckRecord::from_bytes(&item);
            drop(item);
            let made = record.and_then(|record| {
                shared.record(|seq| {
                    let mut check = Check::from_record(&record, seq, boot_to_epoch_ns)?;
                    opened.follow(&mut check);
                    check.pod = shared.attribution.of_check(&check);
                    check.reason = Reason::of(&check).map(|reason| reason.for_pod(check.pod.is_some()));
                    Some(check)
                })
            });
            if let Some(check) = made {
                let verdicts =
                    if check.verdict == Verdict::Allowed { &shared.allowed } else { &shared.denied };
                verdicts.fetch_add(1, Ordering::Relaxed);
            }
            // Last: whoever sees the count finds the check.
            shared.seen.fetch_add(1, Ordering::Release);
        }
        if any {
            shared.batches.send_replace(());
        }
    }
}

fn now(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}
