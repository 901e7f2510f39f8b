//! Has the daemon stop or remove something.

use std::time::Duration;

use sandboxd_api::console::console_client::ConsoleClient;
use sandboxd_api::console::{RemoveContainerRequest, RemovePodRequest, StopContainerRequest, StopPodRequest};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::actions::{Action, Subject, Verb};

/// How long a container may take to end by itself.
const GRACE_S: u32 = 10;
/// How long the daemon may take: containers are waited for, networks taken down.
const ANSWER: Duration = Duration::from_secs(120);

pub(super) async fn act(channel: Channel, action: &Action) -> Result<(), String> {
    let answer = tokio::time::timeout(ANSWER, call(channel, action)).await;
    match answer {
        Err(_) => Err(format!("the daemon did not answer within {} s", ANSWER.as_secs())),
        Ok(answer) => answer.map_err(|status| words(&status)),
    }
}

async fn call(channel: Channel, action: &Action) -> Result<(), Status> {
    let mut client = ConsoleClient::new(channel);
    match (action.verb, &action.subject) {
        (Verb::Stop, Subject::Pod(id)) => {
            client.stop_pod(StopPodRequest { pod_id: id.clone() }).await?;
        }
        (Verb::Remove, Subject::Pod(id)) => {
            client.remove_pod(RemovePodRequest { pod_id: id.clone() }).await?;
        }
        (Verb::Stop, Subject::Container(id)) => {
            let request = StopContainerRequest { container_id: id.clone(), timeout_s: GRACE_S };
            client.stop_container(request).await?;
        }
        (Verb::Remove, Subject::Container(id)) => {
            client.remove_container(RemoveContainerRequest { container_id: id.clone() }).await?;
        }
    }
    Ok(())
}

fn words(status: &Status) -> String {
    match (status.code(), status.message()) {
        (Code::Unimplemented, _) => "this daemon does not do that".to_owned(),
        (code, "") => code.to_string(),
        (_, words) => crate::text::clean(words),
    }
}
