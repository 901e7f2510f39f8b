//! `PodSandboxFilter`: everything set in it must hold.

use std::sync::Arc;

use sandboxd_api::cri::{PodSandboxFilter, PodSandboxState};

use super::translate::{shown, state};
use super::validate::{Invalid, Why};
use crate::pod::model::Pod;

/// The pods a filter keeps, in their order. An id is a prefix; one that several pods share keeps none, as
/// it names no pod.
///
/// # Errors
/// When the state is none of the CRI's.
pub fn filter(pods: Vec<Arc<Pod>>, filter: Option<PodSandboxFilter>) -> Result<Vec<Arc<Pod>>, Invalid> {
    let PodSandboxFilter { id, state: wanted, label_selector } = filter.unwrap_or_default();
    let wanted = match wanted {
        None => None,
        Some(value) => Some(PodSandboxState::try_from(value.state).map_err(|_| Invalid {
            field: "filter.state.state".into(),
            value: value.state.to_string(),
            why: Why::UnknownEnum,
        })?),
    };
    let mut kept: Vec<Arc<Pod>> = pods.into_iter().filter(|p| shown(p.state)).collect();
    if !id.is_empty() {
        let exact = kept.iter().any(|p| p.id.as_str() == id);
        kept.retain(|p| if exact { p.id.as_str() == id } else { p.id.as_str().starts_with(&id) });
        if kept.len() > 1 {
            kept.clear();
        }
    }
    kept.retain(|p| {
        wanted.is_none_or(|wanted| state(p.state) == wanted)
            && label_selector.iter().all(|(k, v)| p.spec.labels.get(k) == Some(v))
    });
    Ok(kept)
}
