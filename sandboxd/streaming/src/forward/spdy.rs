//! Port-forward over SPDY: a connection is a pair of streams, `data` and `error`, with the same `requestID`.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::pairs::{Kind, Pair, Pairs};
use super::{Ports, forward};
use crate::backend::Backend;
use crate::spdy::{Connection, Headers, Offer, Stream};

/// The one version there is.
pub(crate) const PROTOCOL: &str = "portforward.k8s.io";

/// Serves connections until the client goes.
pub(crate) async fn serve(
    mut connection: Connection,
    ports: Ports,
    backend: Arc<dyn Backend>,
    creation: Duration,
) {
    let ports = Arc::new(ports);
    let mut pairs = Pairs::default();
    let mut running = JoinSet::new();
    loop {
        let deadline = pairs.oldest().map(|since| since + creation);
        tokio::select! {
            offer = connection.next() => {
                let Some(offer) = offer else { break };
                if let Some(pair) = offered(offer, &ports, &mut pairs).await {
                    running.spawn(one(Arc::clone(&ports), Arc::clone(&backend), pair));
                }
            }
            Some(_) = running.join_next() => {}
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                for (request, mut error) in pairs.expire(Instant::now() - creation) {
                    let text = format!("request {request}: timed out waiting for the data stream");
                    finish(&mut error, &text).await;
                }
            }
        }
    }
    // Dropped, the running connections break off: the client is gone.
}

/// A pair that is complete with this stream.
async fn offered(offer: Offer, ports: &Ports, pairs: &mut Pairs) -> Option<Pair> {
    let id = offer.stream.id();
    let (kind, port) = match wanted(&offer.stream.headers, ports) {
        Ok(wanted) => wanted,
        Err(why) => {
            // Dropped, it is refused.
            tracing::debug!(stream = id, why, "a stream of a port-forward is refused");
            return None;
        }
    };
    let request = request(&offer.stream.headers, id, kind);
    let stream = offer.accept().await?;
    match pairs.add(request, kind, port, stream) {
        Ok(pair) => pair,
        Err(mut second) => {
            let text = "the request has a stream of this type already";
            finish(&mut second, text).await;
            None
        }
    }
}

fn wanted(headers: &Headers, ports: &Ports) -> Result<(Kind, u16), String> {
    let text = headers.get("port").ok_or("it has no port header")?;
    let port: u16 = text.parse().map_err(|_| format!("its port is {text:?}"))?;
    if !ports.allows(port) {
        return Err(format!("port {port} is not one of the request's"));
    }
    match headers.get("streamtype") {
        Some("data") => Ok((Kind::Data, port)),
        Some("error") => Ok((Kind::Error, port)),
        other => Err(format!("its stream type is {other:?}")),
    }
}

/// Clients before Kubernetes 1.2 give no id: they open the error stream, then the data stream.
fn request(headers: &Headers, stream: u32, kind: Kind) -> String {
    match (headers.get("requestid"), kind) {
        (Some(id), _) if !id.is_empty() => id.to_owned(),
        (_, Kind::Error) => format!("stream {stream}"),
        (_, Kind::Data) => format!("stream {}", stream.wrapping_sub(2)),
    }
}

async fn one(ports: Arc<Ports>, backend: Arc<dyn Backend>, pair: Pair) {
    let Pair { port, data, mut error } = pair;
    let gone = data.reset();
    let Stream { mut reader, mut writer, .. } = data;
    let streams = (&mut reader, &mut writer);
    if let Err(why) = forward(&*backend, &ports.pod, port, streams, &gone).await {
        tracing::debug!(port, pod = ports.pod, error = %why, "a forwarded connection failed");
        finish(&mut error, &why.to_string()).await;
    }
    // A client that is gone needs no end.
    let _ = (writer.shutdown().await, error.writer.shutdown().await);
}

/// The last words of a stream.
async fn finish(stream: &mut Stream, text: &str) {
    let spoken = async {
        stream.writer.write_all(text.as_bytes()).await?;
        stream.writer.shutdown().await
    };
    if spoken.await.is_err() {
        tracing::debug!(text, "a client went before it heard the error");
    }
}
