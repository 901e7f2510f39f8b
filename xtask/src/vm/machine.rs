//! One boot under QEMU.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::guest::Guest;
use super::kernel::Kernel;

/// Skips of tests that no such machine can run, by their words. All others count as failures: these kernels have
/// what the tests need, and what skips here would pass unseen.
const IMPOSSIBLE: [&str; 0] = [];

/// What the kernel is told. The tests are about what it decides, and not about its defences, which cost an emulated
/// processor much; of the clocks that it would choose, each reading ends in the emulator.
const COMMAND_LINE: &str =
    "console=ttyS0 panic=-1 quiet loglevel=3 mitigations=off init_on_alloc=0 tsc=reliable";

/// What became of a program that ran there.
#[derive(Debug)]
pub struct Outcome {
    pub name: String,
    pub passed: bool,
    pub took: Duration,
}

/// What a boot gave.
#[derive(Debug, Default)]
pub struct Boot {
    pub outcomes: Vec<Outcome>,
    /// The emulator made the kernel die: see [`LOST_INT3`].
    pub emulator: bool,
}

/// How QEMU emulates the machine's processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    Several,
    /// One after the other. Half as fast, and none sees another's code half patched.
    One,
}

/// A kernel that patches its own code puts an int3 there meanwhile. QEMU with several threads may run one that is
/// patched over already, which nobody expects then: the kernel dies anywhere, of no fault of anything that runs there.
const LOST_INT3: &str = "Oops: int3";
/// Or it runs it for ever: where a kprobe was, the kernel sees that the int3 is gone and has the instruction run again
/// (`kprobe_int3_handler`). "watchdog: BUG: soft lockup - CPU#1 stuck for 101s!"
const STUCK: (&str, &str) = ("BUG: soft lockup - CPU#", " stuck for ");
/// Seconds. A machine that has to wait for processors of the host is stuck for less.
const STUCK_FOR: u64 = 100;

/// Whether a processor of the machine gets nowhere any more.
fn is_stuck(line: &str) -> bool {
    let after = line.split_once(STUCK.0).and_then(|(_, rest)| rest.split_once(STUCK.1));
    let seconds = after.and_then(|(_, rest)| rest.split_once("s!")?.0.parse::<u64>().ok());
    seconds.is_some_and(|seconds| seconds >= STUCK_FOR)
}

/// Ends the machine with its value.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have powered off already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots, passes on what is said, and gives what became of each program.
pub fn boot(kernel: &Kernel, guest: &Guest, threads: Threads, patience: Duration) -> Result<Boot> {
    let mut command = Command::new("qemu-system-x86_64");
    // The cmpxchg16b of QEMU 7.2 (Debian 12's) corrupts the flags: Linux 6.12 dies of it before its first process.
    let accel = match threads {
        Threads::Several => "tcg,thread=multi",
        Threads::One => "tcg,thread=single",
    };
    command.args(["-accel", accel, "-cpu", "max,cx16=off", "-smp", "2", "-m", "2048"]);
    command.args(["-nographic", "-no-reboot", "-nic", "none"]);
    command.args(["-append", COMMAND_LINE]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(&guest.initramfs);
    let drive = format!("file={},if=virtio,format=raw,cache=unsafe", guest.disk.display());
    command.arg("-drive").arg(drive);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut machine = Machine(command.spawn().context("starting qemu-system-x86_64")?);
    let stdout = machine.0.stdout.take().context("no standard output")?;
    let begun = Instant::now();
    let (lines, heard) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    let mut boot = Boot::default();
    let mut skipped = 0;
    let mut since = begun;
    loop {
        match heard.recv_timeout(patience.saturating_sub(begun.elapsed())) {
            Ok(line) => {
                if line.contains("SKIPPED: ") && !IMPOSSIBLE.iter().any(|words| line.contains(words)) {
                    skipped += 1;
                }
                boot.emulator |= line.contains(LOST_INT3);
                if is_stuck(&line) {
                    println!("{line}");
                    boot.emulator = true;
                    break;
                }
                if line.starts_with("VM-BEGIN ") {
                    since = Instant::now();
                }
                match line.strip_prefix("VM-TEST ").and_then(|rest| rest.split_once(' ')) {
                    Some((status, name)) => {
                        let passed = status == "0" && skipped == 0;
                        boot.outcomes.push(Outcome { name: name.to_owned(), passed, took: since.elapsed() });
                        skipped = 0;
                    }
                    None => println!("{line}"),
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                bail!("Linux {} did not finish within {} s", kernel.version, patience.as_secs());
            }
        }
    }
    println!("powered off after {:.0} s", begun.elapsed().as_secs_f64());
    Ok(boot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_stuck_when_it_has_been_for_long() {
        let line = |seconds: u64| {
            format!("[  600.713430] watchdog: BUG: soft lockup - CPU#1 stuck for {seconds}s! [sh:12224]")
        };
        assert!(is_stuck(&line(STUCK_FOR)) && is_stuck(&line(2 * STUCK_FOR)));
        assert!(!is_stuck(&line(STUCK_FOR - 1)));
        assert!(!is_stuck("a test that was stuck for 200s!"));
    }
}
