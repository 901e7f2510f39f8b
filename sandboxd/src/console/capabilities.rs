//! ListCapabilities: what pods and containers were granted, used and were denied.

use sandboxd_api::console as api;
use tonic::Status;

use super::Sources;

pub(super) fn list(
    _sources: &Sources,
    _request: &api::ListCapabilitiesRequest,
) -> Result<api::ListCapabilitiesResponse, Status> {
    Err(Status::unimplemented("ListCapabilities is not built yet"))
}
