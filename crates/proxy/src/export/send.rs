//! Batches to requests: what each kind of collector is told.

use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use meltemi_proto::envoy::config::core::v3::Node;
use meltemi_proto::envoy::service::accesslog::v3::stream_access_logs_message::Identifier;
use meltemi_proto::otlp::{ExportRequest, Resource, ResourceItems, Scope, ScopeItems, attribute};
use meltemi_traffic::Str;
use meltemi_traffic::collector::{Collector, GrpcTarget, HttpTarget};
use meltemi_upstream::exchange::Exchange;
use meltemi_wire::http1::Piece;
use prost::Message;

use super::client::{self, CallError};
use super::{Destination, Queue};
use crate::worker::Worker;

const ALS: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";
const OTEL_LOGS: &str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";
const OTEL_SPANS: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
const PROTOBUF: &str = "application/x-protobuf";
/// Time for a stream's message to be written; a collector that stopped reading loses its stream.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// `StreamAccessLogsMessage` over entries that are encoded already.
#[derive(Clone, PartialEq, Message)]
struct LogsMessage {
    #[prost(message, optional, tag = "1")]
    identifier: Option<Identifier>,
    #[prost(message, optional, tag = "2")]
    http: Option<Entries>,
    #[prost(message, optional, tag = "3")]
    tcp: Option<Entries>,
}

#[derive(Clone, PartialEq, Message)]
struct Entries {
    #[prost(bytes = "vec", repeated, tag = "1")]
    entries: Vec<Vec<u8>>,
}

/// Sends batch after batch until the queue has been idle for long.
pub(super) async fn keep_sending(worker: &Rc<Worker>, destination: &Destination, queue: &Queue) {
    if let Destination::Als {
        target,
        log_name,
        tcp,
    } = destination
    {
        return stream_logs(worker, target, log_name, *tcp, queue).await;
    }
    while let Some(batch) = queue.batch().await {
        if batch.is_empty() {
            continue;
        }
        let result = match destination {
            Destination::Als { .. } => Ok(()),
            Destination::OtelLogs {
                collector,
                resource,
            } => {
                let scope = None;
                otel(
                    worker,
                    collector,
                    OTEL_LOGS,
                    request(resource, scope, batch),
                )
                .await
            }
            Destination::OtelSpans {
                collector,
                resource,
            } => {
                let scope = Some(Scope {
                    name: "meltemi".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                });
                otel(
                    worker,
                    collector,
                    OTEL_SPANS,
                    request(resource, scope, batch),
                )
                .await
            }
            Destination::Zipkin {
                collector,
                protobuf,
            } => zipkin(worker, collector, *protobuf, batch).await,
        };
        if let Err(error) = result {
            tracing::debug!(%error, ?destination, "a batch was lost");
        }
    }
}

fn request(resource: &[(Str, Str)], scope: Option<Scope>, items: Vec<Vec<u8>>) -> ExportRequest {
    let attributes = resource.iter();
    ExportRequest {
        resources: vec![ResourceItems {
            resource: Some(Resource {
                attributes: attributes
                    .map(|(key, value)| attribute(key, value.as_str()))
                    .collect(),
            }),
            scopes: vec![ScopeItems { scope, items }],
        }],
    }
}

async fn otel(
    worker: &Rc<Worker>,
    collector: &Collector,
    path: &str,
    request: ExportRequest,
) -> Result<(), CallError> {
    let body = request.encode_to_vec();
    match collector {
        Collector::Grpc(target) => client::grpc(worker, target, path, &body).await,
        Collector::Http(target) => client::http(worker, target, PROTOBUF, body).await,
    }
}

/// Spans side by side: an array in JSON, a `ListOfSpans` in protobuf.
async fn zipkin(
    worker: &Rc<Worker>,
    collector: &HttpTarget,
    protobuf: bool,
    spans: Vec<Vec<u8>>,
) -> Result<(), CallError> {
    if protobuf {
        let body = Entries { entries: spans }.encode_to_vec();
        return client::http(worker, collector, PROTOBUF, body).await;
    }
    let mut body = vec![b'['];
    body.extend_from_slice(&spans.join(&b","[..]));
    body.push(b']');
    client::http(worker, collector, "application/json", body).await
}

/// One stream for as long as it lasts; the identifier goes with its first message. What a broken stream had not taken is
/// lost, as with Envoy.
async fn stream_logs(
    worker: &Rc<Worker>,
    target: &GrpcTarget,
    log_name: &Str,
    tcp: bool,
    queue: &Queue,
) {
    let mut stream: Option<LogStream> = None;
    while let Some(batch) = queue.batch().await {
        if batch.is_empty() {
            continue;
        }
        let mut live = stream.take();
        if let Some(old) = &mut live
            && old.has_ended().await
        {
            live = None;
        }
        let fresh = live.is_none();
        let entries = Some(Entries { entries: batch });
        let (http, tcp) = if tcp {
            (None, entries)
        } else {
            (entries, None)
        };
        let identifier = fresh.then(|| Identifier {
            node: Some(node(worker)),
            log_name: log_name.to_string(),
        });
        let message = LogsMessage {
            identifier,
            http,
            tcp,
        }
        .encode_to_vec();
        let sending = async {
            let mut live = match live {
                Some(live) => live,
                None => LogStream {
                    call: client::open_grpc(worker, target, ALS).await?,
                    answered: false,
                },
            };
            client::send_message(&mut live.call, &message).await?;
            Ok::<_, CallError>(live)
        };
        match tokio::time::timeout(WRITE_LIMIT, sending).await {
            Ok(Ok(live)) => stream = Some(live),
            Ok(Err(error)) => {
                tracing::debug!(%error, log_name = %log_name, "log entries were lost")
            }
            Err(_) => tracing::debug!(log_name = %log_name, "the log service does not read"),
        }
    }
}

/// A running stream.
struct LogStream {
    call: Exchange,
    /// The head of the service's answer is there; its body ends with the stream.
    answered: bool,
}

impl LogStream {
    /// The service ended its side. It has nothing to say otherwise.
    async fn has_ended(&mut self) -> bool {
        std::future::poll_fn(|cx| {
            if !self.answered {
                match self.call.poll_response(cx) {
                    Poll::Pending => return Poll::Ready(false),
                    Poll::Ready(Ok(head)) if !head.headers.contains_key("grpc-status") => {
                        self.answered = true;
                    }
                    Poll::Ready(_) => return Poll::Ready(true),
                }
            }
            loop {
                match self.call.poll_body(cx) {
                    Poll::Pending => return Poll::Ready(false),
                    Poll::Ready(Ok(Piece::Data(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(true),
                }
            }
        })
        .await
    }
}

fn node(worker: &Worker) -> Node {
    let own = &worker.shared.node;
    let known = Node::decode(&own.message[..]).unwrap_or_default();
    Node {
        id: own.id.to_string(),
        cluster: own.cluster.to_string(),
        user_agent_name: "meltemi".to_owned(),
        ..known
    }
}
