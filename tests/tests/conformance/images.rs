//! The image service, against a real registry.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use sandboxd_api::cri::{
    AuthConfig, Image, ImageFilter, ImageFsInfoRequest, ImageSpec, ImageStatusRequest, ListImagesRequest,
    PullImageRequest, RemoveImageRequest, StreamImagesRequest,
};
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::image;
use sandboxd_tests::node::{Node, Options};
use sandboxd_tests::registry::{Protection, Registry};
use sandboxd_tests::workload::Kube;
use tokio_stream::StreamExt;
use tonic::{Code, Status};

use crate::support::refused;

fn spec(image: &str) -> Option<ImageSpec> {
    Some(ImageSpec { image: image.to_owned(), ..ImageSpec::default() })
}

async fn pull(kube: &Kube, image: &str, auth: Option<AuthConfig>) -> Result<String, Status> {
    let request = PullImageRequest { image: spec(image), auth, sandbox_config: None };
    Ok(kube.images.clone().pull_image(request).await?.into_inner().image_ref)
}

async fn list(kube: &Kube, image: &str) -> Result<Vec<Image>, Status> {
    let filter = (!image.is_empty()).then(|| ImageFilter { image: spec(image) });
    Ok(kube.images.clone().list_images(ListImagesRequest { filter }).await?.into_inner().images)
}

async fn status(kube: &Kube, image: &str) -> Result<Option<Image>, Status> {
    let request = ImageStatusRequest { image: spec(image), verbose: false };
    Ok(kube.images.clone().image_status(request).await?.into_inner().image)
}

async fn remove(kube: &Kube, image: &str) -> Result<(), Status> {
    kube.images.clone().remove_image(RemoveImageRequest { image: spec(image) }).await.map(drop)
}

/// A node that knows a registry with busybox as "team/app:1", and the image's id.
fn with_registry(
    protection: Protection,
    test: impl AsyncFnOnce(&mut Node, &Kube, &Registry, String) -> Result<()>,
) {
    let registry = Registry::start(protection).expect("a registry");
    let layout = tempfile::tempdir().expect("a directory");
    let id = make(layout.path(), &registry).expect("an image");
    let config_dir = registry.config_dir().expect("a directory");
    let config = format!("[image]\nregistry_config_dir = {config_dir:?}\n");
    E2e::default().options(Options { config, ..Options::default() }).run(async |node| {
        let kube = Kube::connect(node).await?;
        test(node, &kube, &registry, id).await
    });
}

fn make(layout: &Path, registry: &Registry) -> Result<String> {
    let mut config = image::busybox_config();
    config["User"] = "1000:1000".into();
    let second = image::Layer::default().file("second", 0o644, 0, b"2").end();
    let id = image::layout(layout, &config, &[image::busybox_layer()?, second])?;
    registry.push(layout, "team/app:1")?;
    Ok(id)
}

// cri: PullImage, PullImageRequest.image, PullImageResponse.image_ref, ListImages, ListImagesRequest.filter
// cri: ListImagesResponse.images, ImageFilter.image, StreamImages, StreamImagesRequest.filter
// cri: StreamImagesResponse.images, ImageStatus, ImageStatusRequest.image, ImageStatusRequest.verbose
// cri: ImageStatusResponse.image, ImageStatusResponse.info, RemoveImage, RemoveImageRequest.image
// cri: Image.id, Image.repo_tags, Image.repo_digests, Image.size, Image.uid, Image.username, Image.spec
// cri: Image.pinned, ImageSpec.image, ImageSpec.annotations, ImageFsInfo, ImageFsInfoResponse.image_filesystems
// cri: ImageFsInfoResponse.container_filesystems, FilesystemUsage.timestamp, FilesystemUsage.fs_id
// cri: FilesystemUsage.used_bytes, FilesystemUsage.inodes_used, FilesystemIdentifier.mountpoint
#[test]
fn pulled_shown_removed() {
    with_registry(Protection::default(), async |node, kube, registry, id| {
        let name = format!("{}/team/app:1", registry.domain());
        ensure!(status(kube, &name).await?.is_none(), "an image that is not there is none, not an error");
        ensure!(pull(kube, &name, None).await? == id, "the id is the configuration's digest");
        let image = status(kube, &name).await?.context("it is there")?;
        ensure!(image.id == id && image.repo_tags == [name.clone()], "{image:?}");
        ensure!(
            image.uid.as_ref().is_some_and(|u| u.value == 1000) && image.username.is_empty(),
            "{image:?}"
        );
        ensure!(image.size > 1_000_000 && !image.pinned, "{image:?}");
        let annotations = image.spec.clone().unwrap_or_default().annotations;
        ensure!(annotations.get("test.note").is_some_and(|v| v == "from the manifest"), "{annotations:?}");
        for same in [id.as_str(), &id["sha256:".len()..], &image.repo_digests[0]] {
            ensure!(status(kube, same).await?.is_some_and(|i| i.id == id), "by {same}");
        }
        ensure!(list(kube, "").await?.len() == 1 && list(kube, &name).await?.len() == 1);
        ensure!(list(kube, "other.example/x").await?.is_empty());
        let request = StreamImagesRequest { filter: None };
        let mut stream = kube.images.clone().stream_images(request).await?.into_inner();
        let mut streamed = Vec::new();
        while let Some(batch) = stream.next().await {
            streamed.extend(batch?.images);
        }
        ensure!(streamed.len() == 1 && streamed[0].id == id, "{streamed:?}");
        let verbose = ImageStatusRequest { image: spec(&name), verbose: true };
        let info = kube.images.clone().image_status(verbose).await?.into_inner().info;
        let info: serde_json::Value = serde_json::from_str(info.get("info").context("info")?)?;
        ensure!(info["imageSpec"]["config"]["StopSignal"] == "SIGUSR2", "{info}");
        let usage = kube.images.clone().image_fs_info(ImageFsInfoRequest {}).await?.into_inner();
        let images = usage.image_filesystems.first().context("a file system")?;
        ensure!(images.used_bytes.as_ref().is_some_and(|v| v.value > 1_000_000), "{images:?}");
        let at = &images.fs_id.as_ref().context("a mountpoint")?.mountpoint;
        ensure!(at.starts_with(&node.path("root").display().to_string()), "{at}");
        ensure!(usage.container_filesystems.len() == 1 && images.timestamp > 0, "{usage:?}");
        remove(kube, &name).await?;
        remove(kube, &name).await.context("again is fine")?;
        ensure!(list(kube, "").await?.is_empty());
        // By digest it has no tag.
        let digest = image.repo_digests[0].clone();
        ensure!(pull(kube, &digest, None).await? == id);
        let image = status(kube, &id).await?.context("it is there")?;
        ensure!(image.repo_tags.is_empty() && image.repo_digests == [digest], "{image:?}");
        Ok(())
    });
}

// cri: PullImageRequest.auth, AuthConfig.username, AuthConfig.password, AuthConfig.auth
// cri: AuthConfig.server_address
#[test]
fn credentials_over_tls() {
    let user = Some(("u".to_owned(), "p:w".to_owned()));
    with_registry(Protection { user, tls: true }, async |_, kube, registry, id| {
        let name = format!("{}/team/app:1", registry.domain());
        let password = |password: &str| AuthConfig {
            username: "u".to_owned(),
            password: password.to_owned(),
            ..AuthConfig::default()
        };
        refused(pull(kube, &name, None).await, Code::Unauthenticated, &["credentials", "team/app"])?;
        refused(pull(kube, &name, Some(password("no"))).await, Code::Unauthenticated, &["credentials"])?;
        let elsewhere = AuthConfig { server_address: "other.example".to_owned(), ..password("p:w") };
        refused(pull(kube, &name, Some(elsewhere)).await, Code::Unauthenticated, &["credentials"])?;
        ensure!(list(kube, "").await?.is_empty());
        let encoded = AuthConfig { auth: "dTpwOnc=".to_owned(), ..AuthConfig::default() };
        ensure!(pull(kube, &name, Some(encoded)).await? == id);
        let here =
            AuthConfig { server_address: format!("https://{}/v2/", registry.domain()), ..password("p:w") };
        ensure!(pull(kube, &name, Some(here)).await? == id);
        let bad = AuthConfig { auth: "!".to_owned(), ..AuthConfig::default() };
        refused(pull(kube, &name, Some(bad)).await, Code::InvalidArgument, &["base64"])?;
        Ok(())
    });
}

#[test]
fn what_cannot_be_pulled() {
    with_registry(Protection::default(), async |_, kube, registry, _| {
        let domain = registry.domain();
        let at = |rest: &str| format!("{domain}/{rest}");
        refused(pull(kube, &at("team/app:2"), None).await, Code::NotFound, &["team/app", "not found"])?;
        refused(pull(kube, &at("no/such:1"), None).await, Code::NotFound, &["no/such"])?;
        refused(pull(kube, "", None).await, Code::InvalidArgument, &["image"])?;
        refused(pull(kube, &at("UPPER:1"), None).await, Code::InvalidArgument, &["upper-case"])?;
        let nobody = pull(kube, "127.0.0.1:1/x:1", None).await;
        refused(nobody, Code::Unavailable, &["RegistryUnavailable", "127.0.0.1:1"])?;
        ensure!(list(kube, "").await?.is_empty());
        Ok(())
    });
}
