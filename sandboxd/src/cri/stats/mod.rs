//! The rpcs of statistics: filters, and figures to the wire.

mod descriptors;
mod metrics;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;

use sandboxd_api::cri;

use super::translate::shown;
use super::{Cri, CriError};
use crate::container::model::Container;
use crate::pod::model::{Pod, PodState};
use crate::stats::Stats;

/// Items per message of the streams: a pod with many containers and labels stays far below 16 MiB.
const STREAM_BATCH: usize = 32;

impl Cri {
    pub(super) async fn container_stats(
        &self,
        request: cri::ContainerStatsRequest,
    ) -> Result<cri::ContainerStatsResponse, CriError> {
        let stats = self.stats("ContainerStats")?;
        let container = find(stats, &request.container_id)?;
        let figures = stats.containers(vec![container]).await;
        Ok(cri::ContainerStatsResponse { stats: figures.first().map(wire::container) })
    }

    pub(super) async fn list_container_stats(
        &self,
        rpc: &'static str,
        filter: Option<cri::ContainerStatsFilter>,
    ) -> Result<Vec<cri::ContainerStats>, CriError> {
        let stats = self.stats(rpc)?;
        let cri::ContainerStatsFilter { id, pod_sandbox_id, label_selector } = filter.unwrap_or_default();
        let mut kept = stats.list();
        by_id(&mut kept, &id, |c| c.id.as_str());
        by_id(&mut kept, &pod_sandbox_id, |c| c.pod.as_str());
        kept.retain(|c| label_selector.iter().all(|(k, v)| c.spec.labels.get(k) == Some(v)));
        Ok(stats.containers(kept).await.iter().map(wire::container).collect())
    }

    pub(super) async fn pod_sandbox_stats(
        &self,
        request: cri::PodSandboxStatsRequest,
    ) -> Result<cri::PodSandboxStatsResponse, CriError> {
        let stats = self.stats("PodSandboxStats")?;
        let id = request.pod_sandbox_id;
        if id.is_empty() {
            return Err(CriError::NoId);
        }
        let Some(pod) = self.find_pod(&id)? else { return Err(CriError::NoPod { id }) };
        let figures = stats.pods(vec![pod], self.list_pods()).await;
        Ok(cri::PodSandboxStatsResponse { stats: figures.first().map(wire::pod) })
    }

    pub(super) async fn list_pod_sandbox_stats(
        &self,
        rpc: &'static str,
        filter: Option<cri::PodSandboxStatsFilter>,
    ) -> Result<Vec<cri::PodSandboxStats>, CriError> {
        let stats = self.stats(rpc)?;
        let cri::PodSandboxStatsFilter { id, label_selector } = filter.unwrap_or_default();
        let mut kept = self.pods_in_use();
        by_id(&mut kept, &id, |pod| pod.id.as_str());
        kept.retain(|pod| label_selector.iter().all(|(k, v)| pod.spec.labels.get(k) == Some(v)));
        Ok(stats.pods(kept, self.list_pods()).await.iter().map(wire::pod).collect())
    }

    pub(super) fn list_metric_descriptors(&self) -> Result<cri::ListMetricDescriptorsResponse, CriError> {
        self.stats("ListMetricDescriptors")?;
        Ok(cri::ListMetricDescriptorsResponse { descriptors: descriptors::all() })
    }

    pub(super) async fn list_pod_sandbox_metrics(
        &self,
        rpc: &'static str,
    ) -> Result<Vec<cri::PodSandboxMetrics>, CriError> {
        let stats = self.stats(rpc)?;
        let pods = stats.pods(self.pods_in_use(), self.list_pods()).await;
        let containers: Vec<Arc<Container>> =
            pods.iter().flat_map(|pod| &pod.containers).map(|c| Arc::clone(&c.container)).collect();
        let processes = stats.processes(containers.clone()).await;
        let processes: HashMap<_, _> = containers.iter().map(|c| c.id.clone()).zip(processes).collect();
        Ok(pods.iter().map(|pod| metrics::pod(pod, &processes)).collect())
    }

    /// The pods that use something: those that are ready.
    fn pods_in_use(&self) -> Vec<Arc<Pod>> {
        let mut pods = self.list_pods();
        pods.retain(|pod| shown(pod.state) && pod.state != PodState::NotReady);
        pods
    }
}

/// Messages of one or more items, none for no items.
pub(super) fn batches<T, M>(
    items: Vec<T>,
    message: impl Fn(Vec<T>) -> M + Send,
) -> impl Iterator<Item = M> + Send
where
    T: Send,
{
    let mut items = items.into_iter();
    std::iter::from_fn(move || {
        let batch: Vec<T> = items.by_ref().take(STREAM_BATCH).collect();
        (!batch.is_empty()).then(|| message(batch))
    })
}

fn find(stats: &Stats, id: &str) -> Result<Arc<Container>, CriError> {
    if id.is_empty() {
        return Err(CriError::NoId);
    }
    let mut kept = stats.list();
    by_id(&mut kept, id, |c| c.id.as_str());
    kept.pop().ok_or_else(|| CriError::NoContainer { id: id.to_owned() })
}

/// Keeps what has the id, or the only one whose id begins so; what several share names none of them. An
/// empty id keeps everything.
fn by_id<T>(all: &mut Vec<Arc<T>>, id: &str, of: impl Fn(&T) -> &str) {
    if id.is_empty() {
        return;
    }
    let exact = all.iter().any(|one| of(one) == id);
    all.retain(|one| if exact { of(one) == id } else { of(one).starts_with(id) });
    let several = all.windows(2).any(|two| matches!(two, [a, b] if of(a) != of(b)));
    if several {
        all.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_whole_or_a_prefix_of_one() {
        let kept = |id: &str, all: &[&str]| {
            let mut all: Vec<Arc<String>> = all.iter().map(|s| Arc::new((*s).to_owned())).collect();
            by_id(&mut all, id, |s| s.as_str());
            all.iter().map(|s| s.as_str().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(kept("", &["aa", "ab"]), "aa ab");
        assert_eq!(kept("ab", &["aa", "ab", "abc"]), "ab");
        assert_eq!(kept("a", &["aa", "ab"]), "");
        assert_eq!(kept("a", &["aa", "aa", "b"]), "aa aa", "two containers of one pod");
        assert_eq!(kept("c", &["aa"]), "");
    }

    #[test]
    fn streams_have_no_empty_message() {
        let sizes = |n: usize| batches(vec![0u8; n], |batch| batch.len()).collect::<Vec<_>>();
        assert_eq!(sizes(0), Vec::<usize>::new());
        assert_eq!(sizes(STREAM_BATCH + 1), [STREAM_BATCH, 1]);
    }
}
