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

/// A kernel that patches its own code puts an int3 there meanwhile. QEMU with several threads may run one that is
/// patched over already, which nobody expects then: the kernel dies anywhere, of no fault of anything that runs there.
const LOST_INT3: &str = "Oops: int3";

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
pub fn boot(kernel: &Kernel, guest: &Guest, patience: Duration) -> Result<Boot> {
    let mut command = Command::new("qemu-system-x86_64");
    // The cmpxchg16b of QEMU 7.2 (Debian 12's) corrupts the flags: Linux 6.12 dies of it before its first process.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max,cx16=off", "-smp", "2", "-m", "2048"]);
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
