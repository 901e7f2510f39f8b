//! Layers: wrong, too long, endless, broken off, from elsewhere.

use std::time::Duration;

use sandboxd_image::pull::LayerState;
use sandboxd_image::{Digest, ImageError, PullError};
use serde_json::json;

use crate::fake::{Act, Fake, OCI_MANIFEST};
use crate::support::{Node, has_file, layer, name, told};

/// A fake with one image of one layer, "1".
async fn one_layer(size: usize) -> (Fake, String) {
    let fake = Fake::start().await;
    let bytes = layer("file", size);
    fake.image("1", &[&bytes]);
    (fake, Digest::of(&bytes).to_string())
}

#[tokio::test]
async fn other_bytes_than_the_digests_are_refused() {
    let (fake, digest) = one_layer(5000).await;
    let node = Node::new();
    // As long as it should be.
    fake.always(&digest, Act::Bytes(layer("fill", 5000)));
    let error = node.pull(&name(&fake, "1")).await.unwrap_err();
    assert!(matches!(*error, PullError::Store(ImageError::Mismatch { .. })), "{error}");
    assert!(told(&error).contains(&digest), "{error}");
    node.is_empty().await;
}

#[tokio::test]
async fn a_configuration_must_be_its_digest() {
    let fake = Fake::start().await;
    let bytes = layer("file", 100);
    fake.image("1", &[&bytes]);
    let config = fake.config(&[&bytes], std::env::consts::ARCH);
    let size = usize::try_from(config.size).unwrap();
    fake.always(&config.digest.to_string(), Act::Bytes(vec![b' '; size]));
    let node = Node::new();
    let error = node.pull(&name(&fake, "1")).await.unwrap_err();
    assert!(matches!(*error, PullError::Mismatch { .. }), "{error}");
    node.is_empty().await;
}

#[tokio::test]
async fn longer_than_announced_is_refused() {
    let (fake, digest) = one_layer(5000).await;
    for act in [Act::Bytes(layer("file", 90_000)), Act::Endless] {
        let node = Node::new();
        fake.always(&digest, act.clone());
        let error = node.pull(&name(&fake, "1")).await.unwrap_err();
        assert!(matches!(*error, PullError::Store(ImageError::Size { .. })), "{act:?}: {error}");
        node.is_empty().await;
        fake.behave();
    }
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_was() {
    let (fake, digest) = one_layer(100_000).await;
    let node = Node::new();
    fake.next(&digest, [Act::Cut(30_000), Act::Cut(30_000)]);
    node.pull(&name(&fake, "1")).await.unwrap();
    let seen = fake.seen(&digest);
    let ranges: Vec<_> = seen.iter().map(|seen| seen.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=30000-"), Some("bytes=60000-")]);
}

#[tokio::test]
async fn a_server_without_ranges_begins_anew() {
    let (fake, digest) = one_layer(100_000).await;
    let node = Node::new();
    fake.next(&digest, [Act::Cut(30_000), Act::NoRange]);
    let image = node.pull(&name(&fake, "1")).await.unwrap();
    assert!(has_file(&image, "file"));
    assert_eq!(fake.seen(&digest).len(), 2);
}

#[tokio::test]
async fn the_next_pull_goes_on_where_a_failed_one_was() {
    let (fake, digest) = one_layer(100_000).await;
    let node = Node::new();
    fake.always(&digest, Act::Cut(10_000));
    let error = node.pull(&name(&fake, "1")).await.unwrap_err();
    assert!(told(&error).starts_with("RegistryUnavailable"), "{error}");
    fake.behave();
    node.pull(&name(&fake, "1")).await.unwrap();
    let last = fake.seen(&digest).last().and_then(|seen| seen.header("range").map(str::to_owned));
    assert_eq!(last.as_deref(), Some("bytes=30000-"));
}

#[tokio::test]
async fn a_silent_download_is_asked_for_again() {
    let (fake, digest) = one_layer(5000).await;
    let node = Node::new();
    fake.next(&digest, [Act::Stall]);
    node.pull(&name(&fake, "1")).await.unwrap();
    assert_eq!(fake.seen(&digest).len(), 2);
}

#[tokio::test]
async fn a_slow_one_is_waited_for() {
    let (fake, digest) = one_layer(10_000).await;
    // In all longer than the idle timeout, never as long without a byte.
    let node = Node::new();
    fake.next(&digest, [Act::Slow(Duration::from_millis(80))]);
    node.pull(&name(&fake, "1")).await.unwrap();
    assert_eq!(fake.seen(&digest).len(), 1);
}

#[tokio::test]
async fn a_layer_that_comes_twice_is_brought_once() {
    let (fake, node) = (Fake::start().await, Node::new());
    let (twice, other) = (layer("twice", 3000), layer("other", 3000));
    fake.image("1", &[&twice, &other, &twice]);
    let image = node.pull(&name(&fake, "1")).await.unwrap();
    assert_eq!(image.layers.len(), 3);
    assert_eq!(fake.seen(&Digest::of(&twice).to_string()).len(), 1);
}

#[tokio::test]
async fn no_more_at_once_than_the_settings_say() {
    let (fake, node) = (Fake::start().await, Node::with(|settings| settings.total = 2));
    let layers: Vec<_> = (0..6).map(|n| layer(&format!("layer{n}"), 3000)).collect();
    fake.image("1", &layers.iter().map(Vec::as_slice).collect::<Vec<_>>());
    fake.always("/blobs/", Act::Slow(Duration::from_millis(20)));
    let name = name(&fake, "1");
    let mut pull = Box::pin(node.pull(&name));
    let mut most = 0;
    let image = loop {
        tokio::select! {
            image = &mut pull => break image,
            () = tokio::time::sleep(Duration::from_millis(2)) => {
                let pulls = node.puller.pulls();
                let layers = pulls.iter().flat_map(|pull| &pull.layers);
                most = most.max(layers.filter(|layer| layer.state == LayerState::Downloading).count());
            }
        }
    };
    image.unwrap();
    assert!((1..=2).contains(&most), "{most} at once");
}

#[tokio::test]
async fn foreign_layers_come_from_their_own_address() {
    let (fake, elsewhere, node) = (Fake::start().await, Fake::start().await, Node::new());
    elsewhere.prefix("/");
    let bytes = layer("foreign", 3000);
    let mut descriptor = serde_json::to_value(elsewhere.blob(&bytes)).unwrap();
    descriptor["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar");
    descriptor["urls"] = json!([elsewhere.url(&format!("/cdn/{}", Digest::of(&bytes)))]);
    let config = fake.config(&[&bytes], std::env::consts::ARCH);
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [descriptor] });
    fake.manifest(Some("1"), OCI_MANIFEST, &manifest);
    let image = node.pull(&name(&fake, "1")).await.unwrap();
    assert!(has_file(&image, "foreign"));
    assert_eq!(elsewhere.seen("/cdn/").len(), 1);
}

#[tokio::test]
async fn a_layer_that_is_no_tar_leaves_nothing() {
    let (fake, node) = (Fake::start().await, Node::new());
    let good = layer("good", 3000);
    fake.image("1", &[&good, b"this is no tar at all"]);
    let error = node.pull(&name(&fake, "1")).await.unwrap_err();
    assert!(matches!(*error, PullError::Store(ImageError::Unpack { .. })), "{error}");
    node.is_empty().await;
}
