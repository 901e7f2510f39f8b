//! What a container runs: command, args, environment, working directory, and what the image says.

use anyhow::{Context, Result, ensure};
use sandboxd_api::cri::ImageSpec;
use sandboxd_tests::workload::Kube;
use tonic::Code;

use crate::support::{IMAGE, both, refused, userns};

// cri: ContainerConfig.command, ContainerConfig.args
#[test]
fn command_and_args_replace_the_images() {
    both(async |stage| {
        let kube = &stage.kube;
        let printed = async |request| kube.printed(&stage.pod, request).await;
        // The image's entrypoint is `/bin/echo entry`, its cmd `cmd`.
        ensure!(printed(stage.container("neither")).await? == "entry cmd");
        ensure!(printed(stage.container("args").args(&["a", "b c"])).await? == "entry a b c");
        ensure!(printed(stage.container("command").command(&["/bin/echo", "mine"])).await? == "mine");
        let all = stage.container("both").command(&["/bin/echo", "mine"]).args(&["too"]);
        ensure!(printed(all).await? == "mine too");
        Ok(())
    });
}

// cri: ContainerConfig.envs, KeyValue.key, KeyValue.value
#[test]
fn the_environment_is_the_images_and_the_requests() {
    both(async |stage| {
        let request =
            stage.container("env").env("OWN", "a=b c").env("FROM_IMAGE", "replaced").env("EMPTY", "");
        let text = stage.printed(request, "env").await?;
        let has = |line: &str| text.lines().any(|l| l == line);
        ensure!(has("OWN=a=b c") && has("FROM_IMAGE=replaced") && has("EMPTY="), "{text}");
        ensure!(has("ONLY_IMAGE=yes"), "the image's environment is missing: {text}");
        ensure!(text.lines().any(|l| l.starts_with("PATH=") && l.contains("/bin")), "no PATH: {text}");
        ensure!(has("HOSTNAME=stage"), "no HOSTNAME: {text}");
        ensure!(has("HOME=/root"), "no HOME: {text}");
        Ok(())
    });
}

/// A command that prints its own environment, past shells, and what came: the variables' bytes.
const DUMP: [&str; 5] = ["od", "-An", "-v", "-tx1", "/proc/self/environ"];

fn dumped(text: &str) -> Result<Vec<Vec<u8>>> {
    let bytes = text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().with_context(|| format!("not od's: {text}"))?;
    Ok(bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
}

// cri: KeyValue.value
#[test]
fn values_that_are_not_text_arrive_byte_for_byte() {
    userns(async |stage| {
        let value: Vec<u8> = (1..=255).chain([0xe2, 0x82]).collect();
        let expected = [b"SECRET=".as_slice(), &value].concat();
        let has = |text: &str| Ok::<_, anyhow::Error>(dumped(text)?.contains(&expected));
        let request = |name| stage.container(name).env("SECRET", "overridden").env("SECRET", &value);
        let text = stage.kube.printed(&stage.pod, request("first").command(&DUMP)).await?;
        ensure!(has(&text)?, "in the container: {text}");
        let id = stage.kube.run(&stage.pod, request("execs").waits()).await?;
        let text = stage.kube.asked(&id, &DUMP).await?;
        ensure!(has(&text)?, "in an exec: {text}");
        let info = stage.kube.verbose(&id, true).await?.info.remove("info").context("no info")?;
        let info: serde_json::Value = serde_json::from_str(&info)?;
        let shown = info["config"]["envs"][1]["value"].as_str().context("no value")?;
        ensure!(shown.starts_with('\u{1}') && shown.ends_with("\u{fffd}\u{fffd}"), "shown as {shown:?}");
        // What comes after is told by the container's record.
        stage.node.kill_daemon()?;
        stage.node.spawn().await?;
        let kube = Kube::connect(stage.node).await?;
        let text = kube.asked(&id, &DUMP).await?;
        ensure!(has(&text)?, "in an exec after a restart: {text}");
        Ok(())
    });
}

#[test]
fn a_large_environment_arrives_whole() {
    userns(async |stage| {
        let value = "x".repeat(100 << 10);
        let mut request = stage.container("large");
        for n in 0..8 {
            request = request.env(&format!("LARGE{n}"), &value);
        }
        ensure!(stage.printed(request, "echo ${#LARGE0} ${#LARGE7}").await? == "102400 102400");
        Ok(())
    });
}

// cri: ContainerConfig.working_dir
#[test]
fn the_working_directory_is_the_requests_else_the_images_and_is_made() {
    both(async |stage| {
        ensure!(stage.printed(stage.container("image"), "pwd").await? == "/work");
        let own = stage.container("own").with(|c| c.working_dir = "/new/deep dir".into());
        ensure!(stage.printed(own, "pwd; stat -c %u .").await? == "/new/deep dir\n0");
        Ok(())
    });
}

// cri: ContainerConfig.image, ImageSpec.image
#[test]
fn an_image_that_is_not_there_is_named() {
    userns(async |stage| {
        let request =
            stage.container("x").with(|c| c.image.get_or_insert_default().image = "no.such/image:1".into());
        refused(stage.kube.create(&stage.pod, request).await, Code::NotFound, &["no.such/image:1"])?;
        let request = stage.container("y").with(|c| c.image = None);
        refused(stage.kube.create(&stage.pod, request).await, Code::InvalidArgument, &["image"])
    });
}

// cri: ContainerStatus.message
#[test]
fn a_command_that_cannot_be_run_says_why() {
    both(async |stage| {
        for (name, command, why) in [
            ("missing", "/no/such/thing", "no such file or directory"),
            ("unfound", "nosuchthing", "executable file not found in $PATH"),
            ("directory", "/etc", "is a directory"),
            ("unexecutable", "/etc/passwd", "permission denied"),
        ] {
            let id = stage.kube.create(&stage.pod, stage.container(name).command(&[command])).await?;
            let Err(status) = stage.kube.start(&id).await else {
                anyhow::bail!("{command} was started");
            };
            let message = status.message().to_lowercase();
            ensure!(
                message.contains(command) && message.contains(&why.to_lowercase()),
                "{command}: {message}"
            );
            let status = stage.kube.status(&id).await?;
            ensure!(status.state() == sandboxd_api::cri::ContainerState::ContainerExited, "{status:?}");
            ensure!(
                status.exit_code != 0 && !status.reason.is_empty() && !status.message.is_empty(),
                "{status:?}"
            );
            stage.kube.remove(&id).await?;
        }
        Ok(())
    });
}

// cri: ImageSpec.image, ImageSpec.image_ref, ImageSpec.annotations, ImageSpec.runtime_handler
// cri: ImageSpec.user_specified_image, ContainerConfig.image, ContainerStatus.image
#[test]
fn an_image_is_found_by_its_id_and_shown_as_it_was_asked_for() {
    userns(async |stage| {
        let id = stage.kube.run(&stage.pod, stage.container("named").waits()).await?;
        let image_id = stage.kube.status(&id).await?.image_id;
        for (name, image, image_ref) in [("image", image_id.as_str(), ""), ("ref", "", image_id.as_str())] {
            let request = stage.container(name).waits().with(|c| {
                c.image = Some(ImageSpec {
                    image: image.to_owned(),
                    image_ref: image_ref.to_owned(),
                    annotations: [("note".to_owned(), name.to_owned())].into(),
                    user_specified_image: "as.they/wrote:it".to_owned(),
                    runtime_handler: "network-first".to_owned(),
                });
            });
            let id = stage.kube.run(&stage.pod, request).await?;
            let status = stage.kube.status(&id).await?;
            ensure!(status.image_id == image_id, "{name}: {status:?}");
            let shown = status.image.unwrap_or_default();
            ensure!(shown.image == IMAGE && shown.user_specified_image == "as.they/wrote:it", "{shown:?}");
            ensure!(shown.annotations.get("note").is_some_and(|v| v == name), "{shown:?}");
            ensure!(shown.runtime_handler == "network-first", "{shown:?}");
        }
        Ok(())
    });
}
