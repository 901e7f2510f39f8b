//! Logs and commands on the console protocol.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use sandboxd_api::console::exec_request::Message as Asked;
use sandboxd_api::console::exec_response::Message as Said;
use sandboxd_api::console::{
    ExecRequest, ExecResponse, ExecStart, LogLine, ReadLogRequest, ReadLogResponse, TerminalSize,
};
use sandboxd_api::cri::ReopenContainerLogRequest;
use sandboxd_tests::console::Console;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::image::BUSYBOX;
use sandboxd_tests::node::Node;
use sandboxd_tests::proc;
use sandboxd_tests::workload::{Kube, Request, Sandbox};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use crate::support::{eventually, refused};

async fn stage(node: &Node) -> Result<(Kube, Sandbox, Console)> {
    node.load_busybox()?;
    let kube = Kube::connect(node).await?;
    let pod = kube.pod(node.pod("stage").userns()).await?;
    Ok((kube, pod, node.console().await?))
}

/// A log as it comes.
struct Log {
    stream: Streaming<ReadLogResponse>,
    waiting: VecDeque<LogLine>,
}

impl Log {
    async fn open(console: &Console, request: ReadLogRequest) -> Result<Self, tonic::Status> {
        let stream = console.client.clone().read_log(request).await?.into_inner();
        Ok(Self { stream, waiting: VecDeque::new() })
    }

    /// The next line; `None`: the end.
    async fn next(&mut self) -> Result<Option<LogLine>> {
        while self.waiting.is_empty() {
            match self.stream.message().await? {
                Some(more) => self.waiting.extend(more.lines),
                None => return Ok(None),
            }
        }
        Ok(self.waiting.pop_front())
    }

    async fn text(&mut self) -> Result<String> {
        let line = self.next().await?.context("the log ended")?;
        Ok(String::from_utf8(line.text)?)
    }

    async fn rest(&mut self) -> Result<Vec<String>> {
        let mut rest = Vec::new();
        while let Some(line) = self.next().await? {
            rest.push(String::from_utf8(line.text)?);
        }
        Ok(rest)
    }
}

fn of(id: &str) -> ReadLogRequest {
    ReadLogRequest { container_id: id.to_owned(), ..Default::default() }
}

#[test]
fn a_log_is_read_from_its_beginning_its_end_or_a_time() {
    E2e::default().run(async |node| {
        let (kube, pod, console) = stage(node).await?;
        let id =
            kube.run(&pod, Request::new("says", BUSYBOX).sh("echo one; echo two >&2; echo three")).await?;
        let status = kube.ended(&id).await?;
        let mut log = Log::open(&console, of(&id[..10])).await?;
        let mut lines = Vec::new();
        while let Some(line) = log.next().await? {
            lines.push(line);
        }
        let mut texts: Vec<_> = lines.iter().map(|line| (&line.text[..], line.stderr)).collect();
        texts.sort();
        ensure!(texts == [(&b"one"[..], false), (b"three", false), (b"two", true)], "{lines:?}");
        ensure!(lines.iter().all(|line| line.time_ns >= status.created_at && !line.partial), "{lines:?}");
        let last = Log::open(&console, ReadLogRequest { tail_lines: 1, ..of(&id) }).await?.rest().await?;
        ensure!(last.len() == 1, "{last:?}");
        let since_ns = lines.iter().map(|line| line.time_ns).max().unwrap_or(0) + 1;
        ensure!(Log::open(&console, ReadLogRequest { since_ns, ..of(&id) }).await?.rest().await?.is_empty());
        // Of a container that has ended, following ends at once.
        ensure!(
            Log::open(&console, ReadLogRequest { follow: true, ..of(&id) }).await?.rest().await?.len() == 3
        );

        let silent = Request::new("silent", BUSYBOX).sh("exit 0").with(|it| it.log_path.clear());
        let silent = kube.create(&pod, silent).await?;
        refused(Log::open(&console, of(&silent)).await.map(drop), Code::FailedPrecondition, &["log_path"])?;
        fs::remove_file(&status.log_path)?;
        refused(Log::open(&console, of(&id)).await.map(drop), Code::NotFound, &[&status.log_path])?;
        nix::unistd::mkfifo(Path::new(&status.log_path), nix::sys::stat::Mode::S_IRWXU)?;
        refused(Log::open(&console, of(&id)).await.map(drop), Code::FailedPrecondition, &["regular"])?;
        refused(Log::open(&console, of("nothing")).await.map(drop), Code::NotFound, &["no container"])
    });
}

#[test]
fn a_followed_log_goes_on_over_a_rotation_and_ends_with_its_container() {
    E2e::default().run(async |node| {
        let (kube, pod, console) = stage(node).await?;
        // Says a line for each file that appears.
        let script = "n=0; while :; do if [ -e /say/$n ]; then echo line $n; n=$((n+1)); fi; \
                      [ -e /say/end ] && exit 0; sleep 0.02; done";
        let say = node.path("say");
        fs::create_dir(&say)?;
        let request = Request::new("says", BUSYBOX).sh(script).bind(&say, "/say");
        let id = kube.run(&pod, request).await?;
        let path = kube.status(&id).await?.log_path;
        let mut log = Log::open(&console, ReadLogRequest { follow: true, ..of(&id) }).await?;
        let mut slow = Log::open(&console, ReadLogRequest { follow: true, ..of(&id) }).await?;
        for n in 0..3 {
            fs::write(say.join(n.to_string()), "")?;
            ensure!(log.text().await? == format!("line {n}"));
            // As kubelet rotates.
            fs::rename(&path, format!("{path}.{n}"))?;
            let request = ReopenContainerLogRequest { container_id: id.clone() };
            kube.runtime.clone().reopen_container_log(request).await?;
            // So that no rotation is over before it is seen: kubelet looks every ten seconds.
            eventually("the daemon reads the new file", async || Ok(reads(node, &path)? >= 2)).await?;
        }
        fs::write(say.join("3"), "")?;
        ensure!(log.text().await? == "line 3");
        fs::write(say.join("end"), "")?;
        ensure!(log.rest().await?.is_empty(), "it ends with its container");
        ensure!(
            slow.rest().await? == ["line 0", "line 1", "line 2", "line 3"],
            "nothing is lost to who reads late"
        );
        Ok(())
    });
}

/// How many descriptors of the daemon are this very file.
fn reads(node: &Node, path: &str) -> Result<usize> {
    use std::os::unix::fs::MetadataExt;
    let wanted = fs::metadata(path)?.ino();
    let pid = node.daemon_pid().context("no daemon")?;
    let fds = fs::read_dir(format!("/proc/{pid}/fd"))?.filter_map(Result::ok);
    Ok(fds.filter(|fd| fs::metadata(fd.path()).is_ok_and(|meta| meta.ino() == wanted)).count())
}

/// A command on its way.
struct Exec {
    input: mpsc::Sender<ExecRequest>,
    output: Streaming<ExecResponse>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Exec {
    async fn start(console: &Console, start: ExecStart) -> Result<Self, tonic::Status> {
        let (input, requests) = mpsc::channel(4);
        let first = ExecRequest { message: Some(Asked::Start(start)) };
        input.try_send(first).map_err(|_| tonic::Status::internal("a new channel is full"))?;
        let output = console.client.clone().exec(ReceiverStream::new(requests)).await?.into_inner();
        Ok(Self { input, output, stdout: Vec::new(), stderr: Vec::new() })
    }

    async fn send(&self, message: Asked) -> Result<()> {
        self.input.send(ExecRequest { message: Some(message) }).await.context("the exec has ended")
    }

    /// Takes a message; the exit code, where it is the last.
    async fn next(&mut self) -> Result<Option<i32>> {
        match self.output.message().await?.and_then(|response| response.message) {
            Some(Said::Stdout(bytes)) => self.stdout.extend(bytes),
            Some(Said::Stderr(bytes)) => self.stderr.extend(bytes),
            Some(Said::ExitCode(code)) => return Ok(Some(code)),
            None => bail!("the stream ended without an exit code"),
        }
        Ok(None)
    }

    async fn until(&mut self, word: &str) -> Result<()> {
        while !String::from_utf8_lossy(&self.stdout).contains(word) {
            let code = self.next().await?;
            ensure!(
                code.is_none(),
                "ended with {code:?} before {word:?}: {}",
                String::from_utf8_lossy(&self.stdout)
            );
        }
        Ok(())
    }

    async fn code(&mut self) -> Result<i32> {
        loop {
            if let Some(code) = self.next().await? {
                ensure!(self.output.message().await?.is_none(), "the exit code is the last message");
                return Ok(code);
            }
        }
    }
}

fn command(id: &str, script: &str) -> ExecStart {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    ExecStart { container_id: id.to_owned(), command, ..Default::default() }
}

#[test]
fn a_command_has_streams_and_an_exit_code() {
    E2e::default().run(async |node| {
        let (kube, pod, console) = stage(node).await?;
        let id = kube.run(&pod, Request::new("box", BUSYBOX).waits()).await?;
        let mut exec = Exec::start(&console, command(&id[..12], "cat; echo problem >&2; exit 7")).await?;
        exec.send(Asked::Stdin(b"typed ".to_vec())).await?;
        exec.until("typed").await?;
        exec.send(Asked::Stdin(b"more".to_vec())).await?;
        exec.send(Asked::StdinClosed(true)).await?;
        ensure!(exec.code().await? == 7);
        ensure!(
            exec.stdout == b"typed more" && exec.stderr == b"problem\n",
            "{:?} {:?}",
            exec.stdout,
            exec.stderr
        );

        // More than any buffer on the way, both ways; and a client that only ends its stream has closed its input.
        let mut exec = Exec::start(&console, command(&id, "cat")).await?;
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| n.to_le_bytes()[0]).collect();
        let (input, bytes) = (exec.input.clone(), sent.clone());
        exec.input = mpsc::channel(1).0;
        let typing = tokio::spawn(async move {
            for piece in bytes.chunks(50_000) {
                let message = Some(Asked::Stdin(piece.to_vec()));
                if input.send(ExecRequest { message }).await.is_err() {
                    return;
                }
            }
        });
        ensure!(exec.code().await? == 0 && exec.stdout == sent, "{} bytes came back", exec.stdout.len());
        typing.await?;

        // A child in the background that keeps the output open is not waited for.
        let mut exec = Exec::start(&console, command(&id, "sleep 1000 & echo over")).await?;
        ensure!(exec.code().await? == 0 && exec.stdout == b"over\n");

        let nothing = ExecStart { command: vec!["/no/such".into()], ..command(&id, "") };
        ensure!(Exec::start(&console, nothing).await.is_err());
        let empty = ExecStart { command: Vec::new(), ..command(&id, "") };
        refused(Exec::start(&console, empty).await.map(drop), Code::InvalidArgument, &["command"])?;
        let requests = tokio_stream::iter([ExecRequest { message: Some(Asked::StdinClosed(true)) }]);
        refused(
            console.client.clone().exec(requests).await.map(drop),
            Code::InvalidArgument,
            &["ExecStart"],
        )?;
        kube.stop(&id, 10).await?;
        refused(
            Exec::start(&console, command(&id, "true")).await.map(drop),
            Code::FailedPrecondition,
            &["running"],
        )
    });
}

#[test]
fn a_command_on_a_terminal_sees_its_size_and_changes_of_it() {
    E2e::default().run(async |node| {
        let (kube, pod, console) = stage(node).await?;
        let id = kube.run(&pod, Request::new("box", BUSYBOX).waits()).await?;
        let script = "tty; stty size; read line; stty size; echo got $line >&2; exit 5";
        let size = Some(TerminalSize { columns: 91, rows: 33 });
        let mut exec = Exec::start(&console, ExecStart { tty: true, size, ..command(&id, script) }).await?;
        exec.until("/dev/pts/").await?;
        // A first size may come a moment after the command began; the second is waited for.
        exec.send(Asked::Resize(TerminalSize { columns: 71, rows: 22 })).await?;
        let tty = ExecStart {
            tty: true,
            size,
            ..command(&id, "while [ \"$(stty size)\" != '33 91' ]; do :; done")
        };
        ensure!(Exec::start(&console, tty).await?.code().await? == 0, "the size of the start");
        exec.send(Asked::Stdin(b"hello\n".to_vec())).await?;
        ensure!(exec.code().await? == 5);
        let text = String::from_utf8_lossy(&exec.stdout).into_owned();
        ensure!(text.contains("22 71") && text.contains("got hello"), "{text:?}");
        ensure!(exec.stderr.is_empty(), "a terminal has one output");
        Ok(())
    });
}

#[test]
fn a_client_that_goes_ends_its_command() {
    E2e::default().run(async |node| {
        let (kube, pod, console) = stage(node).await?;
        let id = kube.run(&pod, Request::new("box", BUSYBOX).waits()).await?;
        for tty in [false, true] {
            // A name that no other test's process has.
            let marker = format!("{}.{}", 7_000 + u32::from(tty), std::process::id());
            let script = format!("sleep {marker} & echo begun; wait");
            let mut exec = Exec::start(&console, ExecStart { tty, ..command(&id, &script) }).await?;
            exec.until("begun").await?;
            eventually("its child runs", async || Ok(proc_with(&marker)? > 0)).await?;
            drop(exec);
            eventually("the command and its child have ended", async || Ok(proc_with(&marker)? == 0)).await?;
        }
        ensure!(kube.status(&id).await?.finished_at == 0, "the container runs on");
        let log = node.log_tail(100);
        let ended =
            log.lines().filter(|line| line.contains("sandboxd::audit") && line.contains("Exec ended"));
        ensure!(ended.count() == 2, "{log}");
        Ok(())
    });
}

/// How many processes of the machine have this in their command line.
fn proc_with(marker: &str) -> Result<usize> {
    let own = i32::try_from(std::process::id())?;
    let all = fs::read_dir("/proc")?.filter_map(Result::ok);
    let pids =
        all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter(|pid| *pid != own);
    let with = |pid: &i32| {
        proc::read(*pid).is_some()
            && fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(marker))
    };
    Ok(pids.filter(with).count())
}
