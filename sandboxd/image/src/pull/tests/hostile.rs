//! Registries that send what they should not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::response::Response;
use serde_json::json;

use super::fake::{Fake, Served, bench, endless, status};
use crate::manifest::OCI_MANIFEST;

async fn start() -> (Fake, Served) {
    let registry = Fake::start().await;
    let served = registry.serve("app", &["one"]);
    (registry, served)
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bytes() {
    let ((registry, served), bench) = (start().await, bench());
    let mut bytes = served.layers[0].1.clone();
    bytes[600] ^= 1;
    registry.blob(&served.layer(0), bytes);
    let error = bench.refused(registry.request("app:1")).await;
    assert!(error.contains("digest"), "{error}");
    bench.is_empty().await;
    registry.blob(&served.blob(&served.config), b"{}".to_vec());
    let error = bench.refused(registry.request("app:1")).await;
    assert!(error.contains("digest") || error.contains("bytes"), "{error}");
    registry.blob("/v2/app/manifests/1", b"[]".to_vec());
    let error = bench.refused(registry.request("app:1")).await;
    assert!(error.contains("manifest"), "{error}");
    let digest = crate::content::Digest::of(b"x");
    registry.blob(&format!("/v2/app/manifests/{digest}"), b"y".to_vec());
    let error = bench.refused(registry.request(&format!("app@{digest}"))).await;
    assert!(error.contains("digest"), "{error}");
    bench.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_bytes_than_announced() {
    let ((registry, served), bench) = (start().await, bench());
    let mut long = served.layers[0].1.clone();
    long.extend([0; 512]);
    registry.blob(&served.layer(0), long);
    let error = bench.refused(registry.request("app:1")).await;
    assert!(error.contains("bytes"), "{error}");
    registry.route(served.layer(0), |_| endless(Duration::ZERO));
    let error = bench.refused(registry.request("app:1")).await;
    assert!(error.contains("bytes"), "{error}");
    bench.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_without_an_end() {
    let ((registry, served), bench) = (start().await, bench());
    registry.route("/v2/app/manifests/1", |_| endless(Duration::ZERO));
    let error = bench.refused(registry.request("app:1")).await;
    assert!(error.contains("larger than"), "{error}");
    let mut manifest = served.manifest.clone();
    manifest["config"]["size"] = json!(1_u64 << 40);
    registry.tag(&served, "1", &manifest, OCI_MANIFEST);
    assert!(bench.refused(registry.request("app:1")).await.contains("bytes"));
    bench.is_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence() {
    let ((registry, served), bench) = (start().await, bench());
    registry.route(served.layer(0), |_| endless(Duration::from_secs(600)));
    let error = bench.refused(registry.request("app:1")).await;
    assert!(error.starts_with("RegistryUnavailable: ") && error.contains("no byte"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_in_a_circle_or_to_files() {
    let ((registry, _), bench) = (start().await, bench());
    registry.route("/v2/app/manifests/1", |_| {
        Response::builder().status(302).header("location", "/v2/app/manifests/1").body("".into()).unwrap()
    });
    assert!(bench.refused(registry.request("app:1")).await.contains("redirects"));
    registry.route("/v2/app/manifests/1", |_| {
        Response::builder().status(302).header("location", "file:///etc/passwd").body("".into()).unwrap()
    });
    assert!(bench.refused(registry.request("app:1")).await.contains("file:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_was_not_asked_for() {
    let ((registry, served), bench) = (start().await, bench());
    let (bytes, tries) = (served.layers[0].1.clone(), AtomicUsize::new(0));
    registry.route(served.layer(0), move |_| match tries.fetch_add(1, Ordering::SeqCst) {
        0 => super::truncated(&bytes, 700),
        1 => Response::builder()
            .status(206)
            .header("content-range", "bytes 1-2/3")
            .body(bytes.clone().into())
            .unwrap(),
        _ => Response::new(bytes.clone().into()),
    });
    bench.puller.pull(registry.request("app:1")).await.expect("from the beginning then");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_image() {
    let ((registry, served), bench) = (start().await, bench());
    let schema1 = json!({ "schemaVersion": 1, "fsLayers": [] });
    registry.tag(&served, "s1", &schema1, "application/vnd.docker.distribution.manifest.v1+prettyjws");
    assert!(bench.refused(registry.request("app:s1")).await.contains("schema 1"));
    let mut artifact = served.manifest.clone();
    artifact["config"]["mediaType"] = json!("application/vnd.example.chart+json");
    registry.tag(&served, "art", &artifact, OCI_MANIFEST);
    let error = bench.refused(registry.request("app:art")).await;
    assert!(error.contains("artifact") && error.contains("vnd.example.chart"), "{error}");
    let mut both = served.manifest.clone();
    both["manifests"] = json!([]);
    registry.tag(&served, "both", &both, OCI_MANIFEST);
    assert!(bench.refused(registry.request("app:both")).await.contains("at once"));
    registry.route("/v2/app/manifests/html", |_| {
        Response::builder().header("content-type", "text/html").body("<html>".into()).unwrap()
    });
    assert!(bench.refused(registry.request("app:html")).await.contains("text/html"));
    registry.route("/v2/app/manifests/teapot", |_| status(418));
    assert!(bench.refused(registry.request("app:teapot")).await.contains("418"));
    let error = bench.refused(registry.request("app:gone")).await;
    assert!(error.contains("not found"), "{error}");
}
