//! Images: pulled from the real docker-registry in all the ways kubelet asks, listed, told of, removed; and the
//! command line that brings them in without a registry.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandboxd_api::console::ImportChunk;
use sandboxd_api::cri::image_service_client::ImageServiceClient;
use sandboxd_api::cri::{
    AuthConfig, Image, ImageFilter, ImageFsInfoRequest, ImageSpec, ImageStatusRequest, ImageStatusResponse,
    ListImagesRequest, PullImageRequest, RemoveImageRequest, StreamImagesRequest,
};
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::image::{self, BUSYBOX, Layer, Written, busybox, busybox_named};
use sandboxd_tests::node::{Node, Options};
use sandboxd_tests::registry::{self, Registry};
use sandboxd_tests::skip::Need;
use sandboxd_tests::workload::Kube;
use serde_json::Value;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::scripted::Scripted;
use crate::support::refused;

fn spec(image: &str) -> ImageSpec {
    ImageSpec { image: image.to_owned(), ..ImageSpec::default() }
}

/// Kubelet's part.
struct Client(ImageServiceClient<Channel>);

impl Client {
    async fn of(node: &Node) -> Result<Self> {
        Ok(Self(Kube::connect(node).await?.images))
    }

    async fn pull(&self, image: &str, auth: Option<AuthConfig>) -> Result<String, Status> {
        let request = PullImageRequest { image: Some(spec(image)), auth, sandbox_config: None };
        Ok(self.0.clone().pull_image(request).await?.into_inner().image_ref)
    }

    async fn status(&self, image: &str, verbose: bool) -> Result<ImageStatusResponse, Status> {
        let request = ImageStatusRequest { image: Some(spec(image)), verbose };
        Ok(self.0.clone().image_status(request).await?.into_inner())
    }

    async fn list(&self, image: &str) -> Result<Vec<Image>, Status> {
        let filter = (!image.is_empty()).then(|| ImageFilter { image: Some(spec(image)) });
        Ok(self.0.clone().list_images(ListImagesRequest { filter }).await?.into_inner().images)
    }

    async fn stream(&self, image: &str) -> Result<Vec<Image>, Status> {
        let filter = (!image.is_empty()).then(|| ImageFilter { image: Some(spec(image)) });
        let mut stream = self.0.clone().stream_images(StreamImagesRequest { filter }).await?.into_inner();
        let mut images = Vec::new();
        while let Some(message) = stream.message().await? {
            images.extend(message.images);
        }
        Ok(images)
    }

    async fn remove(&self, image: &str) -> Result<(), Status> {
        let request = RemoveImageRequest { image: Some(spec(image)) };
        self.0.clone().remove_image(request).await.map(drop)
    }
}

/// A registry with busybox in it as "test/busybox:1".
struct Served {
    registry: Registry,
    reference: String,
    written: Written,
    dir: tempfile::TempDir,
}

impl Served {
    fn new(options: registry::Options) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let archive = dir.path().join("busybox.tar");
        let written = busybox()?.write(&archive)?;
        let registry = Registry::start(options)?;
        let reference = registry.push(&archive, "test/busybox:1")?;
        Ok(Self { registry, reference, written, dir })
    }

    /// The directory of the registries' configuration, and a node that reads it.
    fn certs(&self) -> PathBuf {
        self.dir.path().join("certs.d")
    }

    fn test(&self) -> E2e {
        let config = format!("[image]\nregistry_config_dir = \"{}\"\n", self.certs().display());
        test().options(Options { config, ..Options::default() })
    }

    fn write_hosts(&self, domain: &str, text: &str) -> Result<()> {
        let dir = self.certs().join(domain);
        fs::create_dir_all(&dir)?;
        Ok(fs::write(dir.join("hosts.toml"), text)?)
    }
}

fn test() -> E2e {
    E2e::default().needs(Need::Registry)
}

fn user(name: &str, password: &str) -> AuthConfig {
    AuthConfig { username: name.into(), password: password.into(), ..AuthConfig::default() }
}

// cri: PullImage, PullImageRequest.image, PullImageResponse.image_ref, ImageSpec.image
// cri: ImageStatus, ImageStatusRequest.image, ImageStatusRequest.verbose
// cri: ImageStatusResponse.image, ImageStatusResponse.info
// cri: Image.id, Image.repo_tags, Image.repo_digests, Image.size, Image.spec
#[test]
fn an_image_is_pulled_and_told_of() {
    if sandboxd_tests::skip::skipped("an_image_is_pulled_and_told_of", &[Need::Registry]) {
        return;
    }
    let served = Served::new(registry::Options::default()).expect("a registry");
    test().run(async |node| {
        let client = Client::of(node).await?;
        let Served { reference, written, .. } = &served;
        ensure!(client.status(reference, false).await?.image.is_none(), "an absent image has a status");
        let id = client.pull(reference, None).await?;
        ensure!(id == written.id, "pulled {id}, pushed {}", written.id);
        let by_digest = format!("{}/test/busybox@{}", served.registry.host(), written.digest);
        // Kubelet says which pod it is for; that changes nothing about what the image is.
        let request = PullImageRequest {
            image: Some(spec(&by_digest)),
            auth: None,
            sandbox_config: Some(node.pod("for").build()),
        };
        ensure!(client.0.clone().pull_image(request).await?.into_inner().image_ref == id);
        for name in [reference, &by_digest, &id, &id[7..], &id[7..20]] {
            let image = client.status(name, false).await?.image.context(format!("no status by {name}"))?;
            ensure!(image.id == id && image.repo_tags == [reference.clone()], "{image:?}");
            ensure!(image.repo_digests == [by_digest.clone()], "{image:?}");
            ensure!(image.size == written.size, "{} bytes, pushed {}", image.size, written.size);
            ensure!(image.spec.is_some_and(|spec| spec.image == *reference), "no spec");
        }
        let info = client.status(reference, true).await?.info;
        let info: Value = serde_json::from_str(info.get("info").context("no info")?)?;
        ensure!(info.pointer("/imageSpec/config/WorkingDir") == Some(&"/work".into()), "{info}");
        ensure!(client.status(reference, false).await?.info.is_empty(), "info that nobody asked for");
        Ok(())
    });
}

// cri: ListImages, ListImagesRequest.filter, ListImagesResponse.images, ImageFilter.image
// cri: StreamImages, StreamImagesRequest.filter, StreamImagesResponse.images
// cri: RemoveImage, RemoveImageRequest.image, ImageSpec.annotations, Image.uid, Image.username
#[test]
fn images_are_listed_by_name_and_removed() {
    E2e::default().run(async |node| {
        let client = Client::of(node).await?;
        let archive = node.path("image.tar");
        let mut ids = Vec::new();
        for (name, user) in [("a.test/one:1", "1234:5"), ("a.test/one:2", "app"), ("a.test/two:1", "")] {
            let layer = Layer::default().file("name", 0o644, (0, 0), name);
            let made = image::Image::new(name).layer(layer).user(user).annotation("note", name);
            ids.push(made.write(&archive)?.id);
            node.import(&archive)?;
        }
        for listed in [client.list("").await?, client.stream("").await?] {
            let mut listed: Vec<_> = listed.into_iter().map(|image| image.id).collect();
            let mut all = ids.clone();
            listed.sort();
            all.sort();
            ensure!(listed == all, "{listed:?} instead of {all:?}");
        }
        for found in [client.list("a.test/one:2").await?, client.stream("a.test/one:2").await?] {
            ensure!(found.len() == 1 && found[0].id == ids[1], "{found:?}");
            ensure!(found[0].uid.is_none() && found[0].username == "app", "{found:?}");
            let spec = found[0].spec.clone().context("no spec")?;
            ensure!(spec.annotations.get("note").is_some_and(|note| note == "a.test/one:2"), "{spec:?}");
        }
        let one = client.list("a.test/one:1").await?;
        ensure!(one[0].uid.as_ref().is_some_and(|uid| uid.value == 1234), "{one:?}");
        ensure!(one[0].username.is_empty(), "a number and a name: {one:?}");
        ensure!(client.list("a.test/none:1").await?.is_empty());

        client.remove("a.test/one:1").await?;
        client.remove(&ids[1]).await?;
        client.remove("a.test/one:1").await?;
        let left = client.list("").await?;
        ensure!(left.len() == 1 && left[0].id == ids[2], "{left:?}");
        refused(client.remove("").await, Code::InvalidArgument, &["image"])?;
        refused(client.status("", false).await, Code::InvalidArgument, &["image"])?;
        refused(client.pull("", None).await, Code::InvalidArgument, &["image"])?;
        refused(client.pull("a.test/UPPER:1", None).await, Code::InvalidArgument, &["a.test/UPPER:1"])
    });
}

// cri: PullImageRequest.auth, AuthConfig.username, AuthConfig.password, AuthConfig.auth, AuthConfig.server_address
#[test]
fn a_registry_that_asks_for_a_password() {
    if sandboxd_tests::skip::skipped("a_registry_that_asks_for_a_password", &[Need::Registry]) {
        return;
    }
    let options = registry::Options { user: Some(("user".into(), "secret".into())), ..Default::default() };
    let served = Served::new(options).expect("a registry");
    test().run(async |node| {
        let client = Client::of(node).await?;
        let reference = &served.reference;
        refused(client.pull(reference, None).await, Code::Unauthenticated, &[&served.registry.host()])?;
        let wrong = client.pull(reference, Some(user("user", "not it"))).await;
        refused(wrong, Code::Unauthenticated, &["busybox"])?;
        let elsewhere = AuthConfig { server_address: "registry.example".into(), ..user("user", "secret") };
        refused(client.pull(reference, Some(elsewhere)).await, Code::Unauthenticated, &["busybox"])?;
        let bad = AuthConfig { auth: "no base64!".into(), ..AuthConfig::default() };
        refused(client.pull(reference, Some(bad)).await, Code::InvalidArgument, &["auth"])?;
        let here = format!("http://{}/v2/", served.registry.host());
        for auth in [
            user("user", "secret"),
            AuthConfig { auth: "dXNlcjpzZWNyZXQ=".into(), ..AuthConfig::default() },
            AuthConfig { server_address: here, ..user("user", "secret") },
        ] {
            let id = client.pull(reference, Some(auth)).await?;
            client.remove(&id).await?;
        }
        let log = node.log_tail(usize::MAX);
        ensure!(!log.contains("secret") && !log.contains("dXNlcjpzZWNyZXQ"), "a password is in the log");
        Ok(())
    });
}

// cri: AuthConfig.registry_token, AuthConfig.identity_token
#[test]
fn tokens_reach_whom_they_are_for() {
    E2e::default().run(async |node| {
        let client = Client::of(node).await?;
        let shown = Scripted::start(|request| match request.header("authorization") {
            Some("Bearer ready-made") => (404, String::new(), String::new()),
            _ => {
                (401, "WWW-Authenticate: Bearer realm=\"http://127.0.0.1:1/token\"\r\n".into(), String::new())
            }
        })?;
        let token = AuthConfig { registry_token: "ready-made".into(), ..AuthConfig::default() };
        let name = format!("{}/a/b:1", shown.host);
        refused(client.pull(&name, Some(token)).await, Code::NotFound, &["a/b"])?;

        let exchange = Scripted::start(|request| {
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"s\"\r\n",
                request.header("host").unwrap_or_default()
            );
            match (request.path.as_str(), request.header("authorization")) {
                ("/token", _) if request.body.contains("refresh_token=of-mine") => {
                    (200, String::new(), r#"{"access_token":"exchanged"}"#.into())
                }
                (_, Some("Bearer exchanged")) => (404, String::new(), String::new()),
                _ => (401, challenge, String::new()),
            }
        })?;
        let token = AuthConfig { identity_token: "of-mine".into(), ..AuthConfig::default() };
        let name = format!("{}/a/b:1", exchange.host);
        refused(client.pull(&name, Some(token)).await, Code::NotFound, &["a/b"])?;
        refused(client.pull(&name, None).await, Code::Unauthenticated, &["a/b"])
    });
}

#[test]
fn a_certificate_is_trusted_once_hosts_toml_says_so() {
    if sandboxd_tests::skip::skipped("a_certificate_is_trusted", &[Need::Registry]) {
        return;
    }
    let user_of = Some(("user".to_owned(), "secret".to_owned()));
    let options = registry::Options { tls: true, user: user_of, ..Default::default() };
    let served = Served::new(options).expect("a registry");
    served.test().run(async |node| {
        let client = Client::of(node).await?;
        let (reference, auth) = (&served.reference, || Some(user("user", "secret")));
        let unknown = client.pull(reference, auth()).await;
        refused(unknown, Code::Unknown, &["RegistryUnavailable", "certificate"])?;
        let text =
            format!("server = \"{}\"\nca = \"{}\"\n", served.registry.url(), served.registry.ca().display());
        served.write_hosts(&served.registry.host(), &text)?;
        ensure!(client.pull(reference, auth()).await? == served.written.id);
        served.write_hosts(&served.registry.host(), "server = 1\n")?;
        let broken = client.pull(reference, auth()).await;
        refused(broken, Code::FailedPrecondition, &["hosts.toml", "server"])
    });
}

#[test]
fn a_registry_that_asks_for_a_certificate() {
    if sandboxd_tests::skip::skipped("a_registry_that_asks_for_a_certificate", &[Need::Registry]) {
        return;
    }
    let options = registry::Options { client_certificates: true, ..Default::default() };
    let served = Served::new(options).expect("a registry");
    served.test().run(async |node| {
        let client = Client::of(node).await?;
        let (cert, key) = served.registry.client_pair();
        let ca =
            format!("server = \"{}\"\nca = \"{}\"\n", served.registry.url(), served.registry.ca().display());
        served.write_hosts(&served.registry.host(), &ca)?;
        refused(client.pull(&served.reference, None).await, Code::Unknown, &["RegistryUnavailable"])?;
        let text = format!("{ca}client = [[\"{}\", \"{}\"]]\n", cert.display(), key.display());
        served.write_hosts(&served.registry.host(), &text)?;
        ensure!(client.pull(&served.reference, None).await? == served.written.id);
        Ok(())
    });
}

#[test]
fn a_mirror_serves_a_registry_that_is_not_there() {
    if sandboxd_tests::skip::skipped("a_mirror_serves", &[Need::Registry]) {
        return;
    }
    let served = Served::new(registry::Options::default()).expect("a registry");
    served.test().run(async |node| {
        let client = Client::of(node).await?;
        let text = format!(
            "server = \"https://registry.invalid\"\n[host.\"http://127.0.0.1:1\"]\n[host.\"{}\"]\n\
             capabilities = [\"pull\", \"resolve\"]\n",
            served.registry.url()
        );
        served.write_hosts("registry.invalid", &text)?;
        let id = client.pull("registry.invalid/test/busybox:1", None).await?;
        ensure!(id == served.written.id);
        let image = client.status(&id, false).await?.image.context("no status")?;
        ensure!(image.repo_tags == ["registry.invalid/test/busybox:1"], "{image:?}");
        Ok(())
    });
}

#[test]
fn absent_and_unreachable_are_told_apart() {
    if sandboxd_tests::skip::skipped("absent_and_unreachable", &[Need::Registry]) {
        return;
    }
    let served = Served::new(registry::Options::default()).expect("a registry");
    test().run(async |node| {
        let client = Client::of(node).await?;
        let host = served.registry.host();
        refused(client.pull(&format!("{host}/test/none:1"), None).await, Code::NotFound, &["test/none"])?;
        let nobody = client.pull("127.0.0.1:1/a/b:1", None).await.expect_err("nobody listens there");
        // With any other code kubelet does not look at the word.
        ensure!(nobody.code() == Code::Unknown, "{nobody:?}");
        ensure!(nobody.message().starts_with("RegistryUnavailable"), "kubelet does not know {nobody:?}");
        ensure!(client.list("").await?.is_empty());
        Ok(())
    });
}

// cri: ImageFsInfo, ImageFsInfoResponse.image_filesystems, ImageFsInfoResponse.container_filesystems
// cri: FilesystemUsage.timestamp, FilesystemUsage.fs_id, FilesystemUsage.used_bytes, FilesystemUsage.inodes_used
// cri: FilesystemIdentifier.mountpoint
#[test]
fn the_file_systems_figures_follow_the_images() {
    E2e::default().run(async |node| {
        let client = Client::of(node).await?;
        let usage = async || -> Result<(u64, u64)> {
            let info = client.0.clone().image_fs_info(ImageFsInfoRequest {}).await?.into_inner();
            ensure!(info.image_filesystems.len() == 1 && info.container_filesystems.len() == 1, "{info:?}");
            let images = info.image_filesystems[0].clone();
            ensure!(images.timestamp > 0, "{images:?}");
            let mountpoint = images.fs_id.context("no fs_id")?.mountpoint;
            ensure!(mountpoint == node.path("root/images").to_string_lossy(), "{mountpoint}");
            let containers = info.container_filesystems[0].fs_id.clone().context("no fs_id")?.mountpoint;
            ensure!(containers == node.path("root/containers").to_string_lossy(), "{containers}");
            Ok((images.used_bytes.context("no bytes")?.value, images.inodes_used.context("no inodes")?.value))
        };
        let before = usage().await?;
        let archive = node.path("busybox.tar");
        let written = busybox()?.write(&archive)?;
        node.import(&archive)?;
        let with = usage().await?;
        ensure!(with.0 > before.0 + written.size && with.1 > before.1 + 100, "{before:?}, then {with:?}");
        client.remove(BUSYBOX).await?;
        ensure!(usage().await? == before, "removing it gives not everything back");
        Ok(())
    });
}

// cri: Image.pinned
#[test]
fn images_outlive_the_daemon_and_some_are_pinned() {
    let config = "[image]\npinned = [\"pinned.test/busybox:1\"]\n".to_owned();
    E2e::default().options(Options { config, ..Options::default() }).run(async |node| {
        let archive = node.path("busybox.tar");
        for name in [BUSYBOX, "pinned.test/busybox:2", "pinned.test/busybox:1"] {
            // Another image each time.
            let made = busybox_named(name)?.labels(&[("name", name)]);
            made.write(&archive)?;
            node.import(&archive)?;
        }
        let before = Client::of(node).await?.list("").await?;
        let pinned: Vec<_> = before.iter().filter(|image| image.pinned).collect();
        ensure!(pinned.len() == 1 && pinned[0].repo_tags == ["pinned.test/busybox:1"], "{pinned:?}");
        node.kill_daemon()?;
        node.spawn().await?;
        ensure!(Client::of(node).await?.list("").await? == before, "other images than before");
        Ok(())
    });
}

#[test]
fn the_command_line_brings_images_in_and_out() {
    E2e::default().run(async |node| {
        let run = |arguments: &[&str]| -> Result<(bool, String, String)> {
            let output = node.sandboxd(&["image"]).args(arguments).output()?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
        };
        let (archive, copy) = (node.path("busybox.tar"), node.path("copy.tar"));
        let (archive, copy) = (archive.to_string_lossy(), copy.to_string_lossy());
        let written = busybox()?.write(archive.as_ref().as_ref())?;
        let (ok, out, err) = run(&["import", &archive])?;
        ensure!(ok && out.contains(&written.id) && out.contains(BUSYBOX), "{out}{err}");
        let (ok, out, err) = run(&["list"])?;
        ensure!(ok && out.contains(BUSYBOX) && out.contains(&written.id[7..19]), "{out}{err}");
        let (_, json, _) = run(&["list", "--json"])?;
        let json: Value = serde_json::from_str(&json)?;
        ensure!(json.pointer("/images/0/id") == Some(&written.id.clone().into()), "{json}");
        let (ok, out, err) = run(&["export", &copy, BUSYBOX])?;
        ensure!(ok, "{out}{err}");
        let (ok, out, err) = run(&["remove", BUSYBOX])?;
        ensure!(ok && out.contains(&written.id), "{out}{err}");
        ensure!(Client::of(node).await?.list("").await?.is_empty());
        let (ok, _, err) = run(&["remove", BUSYBOX])?;
        ensure!(!ok && err.contains(BUSYBOX), "{err}");
        let (ok, out, err) = run(&["import", &copy])?;
        ensure!(ok && out.contains(&written.id), "{out}{err}");
        fs::remove_file(copy.as_ref())?;
        let (ok, _, err) = run(&["import", "/nonexistent.tar"])?;
        ensure!(!ok && err.contains("/nonexistent.tar"), "{err}");
        let (ok, _, err) = run(&["export", &copy, "no.test/such:1"])?;
        ensure!(!ok && err.contains("no.test/such:1"), "{err}");
        ensure!(!std::path::Path::new(copy.as_ref()).exists(), "an archive of nothing was left");
        let (ok, _, err) = run(&["pull", "127.0.0.1:1/a/b:1"])?;
        ensure!(!ok && err.contains("RegistryUnavailable"), "{err}");
        Ok(())
    });
}

#[test]
fn archives_come_and_go_through_pipes() {
    E2e::default().run(async |node| {
        let archive = node.path("busybox.tar");
        let written = busybox()?.write(&archive)?;
        let import = |from: std::process::Stdio| -> Result<std::process::Output> {
            Ok(node.sandboxd(&["image", "import", "-"]).stdin(from).output()?)
        };
        let output = import(fs::File::open(&archive)?.into())?;
        ensure!(String::from_utf8_lossy(&output.stdout).contains(&written.id), "{output:?}");
        for format in ["oci", "docker"] {
            let output = node.sandboxd(&["image", "export", "--format", format, "-", BUSYBOX]).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            ensure!(node.sandboxd(&["image", "remove", BUSYBOX]).output()?.status.success());
            let copy = node.path("copy.tar");
            fs::write(&copy, &output.stdout)?;
            let output = import(fs::File::open(&copy)?.into())?;
            ensure!(String::from_utf8_lossy(&output.stdout).contains(&written.id), "{format}: {output:?}");
        }
        let output = node.sandboxd(&["image", "export", "-", "no.test/such:1"]).output()?;
        ensure!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        Ok(())
    });
}

#[test]
fn half_an_archive_leaves_nothing() {
    E2e::default().run(async |node| {
        let archive = node.path("busybox.tar");
        busybox()?.write(&archive)?;
        let bytes = fs::read(&archive)?;
        let chunk =
            |from: usize, last| ImportChunk { data: bytes[from..].to_vec(), last, ..Default::default() };
        let mut images = node.console().await?.images;
        // The whole of it, but without the word that it is.
        let cut = images.import_stream(tokio_stream::iter([chunk(0, false)])).await;
        refused(cut, Code::Aborted, &["broke off"])?;
        // From the middle on, it is no archive.
        let wrong = images.import_stream(tokio_stream::iter([chunk(bytes.len() / 2, true)])).await;
        refused(wrong, Code::InvalidArgument, &["as sent"])?;
        // A client that goes away meanwhile.
        let (out, chunks) = tokio::sync::mpsc::channel(1);
        out.send(chunk(0, false)).await?;
        let mut gone = node.console().await?.images;
        let call = gone.import_stream(tokio_stream::wrappers::ReceiverStream::new(chunks));
        ensure!(tokio::time::timeout(Duration::from_millis(200), call).await.is_err(), "it was answered");
        drop(out);
        ensure!(Client::of(node).await?.list("").await?.is_empty());
        let left: Vec<_> = fs::read_dir(node.path("root/images/ingest"))?.collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn the_command_line_pulls() {
    if sandboxd_tests::skip::skipped("the_command_line_pulls", &[Need::Registry]) {
        return;
    }
    let options = registry::Options { user: Some(("user".into(), "secret".into())), ..Default::default() };
    let served = Served::new(options).expect("a registry");
    test().run(async |node| {
        let pull =
            |creds: &str| node.sandboxd(&["image", "pull", "--creds", creds, &served.reference]).output();
        let output = pull("user:wrong")?;
        ensure!(!output.status.success(), "pulled with a wrong password");
        let output = pull("user:secret")?;
        let out = String::from_utf8_lossy(&output.stdout);
        ensure!(out.trim() == served.written.id, "{output:?}");
        Ok(())
    });
}
