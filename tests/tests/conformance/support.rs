//! A pod in both kinds, with an image in the node.

use anyhow::{Context, Result, bail, ensure};
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::node::Node;
use sandboxd_tests::skip::Need;
use sandboxd_tests::workload::{Kube, Request, Sandbox};
use tonic::{Code, Status};

/// A node with an image, and a pod to make containers in.
pub struct Stage<'a> {
    pub node: &'a mut Node,
    pub kube: Kube,
    pub pod: Sandbox,
    pub userns: bool,
}

impl Stage<'_> {
    /// A container of the node's image.
    pub fn container(&self, name: &str) -> Request {
        Request::new(name, IMAGE)
    }

    /// What a script prints in a container of its own.
    pub async fn printed(&self, request: Request, script: &str) -> Result<String> {
        self.kube.printed(&self.pod, request.sh(script)).await
    }

    /// The id of the host behind an id of the pod.
    pub fn host_id(&self, id: u32) -> u32 {
        if self.userns { sandboxd_tests::pod::USERNS_BASE + id } else { id }
    }
}

/// The image that tests run: busybox with a few users.
pub const IMAGE: &str = sandboxd_tests::image::BUSYBOX;

/// Runs a test twice, each time on a node of its own: in a pod with a user namespace and in one without.
pub fn both(test: impl AsyncFn(&mut Stage<'_>) -> Result<()>) {
    for userns in [true, false] {
        in_pod(userns, &test);
    }
}

/// Runs a test in a pod with a user namespace.
pub fn userns(test: impl AsyncFn(&mut Stage<'_>) -> Result<()>) {
    in_pod(true, &test);
}

fn in_pod(userns: bool, test: &impl AsyncFn(&mut Stage<'_>) -> Result<()>) {
    staged(E2e::default(), userns, "", test);
}

/// The handler whose runtime is tried: runc, or the one that SANDBOXD_TEST_OCI names.
pub fn oci() -> String {
    std::env::var("SANDBOXD_TEST_OCI").unwrap_or_else(|_| "runc".to_owned())
}

/// Runs a test twice, in pods of the handler of an OCI runtime.
pub fn both_on_oci(test: impl AsyncFn(&mut Stage<'_>) -> Result<()>) {
    let handler = oci();
    for userns in [true, false] {
        let e2e = if handler == "runc" { E2e::default().needs(Need::Runc) } else { E2e::default() };
        staged(e2e, userns, &handler, &test);
    }
}

fn staged(e2e: E2e, userns: bool, handler: &str, test: &impl AsyncFn(&mut Stage<'_>) -> Result<()>) {
    e2e.run(async |node| {
        node.load_busybox()?;
        let kube = Kube::connect(node).await?;
        let pod = node.pod("stage");
        let pod = kube.pod_with(if userns { pod.userns() } else { pod }, handler).await?;
        let mut stage = Stage { node, kube, pod, userns };
        let what =
            if userns { "in a pod with a user namespace" } else { "in a pod without a user namespace" };
        test(&mut stage).await.context(what)
    });
}

/// A status with this code, whose message has all of these words.
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, words: &[&str]) -> Result<()> {
    match result {
        Ok(value) => bail!("was accepted ({value:?}), should be {code:?} with {words:?}"),
        Err(status) => {
            ensure!(status.code() == code, "{:?}, should be {code:?}: {}", status.code(), status.message());
            let message = status.message().to_lowercase();
            for word in words {
                ensure!(message.contains(&word.to_lowercase()), "no {word:?} in: {}", status.message());
            }
            Ok(())
        }
    }
}
