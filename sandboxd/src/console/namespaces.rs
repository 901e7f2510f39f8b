//! ListNamespaces: every namespace of the node, who owns it, and what keeps it alive.

use sandboxd_api::console as api;
use tonic::Status;

use super::Sources;
use crate::observer::inventory::{Context, Inventory, response};
use crate::pod::model::NsKind;

/// Blocks while it reads `/proc`.
pub(super) fn list(
    sources: &Sources,
    request: &api::ListNamespacesRequest,
) -> Result<api::ListNamespacesResponse, Status> {
    let kind = match request.kind.as_str() {
        "" => None,
        name => Some(NsKind::named(name).ok_or_else(|| {
            let known = NsKind::ALL.map(NsKind::name).join(", ");
            Status::invalid_argument(format!(
                "kind = {name:?} is no kind of namespace: one of {known}, or empty"
            ))
        })?),
    };
    Ok(response(&read(sources), kind, request.leaked_only))
}

/// As the daemon sees it, with its pods. Leaks become events.
pub(super) fn read(sources: &Sources) -> Inventory {
    let pods = Some(sources.observer.attribution());
    let context = Context { pods, state: Some(&sources.config.state), ..Context::default() };
    let inventory = Inventory::read(&context);
    sources.leaks.note(&inventory, &sources.events);
    inventory
}
