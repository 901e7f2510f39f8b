//! The thread that takes records out of the ring buffer. It sleeps in poll(2) until the kernel has some.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;
use sandboxd_ebpf::{CheckRecord, Counters};

use super::held::HeldBack;
use super::loader::{Attached, CounterMap};
use super::shared::{Shared, lock};
use super::sieve::Sieve;
use super::status::Degradation;
use super::usage::Usage;

/// How long records gather after the first one woke the reader. The kernel wakes a reader for each record
/// that finds the ring empty; one that comes a little later is woken once for many. The ring has room for
/// what a machine produces meanwhile.
const GATHER: Duration = Duration::from_micros(300);

/// Stops, and detaches the program, when dropped.
pub(super) struct Reader {
    counters: Mutex<CounterMap>,
    usage: Option<Mutex<Usage>>,
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
        let Attached { rung: _, results, ring, counters, flows, usage, program } = attached;
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("observer".to_string()).spawn(move || {
            before_others();
            let mut drain =
                Drain { ring, sieve: Sieve::new(shared, HeldBack::new(flows), results.is_some()) };
            if let Err(error) = drain.run(&stopped) {
                drain.sieve.shared.degrade(Degradation::ReaderGone { problem: error.to_string() });
            }
        })?;
        let usage = usage.map(|maps| Mutex::new(Usage::new(maps)));
        Ok(Self { counters: Mutex::new(counters), usage, stop, thread: Some(thread), _program: program })
    }

    /// `None`: not asked for.
    pub fn usage(&self) -> Option<MutexGuard<'_, Usage>> {
        self.usage.as_ref().map(lock)
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

/// On a machine with more to do than CPUs the ring is full before an ordinary thread runs again. Without the
/// privilege it stays one.
fn before_others() {
    const NICE: i32 = -10;
    // SAFETY: no memory is touched; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

struct Drain {
    ring: aya::maps::RingBuf<aya::maps::MapData>,
    sieve: Sieve,
}

impl Drain {
    fn run(&mut self, stop: &OwnedFd) -> io::Result<()> {
        loop {
            self.batch();
            let mut fds = [
                PollFd::new(&self.ring, PollFlags::IN),
                PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
            ];
            let patience = self.sieve.patience();
            match poll(&mut fds, patience.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !fds[1].revents().is_empty() {
                self.batch();
                self.sieve.finish();
                return Ok(());
            }
            self.sieve.in_time();
            std::thread::sleep(GATHER);
        }
    }

    /// Takes all there is, some at a time: whoever tells of pods waits meanwhile.
    fn batch(&mut self) {
        let Self { ring, sieve } = self;
        while sieve.take(|| CheckRecord::from_bytes(&ring.next()?).into()) {}
    }
}
