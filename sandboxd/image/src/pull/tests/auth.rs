//! Credentials, tokens, and where they do not go.

use axum::response::Response;
use serde_json::json;

use super::fake::{Bench, Fake, Seen, Served, bench, ranged, status};
use crate::registry::Credentials;

fn user() -> Credentials {
    Credentials { username: "u".into(), password: "p".into(), ..Credentials::default() }
}

fn challenge(text: &str) -> Response {
    Response::builder().status(401).header("www-authenticate", text).body("".into()).unwrap()
}

/// All of an image only with this `Authorization`.
fn guard(
    registry: &Fake,
    served: &Served,
    wanted: &'static str,
    answer: impl Fn() -> Response + Clone + Send + Sync + 'static,
) {
    let manifest = served.manifest.to_string().into_bytes();
    let config = served.config_bytes.clone();
    let mut paths =
        vec![(format!("{}/manifests/1", served.prefix), manifest), (served.blob(&served.config), config)];
    paths.extend(served.layers.iter().map(|(digest, bytes)| (served.blob(digest), bytes.clone())));
    for (path, bytes) in paths {
        let answer = answer.clone();
        registry.route(path, move |seen: &Seen| {
            if seen.header("authorization") == wanted { ranged(seen, &bytes) } else { answer() }
        });
    }
}

async fn start() -> (Fake, Served, Bench) {
    let registry = Fake::start().await;
    let served = registry.serve("app", &["one", "two"]);
    (registry, served, bench())
}

#[tokio::test(flavor = "multi_thread")]
async fn basic() {
    let (registry, served, bench) = start().await;
    guard(&registry, &served, "Basic dTpw", || challenge("Basic realm=\"r\""));
    let error = bench.refused(registry.request("app:1")).await;
    assert!(error.contains("credentials"), "{error}");
    let wrong = Credentials { password: "q".into(), ..user() };
    let error = bench.refused(registry.as_user("app:1", wrong)).await;
    assert!(error.contains("credentials"), "{error}");
    bench.puller.pull(registry.as_user("app:1", user())).await.expect("pulled");
    let denied = Credentials { server: "https://other.example".into(), ..user() };
    let error = bench.refused(registry.as_user("app:1", denied)).await;
    assert!(error.contains("credentials"), "not for this registry, so not sent: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_a_password() {
    let (registry, served, bench) = start().await;
    let realm = format!("http://127.0.0.1:{}/token", registry.port);
    let text = format!("Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:app:pull\"");
    guard(&registry, &served, "Bearer good", move || challenge(&text));
    registry.route("/token", |seen| {
        let fine = seen.header("authorization") == "Basic dTpw" && seen.query.contains("service=reg");
        if fine { Response::new(json!({ "token": "good" }).to_string().into()) } else { status(401) }
    });
    bench.puller.pull(registry.as_user("app:1", user())).await.expect("pulled");
    assert_eq!(registry.seen("/token").len(), 1, "one token for all requests");
    let error = bench.refused(registry.request("app:1")).await;
    assert!(error.contains("a token for"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_an_identity_token_or_nothing() {
    let (registry, served, bench) = start().await;
    let realm = format!("http://127.0.0.1:{}/token", registry.port);
    guard(&registry, &served, "Bearer good", move || challenge(&format!("Bearer realm=\"{realm}\"")));
    registry.route("/token", |seen| {
        let refresh = seen.method == "POST"
            && seen.body.contains("grant_type=refresh_token")
            && seen.body.contains("refresh_token=idt");
        let anonymous = seen.method == "GET" && seen.header("authorization").is_empty();
        if refresh || anonymous {
            Response::new(json!({ "access_token": "good" }).to_string().into())
        } else {
            status(401)
        }
    });
    let identity = Credentials { identity_token: "idt".into(), ..Credentials::default() };
    bench.puller.pull(registry.as_user("app:1", identity)).await.expect("pulled");
    bench.puller.pull(registry.request("app:1")).await.expect("pulled by nobody");
    let scope = registry.seen("/token").pop().expect("asked").query;
    assert!(scope.contains("scope=repository%3Aapp%3Apull"), "{scope}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_token_as_it_is() {
    let (registry, served, bench) = start().await;
    guard(&registry, &served, "Bearer mine", || challenge("Bearer realm=\"http://127.0.0.1:1/\""));
    let token = Credentials { registry_token: "mine".into(), ..Credentials::default() };
    bench.puller.pull(registry.as_user("app:1", token)).await.expect("pulled");
    assert_eq!(registry.seen("/v2/app/manifests/1").len(), 1, "shown without being asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_do_not_take_authorization_along() {
    let (registry, served, bench) = start().await;
    let storage = Fake::start().await;
    guard(&registry, &served, "Basic dTpw", || challenge("Basic realm=\"r\""));
    let to = format!("http://127.0.0.1:{}/stored", storage.port);
    registry.route(served.layer(0), move |_| {
        Response::builder().status(307).header("location", &to).body("".into()).unwrap()
    });
    storage.blob("/stored", served.layers[0].1.clone());
    bench.puller.pull(registry.as_user("app:1", user())).await.expect("pulled");
    let seen = storage.seen("/stored");
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), "");
    assert_eq!(registry.seen(&served.layer(0))[0].header("authorization"), "Basic dTpw");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_on_plain_http_elsewhere_gets_no_password() {
    let (registry, served, bench) = start().await;
    guard(&registry, &served, "x", || challenge("Bearer realm=\"http://198.51.100.7/token\""));
    let error = bench.refused(registry.as_user("app:1", user())).await;
    assert!(error.contains("plain http") && error.contains("198.51.100.7"), "{error}");
}
