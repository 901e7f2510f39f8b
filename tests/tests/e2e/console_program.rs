//! `sandboxd-tui` as an operator runs it: the real program on a terminal, over the real daemon.

use std::ffi::OsString;
use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use sandboxd_api::cri::PodSandboxState;
use sandboxd_pty::Pty;
use sandboxd_tests::bins;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::image::BUSYBOX;
use sandboxd_tests::node::Node;
use sandboxd_tests::skip::Need;
use sandboxd_tests::workload::{Kube, Request, Sandbox};

const ENTER: &[u8] = b"\r";
const ESC: &[u8] = b"\x1b";

fn console(node: &Node, args: &[OsString]) -> Result<Pty> {
    let mut all: Vec<OsString> = vec!["--endpoint".into(), node.console_socket().into()];
    all.extend_from_slice(args);
    let console = Pty::run(&bins::find("sandboxd-tui")?, &all);
    console.wait_for("● live");
    Ok(console)
}

/// A pod with a container that runs what it is told.
async fn stage(node: &Node, container: Request) -> Result<(Kube, Sandbox)> {
    node.load_busybox()?;
    let kube = Kube::connect(node).await?;
    let pod = kube.pod(node.pod("stage").userns()).await?;
    kube.run(&pod, container).await?;
    Ok((kube, pod))
}

/// Into the containers of the only pod.
fn open_containers(console: &mut Pty, container: &str) {
    console.wait_for("● ready");
    console.press(ENTER);
    console.wait_for("Pods ▸ default/stage");
    console.wait_for(container);
}

fn quit(console: &mut Pty) -> Result<()> {
    console.press(b"q");
    ensure!(console.ended() == Some(0), "{}", console.contents());
    Ok(())
}

/// The pods that CRI lists as ready.
async fn ready(kube: &Kube) -> Result<usize> {
    let pods = kube.cri.list(None).await?;
    Ok(pods.iter().filter(|pod| pod.state() == PodSandboxState::SandboxReady).count())
}

#[test]
fn a_log_is_followed_and_searched_and_the_session_recorded() {
    E2e::default().run(async |node| {
        // Sixty lines, and one more for each file that appears.
        let script = "n=1; while [ $n -le 60 ]; do echo line $n; n=$((n+1)); done; \
                      while :; do [ -e /say/$n ] && { echo news $n >&2; n=$((n+1)); }; sleep 0.02; done";
        let say = node.path("say");
        fs::create_dir(&say)?;
        stage(node, Request::new("says", BUSYBOX).sh(script).bind(&say, "/say")).await?;
        let file = node.path("session.jsonl");
        let mut console = console(node, &["--record".into(), file.clone().into()])?;
        open_containers(&mut console, "says");
        console.press(b"l");
        console.wait_for("following");
        console.wait_for("line 60");
        fs::write(say.join("61"), "")?;
        console.wait_for("E news 61");

        console.press(b"/LINE 17");
        console.press(ENTER);
        console.wait_for("held");
        console.wait_until("the line that was looked for", |screen| {
            screen.contains("line 17") && !screen.contains("line 60")
        });
        // What comes meanwhile waits below.
        console.wait_for("44 newer below");
        fs::write(say.join("62"), "")?;
        console.wait_for("45 newer below");
        console.press(b"f");
        console.wait_for("E news 62");
        console.wait_for("following");

        console.press(ESC);
        console.wait_gone("log of says");
        console.press(ESC);
        console.wait_for("[1 Pods]");
        quit(&mut console)?;

        // The recording has all of it without the daemon: the pod, its container, the log.
        node.kill_daemon()?;
        let args = ["--replay".into(), file.into_os_string()];
        let mut replay = Pty::run(&bins::find("sandboxd-tui")?, &args);
        open_containers(&mut replay, "says");
        replay.press(b"l");
        replay.wait_for("E news 62");
        quit(&mut replay)
    });
}

#[test]
fn a_command_has_the_terminal_and_gives_it_back() {
    E2e::default().run(async |node| {
        stage(node, Request::new("main", BUSYBOX).waits()).await?;
        let mut console = console(node, &["--allow-actions".into()])?;
        open_containers(&mut console, "main");
        console.press(b"e");
        console.wait_for("Ctrl-] three times leaves it");
        console.assert_ordinary();
        console.press(b"echo $((6 * 7)) from $(hostname)\r");
        console.wait_for("42 from stage");
        console.press(b"stty size\r");
        console.wait_for("24 80");
        console.resize(100, 30);
        console.press(b"stty size\r");
        console.wait_for("30 100");
        // Ctrl-C ends what runs in the container, and not the console. One job: whoever says that it waits is the one
        // that the terminal's signals go to.
        console.press(b"sh -c 'echo waiting; exec sleep 1000'\r");
        console.wait_for("\nwaiting");
        console.press(b"\x03");
        console.press(b"exit 3\r");
        console.wait_for("ended with exit code 3");
        ensure!(console.is_taken() && console.is_raw(), "the console has its screen again");

        console.press(b"E");
        console.press(b" -c 'exit 7'\r");
        console.wait_for("ended with exit code 7");
        quit(&mut console)
    });
}

#[test]
fn a_pod_is_stopped_and_removed_after_a_question() {
    E2e::default().run(async |node| {
        let (kube, _) = stage(node, Request::new("main", BUSYBOX).waits()).await?;
        let mut console = console(node, &["--allow-actions".into()])?;
        console.wait_for("● ready");
        // What runs is removed only by its name.
        console.press(b"X");
        console.wait_for("Remove pod default/stage?");
        console.press(b"y\r");
        console.wait_for("nothing was changed");
        ensure!(ready(&kube).await? == 1, "the pod was removed by y alone");
        console.press(b"x");
        console.wait_for("Stop pod default/stage?");
        console.press(b"n");
        console.wait_for("nothing was changed");
        ensure!(ready(&kube).await? == 1, "the pod was stopped without a yes");

        console.press(b"x");
        console.wait_for("Stop pod default/stage?");
        console.press(b"y");
        console.wait_for("stopped pod default/stage");
        ensure!(ready(&kube).await? == 0 && kube.cri.list(None).await?.len() == 1, "stopped, and there");
        console.press(b"X");
        console.wait_for("Remove pod default/stage?");
        console.press(b"y");
        console.wait_for("removed pod default/stage");
        ensure!(kube.cri.list(None).await?.is_empty(), "removed");
        console.wait_for("0 pods");
        quit(&mut console)
    });
}

#[test]
fn without_the_flag_the_keys_say_why_nothing_happens() {
    E2e::default().run(async |node| {
        let (kube, _) = stage(node, Request::new("main", BUSYBOX).waits()).await?;
        let mut console = console(node, &[])?;
        console.wait_for("● ready");
        let refusal = "this console is read-only: start it with --allow-actions";
        for key in [b"x", b"X"] {
            console.press(key);
            console.wait_for(refusal);
            // Any other key takes the words away.
            console.press(b"g");
            console.wait_gone(refusal);
        }
        open_containers(&mut console, "main");
        for key in [b"e", b"E", b"x", b"X"] {
            console.press(key);
            console.wait_for(refusal);
            console.press(b"g");
            console.wait_gone(refusal);
        }
        ensure!(ready(&kube).await? == 1, "the pod runs on");
        ensure!(kube.list(None).await?.len() == 1, "its container too");
        quit(&mut console)
    });
}

#[test]
fn from_a_failed_pod_to_the_cause_of_issue_6908_in_three_keys() {
    E2e::default().needs(Need::Bpf).run(async |node| {
        let cri = node.cri().await?;
        for name in ["cart", "web"] {
            cri.run(node.pod(name).userns().build()).await?;
        }
        ensure!(cri.run_with(node.pod("old-order").userns().build(), "network-first").await.is_err());
        let mut console = console(node, &[])?;
        console.wait_for("!! init");
        console.wait_for("!! denied");
        // The next pod that wants a look, and why: one key less than the three that are allowed.
        console.press(b"e");
        console.wait_until("the failed pod is selected", |screen| {
            screen.lines().any(|line| line.starts_with('▸') && line.contains("old-order"))
        });
        console.press(b"w");
        console.wait_for("may not mount sysfs");
        console.wait_for("is owned by the host's initial user namespace");
        console.wait_for("containerd issue 6908");
        quit(&mut console)
    });
}

#[test]
fn what_cannot_be_read_is_said_before_the_screen_is_taken() {
    E2e::default().run(async |node| {
        let tui = bins::find("sandboxd-tui")?;
        let broken = node.path("broken.jsonl");
        fs::write(&broken, "hello\n")?;
        for (args, words) in [
            (vec!["--replay".into(), broken.clone().into_os_string()], "line 1 of"),
            (vec!["--replay".into(), node.path("none.jsonl").into_os_string()], "none.jsonl"),
            (vec!["--record".into(), broken.into_os_string()], "does not exist yet"),
            (vec!["--endpoint".into(), "http://127.0.0.1:1".into()], "https"),
            (vec!["--filter".into(), "/(/".into()], "is not a regular expression"),
        ] {
            let mut console = Pty::run(&tui, &args);
            ensure!(console.ended() != Some(0), "{args:?}");
            console.wait_for(words);
        }
        // The CRI's socket is one, and answers otherwise.
        let args: [OsString; 2] = ["--endpoint".into(), node.cri_socket().into()];
        let mut console = Pty::run(&tui, &args);
        console.wait_for("is no console socket");
        quit(&mut console)?;
        let once = Command::new(&tui).args(&args).arg("--once").output()?;
        let words = String::from_utf8_lossy(&once.stderr);
        ensure!(once.status.code() == Some(1) && words.contains("is no console socket"), "{words}");
        Ok(())
    });
}
