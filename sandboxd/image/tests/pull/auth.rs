//! Credentials: who gets to see them, and who does not.

use sandboxd_image::PullError;
use sandboxd_image::registry::{Credentials, RegistryError};

use crate::fake::{Act, Auth, Fake, Grant, TOKEN, basic};
use crate::support::{Node, layer, name, user};

async fn fake() -> Fake {
    let fake = Fake::start().await;
    fake.image("1", &[&layer("file", 3000)]);
    fake
}

fn is_unauthorized(error: &PullError) -> bool {
    matches!(error, PullError::Registry(RegistryError::Unauthorized { .. }))
}

#[tokio::test]
async fn a_password() {
    let fake = fake().await;
    fake.auth(Auth::Basic("u", "p:q"), Grant::Anonymous);
    let error = Node::new().pull(&name(&fake, "1")).await.unwrap_err();
    assert!(is_unauthorized(&error), "{error}");
    let error = Node::new().pull_as(&name(&fake, "1"), user("u", "wrong")).await.unwrap_err();
    assert!(is_unauthorized(&error), "{error}");
    assert!(!error.to_string().contains("wrong"), "{error}");
    Node::new().pull_as(&name(&fake, "1"), user("u", "p:q")).await.unwrap();
    let auth = Credentials::default().new("dTpwOnE=").unwrap().unwrap();
    Node::new().pull_as(&name(&fake, "1"), auth).await.unwrap();
}

#[tokio::test]
async fn credentials_for_another_server_stay_here() {
    let fake = fake().await;
    fake.auth(Auth::Basic("u", "p"), Grant::Anonymous);
    let other = Credentials { server: "registry.example".into(), ..user("u", "p") };
    let error = Node::new().pull_as(&name(&fake, "1"), other).await.unwrap_err();
    assert!(is_unauthorized(&error), "{error}");
    assert!(fake.seen("").iter().all(|seen| seen.header("authorization").is_none()));
    let own = Credentials { server: fake.url("/v2/"), ..user("u", "p") };
    Node::new().pull_as(&name(&fake, "1"), own).await.unwrap();
}

#[tokio::test]
async fn a_token_for_a_password_for_nobody_and_for_another_token() {
    let identity = Credentials { identity_token: "refresh".into(), ..Credentials::default() };
    for (grant, credentials) in [
        (Grant::Anonymous, None),
        (Grant::Password("u", "p"), Some(user("u", "p"))),
        (Grant::Refresh("refresh"), Some(identity)),
    ] {
        let fake = fake().await;
        fake.auth(Auth::Bearer { realm: fake.url("/token") }, grant);
        let node = Node::new();
        let pull = node.puller.pull(crate::support::request(&name(&fake, "1"), credentials));
        pull.await.unwrap_or_else(|e| panic!("{grant:?}: {e}"));
        let asked = fake.seen("/token");
        assert_eq!(asked.len(), 1, "one token is enough");
        assert!(
            asked[0].query.contains("service=fake") || asked[0].body.contains("service=fake"),
            "{asked:?}"
        );
        let bearer = format!("Bearer {TOKEN}");
        let blobs = fake.seen("/blobs/");
        assert!(blobs.iter().all(|seen| seen.header("authorization") == Some(&bearer)), "{blobs:?}");
    }
}

#[tokio::test]
async fn a_wrong_password_at_the_token_server() {
    let fake = fake().await;
    fake.auth(Auth::Bearer { realm: fake.url("/token") }, Grant::Password("u", "p"));
    let error = Node::new().pull_as(&name(&fake, "1"), user("u", "wrong")).await.unwrap_err();
    assert!(is_unauthorized(&error), "{error}");
}

#[tokio::test]
async fn a_busy_token_server_is_asked_again() {
    let fake = fake().await;
    fake.auth(Auth::Bearer { realm: fake.url("/token") }, Grant::Anonymous);
    fake.next("/token", [Act::Status(503, None), Act::Status(429, Some("0"))]);
    Node::new().pull(&name(&fake, "1")).await.unwrap();
    assert_eq!(fake.seen("/token").len(), 3);
}

#[tokio::test]
async fn a_registry_token_is_shown_as_it_is() {
    let fake = fake().await;
    fake.auth(Auth::Bearer { realm: fake.url("/token") }, Grant::Anonymous);
    let token = Credentials { registry_token: TOKEN.into(), ..Credentials::default() };
    Node::new().pull_as(&name(&fake, "1"), token).await.unwrap();
    assert!(fake.seen("/token").is_empty());
}

#[tokio::test]
async fn a_redirect_does_not_carry_the_authorization() {
    let (fake, cdn) = (fake().await, Fake::start().await);
    cdn.prefix("/");
    let bytes = layer("file", 3000);
    let digest = cdn.blob(&bytes).digest;
    fake.auth(Auth::Basic("u", "p"), Grant::Anonymous);
    fake.always(&digest.to_string(), Act::Redirect(cdn.url(&format!("/cdn/{digest}"))));
    Node::new().pull_as(&name(&fake, "1"), user("u", "p")).await.unwrap();
    let there = cdn.seen("/cdn/");
    assert_eq!(there.len(), 1);
    assert_eq!(there[0].header("authorization"), None);
    let here = fake.seen(&digest.to_string());
    assert_eq!(here.last().and_then(|seen| seen.header("authorization")), Some(&*basic("u", "p")));
}

#[tokio::test]
async fn redirects_have_an_end_and_go_to_http_only() {
    let fake = fake().await;
    fake.always("/manifests/1", Act::Redirect(fake.url("/v2/a/b/manifests/1")));
    let error = Node::new().pull(&name(&fake, "1")).await.unwrap_err();
    assert!(matches!(*error, PullError::Registry(RegistryError::BadAnswer { .. })), "{error}");
    fake.behave();
    fake.always("/manifests/1", Act::Redirect("file:///etc/passwd".to_owned()));
    let error = Node::new().pull(&name(&fake, "1")).await.unwrap_err();
    assert!(matches!(*error, PullError::Registry(RegistryError::BadAnswer { .. })), "{error}");
}

#[tokio::test]
async fn a_token_server_over_plain_http_elsewhere_gets_no_password() {
    let fake = fake().await;
    // An address that is for documentation: nothing may be sent there.
    fake.auth(Auth::Bearer { realm: "http://192.0.2.1/token".to_owned() }, Grant::Password("u", "p"));
    let error = Node::new().pull_as(&name(&fake, "1"), user("u", "p")).await.unwrap_err();
    assert!(matches!(*error, PullError::Registry(RegistryError::PlainCredentials { .. })), "{error}");
}
