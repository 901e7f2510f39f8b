//! The container's log.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sandboxd_api::cri::ReopenContainerLogRequest;
use sandboxd_tests::workload::log;
use tonic::Code;

use crate::support::{both, refused, userns};

#[test]
fn both_streams_in_cri_format() {
    both(async |stage| {
        let script = "echo one; echo two >&2; printf 'no newline'";
        let id = stage.kube.run(&stage.pod, stage.container("log").sh(script)).await?;
        let status = stage.kube.ended(&id).await?;
        let log = log(Path::new(&status.log_path))?;
        ensure!(log.of("stdout").starts_with("one\nno newline") && log.of("stderr") == "two\n", "{log:?}");
        for line in &log.lines {
            let time: Vec<_> = line.time.split(['T', '.']).collect();
            ensure!(time.len() >= 2 && time[0].len() == 10 && line.time.len() >= 20, "{:?}", line.time);
        }
        Ok(())
    });
}

#[test]
fn long_lines_are_split_and_nothing_is_lost() {
    userns(async |stage| {
        let script = "head -c 50000 /dev/zero | tr '\\0' x; echo; i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done";
        let id = stage.kube.run(&stage.pod, stage.container("long").sh(script)).await?;
        let status = stage.kube.ended(&id).await?;
        ensure!(status.exit_code == 0, "{status:?}");
        let log = log(Path::new(&status.log_path))?;
        let mut expected = "x".repeat(50_000);
        expected.push('\n');
        for n in 0..5000 {
            expected.push_str(&format!("line {n}\n"));
        }
        ensure!(log.of("stdout") == expected, "the log has {} lines", log.lines.len());
        ensure!(log.lines.iter().all(|line| line.text.len() <= 16 << 10));
        ensure!(log.lines.iter().filter(|line| !line.whole).count() == 3);
        Ok(())
    });
}

// cri: ReopenContainerLog, ReopenContainerLogRequest.container_id
#[test]
fn rotation_loses_no_line() {
    both(async |stage| {
        let kube = &stage.kube;
        let script = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done";
        let id = kube.run(&stage.pod, stage.container("rotated").sh(script)).await?;
        let path = kube.status(&id).await?.log_path;
        let mut numbers = Vec::new();
        let mut files = Vec::new();
        for n in 0..5 {
            let old = format!("{path}.{n}");
            std::fs::rename(&path, &old).with_context(|| format!("renaming {path}"))?;
            let request = ReopenContainerLogRequest { container_id: id.clone() };
            let reopened = kube.runtime.clone().reopen_container_log(request).await;
            files.push(old);
            if reopened.is_err() {
                break;
            }
            ensure!(Path::new(&path).exists(), "no new log");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let status = kube.ended(&id).await?;
        if Path::new(&path).exists() {
            files.push(path.clone());
        }
        for file in &files {
            for line in log(Path::new(file))?.lines {
                ensure!(line.whole);
                numbers.push(line.text.parse::<u32>()?);
            }
        }
        ensure!(numbers.iter().copied().eq(0..20_000), "{} lines", numbers.len());
        // An exited container has no log to reopen, and no file is made.
        std::fs::rename(&path, format!("{path}.last"))
            .or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
        let request = ReopenContainerLogRequest { container_id: id.clone() };
        refused(kube.runtime.clone().reopen_container_log(request).await, Code::FailedPrecondition, &[])?;
        ensure!(!Path::new(&path).exists(), "a file was made");
        ensure!(status.exit_code == 0);
        Ok(())
    });
}

#[test]
fn it_survives_a_restart_of_the_daemon() {
    both(async |stage| {
        let script = "i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); sleep 0.01; done; exit 9";
        let id = stage.kube.run(&stage.pod, stage.container("restart").sh(script)).await?;
        let before = stage.kube.status(&id).await?;
        stage.node.kill_daemon()?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        stage.node.spawn().await?;
        stage.kube = sandboxd_tests::workload::Kube::connect(stage.node).await?;
        let after = stage.kube.status(&id).await?;
        ensure!(after == before, "the status changed:\n{before:?}\n{after:?}");
        stage.node.kill_daemon()?;
        let end = Instant::now() + Duration::from_secs(8);
        while Instant::now() < end && log(Path::new(&before.log_path))?.lines.len() < 300 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        stage.node.spawn().await?;
        stage.kube = sandboxd_tests::workload::Kube::connect(stage.node).await?;
        let status = stage.kube.ended(&id).await?;
        ensure!(status.exit_code == 9, "{status:?}");
        let text = log(Path::new(&status.log_path))?.of("stdout");
        let numbers: Vec<u32> = text.lines().map(str::parse).collect::<Result<_, _>>()?;
        ensure!(numbers.iter().copied().eq(0..300), "{} lines", numbers.len());
        Ok(())
    });
}
