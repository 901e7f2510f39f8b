//! References, manifests and indexes.

use async_trait::async_trait;
use sandboxd_image::pull::SignaturePolicy;
use sandboxd_image::registry::RegistryError;
use sandboxd_image::{Digest, PullError, Reference};
use serde_json::json;

use crate::fake::{Act, Fake, OCI_INDEX, OCI_MANIFEST, oci_arch};
use crate::support::{Node, has_file, layer, name, told};

#[tokio::test]
async fn an_image_comes_by_tag_and_by_digest() {
    let (fake, node) = (Fake::start().await, Node::new());
    let (one, two) = (layer("one", 3000), layer("two", 3000));
    let top = fake.image("1", &[&one, &two]);
    let image = node.pull(&name(&fake, "1")).await.unwrap();
    assert_eq!(image.repo_tags, [name(&fake, "1")]);
    assert_eq!(image.repo_digests, [format!("{}/a/b@{}", fake.host, top.digest)]);
    assert!(has_file(&image, "one") && has_file(&image, "two"));
    assert!(node.puller.pulls().is_empty());
    let other = Node::new();
    let by_digest = other.pull(&format!("{}/a/b@{}", fake.host, top.digest)).await.unwrap();
    assert_eq!(by_digest.id, image.id);
    assert!(by_digest.repo_tags.is_empty() && by_digest.repo_digests == image.repo_digests);
}

#[tokio::test]
async fn what_is_there_is_not_downloaded_again() {
    let (fake, node) = (Fake::start().await, Node::new());
    let (base, top) = (layer("base", 3000), layer("top", 3000));
    fake.image("1", &[&base]);
    fake.image("2", &[&base, &top]);
    node.pull(&name(&fake, "1")).await.unwrap();
    let image = node.pull(&name(&fake, "2")).await.unwrap();
    assert_eq!(image.layers.len(), 2);
    assert_eq!(fake.seen(&Digest::of(&base).to_string()).len(), 1);
    node.pull(&name(&fake, "2")).await.unwrap();
    assert_eq!(fake.seen(&Digest::of(&top).to_string()).len(), 1);
}

#[tokio::test]
async fn the_manifest_of_this_machine_is_chosen() {
    let (fake, node) = (Fake::start().await, Node::new());
    let (ours, theirs) = (layer("ours", 100), layer("theirs", 100));
    let here = fake.image_for(None, &[&ours], std::env::consts::ARCH);
    let there = fake.image_for(None, &[&theirs], "s390x");
    let with = |descriptor: &sandboxd_image::manifest::Descriptor, arch: &str| {
        let mut value = serde_json::to_value(descriptor).unwrap();
        value["platform"] = json!({ "os": "linux", "architecture": arch });
        value
    };
    let arch = oci_arch(std::env::consts::ARCH);
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX,
        "manifests": [with(&there, "s390x"), with(&here, arch)] });
    let top = fake.manifest(Some("multi"), OCI_INDEX, &index);
    let image = node.pull(&name(&fake, "multi")).await.unwrap();
    assert!(has_file(&image, "ours"));
    assert_eq!(image.repo_digests, [format!("{}/a/b@{}", fake.host, top.digest)]);

    let only = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [with(&there, "s390x")] });
    fake.manifest(Some("foreign"), OCI_INDEX, &only);
    let error = node.pull(&name(&fake, "foreign")).await.unwrap_err();
    assert!(matches!(*error, PullError::Platform { .. }), "{error}");
    assert!(told(&error).contains("s390x"), "{error}");
    fake.image_for(Some("bare"), &[&theirs], "s390x");
    let error = node.pull(&name(&fake, "bare")).await.unwrap_err();
    assert!(matches!(*error, PullError::Platform { .. }), "{error}");
}

#[tokio::test]
async fn indexes_in_indexes_have_an_end() {
    let (fake, node) = (Fake::start().await, Node::new());
    let mut inner = fake.image_for(None, &[&layer("x", 10)], std::env::consts::ARCH);
    for depth in 0..8 {
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [inner] });
        inner = fake.manifest(Some(&format!("deep{depth}")), OCI_INDEX, &index);
    }
    node.pull(&name(&fake, "deep1")).await.unwrap();
    let error = node.pull(&name(&fake, "deep7")).await.unwrap_err();
    assert!(matches!(*error, PullError::Nested { .. }), "{error}");
}

#[tokio::test]
async fn a_giant_manifest_is_not_read() {
    let (fake, node) = (Fake::start().await, Node::new());
    fake.raw_manifest(Some("giant"), OCI_MANIFEST, vec![b' '; 5 << 20]);
    let error = node.pull(&name(&fake, "giant")).await.unwrap_err();
    assert!(matches!(*error, PullError::Registry(RegistryError::TooLarge { .. })), "{error}");
    fake.image("endless", &[&layer("x", 10)]);
    fake.always("/manifests/", Act::Endless);
    let error = node.pull(&name(&fake, "endless")).await.unwrap_err();
    assert!(matches!(*error, PullError::Registry(RegistryError::TooLarge { .. })), "{error}");
    node.is_empty().await;
}

#[tokio::test]
async fn a_manifest_must_be_its_digest() {
    let (fake, node) = (Fake::start().await, Node::new());
    let wanted = fake.image("1", &[&layer("x", 10)]);
    let other = json!({ "schemaVersion": 2, "manifests": [] }).to_string().into_bytes();
    fake.always("/manifests/", Act::Bytes(other));
    let error = node.pull(&format!("{}/a/b@{}", fake.host, wanted.digest)).await.unwrap_err();
    assert!(matches!(*error, PullError::Mismatch { .. }), "{error}");
    assert!(told(&error).contains(&wanted.digest.to_string()), "{error}");
    node.is_empty().await;
}

#[tokio::test]
async fn what_is_no_image_is_refused_by_name() {
    let (fake, node) = (Fake::start().await, Node::new());
    let schema1 = json!({ "schemaVersion": 1, "name": "a/b", "tag": "old", "fsLayers": [] });
    fake.manifest(Some("old"), "application/vnd.docker.distribution.manifest.v1+prettyjws", &schema1);
    let error = node.pull(&name(&fake, "old")).await.unwrap_err();
    assert!(matches!(*error, PullError::Schema1 { .. }), "{error}");

    let blob = fake.blob(b"a chart");
    let mut config = serde_json::to_value(fake.blob(b"{}")).unwrap();
    config["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    let chart = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [blob] });
    fake.manifest(Some("chart"), OCI_MANIFEST, &chart);
    let error = node.pull(&name(&fake, "chart")).await.unwrap_err();
    assert!(matches!(*error, PullError::Artifact { .. }), "{error}");
    assert!(told(&error).contains("helm"), "{error}");

    fake.raw_manifest(Some("html"), "text/html", b"<html>sign in</html>".to_vec());
    let error = node.pull(&name(&fake, "html")).await.unwrap_err();
    assert!(matches!(*error, PullError::NotAManifest { .. }), "{error}");

    let both = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "layers": [], "config": config });
    fake.manifest(Some("both"), OCI_INDEX, &both);
    let error = node.pull(&name(&fake, "both")).await.unwrap_err();
    assert!(matches!(*error, PullError::Manifest { .. }), "{error}");
    node.is_empty().await;
}

#[tokio::test]
async fn absent_forbidden_and_silent_are_told_apart() {
    let (fake, node) = (Fake::start().await, Node::new());
    let error = node.pull(&name(&fake, "none")).await.unwrap_err();
    assert!(matches!(*error, PullError::Registry(RegistryError::NotFound { .. })), "{error}");
    fake.image("1", &[&layer("x", 10)]);
    fake.next("/manifests/", [Act::Status(401, None)]);
    let error = node.pull(&name(&fake, "1")).await.unwrap_err();
    assert!(matches!(*error, PullError::Registry(RegistryError::Unauthorized { .. })), "{error}");
    fake.next("/manifests/", [Act::Status(403, None)]);
    let error = node.pull(&name(&fake, "1")).await.unwrap_err();
    assert!(matches!(*error, PullError::Registry(RegistryError::Denied { .. })), "{error}");
    fake.always("/manifests/", Act::Status(502, None));
    let error = node.pull(&name(&fake, "1")).await.unwrap_err();
    assert!(told(&error).starts_with("RegistryUnavailable"), "{error}");
    // Nobody listens there.
    let error = node.pull("127.0.0.1:1/a/b:1").await.unwrap_err();
    assert!(told(&error).starts_with("RegistryUnavailable"), "{error}");
}

#[tokio::test]
async fn a_busy_registry_is_asked_again() {
    let (fake, node) = (Fake::start().await, Node::new());
    fake.image("1", &[&layer("x", 10)]);
    fake.next("/manifests/", [Act::Status(429, Some("1")), Act::Status(503, None)]);
    let begun = std::time::Instant::now();
    node.pull(&name(&fake, "1")).await.unwrap();
    assert!(begun.elapsed().as_millis() >= 1000, "did not wait as it was told to");
    assert_eq!(fake.seen("/manifests/").len(), 3);
}

#[tokio::test]
async fn a_registry_that_stays_busy_is_not_called_unavailable() {
    let (fake, node) = (Fake::start().await, Node::new());
    fake.image("1", &[&layer("x", 10)]);
    fake.always("/manifests/", Act::Status(429, Some("3600")));
    let error = node.pull(&name(&fake, "1")).await.unwrap_err();
    assert!(matches!(*error, PullError::Registry(RegistryError::TooMany { .. })), "{error}");
    let told = told(&error);
    assert!(told.contains("too many requests") && told.contains("3600s"), "{told}");
    // An hour is not waited for.
    assert_eq!(fake.seen("/manifests/").len(), 1);
    let fake = Fake::start().await;
    fake.image("1", &[&layer("x", 10)]);
    fake.always("/manifests/", Act::Status(503, Some("3600")));
    let error = node.pull(&name(&fake, "1")).await.unwrap_err();
    assert!(crate::support::told(&error).starts_with("RegistryUnavailable"), "{error}");
}

#[tokio::test]
async fn a_registry_that_hangs_is_given_up() {
    let (fake, node) = (Fake::start().await, Node::new());
    fake.image("1", &[&layer("x", 10)]);
    fake.always("/manifests/", Act::Hang);
    let error = node.pull(&name(&fake, "1")).await.unwrap_err();
    assert!(told(&error).starts_with("RegistryUnavailable"), "{error}");
    fake.behave();
    fake.always("/manifests/", Act::Stall);
    let error = node.pull(&name(&fake, "1")).await.unwrap_err();
    assert!(told(&error).starts_with("RegistryUnavailable"), "{error}");
    let hurried = Node::with(|settings| settings.timeout = std::time::Duration::from_millis(100));
    let error = hurried.pull(&name(&fake, "1")).await.unwrap_err();
    assert!(matches!(*error, PullError::Timeout { .. }), "{error}");
    hurried.is_empty().await;
}

#[derive(Debug)]
struct Nothing;

#[async_trait]
impl SignaturePolicy for Nothing {
    async fn check(&self, _: &Reference, digest: &Digest) -> Result<(), String> {
        Err(format!("{digest} has no signature"))
    }
}

#[tokio::test]
async fn a_policy_refuses_before_a_layer_comes() {
    let (fake, node) = (Fake::start().await, Node::with_policy(Nothing));
    fake.image("1", &[&layer("x", 10)]);
    let error = node.pull(&name(&fake, "1")).await.unwrap_err();
    assert!(told(&error).starts_with("SignatureValidationFailed"), "{error}");
    assert!(fake.seen("/blobs/").is_empty());
    node.is_empty().await;
}
