//! Pulls from a registry that a test tells what to do.

mod auth;
mod fake;
mod hostile;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::response::Response;
use serde_json::json;

use self::fake::{bench, bench_with, endless, ranged, status, truncated};
use super::{PolicyFile, PullError};
use crate::manifest::{DOCKER_LIST, OCI_INDEX, OCI_MANIFEST};

#[tokio::test(flavor = "multi_thread")]
async fn by_tag_and_by_digest() {
    let (registry, bench) = (fake::Fake::start().await, bench());
    let served = registry.serve("team/app", &["one", "two", "one"]);
    let image = bench.puller.pull(registry.request("team/app:1")).await.expect("pulled");
    assert_eq!(image.id.0, served.config.to_string());
    assert_eq!(image.repo_tags, [format!("127.0.0.1:{}/team/app:1", registry.port)]);
    assert_eq!(image.layers.len(), 3);
    assert_eq!(registry.seen(&served.layer(0)).len(), 1, "a layer that comes twice is downloaded once");
    let digest = &image.repo_digests[0];
    bench.images.remove(&image.id.0).expect("removed");
    let (_, object) = digest.split_once('@').expect("a digest");
    let again = bench.puller.pull(registry.request(&format!("team/app:9@{object}"))).await.expect("pulled");
    assert!(again.repo_tags.is_empty(), "the digest decided: {:?}", again.repo_tags);
    assert_eq!(&again.repo_digests[0], digest);
    assert!(bench.puller.pulls().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn this_machine_of_an_index() {
    let (registry, bench) = (fake::Fake::start().await, bench());
    let served = registry.serve("app", &["one"]);
    let other = json!({ "schemaVersion": 2, "config": {} });
    let (this, _) = super::platform::machines()[0];
    let manifests = [(&other, OCI_MANIFEST, "s390x"), (&served.manifest, OCI_MANIFEST, this)];
    let top = registry.index(&served, "multi", &manifests);
    let image = bench.puller.pull(registry.request("app:multi")).await.expect("pulled");
    assert!(image.repo_digests[0].ends_with(&format!("@{top}")), "the index's digest is the name");
    registry.index(&served, "none", &[(&other, OCI_MANIFEST, "s390x")]);
    let error = bench.refused(registry.request("app:none")).await;
    assert!(error.contains("linux/s390x") && error.contains(this), "{error}");
    let list = json!({ "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": null });
    registry.tag(&served, "empty", &list, DOCKER_LIST);
    assert!(bench.refused(registry.request("app:empty")).await.contains("nothing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_is_gone_on_with() {
    let (registry, bench) = (fake::Fake::start().await, bench());
    let served = registry.serve("app", &["one"]);
    let bytes = served.layers[0].1.clone();
    let tries = AtomicUsize::new(0);
    registry.route(served.layer(0), move |seen| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => truncated(&bytes, 1000),
        _ => ranged(seen, &bytes),
    });
    bench.puller.pull(registry.request("app:1")).await.expect("pulled");
    let seen = registry.seen(&served.layer(0));
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[1].header("range"), "bytes=1000-");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_registry_is_asked_again() {
    let (registry, bench) = (fake::Fake::start().await, bench());
    let served = registry.serve("app", &["one"]);
    let bytes = served.layers[0].1.clone();
    let tries = AtomicUsize::new(0);
    registry.route(served.layer(0), move |seen| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => Response::builder().status(429).header("retry-after", "0").body("".into()).unwrap(),
        1 => status(503),
        _ => ranged(seen, &bytes),
    });
    bench.puller.pull(registry.request("app:1")).await.expect("pulled");
    registry.route("/v2/app/manifests/1", |_| status(502));
    let error = bench.refused(registry.request("app:1")).await;
    assert!(error.starts_with("RegistryUnavailable: ") && error.contains("502"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_pull_for_all_who_ask() {
    let (registry, bench) = (fake::Fake::start().await, bench());
    let served = registry.serve("app", &["one"]);
    let bytes = served.layers[0].1.clone();
    registry.route(served.layer(0), move |seen| {
        std::thread::sleep(Duration::from_millis(300));
        ranged(seen, &bytes)
    });
    let pull = || {
        let (puller, request) = (Arc::clone(&bench.puller), registry.request("app:1"));
        tokio::spawn(async move { puller.pull(request).await })
    };
    let (first, second, third) = (pull(), pull(), pull());
    tokio::time::sleep(Duration::from_millis(100)).await;
    // Who began it goes away; the others get it all the same.
    first.abort();
    let images = [second.await.expect("ran").expect("pulled"), third.await.expect("ran").expect("pulled")];
    assert_eq!(images[0].id, images[1].id);
    assert_eq!(registry.seen("/v2/app/manifests/1").len(), 1);
    assert_eq!(registry.seen(&served.layer(0)).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_called_off_leaves_nothing() {
    let (registry, bench) = (fake::Fake::start().await, bench());
    let served = registry.serve("app", &["one", "two"]);
    let length = served.layers[1].1.len();
    registry.route(served.layer(1), move |_| {
        let mut answer = endless(Duration::from_millis(100));
        answer.headers_mut().insert("content-length", length.into());
        answer
    });
    let (puller, request) = (Arc::clone(&bench.puller), registry.request("app:1"));
    let task = tokio::spawn(async move { puller.pull(request).await });
    let begun = async {
        while bench.puller.pulls().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), begun).await.expect("the pull begins");
    tokio::time::sleep(Duration::from_millis(100)).await;
    task.abort();
    bench.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_pull_has_a_limit() {
    let bench = bench_with(|settings, _| settings.timeout = Duration::from_millis(400));
    let registry = fake::Fake::start().await;
    registry.serve("app", &["one"]);
    registry.route("/v2/app/manifests/1", |_| endless(Duration::from_millis(50)));
    let error = bench.puller.pull(registry.request("app:1")).await.expect_err("too long");
    assert!(matches!(&*error, PullError::Timeout { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_first_then_the_registry() {
    let (mirror, registry, bench) = (fake::Fake::start().await, fake::Fake::start().await, bench());
    let served = registry.serve("team/app", &["one"]);
    let domain = format!("127.0.0.1:{}", registry.port);
    let text = format!(
        "server = \"http://{domain}\"\n[host.\"http://127.0.0.1:{}/deep/dir\"]\noverride_path = true\n\
         [host.\"http://127.0.0.1:{}/deep/dir\".header]\nx-key = \"k\"\n",
        mirror.port, mirror.port
    );
    bench.hosts_toml(&domain, &text);
    let mut request = registry.request("team/app:1");
    request.plain_http = false;
    // It has the manifest only.
    let manifest = served.manifest.to_string();
    mirror.route("/deep/dir/team/app/manifests/1", move |_| {
        Response::builder().header("content-type", OCI_MANIFEST).body(manifest.clone().into()).unwrap()
    });
    bench.puller.pull(request).await.expect("pulled");
    let asked = mirror.seen("/deep/dir/team/app/manifests/1");
    assert_eq!(asked[0].query, format!("ns={}", domain.replace(':', "%3A")));
    assert_eq!(asked[0].header("x-key"), "k");
    assert!(registry.seen("/v2/team/app/manifests/1").is_empty());
    let layer = registry.seen(&served.layer(0));
    assert_eq!(layer.len(), 1, "the registry has what the mirror has not");
    assert_eq!(layer[0].header("x-key"), "", "the mirror's header is the mirror's");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_layers_come_from_their_address() {
    let (registry, elsewhere, bench) = (fake::Fake::start().await, fake::Fake::start().await, bench());
    let mut served = registry.serve("app", &["one"]);
    let bytes = served.layers[0].1.clone();
    registry.route(served.layer(0), |_| status(404));
    elsewhere.blob("/file", bytes);
    served.manifest["layers"][0]["urls"] = json!([format!("http://127.0.0.1:{}/file", elsewhere.port)]);
    registry.tag(&served, "1", &served.manifest, OCI_MANIFEST);
    bench.puller.pull(registry.request("app:1")).await.expect("pulled");
    served.manifest["layers"][0]["urls"] = json!(["http://198.51.100.1/file"]);
    let other = registry.serve("other", &["two"]);
    registry.route(other.layer(0), |_| status(404));
    let mut manifest = other.manifest.clone();
    manifest["layers"][0]["urls"] = json!(["http://198.51.100.1/file"]);
    registry.tag(&other, "1", &manifest, OCI_MANIFEST);
    let error = bench.refused(registry.request("other:1")).await;
    assert!(error.contains("not https"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_on_this_machine_need_not_speak_tls() {
    // A pause that would be noticed: what does not speak TLS is asked once.
    let bench = bench_with(|settings, _| settings.http.backoff = Duration::from_secs(20));
    let registry = fake::Fake::start().await;
    registry.serve("app", &["one"]);
    let mut request = registry.request("app:1");
    request.plain_http = false;
    let pulled = tokio::time::timeout(Duration::from_secs(10), bench.puller.pull(request)).await;
    pulled.expect("without a pause").expect("pulled");
    registry.route("/v2/app/manifests/2", |_| status(404));
    let mut request = registry.request("app:2");
    request.plain_http = false;
    let error = bench.refused(request).await;
    assert!(error.contains("not found"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_refuses_before_a_layer_comes() {
    let bench = bench_with(|settings, dir| {
        let path = dir.join("policy.json");
        let text = r#"{"default":[{"type":"insecureAcceptAnything"}],
                       "transports":{"docker":{"127.0.0.1":[{"type":"reject"}]}}}"#;
        std::fs::write(&path, text.replace("\"127.0.0.1\"", "\"\"")).expect("written");
        settings.policy = Some(Arc::new(PolicyFile::read(&path).expect("valid")));
    });
    let registry = fake::Fake::start().await;
    let served = registry.serve("app", &["one"]);
    let error = bench.refused(registry.request("app:1")).await;
    assert!(error.starts_with("SignatureValidationFailed: "), "{error}");
    assert!(registry.seen(&served.layer(0)).is_empty());
    bench.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_in_indexes_end() {
    let (registry, bench) = (fake::Fake::start().await, bench());
    let served = registry.serve("app", &["one"]);
    let (this, _) = super::platform::machines()[0];
    let mut inner = served.manifest.clone();
    let mut media_type = OCI_MANIFEST;
    for depth in 0..5 {
        let bytes = inner.to_string();
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{
            "mediaType": media_type, "digest": crate::content::Digest::of(bytes.as_bytes()), "size": bytes.len(),
            "platform": { "os": "linux", "architecture": this },
        }]});
        registry.tag(&served, &format!("d{depth}"), &index, OCI_INDEX);
        (inner, media_type) = (index, OCI_INDEX);
    }
    bench.puller.pull(registry.request("app:d1")).await.expect("an index in an index");
    let error = bench.refused(registry.request("app:d4")).await;
    assert!(error.contains("deep"), "{error}");
}
