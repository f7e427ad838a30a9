//! The HTTP connection manager: from a byte stream to exchanges.
//!
//! [`serve`] finds the codec and hands each request to [`exchange::serve`], which walks it through the phases
//! early → route → filters → action → record, and [`forward`] pumps bodies between both sides.

mod age;
mod context;
pub(crate) mod counted;
mod demand;
mod downstream;
mod early;
mod exchange;
mod filters;
mod forward;
mod http2;
mod local_reply;
mod metered;
mod plan;
mod record;
mod reply;
mod request;
mod respond;
mod trace;
mod xfcc;

use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use meltemi_traffic::hcm::{Codec, ConnectionManager, Http1Options};
use meltemi_upstream::http1::{Conn, Http1Error};
use meltemi_upstream::stream::{Rewound, Stream};
use meltemi_wire::http1::case::KeepCase;
use meltemi_wire::http1::encode::ResponseBody;
use meltemi_wire::http1::head::{HeadLimits, RequestHead};
use meltemi_wire::sniff::HTTP2_PREFACE;

use crate::connection::ConnInfo;
use crate::idle::IdleTimer;
use crate::stats::count;
pub(crate) use early::new_request_id;
pub(crate) use forward::MAX_RESPONSE_HEAD;

use age::Age;
use context::{Closing, Context};
use downstream::{Downstream, Http1Side};
use request::Request;

/// Serves all requests of one connection.
pub(crate) async fn serve(info: Rc<ConnInfo>, stream: Stream) {
    let Some(runtime) = &info.chain.http else {
        return;
    };
    let hcm = Arc::clone(&runtime.config);
    let mut conn = Conn::new(stream);
    let http2 = match hcm.codec {
        Codec::Http1 => false,
        Codec::Http2 => match sniff(&mut conn, hcm.idle_timeout).await {
            Some(true) => true,
            Some(false) => return close(conn, hcm.delayed_close_timeout).await,
            None => return,
        },
        Codec::Auto => match conn.stream().alpn() {
            Some(b"http/1.1" | b"http/1.0") => false,
            alpn => {
                let must = alpn == Some(b"h2");
                match sniff(&mut conn, hcm.idle_timeout).await {
                    Some(false) if must => return close(conn, hcm.delayed_close_timeout).await,
                    Some(http2) => http2,
                    None => return,
                }
            }
        },
    };
    let _counted = runtime.stats.connection(http2, info.tls.is_some());
    if http2 {
        let (stream, read_ahead) = conn.into_parts();
        http2::serve(info, hcm, Rewound::new(read_ahead, stream)).await;
    } else {
        serve_http1(info, hcm, conn).await;
    }
}

/// True when the client sends the HTTP/2 preface; `None` when it left.
async fn sniff(conn: &mut Conn, limit: Option<Duration>) -> Option<bool> {
    let decide = std::future::poll_fn(|cx| {
        loop {
            let have = conn.buffered();
            let compared = have.len().min(HTTP2_PREFACE.len());
            if have[..compared] != HTTP2_PREFACE[..compared] {
                return Poll::Ready(Some(false));
            }
            if compared == HTTP2_PREFACE.len() {
                return Poll::Ready(Some(true));
            }
            match std::task::ready!(conn.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(None),
                Ok(_) => {}
            }
        }
    });
    match limit {
        Some(limit) => tokio::time::timeout(limit, decide).await.ok().flatten(),
        None => decide.await,
    }
}

fn limits(hcm: &ConnectionManager) -> HeadLimits {
    HeadLimits {
        max_bytes: hcm.max_headers_kb as usize * 1024,
        max_headers: hcm.max_headers_count as usize,
        allow_chunked_length: hcm.http1.allow_chunked_length,
        keep_case: keep_case(&hcm.http1),
    }
}

/// Whether a side's codec remembers how names were spelt.
pub(crate) fn keep_case(options: &Http1Options) -> KeepCase {
    match (options.preserve_case, options.preserve_case_new_proper) {
        (false, _) => KeepCase::No,
        (true, false) => KeepCase::NewLower,
        (true, true) => KeepCase::NewProper,
    }
}

/// What came instead of a request.
enum Between {
    Request(Box<RequestHead>),
    Closed,
    /// None came for too long.
    Idle,
    /// Its head did not come to its end in time.
    Slow,
    Refused(Http1Error),
}

async fn serve_http1(info: Rc<ConnInfo>, hcm: Arc<ConnectionManager>, mut conn: Conn) {
    let context = Context::new(Rc::clone(&info));
    let runtime = context.runtime();
    let limits = limits(&hcm);
    conn.set_proper_case(hcm.http1.proper_case);
    conn.set_buffer_limit(info.listener.config.buffer_limit);
    let mut idle = IdleTimer::new(hcm.stream_idle_timeout);
    let mut between = IdleTimer::new(hcm.idle_timeout);
    let mut served: u32 = 0;
    let mut age = Age::new(&hcm, &runtime.stats);
    // One for the connection: watching anew for each request would cost a lock each time.
    let closing = std::pin::pin!(context.closing());
    let mut closing = Closing::new(&context, closing);
    loop {
        let next = next_request(
            (&mut closing, &mut age),
            &mut conn,
            &limits,
            &mut between,
            hcm.request_headers_timeout,
        );
        let head = match next.await {
            Between::Request(head) => *head,
            Between::Closed => break,
            Between::Idle => {
                count(&runtime.stats.counters.cx_idle_timeout);
                break;
            }
            Between::Refused(error) => {
                exchange::refuse(&context, &mut conn, &error);
                break;
            }
            Between::Slow => {
                exchange::refuse_slow(&context, &mut conn);
                break;
            }
        };
        served += 1;
        if hcm.http1.accept_http_10 {
            conn.set_version(head.version);
        }
        let (request, mut keep_alive) = Request::from_http1(head, info.tls.is_some());
        keep_alive &= context.keeps_open(served) && !age.is_reached();
        let expects = request
            .headers
            .get(http::header::EXPECT)
            .is_some_and(|value| value == "100-continue");
        if expects && !hcm.proxy_100_continue && tell_to_continue(&mut conn).await.is_err() {
            break;
        }
        let mut down = Downstream::Http1(Http1Side {
            head_request: request.method == http::Method::HEAD,
            http10: request.protocol == meltemi_traffic::access::Protocol::Http10,
            keep_alive,
            trailers: hcm.http1.enable_trailers,
            conn: &mut conn,
        });
        exchange::serve(&context, request, &mut down, &mut idle).await;
        let Downstream::Http1(side) = down else { break };
        if !side.keep_alive || !conn.body_finished() || !conn.output_finished() {
            break;
        }
        conn.release_buffers();
    }
    close(conn, hcm.delayed_close_timeout).await;
}

/// Answers `Expect` here, so that it is not passed on; the body may come at once.
async fn tell_to_continue(conn: &mut Conn) -> std::io::Result<()> {
    let (status, nothing) = (http::StatusCode::CONTINUE, http::HeaderMap::new());
    conn.send_response(status, &nothing, ResponseBody::Unannounced, None, false);
    std::future::poll_fn(|cx| conn.poll_flush(cx)).await
}

/// Waits for the next head. While nothing of it has arrived, idleness and drain end the connection.
async fn next_request(
    (closing, age): (&mut Closing<'_, impl Future<Output = ()>>, &mut Age),
    conn: &mut Conn,
    limits: &HeadLimits,
    idle: &mut IdleTimer,
    head_timeout: Option<Duration>,
) -> Between {
    idle.touch();
    let mut started: Option<std::pin::Pin<Box<tokio::time::Sleep>>> = None;
    std::future::poll_fn(|cx| {
        match conn.poll_request(cx, limits) {
            Poll::Ready(Ok(Some(head))) => return Poll::Ready(Between::Request(Box::new(head))),
            Poll::Ready(Ok(None)) => return Poll::Ready(Between::Closed),
            Poll::Ready(Err(Http1Error::Closed | Http1Error::Io(_))) => {
                return Poll::Ready(Between::Closed);
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Between::Refused(error)),
            Poll::Pending => {}
        }
        if conn.buffered().is_empty() {
            if closing.poll(cx).is_ready() {
                return Poll::Ready(Between::Closed);
            }
            if age.poll_end(cx).is_ready() {
                return Poll::Ready(Between::Closed);
            }
        } else if let Some(limit) = head_timeout {
            let timer = started.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Between::Slow);
            }
        }
        idle.poll(cx).map(|()| Between::Idle)
    })
    .await
}

/// Flushes, closes our side, and waits for the client's so that a reset does not destroy the last response.
async fn close(mut conn: Conn, delay: Option<Duration>) {
    let flushed = std::future::poll_fn(|cx| conn.poll_close(cx));
    let flush_limit = delay
        .unwrap_or(Duration::from_secs(1))
        .max(Duration::from_secs(1));
    if !matches!(tokio::time::timeout(flush_limit, flushed).await, Ok(Ok(()))) {
        return;
    }
    let Some(delay) = delay else { return };
    let (mut stream, _) = conn.into_parts();
    let linger = async {
        let mut sink = [0_u8; 2048];
        while matches!(tokio::io::AsyncReadExt::read(&mut stream, &mut sink).await, Ok(count) if count > 0)
        {
        }
    };
    let _ = tokio::time::timeout(delay, linger).await;
}
