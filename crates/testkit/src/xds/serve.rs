//! From connections to streams: the method's name says which variant is spoken.

use std::convert::Infallible;
use std::future::{Ready, ready};

use futures::StreamExt as _;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use meltemi_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::{World, delta, state_of_the_world};

/// Largest request, bytes.
const MAX_REQUEST: usize = 64 << 20;

pub(super) async fn accept(listener: TcpListener, world: World) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let world = world.clone();
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
                answer(request, world.clone())
            });
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service);
            // The client hung up.
            let _ = served.await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    request: http::Request<Incoming>,
    world: World,
) -> Result<http::Response<tonic::body::Body>, Infallible> {
    let path = request.uri().path();
    let method = path.rsplit('/').next().unwrap_or_default().to_owned();
    if method.starts_with("Delta") {
        let codec = ProstCodec::<DeltaDiscoveryResponse, DeltaDiscoveryRequest>::default();
        let mut grpc = Grpc::new(codec).apply_max_message_size_config(Some(MAX_REQUEST), None);
        Ok(grpc.streaming(Delta { world, method }, request).await)
    } else {
        let codec = ProstCodec::<DiscoveryResponse, DiscoveryRequest>::default();
        let mut grpc = Grpc::new(codec).apply_max_message_size_config(Some(MAX_REQUEST), None);
        Ok(grpc.streaming(Whole { world, method }, request).await)
    }
}

struct Delta {
    world: World,
    method: String,
}

struct Whole {
    world: World,
    method: String,
}

type Responses<T> = ReceiverStream<Result<T, Status>>;

impl StreamingService<DeltaDiscoveryRequest> for Delta {
    type Response = DeltaDiscoveryResponse;
    type ResponseStream = Responses<DeltaDiscoveryResponse>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let (responses, receiver) = mpsc::channel(4);
        let mut stream = delta::Stream::new(self.world.clone(), self.method.clone(), responses);
        let mut requests = request.into_inner();
        let mut changes = self.world.changes();
        tokio::spawn(async move {
            loop {
                let sent = tokio::select! {
                    request = requests.next() => match request {
                        Some(Ok(request)) => stream.request(request).await,
                        _ => return,
                    },
                    _ = changes.changed() => stream.push().await,
                };
                if !sent {
                    return;
                }
            }
        });
        ready(Ok(Response::new(ReceiverStream::new(receiver))))
    }
}

impl StreamingService<DiscoveryRequest> for Whole {
    type Response = DiscoveryResponse;
    type ResponseStream = Responses<DiscoveryResponse>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DiscoveryRequest>>) -> Self::Future {
        let (responses, receiver) = mpsc::channel(4);
        let mut stream =
            state_of_the_world::Stream::new(self.world.clone(), self.method.clone(), responses);
        let mut requests = request.into_inner();
        let mut changes = self.world.changes();
        tokio::spawn(async move {
            loop {
                let sent = tokio::select! {
                    request = requests.next() => match request {
                        Some(Ok(request)) => stream.request(request).await,
                        _ => return,
                    },
                    _ = changes.changed() => stream.push().await,
                };
                if !sent {
                    return;
                }
            }
        });
        ready(Ok(Response::new(ReceiverStream::new(receiver))))
    }
}
