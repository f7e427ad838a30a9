//! HTTP/2 clients that make us work for nothing.

use std::net::SocketAddr;

use tokio::sync::Mutex;

use crate::frames::*;
use crate::resident;
use crate::support::{Proxy, backend, echo, full, plain, soon};

/// Memory is measured: one flood at a time.
static ALONE: Mutex<()> = Mutex::const_new(());
/// What a flood may cost at most: far less than was sent, far more than noise.
const BOUND: u64 = 24 << 20;
const ENHANCE_YOUR_CALM: u32 = 11;

async fn proxy() -> Proxy {
    Proxy::start(&plain(backend(echo).await))
}

/// Another client gets its answer.
async fn others_are_served(address: SocketAddr) {
    let mut other = Raw::open(address, &[]).await;
    assert!(other.get(1).await, "another client is served");
}

/// Runs a flood and checks what it cost.
async fn bounded<F: Future>(address: SocketAddr, flood: F) -> F::Output {
    others_are_served(address).await;
    let before = resident();
    let result = soon("the flood", flood).await;
    others_are_served(address).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < BOUND, "memory grew by {grown} bytes");
    result
}

#[tokio::test]
async fn rapid_reset_ends_the_connection() {
    let _alone = ALONE.lock().await;
    let proxy = proxy().await;
    let code = bounded(proxy.address, async {
        let mut raw = Raw::open(proxy.address, &[]).await;
        for n in 0..5_000_u32 {
            let stream = 2 * n + 1;
            let pair = [
                frame(HEADERS, END_HEADERS | END_STREAM, stream, GET),
                frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
            ]
            .concat();
            if raw.send(&pair).await.is_err() {
                break;
            }
        }
        raw.ends().await
    })
    .await;
    // The GOAWAY may be lost to the reset that our unread frames provoke.
    assert!(matches!(code, None | Some(ENHANCE_YOUR_CALM)), "{code:?}");
    proxy.stop().await;
}

#[tokio::test]
async fn streams_that_are_reset_after_they_were_taken_up_end_the_connection() {
    let _alone = ALONE.lock().await;
    // The backend never answers, so that every request is under way when it is reset.
    let silent = backend(|_| std::future::pending()).await;
    let proxy = Proxy::start(&plain(silent));
    let mut raw = Raw::open(proxy.address, &[]).await;
    let mut sent = 0_u32;
    let ended = soon("the end", async {
        loop {
            let stream = 2 * sent + 1;
            let asked = frame(HEADERS, END_HEADERS | END_STREAM, stream, GET);
            // The answer to the PING says that the stream before it was taken up.
            let ping = frame(PING, 0, 0, &[7; 8]);
            if raw.send(&[asked, ping].concat()).await.is_err() {
                return true;
            }
            loop {
                match raw.next().await {
                    Some(got) if got.kind == PING => break,
                    Some(_) => {}
                    None => return true,
                }
            }
            let reset = frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            if raw.send(&reset).await.is_err() {
                return true;
            }
            sent += 1;
            if sent > 1_000 {
                return false;
            }
        }
    })
    .await;
    assert!(ended, "{sent} requests were reset and the client went on");
    assert!((200..=520).contains(&sent), "{sent}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_head_in_endless_continuations_ends_the_connection() {
    let _alone = ALONE.lock().await;
    let proxy = proxy().await;
    bounded(proxy.address, async {
        let mut raw = Raw::open(proxy.address, &[]).await;
        raw.send(&frame(HEADERS, END_STREAM, 1, GET)).await.unwrap();
        let filler = field("a", &"b".repeat(100));
        let more = frame(CONTINUATION, 0, 1, &filler);
        raw.flood(&more.repeat(100), 1_000).await;
        raw.ends().await
    })
    .await;
    proxy.stop().await;
}

#[tokio::test]
async fn empty_continuations_end_the_connection() {
    let _alone = ALONE.lock().await;
    let proxy = proxy().await;
    bounded(proxy.address, async {
        let mut raw = Raw::open(proxy.address, &[]).await;
        raw.send(&frame(HEADERS, END_STREAM, 1, GET)).await.unwrap();
        raw.flood(&frame(CONTINUATION, 0, 1, &[]).repeat(100), 100)
            .await;
        raw.ends().await
    })
    .await;
    proxy.stop().await;
}

#[tokio::test]
async fn settings_and_pings_cost_no_memory_while_their_answers_are_not_read() {
    let _alone = ALONE.lock().await;
    let proxy = proxy().await;
    for flood in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[1; 8])] {
        bounded(proxy.address, async {
            let mut raw = Raw::open(proxy.address, &[]).await;
            // 64 MiB would be waiting answers, were they kept.
            raw.flood(&flood.repeat(1_000), 4_000).await;
            others_are_served(proxy.address).await;
        })
        .await;
    }
    proxy.stop().await;
}

#[tokio::test]
async fn data_without_content_ends_the_connection() {
    let _alone = ALONE.lock().await;
    let proxy = proxy().await;
    bounded(proxy.address, async {
        let mut raw = Raw::open(proxy.address, &[]).await;
        raw.send(&frame(HEADERS, END_HEADERS, 1, POST))
            .await
            .unwrap();
        raw.flood(&frame(DATA, 0, 1, &[]).repeat(100), 1_000).await;
        raw.ends().await
    })
    .await;
    proxy.stop().await;
}

#[tokio::test]
async fn priorities_and_window_updates_without_streams_end_the_connection() {
    let _alone = ALONE.lock().await;
    let proxy = proxy().await;
    for flood in [
        frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 15]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
    ] {
        bounded(proxy.address, async {
            let mut raw = Raw::open(proxy.address, &[]).await;
            raw.flood(&flood.repeat(100), 1_000).await;
            raw.ends().await
        })
        .await;
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_without_window_holds_back_the_upstream_not_our_memory() {
    let _alone = ALONE.lock().await;
    let large = backend(|_| async { http::Response::new(full(vec![b'x'; 4 << 20])) }).await;
    let proxy = Proxy::start(&plain(large));
    let before = resident();
    let mut raw = Raw::open(proxy.address, &[(4, 0)]).await;
    let mut heads = 0;
    for n in 0..50_u32 {
        let stream = 2 * n + 1;
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, stream, GET))
            .await
            .unwrap();
    }
    while heads < 50 {
        heads += u32::from(raw.next().await.expect("a head").kind == HEADERS);
    }
    // The backend itself holds its 50 bodies of 4 MiB in this process; what comes on top is ours.
    let grown = resident().saturating_sub(before);
    assert!(grown < (250 << 20), "memory grew by {grown} bytes");
    let mut other = Raw::open(proxy.address, &[(4, 16 << 20)]).await;
    other
        .send(&frame(WINDOW_UPDATE, 0, 0, &(16_u32 << 20).to_be_bytes()))
        .await
        .unwrap();
    assert!(other.get(1).await, "another client is served");
    drop(raw);
    proxy.stop().await;
}

#[tokio::test]
async fn a_small_head_that_unpacks_to_a_large_one_is_refused() {
    let _alone = ALONE.lock().await;
    let proxy = proxy().await;
    bounded(proxy.address, async {
        let mut raw = Raw::open(proxy.address, &[]).await;
        // One field of 3,000 bytes goes into the table; each further byte repeats it.
        let mut block = GET.to_vec();
        block.extend(b"\x40\x01a\x7f\xb9\x16");
        block.extend([b'b'; 3_000]);
        block.extend([0xbe; 12_000]);
        raw.send(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &block))
            .await
            .unwrap();
        let refused = loop {
            match raw.next().await {
                None => break true,
                Some(got) if matches!(got.kind, GOAWAY | RST_STREAM) => break true,
                // 431, not indexed.
                Some(got) if got.kind == HEADERS => {
                    break got.payload.windows(3).any(|status| status == b"431");
                }
                Some(_) => {}
            }
        };
        assert!(refused, "36 MB of header fields were taken");
    })
    .await;
    proxy.stop().await;
}
