//! The rpcs on images.

use std::collections::HashMap;
use std::sync::Arc;

use sandboxd_api::cri;
use sandboxd_image::registry::Credentials;
use sandboxd_image::{Digest, Image, ImageConfig, PullRequest, Reference};
use serde_json::{Value, json};

use super::{Cri, CriError};
use crate::image::ImageRoom;

/// Images per message of StreamImages; each may have some hundred names.
const STREAM_BATCH: usize = 64;

impl Cri {
    fn image_room(&self, rpc: &'static str) -> Result<&ImageRoom, CriError> {
        self.images.as_ref().ok_or(CriError::Unimplemented { rpc })
    }

    pub(super) fn list_images(
        &self,
        rpc: &'static str,
        filter: Option<cri::ImageFilter>,
    ) -> Result<Vec<cri::Image>, CriError> {
        let store = self.image_room(rpc)?.images();
        let asked = filter.and_then(|f| f.image).map(|spec| spec.image).unwrap_or_default();
        let images = if asked.is_empty() { store.list() } else { matching(store, &asked)? };
        Ok(images.iter().map(|image| translated(image)).collect())
    }

    /// The same as a list, in messages of one or more images; none for no images.
    pub(super) fn image_batches(
        &self,
        filter: Option<cri::ImageFilter>,
    ) -> Result<impl Iterator<Item = cri::StreamImagesResponse> + Send + use<>, CriError> {
        let mut images = self.list_images("StreamImages", filter)?.into_iter();
        Ok(std::iter::from_fn(move || {
            let images: Vec<_> = images.by_ref().take(STREAM_BATCH).collect();
            (!images.is_empty()).then_some(cri::StreamImagesResponse { images })
        }))
    }

    pub(super) async fn image_status(
        &self,
        request: cri::ImageStatusRequest,
    ) -> Result<cri::ImageStatusResponse, CriError> {
        let store = Arc::clone(self.image_room("ImageStatus")?.images());
        let reference = given(request.image)?;
        let Some(image) = store.find(&reference)? else { return Ok(cri::ImageStatusResponse::default()) };
        let info = if request.verbose {
            let id = image.id.clone();
            let raw = tokio::task::spawn_blocking(move || store.raw_config(&id)).await;
            verbose(&image, &raw.map_err(sandboxd_image::ImageError::from)??)
        } else {
            HashMap::new()
        };
        Ok(cri::ImageStatusResponse { image: Some(translated(&image)), info })
    }

    pub(super) async fn pull_image(&self, request: cri::PullImageRequest) -> Result<String, CriError> {
        let room = self.image_room("PullImage")?;
        let reference: Reference = given(request.image)?.parse()?;
        let credentials = match request.auth {
            None => None,
            Some(auth) => credentials(auth)?,
        };
        // Where the pod will be does not change what an image is.
        drop(request.sandbox_config);
        let image = room.pull(PullRequest { reference, credentials, plain_http: false }).await?;
        Ok(image.id.to_string())
    }

    pub(super) async fn remove_image(&self, request: cri::RemoveImageRequest) -> Result<(), CriError> {
        let store = Arc::clone(self.image_room("RemoveImage")?.images());
        let reference = given(request.image)?;
        let _in_flight = self.in_flight();
        let removed = tokio::task::spawn_blocking(move || store.remove(&reference)).await;
        Ok(removed.map_err(sandboxd_image::ImageError::from)??)
    }

    pub(super) async fn image_fs_info(&self) -> Result<cri::ImageFsInfoResponse, CriError> {
        let room = self.image_room("ImageFsInfo")?.clone();
        let timestamp = super::server::now_ns();
        let entry = |mountpoint: String, usage: sandboxd_image::Usage| cri::FilesystemUsage {
            timestamp,
            fs_id: Some(cri::FilesystemIdentifier { mountpoint }),
            used_bytes: Some(cri::UInt64Value { value: usage.bytes }),
            inodes_used: Some(cri::UInt64Value { value: usage.inodes }),
        };
        let (images, containers) = (room.images().mountpoint(), room.containers_dir());
        let (images, containers) = (images.display().to_string(), containers.display().to_string());
        let usage = room.images().usage();
        let counted = room.containers_usage().await;
        Ok(cri::ImageFsInfoResponse {
            image_filesystems: vec![entry(images, usage)],
            container_filesystems: vec![entry(containers, counted)],
        })
    }
}

/// An image that is named exactly, or all of a repository.
fn matching(store: &Arc<sandboxd_image::Images>, asked: &str) -> Result<Vec<Arc<Image>>, CriError> {
    let mut found: Vec<_> = store.find(asked)?.into_iter().collect();
    let last = asked.rsplit('/').next().unwrap_or_default();
    if !last.contains([':', '@'])
        && let Ok(reference) = asked.parse::<Reference>()
    {
        let repository = reference.repository();
        let of_it =
            |name: &String| name.strip_prefix(&repository).is_some_and(|rest| rest.starts_with([':', '@']));
        for image in store.list() {
            let named = image.repo_tags.iter().chain(&image.repo_digests).any(of_it);
            if named && !found.iter().any(|known| known.id == image.id) {
                found.push(image);
            }
        }
    }
    Ok(found)
}

/// The image that a request names.
fn given(spec: Option<cri::ImageSpec>) -> Result<String, CriError> {
    let image = spec.map(|spec| spec.image).unwrap_or_default();
    if image.is_empty() { Err(CriError::NoImageGiven) } else { Ok(image) }
}

fn credentials(auth: cri::AuthConfig) -> Result<Option<Credentials>, CriError> {
    let given = Credentials {
        username: auth.username,
        password: auth.password,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
        server: auth.server_address,
    };
    Ok(given.new(&auth.auth)?)
}

fn translated(image: &Image) -> cri::Image {
    let (uid, username) = user(&image.config);
    let name = image.repo_tags.first().or(image.repo_digests.first()).unwrap_or(&image.id.0);
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| cri::Int64Value { value }),
        username,
        spec: Some(cri::ImageSpec {
            image: name.clone(),
            annotations: image.annotations.clone().into_iter().collect(),
            ..cri::ImageSpec::default()
        }),
        pinned: image.pinned,
    }
}

/// A numeric user or a name, never both; neither where the image says nothing.
fn user(config: &ImageConfig) -> (Option<i64>, String) {
    let user = config.user.0.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        Ok(uid) if uid >= 0 => (Some(uid), String::new()),
        _ => (None, user.to_owned()),
    }
}

/// As containerd has it: the image's own document under "imageSpec".
fn verbose(image: &Image, raw: &[u8]) -> HashMap<String, String> {
    let spec: Value = serde_json::from_slice(raw).unwrap_or_default();
    let value = json!({ "chainID": chain_id(image), "imageSpec": spec });
    HashMap::from([("info".to_owned(), value.to_string())])
}

/// The name of all layers together, as the OCI image specification makes it from the diff ids.
fn chain_id(image: &Image) -> String {
    let ids = image.layers.iter().map(|layer| layer.id.0.clone());
    ids.reduce(|chain, id| Digest::of(format!("{chain} {id}").as_bytes()).to_string()).unwrap_or_default()
}
