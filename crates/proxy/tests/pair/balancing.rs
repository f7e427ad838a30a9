//! How requests spread over the endpoints of a cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Request, Response};
use tokio::sync::Notify;

use crate::client::{BOTH, Client, Version};
use crate::sidecars::{ALL, Hop, Pair};
use crate::support::{backend, full, soon};

/// Applications that answer with their number.
async fn numbered(count: usize) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for number in 0..count {
        let answer = move |_| std::future::ready(Response::new(full(number.to_string())));
        addresses.push(backend(answer).await);
    }
    addresses
}

#[tokio::test(flavor = "multi_thread")]
async fn round_robin_gives_each_endpoint_the_same_number() {
    for version in BOTH {
        let apps = numbered(3).await;
        let clusters = [("peer", &apps[..], "lb_policy: ROUND_ROBIN,")];
        let pair = Pair::with_clusters(Hop::Same, &clusters, ALL);
        let mut client = Client::connect(&pair.outbound, version).await;
        let mut counts = [0; 3];
        for _ in 0..30 {
            counts[client.get("/").await.body.parse::<usize>().unwrap()] += 1;
        }
        assert_eq!(counts, [10; 3], "{version:?}");
        drop(client);
        pair.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn least_request_spares_the_endpoint_that_is_busy() {
    let (busy, free) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let release = Arc::new(Notify::new());
    let mut apps = Vec::new();
    for number in 0..3 {
        let (busy, free, release) = (Arc::clone(&busy), Arc::clone(&free), Arc::clone(&release));
        apps.push(
            backend(move |_| {
                let slow = number == 0;
                let counter = if slow { &busy } else { &free };
                counter.fetch_add(1, Ordering::SeqCst);
                let release = Arc::clone(&release);
                async move {
                    if slow {
                        release.notified().await;
                    }
                    Response::new(full(""))
                }
            })
            .await,
        );
    }
    let clusters = [("peer", &apps[..], "lb_policy: LEAST_REQUEST,")];
    let pair = Pair::with_clusters(Hop::Same, &clusters, ALL);
    // Requests that hang at the slow endpoint stay open there while others are sent.
    let mut hanging = Vec::new();
    for _ in 0..150 {
        let mut client = Client::connect(&pair.outbound, Version::Http1).await;
        let request = Request::get("http://server.test/").body(full("")).unwrap();
        let before = busy.load(Ordering::SeqCst) + free.load(Ordering::SeqCst);
        let task =
            tokio::spawn(async move { client.send(request).await.map(|answer| answer.status()) });
        soon("the request is somewhere", async {
            while busy.load(Ordering::SeqCst) + free.load(Ordering::SeqCst) == before {
                tokio::task::yield_now().await;
            }
        })
        .await;
        hanging.push(task);
    }
    // Two are drawn for each request: only where both draws are the busy one it gets the request, one time of nine.
    let busy = busy.load(Ordering::SeqCst);
    assert!(busy < 33, "the busy endpoint got {busy} of 150");
    release.notify_waiters();
    for task in hanging {
        assert_eq!(soon("answer", task).await.unwrap().unwrap(), 200);
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn least_request_spreads_evenly_where_all_are_free() {
    let apps = numbered(3).await;
    let clusters = [("peer", &apps[..], "lb_policy: LEAST_REQUEST,")];
    let pair = Pair::with_clusters(Hop::Same, &clusters, ALL);
    let mut client = Client::connect(&pair.outbound, Version::Http2).await;
    let mut counts = [0; 3];
    for _ in 0..300 {
        counts[client.get("/").await.body.parse::<usize>().unwrap()] += 1;
    }
    assert!(
        counts.iter().all(|count| (60..=140).contains(count)),
        "{counts:?}"
    );
    drop(client);
    pair.stop().await;
}
