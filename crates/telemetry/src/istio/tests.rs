use std::cell::Cell;
use std::time::Duration;

use super::series::RequestSeries;
use super::{
    Labels, Metrics, Outcome, Peer, PeerCache, Protocol, Reporter, Request, Service, ServiceFacts,
    WorkloadMetadata,
};
use crate::names;

const OK: Outcome<'static> = Outcome {
    code: Some(200),
    grpc_status: None,
    flags: "",
};

fn workload(name: &str, app: &str, version: &str) -> WorkloadMetadata {
    let labels = [("app", app), ("version", version)];
    WorkloadMetadata {
        name: format!("{name}-x").into(),
        namespace: "default".into(),
        workload: name.into(),
        cluster: "Kubernetes".into(),
        ..WorkloadMetadata::default()
    }
    .labelled(|key| {
        labels
            .iter()
            .find(|(known, _)| *known == key)
            .map(|(_, value)| *value)
    })
}

fn principal(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}

fn reviews_service() -> Service {
    Service::new("reviews.default.svc.cluster.local", "reviews", "default")
}

/// Of the call productpage -> reviews, as the server sees it.
fn at_server() -> (Metrics, Labels) {
    let labels = Labels {
        reporter: Reporter::Destination,
        protocol: Protocol::Http,
        peer: Some(Peer::new(workload("productpage-v1", "productpage", "v1"))),
        peer_principal: principal("bookinfo-productpage").into(),
        local_principal: principal("bookinfo-reviews").into(),
        service: reviews_service(),
    };
    (
        Metrics::new(workload("reviews-v2", "reviews", "v2"), 100),
        labels,
    )
}

fn text(metrics: &Metrics) -> String {
    let mut out = String::new();
    metrics.render(&mut out);
    out
}

/// The only line of a metric.
fn line(metrics: &Metrics, name: &str) -> String {
    let text = text(metrics);
    let mut found = text
        .lines()
        .filter(|line| line.starts_with(&format!("{name}{{")));
    let line = found.next().unwrap().to_owned();
    assert_eq!(found.next(), None);
    line
}

#[test]
fn the_server_reports_both_ends_as_istio_does() {
    let (metrics, labels) = at_server();
    metrics.request(&labels, OK, Request::default());
    metrics.request(&labels, OK, Request::default());
    assert_eq!(
        line(&metrics, "istio_requests_total"),
        "istio_requests_total{reporter=\"destination\",source_workload=\"productpage-v1\",\
         source_canonical_service=\"productpage\",source_canonical_revision=\"v1\",source_workload_namespace=\"default\",\
         source_principal=\"spiffe://cluster.local/ns/default/sa/bookinfo-productpage\",source_app=\"productpage\",\
         source_version=\"v1\",source_cluster=\"Kubernetes\",destination_workload=\"reviews-v2\",\
         destination_canonical_service=\"reviews\",destination_canonical_revision=\"v2\",\
         destination_workload_namespace=\"default\",\
         destination_principal=\"spiffe://cluster.local/ns/default/sa/bookinfo-reviews\",destination_app=\"reviews\",\
         destination_version=\"v2\",destination_cluster=\"Kubernetes\",\
         destination_service=\"reviews.default.svc.cluster.local\",destination_service_name=\"reviews\",\
         destination_service_namespace=\"default\",request_protocol=\"http\",response_code=\"200\",\
         grpc_response_status=\"\",response_flags=\"-\",connection_security_policy=\"mutual_tls\"} 2"
    );
}

#[test]
fn the_client_reports_itself_as_source_and_no_policy() {
    let (_, mut labels) = at_server();
    labels.reporter = Reporter::Source;
    labels.peer =
        WorkloadMetadata::from_endpoint("reviews-v2;default;reviews;v2;Kubernetes").map(Peer::new);
    let metrics = Metrics::new(workload("productpage-v1", "productpage", "v1"), 100);
    metrics.request(
        &labels,
        Outcome {
            code: None,
            flags: "UF,URX",
            ..OK
        },
        Request::default(),
    );
    let line = line(&metrics, "istio_requests_total");
    for part in [
        "reporter=\"source\",source_workload=\"productpage-v1\"",
        "destination_workload=\"reviews-v2\"",
        "destination_app=\"unknown\"",
        "response_code=\"0\"",
        "response_flags=\"UF,URX\"",
        "connection_security_policy=\"unknown\"",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn a_plain_client_is_unknown_with_the_latest_revision() {
    let (metrics, mut labels) = at_server();
    (labels.peer, labels.peer_principal) = (None, "".into());
    labels.service = Service::resolve(&ServiceFacts::default());
    metrics.request(&labels, OK, Request::default());
    let line = line(&metrics, "istio_requests_total");
    for part in [
        "source_workload=\"unknown\",source_canonical_service=\"unknown\",source_canonical_revision=\"latest\"",
        "source_principal=\"unknown\"",
        // The server knows at least its own name.
        "destination_service=\"reviews\",destination_service_name=\"reviews\",destination_service_namespace=\"default\"",
        "connection_security_policy=\"none\"",
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn a_proven_namespace_goes_before_a_told_one() {
    let (metrics, mut labels) = at_server();
    labels.peer_principal = "spiffe://cluster.local/ns/other/sa/x".into();
    metrics.request(&labels, OK, Request::default());
    assert!(line(&metrics, "istio_requests_total").contains("source_workload_namespace=\"other\""));
}

#[test]
fn the_service_is_declared_special_or_the_authority() {
    let declared = Some(("a.b.svc.cluster.local", "", "b"));
    let facts = ServiceFacts {
        authority: Some("example.com"),
        ..ServiceFacts::default()
    };
    let table = [
        (
            ServiceFacts { declared, ..facts },
            ("a.b.svc.cluster.local", "a", "b"),
        ),
        (facts, ("example.com", "example.com", "")),
        (
            ServiceFacts {
                cluster: "PassthroughCluster",
                ..facts
            },
            ("example.com", "PassthroughCluster", ""),
        ),
        (
            ServiceFacts {
                route: "block_all",
                ..facts
            },
            ("example.com", "BlackHoleCluster", ""),
        ),
        (
            ServiceFacts {
                cluster: "BlackHoleCluster",
                authority: None,
                ..facts
            },
            ("", "BlackHoleCluster", ""),
        ),
        (ServiceFacts::default(), ("", "", "")),
    ];
    for (facts, (host, name, namespace)) in table {
        assert_eq!(
            Service::resolve(&facts),
            Service::new(host, name, namespace),
            "{facts:?}"
        );
    }
}

#[test]
fn label_names_and_their_order_are_those_of_the_table() {
    let (metrics, labels) = at_server();
    let edge = metrics.edge(&labels);
    edge.request(OK, Request::default());
    edge.messages(1, 1);
    drop(edge.connection(""));
    for metric in [
        names::ISTIO_REQUESTS_TOTAL,
        names::ISTIO_REQUEST_MESSAGES_TOTAL,
        names::ISTIO_RESPONSE_MESSAGES_TOTAL,
        names::ISTIO_TCP_CONNECTIONS_OPENED_TOTAL,
        names::ISTIO_TCP_CONNECTIONS_CLOSED_TOTAL,
        names::ISTIO_TCP_SENT_BYTES_TOTAL,
        names::ISTIO_TCP_RECEIVED_BYTES_TOTAL,
    ] {
        let line = line(&metrics, metric.name);
        let inside = &line[line.find('{').unwrap() + 1..line.rfind('}').unwrap()];
        let keys: Vec<_> = inside
            .split("\",")
            .map(|pair| pair.split('=').next().unwrap())
            .collect();
        assert_eq!(keys, metric.labels, "{}", metric.name);
    }
}

#[test]
fn histograms_have_cumulative_buckets_sum_and_count() {
    let (metrics, labels) = at_server();
    for millis in [1, 7, 7_200_000] {
        let request = Request {
            duration: Duration::from_millis(millis),
            received: 0,
            sent: 300,
        };
        metrics.request(&labels, OK, request);
    }
    let text = text(&metrics);
    let value = |name: &str, end: &str| {
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{")) && line.contains(end))
            .unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    let bucket = |bound: &str| {
        value(
            "istio_request_duration_milliseconds_bucket",
            &format!("le=\"{bound}\""),
        )
    };
    assert_eq!(
        ["0.5", "1", "5", "10", "3600000", "+Inf"].map(bucket),
        ["0", "1", "1", "2", "2", "3"]
    );
    assert_eq!(
        value("istio_request_duration_milliseconds_sum", ""),
        "7200008"
    );
    assert_eq!(value("istio_request_duration_milliseconds_count", ""), "3");
    assert_eq!(value("istio_response_bytes_sum", ""), "900");
    assert_eq!(
        text.matches("# TYPE istio_request_bytes histogram").count(),
        1
    );
}

#[test]
fn grpc_shows_its_status_and_messages() {
    let (metrics, mut labels) = at_server();
    labels.protocol = Protocol::Grpc;
    let edge = metrics.edge(&labels);
    edge.messages(2, 0);
    edge.messages(1, 5);
    edge.request(
        Outcome {
            grpc_status: Some(14),
            ..OK
        },
        Request::default(),
    );
    assert!(
        line(&metrics, "istio_requests_total").contains(
            "request_protocol=\"grpc\",response_code=\"200\",grpc_response_status=\"14\""
        )
    );
    assert!(line(&metrics, "istio_request_messages_total").ends_with(" 3"));
    assert!(line(&metrics, "istio_response_messages_total").ends_with(" 5"));
}

#[test]
fn a_connection_is_closed_when_its_guard_is_dropped() {
    let (metrics, mut labels) = at_server();
    labels.protocol = Protocol::Tcp;
    let connection = metrics.edge(&labels).connection("");
    connection.received(10);
    connection.sent(7);
    let values = || {
        ["opened", "closed"].map(|what| {
            line(&metrics, &format!("istio_tcp_connections_{what}_total"))
                .rsplit(' ')
                .next()
                .unwrap()
                .to_owned()
        })
    };
    assert_eq!(values(), ["1", "0"]);
    drop(connection);
    assert_eq!(values(), ["1", "1"]);
    assert!(line(&metrics, "istio_tcp_received_bytes_total").ends_with(" 10"));
    assert!(
        line(&metrics, "istio_tcp_sent_bytes_total")
            .ends_with("connection_security_policy=\"mutual_tls\"} 7")
    );
}

#[test]
fn what_threads_count_adds_up_to_one_series() {
    let (metrics, labels) = at_server();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            // Labels built anew: equal content is one series, whoever made it.
            scope.spawn(|| {
                let (_, labels) = at_server();
                for _ in 0..100 {
                    metrics.request(&labels, OK, Request::default());
                }
            });
        }
    });
    metrics.request(&labels, OK, Request::default());
    assert!(line(&metrics, "istio_requests_total").ends_with(" 401"));
}

#[test]
fn label_sets_beyond_the_bound_share_an_overflow_series() {
    let (_, labels) = at_server();
    let metrics = Metrics::new(workload("reviews-v2", "reviews", "v2"), 10);
    for number in 0..50 {
        let peer = WorkloadMetadata {
            workload: number.to_string().into(),
            ..WorkloadMetadata::default()
        };
        metrics.request(
            &Labels {
                peer: Some(peer.into()),
                ..labels.clone()
            },
            OK,
            Request::default(),
        );
    }
    // A new outcome of a known label set is bounded too.
    for code in 400..450 {
        let peer = WorkloadMetadata {
            workload: "0".into(),
            ..WorkloadMetadata::default()
        };
        metrics.request(
            &Labels {
                peer: Some(peer.into()),
                ..labels.clone()
            },
            Outcome {
                code: Some(code),
                ..OK
            },
            Request::default(),
        );
    }
    let text = text(&metrics);
    let lines: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("istio_requests_total{"))
        .collect();
    assert_eq!(lines.len(), 12);
    assert!(
        lines
            .iter()
            .any(|line| line.contains("source_workload=\"overflow\"") && line.ends_with(" 40"))
    );
    assert!(
        lines
            .iter()
            .any(|line| line.contains("source_workload=\"0\"")
                && line.contains("response_flags=\"overflow\"")
                && line.ends_with(" 50"))
    );
    assert!(text.contains("meltemi_metric_series_overflow_total 90\n"));
}

#[test]
fn a_large_scrape_comes_in_bounded_pieces_of_whole_lines() {
    let (_, labels) = at_server();
    let metrics = Metrics::new(workload("reviews-v2", "reviews", "v2"), 1000);
    for number in 0..60 {
        let peer = WorkloadMetadata {
            workload: number.to_string().into(),
            ..WorkloadMetadata::default()
        };
        metrics.request(
            &Labels {
                peer: Some(peer.into()),
                ..labels.clone()
            },
            OK,
            Request::default(),
        );
    }
    let snapshot = metrics.snapshot();
    let pieces: Vec<_> = snapshot.pieces().collect();
    assert!(pieces.len() > 10);
    // A piece is full when a label set more begins: 22 lines of less than 1,200 bytes.
    assert!(
        pieces
            .iter()
            .all(|piece| piece.len() < 64 * 1024 + 22 * 1200 && piece.ends_with('\n'))
    );
    let all = pieces.concat();
    assert_eq!(
        all.lines()
            .filter(|line| line.starts_with("# TYPE"))
            .count(),
        4
    );
    assert_eq!(
        all.lines()
            .filter(|line| line.starts_with("istio_response_bytes_count{"))
            .count(),
        60
    );
}

#[test]
fn a_label_set_is_small_because_texts_are_shared() {
    assert!(size_of::<Labels>() <= 48, "{}", size_of::<Labels>());
    assert!(
        size_of::<RequestSeries>() <= 512,
        "{}",
        size_of::<RequestSeries>()
    );
}

#[test]
fn a_peer_is_decoded_once() {
    let cache = PeerCache::new(2);
    let decoded = Cell::new(0);
    let get = |text: &str| {
        cache.get(text.as_bytes(), |bytes| {
            decoded.set(decoded.get() + 1);
            WorkloadMetadata::from_endpoint(std::str::from_utf8(bytes).ok()?)
        })
    };
    assert_eq!(get("a;b;c;d;e").unwrap().workload, "a");
    assert_eq!(get("a;b;c;d;e").unwrap().namespace, "b");
    assert_eq!((get("broken"), get("broken")), (None, None));
    assert_eq!(decoded.get(), 2);
    // A full cache starts again and never grows.
    assert!(get("x;b;c;d;e").is_some());
    assert!(get("a;b;c;d;e").is_some());
    assert_eq!(decoded.get(), 4);
}

#[test]
fn the_build_is_a_gauge_with_component_and_tag() {
    let mut out = String::new();
    super::build_info("proxy", "0.1.0", &mut out);
    assert!(
        out.ends_with(
            "# TYPE istio_build gauge\nistio_build{component=\"proxy\",tag=\"0.1.0\"} 1\n"
        )
    );
}
