//! Virtual hosts and clusters on demand: the same traffic makes the real Envoy and us ask for the same names.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use meltemi_testkit::mesh::{Mesh, bootstrap};
use meltemi_testkit::process::{Program, Proxy as Child, get, listening};
use meltemi_testkit::xds::{Server, World};

use crate::support::{DEADLINE, Proxy, backend, free, loopback};

enum Which {
    Ours,
    Envoy(std::path::PathBuf),
}

/// What was answered, and what was asked for by name.
#[derive(Debug, PartialEq)]
struct Outcome {
    answers: Vec<(u16, String)>,
    asked: BTreeSet<(String, String)>,
}

async fn drive(which: Which) -> Outcome {
    let (listen, admin) = (free().await, free().await);
    let mesh = Mesh {
        services: 200,
        backend: backend("here").await,
    };
    let world = World::default();
    mesh.on_demand(&world, listen);
    let server = Server::start(world.clone(), loopback(0)).await.unwrap();
    let config = bootstrap(server.address, admin, true, false);
    let directory = tempfile::tempdir().unwrap();
    let (_ours, _envoy) = match which {
        Which::Ours => (Some(Proxy::start(config, admin)), None),
        Which::Envoy(path) => {
            let program = Program::Envoy(path);
            (
                None,
                Some(Child::start(&program, directory.path(), &config).unwrap()),
            )
        }
    };
    listening(listen, DEADLINE).await.unwrap();
    let used: Vec<usize> = mesh.http_services(8000).collect();
    let mut hosts: Vec<String> = used
        .iter()
        .take(2)
        .map(|number| Mesh::host(*number))
        .collect();
    hosts.insert(1, hosts[0].clone());
    hosts.push("unknown.test".to_owned());
    let mut answers = Vec::new();
    for host in &hosts {
        answers.push(get(listen, host, "/").await.unwrap());
    }
    let seen = world.seen();
    assert!(seen.iter().all(|seen| seen.refusal.is_none()), "{seen:?}");
    let on_demand = |kind: &str| kind == "VirtualHost" || kind == "Cluster";
    let asked = seen
        .iter()
        .filter(|seen| on_demand(&seen.kind))
        .flat_map(|seen| {
            seen.names
                .iter()
                .map(|name| (seen.kind.clone(), name.clone()))
        })
        .collect();
    Outcome { answers, asked }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_clusters_are_asked_for_once_and_unknown_ones_are_not_found() {
    let ours = drive(Which::Ours).await;
    let statuses: Vec<u16> = ours.answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 200, 404], "{ours:?}");
    assert_eq!(
        ours.asked.len(),
        5,
        "two hosts, their clusters, an unknown host: {ours:?}"
    );
    if let Some(envoy) = std::env::var_os("MELTEMI_TEST_ENVOY") {
        let theirs = drive(Which::Envoy(envoy.into())).await;
        assert_eq!(ours, theirs);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_be_asked_for_is_unavailable_after_a_second_and_a_loaded_one_serves() {
    let (listen, admin) = (free().await, free().await);
    let mesh = Mesh {
        services: 200,
        backend: backend("here").await,
    };
    let world = World::default();
    mesh.on_demand(&world, listen);
    let server = Server::start(world, loopback(0)).await.unwrap();
    let _proxy = Proxy::start(bootstrap(server.address, admin, true, false), admin);
    listening(listen, DEADLINE).await.unwrap();
    let used: Vec<usize> = mesh.http_services(8000).collect();
    let (loaded, new) = (Mesh::host(used[0]), Mesh::host(used[1]));
    assert_eq!(get(listen, &loaded, "/").await.unwrap().0, 200);
    drop(server);
    let started = Instant::now();
    assert_eq!(get(listen, &new, "/").await.unwrap().0, 503);
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(get(listen, &loaded, "/").await.unwrap().0, 200);
}
