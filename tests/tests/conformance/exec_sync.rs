//! ExecSync.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sandboxd_api::cri::ExecSyncRequest;
use tonic::Code;

use crate::support::{both, refused, userns};

// cri: ExecSync, ExecSyncRequest.container_id, ExecSyncRequest.cmd, ExecSyncResponse.stdout
// cri: ExecSyncResponse.stderr, ExecSyncResponse.exit_code
#[test]
fn streams_and_exit_code() {
    both(async |stage| {
        let id = stage.kube.run(&stage.pod, stage.container("box").waits()).await?;
        let said = stage.kube.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 5"]).await?;
        ensure!(said.stdout == b"out\n" && said.stderr == b"err\n" && said.exit_code == 5, "{said:?}");
        let killed = stage.kube.exec(&id, &["sh", "-c", "kill -9 $$"]).await?;
        ensure!(killed.exit_code == 137, "{killed:?}");
        refused(stage.kube.exec(&id, &[]).await, Code::InvalidArgument, &["cmd"])?;
        refused(stage.kube.exec("nosuchcontainer", &["true"]).await, Code::NotFound, &["nosuchcontainer"])?;
        let missing = stage.kube.exec(&id, &["/no/such"]).await;
        ensure!(missing.is_err_and(|status| status.message().contains("/no/such")));
        Ok(())
    });
}

// cri: ExecSyncRequest.timeout
#[test]
fn the_time_out_kills_the_whole_tree() {
    both(async |stage| {
        let id = stage.kube.run(&stage.pod, stage.container("box").waits()).await?;
        let request = ExecSyncRequest {
            container_id: id.clone(),
            cmd: ["sh", "-c", "(sleep 5432 & sleep 5432) & sleep 5432"].map(str::to_owned).into(),
            timeout: 1,
        };
        let begin = Instant::now();
        refused(stage.kube.runtime.clone().exec_sync(request).await, Code::DeadlineExceeded, &["1"])?;
        ensure!(begin.elapsed() < Duration::from_secs(30), "took {:?}", begin.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
        let left = stage.kube.exec(&id, &["sh", "-c", "ps -o args | grep -c '[s]leep 5432'"]).await?;
        ensure!(left.stdout == b"0\n", "{}", String::from_utf8_lossy(&left.stdout));
        Ok(())
    });
}

#[test]
fn a_child_that_keeps_the_streams_does_not_hold_it_up() {
    userns(async |stage| {
        let id = stage.kube.run(&stage.pod, stage.container("box").waits()).await?;
        let begin = Instant::now();
        let said = stage.kube.exec(&id, &["sh", "-c", "echo first; sleep 600 & exit 0"]).await?;
        ensure!(said.stdout == b"first\n" && begin.elapsed() < Duration::from_secs(60), "{said:?}");
        Ok(())
    });
}

#[test]
fn output_is_bounded() {
    userns(async |stage| {
        let id = stage.kube.run(&stage.pod, stage.container("box").waits()).await?;
        let said = stage.kube.exec(&id, &["sh", "-c", "head -c 20000000 /dev/zero; echo end >&2"]).await?;
        ensure!(said.stdout.len() <= 16 << 20 && said.stdout.len() > 15 << 20, "{}", said.stdout.len());
        ensure!(said.stderr == b"end\n" && said.exit_code == 0);
        Ok(())
    });
}

#[test]
fn it_runs_with_the_containers_own_identity() {
    both(async |stage| {
        let id = stage
            .kube
            .run(&stage.pod, stage.container("box").run_as(1000, 1000).env("X", "y").waits())
            .await?;
        let own = "id -u; id -g; echo $X; pwd; grep -E 'Cap(Eff|Bnd)|NoNewPrivs|Seccomp:' /proc/self/status; \
                   for n in user net ipc uts mnt pid cgroup; do readlink /proc/self/ns/$n; done; grep -v ^0: /proc/self/cgroup; true";
        let executed = stage.kube.asked(&id, &["sh", "-c", own]).await?;
        let first = own.replace("/proc/self", "/proc/1");
        let of_first = stage.kube.asked(&id, &["sh", "-c", &first]).await?;
        ensure!(executed == of_first, "exec:\n{executed}\nthe container:\n{of_first}");
        ensure!(executed.starts_with("1000\n1000\ny\n/work\n"), "{executed}");
        Ok(())
    });
}
