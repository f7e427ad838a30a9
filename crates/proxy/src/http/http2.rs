//! An HTTP/2 connection of a client: streams are accepted here and served each by its own task.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use h2::Reason;
use meltemi_traffic::hcm::{ConnectionManager, Http2Options};
use meltemi_upstream::clock;
use meltemi_upstream::gather::{Gather, Gathered, gather};
use meltemi_upstream::http2;
use meltemi_upstream::keepalive::KeepAlive;
use meltemi_upstream::stream::Rewound;
use meltemi_wire::frames::FrameLimits;

use super::age::Age;
use super::context::Context;
use super::downstream::{Downstream, Http2Side};
use super::early;
use super::exchange;
use super::metered::{Broken, Metered};
use super::request::Request;
use crate::connection::ConnInfo;
use crate::idle::IdleTimer;

/// Windows towards clients where the configuration says nothing; see `pool` for why they are below Envoy's.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Envoy's default `max_concurrent_streams`.
const MAX_STREAMS: u32 = 1024;

fn builder(hcm: &ConnectionManager, buffer_limit: u32) -> h2::server::Builder {
    let options = &hcm.http2;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(options.initial_stream_window.unwrap_or(STREAM_WINDOW))
        .initial_connection_window_size(
            options
                .initial_connection_window
                .unwrap_or(CONNECTION_WINDOW),
        )
        .max_concurrent_streams(options.max_concurrent_streams.unwrap_or(MAX_STREAMS))
        .max_send_buffer_size(http2::send_buffer(buffer_limit))
        .max_header_list_size(hcm.max_headers_kb * 1024);
    if let Some(size) = options.hpack_table_size {
        builder.header_table_size(size);
    }
    if options.allow_connect {
        builder.enable_connect_protocol();
    }
    builder
}

fn frame_limits(options: &Http2Options) -> FrameLimits {
    let defaults = FrameLimits::default();
    FrameLimits {
        empty_in_a_row: options.max_empty_frames.unwrap_or(defaults.empty_in_a_row),
        priority_per_stream: options
            .max_priority_per_stream
            .unwrap_or(defaults.priority_per_stream),
        window_updates_per_data: options
            .max_window_updates_per_data
            .unwrap_or(defaults.window_updates_per_data),
    }
}

/// Serves all streams of one connection.
pub(super) async fn serve(info: Rc<ConnInfo>, hcm: Arc<ConnectionManager>, stream: Rewound) {
    let broken = Broken::default();
    let stream = Metered::new(stream, frame_limits(&hcm.http2), Rc::clone(&broken));
    let (stream, gather) = gather(stream);
    let builder = builder(&hcm, info.listener.config.buffer_limit);
    let mut connection = match builder.handshake::<_, bytes::Bytes>(stream).await {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(%error, "http2 handshake");
            return;
        }
    };
    let mut keepalive = KeepAlive::new(connection.ping_pong(), hcm.http2.keepalive);
    let context = Context::new(Rc::clone(&info));
    let mut draining = false;
    let mut age = Age::new(&hcm, &context.runtime().stats);
    let mut served: u32 = 0;
    let mut idle = IdleTimer::new(hcm.idle_timeout);
    let streams = Rc::<Streams>::default();
    let mut drain = std::pin::pin!(context.draining());
    loop {
        let accepted = std::future::poll_fn(|cx| {
            if !draining && (drain.as_mut().poll(cx).is_ready() || age.poll_limit(cx).is_ready()) {
                draining = true;
                connection.graceful_shutdown();
            }
            if let Some(keepalive) = &mut keepalive
                && keepalive.poll_dead(cx).is_ready()
            {
                tracing::debug!("client does not answer PINGs");
                return Poll::Ready(None);
            }
            if streams.are_reset_too_often() {
                return Poll::Ready(None);
            }
            let accepted = gather.poll_with(cx, |cx| connection.poll_accept(cx));
            if accepted.is_pending() && streams.open.get() == 0 && idle.poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            accepted
        })
        .await;
        match accepted {
            Some(Ok((head, respond))) => {
                idle.touch();
                served = served.saturating_add(1);
                if !draining && !context.keeps_open(served) {
                    draining = true;
                    connection.graceful_shutdown();
                }
                let stream = serve_stream(context.clone(), head, respond, Rc::clone(&streams));
                tokio::task::spawn_local(clock::in_turns(stream));
            }
            Some(Err(error)) => {
                return tell_end(&broken, &error);
            }
            None if streams.are_reset_too_often() => {
                tracing::info!("client resets too many of its requests");
                return end(connection, &gather, Reason::ENHANCE_YOUR_CALM).await;
            }
            None => return,
        }
    }
}

/// Says in our log how a connection ended.
fn tell_end(broken: &Broken, error: &h2::Error) {
    match broken.get() {
        Some(flood) => tracing::info!(%flood, "client flooded its connection"),
        None => tracing::debug!(%error, "http2 connection ended"),
    }
}

/// Says why, and closes.
async fn end(
    mut connection: h2::server::Connection<Gathered<Metered>, bytes::Bytes>,
    gather: &Gather<Metered>,
    reason: Reason,
) {
    connection.abrupt_shutdown(reason);
    let closed = std::future::poll_fn(|cx| gather.poll_with(cx, |cx| connection.poll_closed(cx)));
    let _ = tokio::time::timeout(PREMATURE, closed).await;
}

/// A stream that the client resets within this time, before any response, was premature.
const PREMATURE: Duration = Duration::from_secs(1);
/// From so many streams on, half of them premature end the connection (`overload.premature_reset_total_stream_count`).
const PREMATURE_LIMIT: u64 = 500;

/// Streams of one connection.
#[derive(Debug, Default)]
struct Streams {
    open: Cell<usize>,
    ended: Cell<u64>,
    premature: Cell<u64>,
}

impl Streams {
    /// The client resets most of what it asks for. Below the limit of streams: it would have by then, were all further
    /// ones good.
    fn are_reset_too_often(&self) -> bool {
        self.premature.get() * 2 >= self.ended.get().max(PREMATURE_LIMIT)
    }
}

/// Counts a stream for as long as it lives.
struct StreamCount(Rc<Streams>);

impl StreamCount {
    fn new(streams: Rc<Streams>) -> Self {
        streams.open.set(streams.open.get() + 1);
        Self(streams)
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        self.0.ended.set(self.0.ended.get() + 1);
    }
}

async fn serve_stream(
    context: Context,
    head: http::Request<h2::RecvStream>,
    respond: h2::server::SendResponse<bytes::Bytes>,
    streams: Rc<Streams>,
) {
    let count = StreamCount::new(streams);
    let (head, body) = head.into_parts();
    let end = body.is_end_stream();
    let request = Request::from_http2(head, end, context.info().tls.is_some());
    let mut idle = IdleTimer::new(context.hcm().stream_idle_timeout);
    let head_request = request.method == http::Method::HEAD;
    let mut down = Downstream::Http2(Http2Side {
        recv: http2::Recv::new(body),
        respond,
        head_request,
        send: None,
    });
    if early::has_refused_names(context.hcm(), &request.headers) {
        exchange::refuse_stream(&context, &request, &mut down);
        return;
    }
    let unanswered = exchange::serve(&context, request, &mut down, &mut idle).await;
    if unanswered.is_some_and(|lifetime| lifetime <= PREMATURE) {
        count.0.premature.set(count.0.premature.get() + 1);
    }
}
