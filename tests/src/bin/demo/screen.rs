//! The console: live with pods that come and go, or one frame as text.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandboxd_tests::bins;
use sandboxd_tests::cri::Cri;
use sandboxd_tests::node::Node;
use tokio::time::sleep;

use crate::say;

/// How long the console gets to put the terminal back.
const END_PATIENCE: Duration = Duration::from_secs(2);

fn command(node: &Node) -> Result<Command> {
    let mut command = Command::new(bins::find("sandboxd-tui")?);
    command.arg("--endpoint").arg(node.console_socket());
    Ok(command)
}

/// One frame.
pub async fn frame(node: &Node) -> Result<()> {
    say::heading(3, "The console: one frame of `sandboxd-tui --once`");
    let mut command = tokio::process::Command::from(command(node)?);
    let output = command.arg("--once").stdin(Stdio::null()).kill_on_drop(true).output().await?;
    ensure!(output.status.success(), "sandboxd-tui: {}", String::from_utf8_lossy(&output.stderr).trim());
    say::blank();
    say::raw(String::from_utf8_lossy(&output.stdout).trim_end());
    say::blank();
    Ok(())
}

/// The console on this terminal, until the operator quits it.
pub async fn live(node: &Node, cri: &Cri) -> Result<()> {
    say::heading(3, "The console");
    say::line("Pods come and go while you look; now and then one takes the old order. q quits, ? helps.");
    say::line("Press Enter to open it.");
    read_line().await?;
    let mut console = Console::open(command(node)?)?;
    tokio::select! {
        status = console.ended() => status,
        traffic = traffic(node, cri) => traffic,
    }
}

/// Waits for a line. The reader is a thread of its own that dies with the process: a blocked read must
/// not hold up Ctrl-C.
async fn read_line() -> Result<()> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let _ = sender.send(std::io::stdin().read_line(&mut line).map(drop));
    });
    receiver.await.context("standard input")?.context("standard input")
}

/// The running console; ended by SIGTERM when dropped, so that it puts the terminal back.
struct Console(Child);

impl Console {
    fn open(mut command: Command) -> Result<Self> {
        // In this process group: it must own the terminal.
        Ok(Self(command.spawn().context("starting sandboxd-tui")?))
    }

    async fn ended(&mut self) -> Result<()> {
        loop {
            if let Some(status) = self.0.try_wait()? {
                ensure!(status.success(), "sandboxd-tui ended with {status}");
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let running = |child: &mut Child| matches!(child.try_wait(), Ok(None));
        if !running(&mut self.0) {
            return;
        }
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let end = Instant::now() + END_PATIENCE;
        while running(&mut self.0) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Pods that come and go for as long as somebody looks: up to six, each for some seconds; every fifth
/// takes the old order and fails.
async fn traffic(node: &Node, cri: &Cri) -> Result<()> {
    const NAMES: [&str; 5] = ["web", "cache", "queue", "mail", "search"];
    let mut living: Vec<String> = Vec::new();
    for turn in 0usize.. {
        let name = format!("{}-{turn}", NAMES[turn % NAMES.len()]);
        let handler = if turn % 5 == 4 { "network-first" } else { "" };
        let base = 1_400_000_000 + 65_536 * u32::try_from(turn % 1_000)?;
        let pod = node.pod(&name).userns_at(base, 65_536).label("app", NAMES[turn % NAMES.len()]);
        // The old order's failure is the point, and the console shows it.
        if let Ok(id) = cri.run_with(pod.build(), handler).await {
            living.push(id);
        }
        sleep(Duration::from_millis(1_200)).await;
        if living.len() > 5 {
            let oldest = living.remove(0);
            cri.stop(&oldest).await.context("StopPodSandbox")?;
            sleep(Duration::from_millis(600)).await;
            cri.remove(&oldest).await.context("RemovePodSandbox")?;
        }
    }
    Ok(())
}
