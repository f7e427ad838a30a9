//! Prints what a series and a request cost: `cargo run --release -p meltemi-telemetry --example series_cost`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use meltemi_telemetry::istio::{
    Labels, Metrics, Outcome, Peer, Protocol, Reporter, Request, Service, WorkloadMetadata,
};

const SERIES: usize = 2000;
const REQUESTS: u32 = 1_000_000;

fn resident() -> u64 {
    let mut out = String::new();
    meltemi_telemetry::process::render(&mut out);
    let line = out
        .lines()
        .find(|line| line.starts_with("process_resident_memory_bytes "));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or_default()
}

fn labels(number: usize, service: &Service) -> Labels {
    let peer = WorkloadMetadata {
        name: format!("client-{number}-5d8f7c9b6d-x2x4z").into(),
        namespace: "default".into(),
        workload: format!("client-{number}").into(),
        cluster: "Kubernetes".into(),
        app: format!("client-{number}").into(),
        version: "v1".into(),
        canonical_name: format!("client-{number}").into(),
        canonical_revision: "v1".into(),
        ..WorkloadMetadata::default()
    };
    Labels {
        reporter: Reporter::Destination,
        protocol: Protocol::Http,
        peer: Some(Peer::new(peer)),
        peer_principal: format!("spiffe://cluster.local/ns/default/sa/client-{number}").into(),
        local_principal: "spiffe://cluster.local/ns/default/sa/reviews".into(),
        service: service.clone(),
    }
}

fn main() {
    let metrics = Metrics::new(WorkloadMetadata::default(), 2 * SERIES);
    let outcome = Outcome {
        code: Some(200),
        grpc_status: None,
        flags: "-",
    };
    let request = Request {
        duration: Duration::from_millis(3),
        received: 0,
        sent: 295,
    };

    let service = Service::new("reviews.default.svc.cluster.local", "reviews", "default");
    let before = resident();
    for number in 0..SERIES {
        metrics.request(&labels(number, &service), outcome, request);
    }
    let each = (resident() - before) / SERIES as u64;
    println!("{each} bytes for each series with a peer of its own");

    let before = resident();
    let peer = labels(0, &service);
    for code in 0..SERIES {
        let code = u16::try_from(code).ok();
        metrics.request(&peer, Outcome { code, ..outcome }, request);
    }
    let each = (resident() - before) / SERIES as u64;
    println!("{each} bytes for each further outcome");

    let labels = labels(7, &service);
    let edge = metrics.edge(&labels);
    let time = |what: &str, act: &dyn Fn()| {
        let start = Instant::now();
        for _ in 0..REQUESTS {
            act();
        }
        println!("{what}: {:?} a request", start.elapsed() / REQUESTS);
    };
    time("with a kept edge", &|| {
        edge.request(black_box(outcome), black_box(request))
    });
    time("with a lookup", &|| {
        metrics.request(black_box(&labels), black_box(outcome), black_box(request))
    });
}
