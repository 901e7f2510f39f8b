//! Several who want the same, and those who do not want it any more.

use std::sync::Arc;
use std::time::Duration;

use sandboxd_image::Digest;

use crate::fake::{Act, Fake};
use crate::support::{Node, layer, name, user};

#[tokio::test]
async fn all_who_ask_at_once_share_a_download() {
    let (fake, node) = (Fake::start().await, Arc::new(Node::new()));
    let bytes = layer("file", 5000);
    fake.image("1", &[&bytes]);
    fake.always("/blobs/", Act::Slow(Duration::from_millis(10)));
    let pulls = (0..8).map(|_| {
        let (node, name) = (Arc::clone(&node), name(&fake, "1"));
        tokio::spawn(async move { node.pull(&name).await.map(|image| image.id.clone()) })
    });
    let ids: Vec<_> = futures_util::future::join_all(pulls).await;
    let ids: Vec<_> = ids.into_iter().map(|id| id.unwrap().unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(fake.seen("/manifests/").len(), 1);
    assert_eq!(fake.seen(&Digest::of(&bytes).to_string()).len(), 1);
}

#[tokio::test]
async fn other_credentials_are_another_pull_of_the_same_blobs() {
    let (fake, node) = (Fake::start().await, Node::new());
    let bytes = layer("file", 5000);
    fake.image("1", &[&bytes]);
    fake.always("/blobs/", Act::Slow(Duration::from_millis(10)));
    let name = name(&fake, "1");
    let (one, two) = tokio::join!(node.pull(&name), node.pull_as(&name, user("u", "p")));
    assert_eq!(one.unwrap().id, two.unwrap().id);
    assert_eq!(fake.seen("/manifests/").len(), 2);
    assert_eq!(fake.seen(&Digest::of(&bytes).to_string()).len(), 1);
}

/// Waits until a layer is on its way.
async fn under_way(fake: &Fake, digest: &str) {
    while fake.seen(digest).is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_pull_that_nobody_waits_for_leaves_nothing() {
    let (fake, node) = (Fake::start().await, Node::new());
    let (quick, slow) = (layer("quick", 3000), layer("slow", 50_000));
    fake.image("1", &[&quick, &slow]);
    let digest = Digest::of(&slow).to_string();
    fake.always(&digest, Act::Slow(Duration::from_millis(50)));
    let name = name(&fake, "1");
    {
        let mut pull = Box::pin(node.pull(&name));
        tokio::select! {
            outcome = &mut pull => panic!("it is not that quick: {outcome:?}"),
            () = async {
                under_way(&fake, &digest).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            } => {}
        }
        assert_eq!(node.puller.pulls().len(), 1);
    }
    node.is_empty().await;
    assert!(node.puller.pulls().is_empty());
    // And the next one is none the worse for it.
    fake.behave();
    node.pull(&name).await.unwrap();
}

#[tokio::test]
async fn one_who_leaves_does_not_stop_the_others() {
    let (fake, node) = (Fake::start().await, Node::new());
    let bytes = layer("file", 10_000);
    fake.image("1", &[&bytes]);
    let digest = Digest::of(&bytes).to_string();
    fake.always(&digest, Act::Slow(Duration::from_millis(30)));
    let name = name(&fake, "1");
    let leaves = async {
        let pull = node.pull(&name);
        tokio::select! {
            outcome = pull => panic!("it is not that quick: {outcome:?}"),
            () = under_way(&fake, &digest) => {}
        }
    };
    let ((), stays) = tokio::join!(leaves, node.pull(&name));
    stays.unwrap();
    assert_eq!(fake.seen(&digest).len(), 1);
}

#[tokio::test]
async fn all_who_share_a_pull_share_its_error() {
    let (fake, node) = (Fake::start().await, Node::new());
    fake.image("1", &[&layer("file", 3000)]);
    fake.always("/manifests/", Act::Status(500, None));
    let name = name(&fake, "1");
    let (one, two) = tokio::join!(node.pull(&name), node.pull(&name));
    let (one, two) = (one.unwrap_err(), two.unwrap_err());
    assert!(Arc::ptr_eq(&one, &two), "{one} and {two}");
    // What failed is not remembered.
    fake.behave();
    node.pull(&name).await.unwrap();
}

#[tokio::test]
async fn progress_is_to_be_seen() {
    let (fake, node) = (Fake::start().await, Node::new());
    let bytes = layer("file", 20_000);
    fake.image("1", &[&bytes]);
    fake.always("/blobs/", Act::Slow(Duration::from_millis(10)));
    let name = name(&fake, "1");
    let mut watch = node.puller.watch();
    let seen = async {
        loop {
            watch.changed().await.unwrap();
            if let Some(pull) = node.puller.pulls().first()
                && pull.total() > 0
            {
                assert_eq!(pull.reference.to_string(), name);
                return pull.total();
            }
        }
    };
    let (image, total) = tokio::join!(node.pull(&name), seen);
    image.unwrap();
    assert_eq!(total, bytes.len() as u64);
}
