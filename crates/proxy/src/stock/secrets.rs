//! The workload's certificate for the engine: SDS on a unix socket inside the private directory.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use meltemi_identity::sds::SdsService;
use meltemi_identity::store::CertificateReader;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::Server;

use crate::standalone::{ProxyError, Task};

/// Streams of one engine: one for each TLS context that it is warming, on few connections.
const MAX_STREAMS: u32 = 100_000;

/// Serves until the handle is dropped.
pub(super) fn serve(path: &Path, certificates: CertificateReader) -> Result<Task, ProxyError> {
    let listener = UnixListener::bind(path)?;
    let server = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(SdsService::new(certificates))
        .serve_with_incoming(Accepted(listener));
    Ok(Task(tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the secret discovery service ended");
        }
    })))
}

/// Connections of a listener as a stream.
struct Accepted(UnixListener);

impl Stream for Accepted {
    type Item = io::Result<UnixStream>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0
            .poll_accept(cx)
            .map(|accepted| Some(accepted.map(|(stream, _)| stream)))
    }
}
