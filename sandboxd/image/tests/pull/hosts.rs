//! Mirrors, as hosts.toml has them.

use crate::fake::{Act, Fake};
use crate::support::{Node, layer};

/// A name that leads nowhere: only what its hosts.toml says can serve it.
const DOMAIN: &str = "registry.invalid";

#[tokio::test]
async fn mirrors_are_asked_in_order_and_passed_over() {
    let (empty, broken, good) = (Fake::start().await, Fake::start().await, Fake::start().await);
    let bytes = layer("file", 3000);
    good.image("1", &[&bytes]);
    broken.image("1", &[&bytes]);
    broken.always("/", Act::Status(500, None));
    let text = format!(
        "server = \"{}\"\n[host.\"{}\"]\n[host.\"{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n",
        good.url(""),
        empty.url(""),
        broken.url("")
    );
    let node = Node::with_hosts(DOMAIN, &text);
    let mut request = crate::support::request(&format!("{DOMAIN}/a/b:1"), None);
    request.plain_http = false;
    let image = node.puller.pull(request).await.unwrap();
    // The name is the registry's, not the mirror's.
    assert_eq!(image.repo_tags, [format!("{DOMAIN}/a/b:1")]);
    assert_eq!(empty.seen("/manifests/").len(), 1);
    assert!(!broken.seen("/manifests/").is_empty());
    assert!(empty.seen("/manifests/")[0].query.contains(&format!("ns={DOMAIN}")));
}

#[tokio::test]
async fn a_mirror_with_its_own_path_and_headers() {
    let fake = Fake::start().await;
    fake.prefix("/proxy/registry");
    fake.image("1", &[&layer("file", 3000)]);
    let text = format!(
        "server = \"http://127.0.0.1:1\"\n[host.\"{}\"]\noverride_path = true\n\
         [host.\"{}\".header]\nx-team = \"blue\"\n",
        fake.url("/proxy/registry"),
        fake.url("/proxy/registry")
    );
    let node = Node::with_hosts(DOMAIN, &text);
    node.pull(&format!("{DOMAIN}/a/b:1")).await.unwrap();
    let seen = fake.seen("");
    assert!(seen.iter().all(|seen| seen.path.starts_with("/proxy/registry/a/b/")), "{seen:?}");
    assert!(seen.iter().all(|seen| seen.header("x-team") == Some("blue")), "{seen:?}");
}

#[tokio::test]
async fn a_mirror_that_may_not_resolve_serves_layers() {
    let (mirror, server) = (Fake::start().await, Fake::start().await);
    let bytes = layer("file", 3000);
    mirror.image("1", &[&bytes]);
    server.image("1", &[&bytes]);
    let text = format!(
        "server = \"{}\"\n[host.\"{}\"]\ncapabilities = [\"pull\"]\n",
        server.url(""),
        mirror.url("")
    );
    let node = Node::with_hosts(DOMAIN, &text);
    node.pull(&format!("{DOMAIN}/a/b:1")).await.unwrap();
    assert!(mirror.seen("/manifests/1").is_empty());
    assert!(server.seen("/blobs/").is_empty());
}

#[tokio::test]
async fn a_mirror_with_a_wrong_layer_is_passed_over() {
    let (mirror, server) = (Fake::start().await, Fake::start().await);
    let bytes = layer("file", 3000);
    mirror.image("1", &[&bytes]);
    server.image("1", &[&bytes]);
    let digest = sandboxd_image::Digest::of(&bytes).to_string();
    mirror.always(&digest, Act::Bytes(layer("fill", 3000)));
    let text = format!("server = \"{}\"\n[host.\"{}\"]\n", server.url(""), mirror.url(""));
    let node = Node::with_hosts(DOMAIN, &text);
    node.pull(&format!("{DOMAIN}/a/b:1")).await.unwrap();
    assert_eq!(server.seen(&digest).len(), 1);
}

#[tokio::test]
async fn a_registry_on_this_machine_may_speak_plain_http() {
    let fake = Fake::start().await;
    fake.image("1", &[&layer("file", 3000)]);
    let mut request = crate::support::request(&crate::support::name(&fake, "1"), None);
    request.plain_http = false;
    Node::new().puller.pull(request).await.unwrap();
}
