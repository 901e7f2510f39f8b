//! ListNamespaces: every namespace of the node, who owns it, and what keeps it alive.

use sandboxd_api::console as api;
use tonic::Status;

use super::Sources;

/// Blocks while it reads `/proc`.
pub(super) fn list(
    _sources: &Sources,
    _request: &api::ListNamespacesRequest,
) -> Result<api::ListNamespacesResponse, Status> {
    Err(Status::unimplemented("ListNamespaces is not built yet"))
}
