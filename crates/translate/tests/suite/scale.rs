//! Cost of a large mesh, printed; the bound is loose because the build is not optimized.

use std::time::{Duration, Instant};

use meltemi_translate::ResourceKind;

use crate::mesh::Mesh;

#[test]
fn proxies_of_one_namespace_share_the_work() {
    let services: Vec<String> = (0..300)
        .map(|n| {
            format!(
                "{{kind: Service, metadata: {{name: s{n}}}, spec: {{clusterIP: 10.97.{}.{}, ports: [{{name: http, port: 80}}, {{name: tcp, port: 9000}}]}}}}",
                n / 250,
                n % 250
            )
        })
        .collect();
    let mut mesh = Mesh::bookinfo(&[&services.join("\n---\n")]);
    let mut time = |deployment: &str| {
        let mut sidecar = mesh.sidecar(deployment);
        let start = Instant::now();
        let count: usize = ResourceKind::PUSH_ORDER
            .into_iter()
            .map(|kind| sidecar.resources(kind).len())
            .sum();
        (count, start.elapsed())
    };
    let (count, first) = time("productpage-v1");
    let others: Vec<Duration> = ["reviews-v1", "reviews-v2", "details-v1"]
        .into_iter()
        .map(|d| time(d).1)
        .collect();
    println!("{count} resources: first proxy {first:?}, others {others:?}");
    // The quickest, because a busy machine may delay any of them.
    assert!(
        others.iter().any(|other| *other < first / 2),
        "{first:?} {others:?}"
    );
}
