//! The thread that takes records out of the ring buffer. It sleeps in poll(2) until the kernel has some.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::time::{ClockId, Timespec, clock_gettime};
use sandboxd_ebpf::{CheckRecord, Counters, Syscall};

use super::check::{Check, Verdict};
use super::loader::{Attached, CounterMap};
use super::opened::OpenedTypes;
use super::reason::Reason;
use super::results::{self, Held};
use super::status::Degradation;
use super::{Shared, lock};

/// How long records gather after the first one woke the reader. The kernel wakes a reader for each record
/// that finds the ring empty; one that comes a little later is woken once for many. The ring has room for
/// what a machine produces meanwhile.
const GATHER: Duration = Duration::from_micros(300);

/// [`Held::LONGEST`] for poll(2).
const HELD_LONGEST: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

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
        let Attached { rung: _, results, ring, counters, program } = attached;
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("observer".to_string()).spawn(move || {
            let opened = OpenedTypes::default();
            let held = results.map(|_| Held::default());
            let mut drain = Drain { ring, shared, opened, held };
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
    /// Where results are read.
    held: Option<Held>,
}

impl Drain {
    fn run(&mut self, stop: &OwnedFd) -> io::Result<()> {
        loop {
            self.batch();
            let mut fds = [
                PollFd::new(&self.ring, PollFlags::IN),
                PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
            ];
            let waiting = self.held.as_ref().is_some_and(|held| !held.is_empty());
            match poll(&mut fds, waiting.then_some(&HELD_LONGEST)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !fds[1].revents().is_empty() {
                self.batch();
                let rest = self.held.as_mut().map(Held::all).unwrap_or_default();
                rest.into_iter().for_each(|check| keep(&self.shared, check));
                return Ok(());
            }
            std::thread::sleep(GATHER);
        }
    }

    /// Takes all there is.
    fn batch(&mut self) {
        let boot_to_epoch_ns = now(ClockId::Realtime).saturating_sub(now(ClockId::Boottime));
        let mut any = false;
        while let Some(record) = self.next() {
            any = true;
            match record.map(|record| (record, record.result())) {
                Some((record, Some(errno))) => self.result(&record, errno),
                Some((record, None)) => self.check(&record, boot_to_epoch_ns),
                None => seen(&self.shared),
            }
        }
        let late = self.held.as_mut().map(|held| held.overdue(Instant::now())).unwrap_or_default();
        any |= !late.is_empty();
        late.into_iter().for_each(|check| keep(&self.shared, check));
        if any {
            self.shared.batches.send_replace(());
        }
    }

    /// The next record, `None` inside for one of another version of the object.
    fn next(&mut self) -> Option<Option<CheckRecord>> {
        self.ring.next().map(|item| CheckRecord::from_bytes(&item))
    }

    fn check(&mut self, record: &CheckRecord, boot_to_epoch_ns: i64) {
        let Self { shared, opened, held, .. } = self;
        let Some(mut check) = Check::from_record(record, 0, boot_to_epoch_ns) else { return seen(shared) };
        opened.follow(&mut check);
        check.pod = shared.attribution.of_check(&check);
        check.reason = Reason::of(&check).map(|reason| reason.for_pod(check.pod.is_some()));
        match held {
            Some(held) if results::is_reported(check.syscall) => {
                if let Some(pushed_out) = held.hold(check, Instant::now()) {
                    keep(shared, pushed_out);
                }
            }
            _ => keep(shared, check),
        }
    }

    /// A syscall has returned: its checks are complete.
    fn result(&mut self, record: &CheckRecord, errno: i32) {
        let (Some(held), Some(syscall)) = (&mut self.held, Syscall::from_raw(record.syscall)) else { return };
        let released = held.returned(record.tid.cast_signed(), syscall, errno);
        let passed = results::refused(&released).cloned();
        let count = released.len();
        released.into_iter().for_each(|check| put(&self.shared, check));
        if let Some(passed) = passed {
            self.shared.refuse(&passed, passed.pod.is_some());
        }
        // Whoever waits for the checks finds the refusal too.
        (0..count).for_each(|_| seen(&self.shared));
    }
}

/// Keeps a check that nothing more is to be said about.
fn keep(shared: &Shared, check: Check) {
    put(shared, check);
    seen(shared);
}

fn put(shared: &Shared, check: Check) {
    if let Some(check) = shared.record(|seq| Some(Check { seq, ..check })) {
        let verdicts = if check.verdict == Verdict::Allowed { &shared.allowed } else { &shared.denied };
        verdicts.fetch_add(1, Ordering::Relaxed);
    }
}

/// Last: whoever sees the count finds the check.
fn seen(shared: &Shared) {
    shared.seen.fetch_add(1, Ordering::Release);
}

fn now(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}
