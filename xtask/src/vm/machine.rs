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

/// Ends the machine with its value.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have powered off already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots, passes on what is said, and gives each test's name and whether it passed.
pub fn boot(kernel: &Kernel, guest: &Guest, patience: Duration) -> Result<Vec<(String, bool)>> {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048"]);
    command.args(["-nographic", "-no-reboot", "-nic", "none"]);
    command.args(["-append", "console=ttyS0 panic=-1 quiet loglevel=3"]);
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
    let mut results = Vec::new();
    let mut skipped = 0;
    loop {
        match heard.recv_timeout(patience.saturating_sub(begun.elapsed())) {
            Ok(line) => {
                if line.contains("SKIPPED: ") && !IMPOSSIBLE.iter().any(|words| line.contains(words)) {
                    skipped += 1;
                }
                match line.strip_prefix("VM-TEST ").and_then(|rest| rest.split_once(' ')) {
                    Some((status, name)) => {
                        results.push((name.to_owned(), status == "0" && skipped == 0));
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
    Ok(results)
}
