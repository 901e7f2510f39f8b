//! What is read when it is looked at, rather than streamed: usage, namespaces, capabilities, the preflight
//! checks, the pulls under way. A reading costs the daemon something, so nobody asks for what is not on a screen.

use sandboxd_api::MAX_MESSAGE_SIZE;
use sandboxd_api::console::console_client::ConsoleClient;
use sandboxd_api::console::images_client::ImagesClient;
use sandboxd_api::console::{
    DoctorRequest, DoctorResponse, GetUsageRequest, GetUsageResponse, ListCapabilitiesRequest,
    ListCapabilitiesResponse, ListNamespacesRequest, ListNamespacesResponse, ListPullsRequest,
    ListPullsResponse,
};
use serde::{Deserialize, Serialize};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::model::clean;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Query {
    /// Of one pod and its containers.
    Usage {
        pod_id: String,
    },
    Namespaces,
    Capabilities,
    Doctor,
    Pulls,
}

/// A recording keeps these as they are: `{"at_ns":…,"answered":{"namespaces":{…}}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Usage(GetUsageResponse),
    Namespaces(ListNamespacesResponse),
    Capabilities(ListCapabilitiesResponse),
    Doctor(DoctorResponse),
    Pulls(ListPullsResponse),
}

impl Query {
    pub async fn ask(&self, channel: Channel) -> Result<Answer, Status> {
        let mut console = ConsoleClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE);
        Ok(match self {
            Self::Usage { pod_id } => {
                let request = GetUsageRequest { pod_id: pod_id.clone() };
                Answer::Usage(console.get_usage(request).await?.into_inner())
            }
            Self::Namespaces => {
                let request = ListNamespacesRequest::default();
                Answer::Namespaces(console.list_namespaces(request).await?.into_inner())
            }
            Self::Capabilities => {
                let request = ListCapabilitiesRequest::default();
                Answer::Capabilities(console.list_capabilities(request).await?.into_inner())
            }
            Self::Doctor => Answer::Doctor(console.doctor(DoctorRequest {}).await?.into_inner()),
            Self::Pulls => {
                let mut images = ImagesClient::new(channel);
                Answer::Pulls(images.list_pulls(ListPullsRequest {}).await?.into_inner())
            }
        })
    }

    /// What a failed call says to the operator.
    pub fn refusal(status: &Status) -> String {
        match status.code() {
            Code::Unimplemented => {
                "this daemon does not answer that: it is older than the console".to_owned()
            }
            code if status.message().is_empty() => code.to_string(),
            _ => crate::text::clean(status.message()),
        }
    }
}

impl Answer {
    /// Whether it answers `query`; a usage does when it has the pod asked for.
    pub fn answers(&self, query: &Query) -> bool {
        match (self, query) {
            (Self::Usage(usage), Query::Usage { pod_id }) => usage.pods.iter().any(|pod| pod.id == *pod_id),
            (Self::Namespaces(_), Query::Namespaces)
            | (Self::Capabilities(_), Query::Capabilities)
            | (Self::Doctor(_), Query::Doctor)
            | (Self::Pulls(_), Query::Pulls) => true,
            _ => false,
        }
    }

    /// Cleans every text, once, when it comes in.
    pub fn clean(&mut self) {
        match self {
            Self::Usage(usage) => clean::usage(usage),
            Self::Namespaces(namespaces) => clean::namespaces(namespaces),
            Self::Capabilities(capabilities) => clean::capabilities(capabilities),
            Self::Doctor(doctor) => clean::doctor(doctor),
            Self::Pulls(pulls) => clean::pulls(pulls),
        }
    }
}
