//! The orderly end: exchanges finish, connections end behind them, new ones are turned away.

use std::time::Duration;

use http::{Request, Response};
use tokio::sync::mpsc;

use crate::client::{BOTH, Client, answer, piecewise};
use crate::sidecars::{ALL, Hop, Pair};
use crate::support::{backend, full, soon};

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_in_flight_finishes_while_the_proxy_stops() {
    for version in BOTH {
        let (hand_over, mut senders) = mpsc::channel(1);
        let app = backend(move |_| {
            let hand_over = hand_over.clone();
            async move {
                let (sender, body) = piecewise();
                hand_over.send(sender).await.unwrap();
                Response::new(body)
            }
        })
        .await;
        let pair = Pair::start(Hop::Same, app, ALL);
        let address = pair.outbound.address;
        let mut client = Client::connect(&pair.outbound, version).await;
        let request = Request::get("http://server.test/long")
            .body(full(""))
            .unwrap();
        let response = soon("head", client.send(request)).await.unwrap();
        let server = soon("server", senders.recv()).await.unwrap();
        let Pair { outbound, rest } = pair;
        let limit = Duration::from_millis(200);
        let stopping = tokio::spawn(outbound.engine.stop(limit, Duration::from_secs(20)));
        // After the drain time nobody is accepted any more; the exchange is still open.
        soon("new connections are refused", async {
            while tokio::net::TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        server.send("to the end".into()).await.unwrap();
        drop(server);
        assert_eq!(answer(response).await.body, "to the end", "{version:?}");
        soon("the proxy ends by itself", stopping).await.unwrap();
        let (outbound, _) = rest.stop().await;
        let start = format!("GET /long {} 200 - via_upstream 0 10 ", version.name());
        assert!(
            outbound.starts_with(&start) && outbound.lines().count() == 1,
            "{outbound}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_finish_in_time_is_cut_and_recorded() {
    for version in BOTH {
        let (arrived, mut requests) = mpsc::channel(1);
        let app = backend(move |_| {
            let arrived = arrived.clone();
            async move {
                arrived.send(()).await.unwrap();
                std::future::pending().await
            }
        })
        .await;
        let pair = Pair::start(Hop::Same, app, ALL);
        let mut client = Client::connect(&pair.outbound, version).await;
        let request = Request::get("http://server.test/never")
            .body(full(""))
            .unwrap();
        let call =
            tokio::spawn(async move { client.send(request).await.map(|answer| answer.status()) });
        soon("request", requests.recv()).await.unwrap();
        let (outbound, inbound) = pair.stop().await;
        let _ = soon("the client learns it", call).await;
        for log in [outbound, inbound] {
            assert_eq!(log.lines().count(), 1, "{version:?}: {log}");
        }
    }
}
