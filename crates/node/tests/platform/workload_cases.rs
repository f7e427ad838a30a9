//! Controllers and Services: what Kubernetes' objects do together.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use meltemi_kube::write;
use serde_json::{Value, json};

use crate::Case;
use crate::world::{World, eventually, get, is, script_pod};

pub(crate) const CASES: &[Case] = &[
    (
        "a_deployment_is_rolled_out_updated_and_collected",
        deployment,
    ),
    (
        "a_killed_application_is_restarted_and_a_sick_one_leaves_the_service",
        service,
    ),
    ("a_pod_reaches_a_service_by_name", by_name),
    ("a_job_completes", job),
    (
        "a_pod_calls_the_api_server_with_its_own_account",
        own_account,
    ),
    ("the_api_server_reaches_services_through_the_tunnel", tunnel),
    ("a_dozen_pods_start_together", dozen),
    ("a_pod_reaches_the_outside_by_tcp_and_udp", outside),
];

fn web(replicas: i32, version: &str) -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web", "version": version}},
                "spec": {"terminationGracePeriodSeconds": 5,
                    "containers": [{"name": "main", "image": "role", "args": ["http", "8080"],
                        "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1,
                                           "failureThreshold": 1}}]}}}
    })
}

fn web_service() -> Value {
    json!({"metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "web"},
                 "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})
}

fn available(world: &World, replicas: i32) -> Option<Deployment> {
    let deployment = world.get::<Deployment>("web")?;
    let status = deployment.status.clone()?;
    let current = status.observed_generation == deployment.metadata.generation;
    (current
        && status.available_replicas == Some(replicas)
        && status.updated_replicas == Some(replicas)
        && status.replicas == Some(replicas))
    .then_some(deployment)
}

fn deployment() {
    let mut world = World::new();
    world.create::<Deployment>(web(2, "v1"));
    let found = eventually("two replicas are available", || available(&world, 2));
    let conditions = found
        .status
        .expect("a status")
        .conditions
        .expect("conditions");
    let reason = |kind: &str| {
        conditions
            .iter()
            .find(|c| c.type_ == kind)
            .and_then(|c| c.reason.clone())
    };
    assert_eq!(
        reason("Available").as_deref(),
        Some("MinimumReplicasAvailable")
    );
    assert_eq!(
        reason("Progressing").as_deref(),
        Some("NewReplicaSetAvailable")
    );
    let set = &world.list::<ReplicaSet>()[0];
    let hash = set
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get("pod-template-hash"))
        .expect("a hash");
    assert_eq!(
        set.metadata.name.as_deref(),
        Some(format!("web-{hash}").as_str())
    );
    let api = world.api::<Deployment>();
    let patch = json!({"spec": {"template": {"metadata": {"labels": {"version": "v2"}}}}});
    world
        .runtime
        .block_on(write::merge_patch(&api, "web", &patch))
        .expect("patched");
    eventually("the new version is rolled out", || {
        available(&world, 2)?;
        let pods = world.list::<Pod>();
        let new = |pod: &Pod| {
            pod.metadata
                .labels
                .as_ref()
                .is_some_and(|l| l.get("version").is_some_and(|v| v == "v2"))
        };
        (pods.len() == 2 && pods.iter().all(new)).then_some(())
    });
    let found = world.get::<Deployment>("web").expect("there");
    let revision = found
        .metadata
        .annotations
        .and_then(|a| a.get("deployment.kubernetes.io/revision").cloned());
    assert_eq!(revision.as_deref(), Some("2"));
    world.delete::<Deployment>("web");
    eventually("sets and pods are collected", || {
        (world.list::<ReplicaSet>().is_empty() && world.list::<Pod>().is_empty()).then_some(())
    });
    let _ = &mut world;
}

fn ready_endpoints(world: &World) -> usize {
    let slices = world.list::<EndpointSlice>();
    let own = slices.iter().filter(|slice| {
        slice.metadata.labels.as_ref().is_some_and(|l| {
            l.get("kubernetes.io/service-name")
                .is_some_and(|n| n == "web")
        })
    });
    own.flat_map(|slice| slice.endpoints.iter().flatten())
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(true))
        .count()
}

fn service() {
    let mut world = World::new();
    world.create::<Deployment>(web(2, "v1"));
    world.create::<Service>(web_service());
    eventually("two endpoints", || {
        (ready_endpoints(&world) == 2).then_some(())
    });
    let service = eventually("an address", || {
        let service = world.get::<Service>("web")?;
        service
            .status
            .as_ref()?
            .load_balancer
            .as_ref()?
            .ingress
            .as_ref()?
            .first()?
            .ip
            .clone()
    });
    assert_eq!(service, "172.18.255.200");
    let publish = world.publish;
    let mut names = std::collections::BTreeSet::new();
    eventually("both pods answer in turn", || {
        names.insert(get(publish, "/")?.1);
        (names.len() == 2).then_some(())
    });
    get(publish, "/quit");
    let restarted = eventually("the killed application is restarted", || {
        world
            .list::<Pod>()
            .into_iter()
            .find(|pod| crate::world::restarts(pod) == 1 && is(pod, "Ready"))
    });
    let name = restarted.metadata.name.expect("a name");
    assert!(
        world
            .logs(&name, "main", true)
            .expect("the log before")
            .contains("listening on 8080")
    );
    eventually("two endpoints again", || {
        (ready_endpoints(&world) == 2).then_some(())
    });
    let sick = eventually("a pod is told to be sick", || get(publish, "/sick"));
    assert_eq!(sick.0, 200);
    eventually("the sick pod leaves", || {
        (ready_endpoints(&world) == 1).then_some(())
    });
    for _ in 0..10 {
        let answer = eventually("the healthy pod answers", || get(publish, "/healthz"));
        assert_eq!(answer.0, 200);
    }
    let _ = &mut world;
}

fn by_name() {
    let mut world = World::new();
    world.create::<Deployment>(web(1, "v1"));
    world.create::<Service>(web_service());
    eventually("an endpoint", || {
        (ready_endpoints(&world) == 1).then_some(())
    });
    for address in ["web:80", "web.default.svc.cluster.local:80"] {
        let name = address.replace(['.', ':'], "-");
        let mut pod = crate::world::role_pod(&name, &["get", address, "/"]);
        pod["spec"]["restartPolicy"] = json!("Never");
        world.create::<Pod>(pod);
        world.phase(&name, "Succeeded");
        let log = world.logs(&name, "main", false).expect("a log");
        assert!(
            log.contains("resolved 10.96.") && log.contains("web-"),
            "{log}"
        );
    }
    let mut pod = crate::world::role_pod(
        "nothing",
        &["get", "absent.default.svc.cluster.local:80", "/"],
    );
    pod["spec"]["restartPolicy"] = json!("Never");
    world.create::<Pod>(pod);
    world.phase("nothing", "Failed");
}

fn job() {
    let world = World::new();
    let spec = script_pod("x", "echo done")["spec"].clone();
    world.create::<Job>(json!({"metadata": {"name": "batch"},
        "spec": {"completions": 2, "template": {"metadata": {"labels": {"a": "b"}}, "spec": spec}}}));
    let job = eventually("the job completes", || {
        let job = world.get::<Job>("batch")?;
        let complete = job
            .status
            .as_ref()?
            .conditions
            .as_ref()?
            .iter()
            .any(|c| c.type_ == "Complete" && c.status == "True");
        complete.then_some(job)
    });
    assert_eq!(job.status.and_then(|status| status.succeeded), Some(2));
}

/// Servers at an address of this machine stand for the outside: the relay dials from the host's namespace.
fn outside() {
    let mut world = World::new();
    let tcp = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
    let udp = std::net::UdpSocket::bind("0.0.0.0:0").expect("a port");
    let (tcp_port, udp_port) = (
        tcp.local_addr().expect("bound").port(),
        udp.local_addr().expect("bound").port(),
    );
    std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        for mut stream in tcp.incoming().flatten() {
            let _ = stream.read(&mut [0u8; 512]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\noutside");
        }
    });
    std::thread::spawn(move || {
        let mut buffer = [0u8; 512];
        while let Ok((_, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(b"answer", from);
        }
    });
    let run = |world: &mut World, name: &str, args: &[&str], wanted: &str| {
        let mut pod = crate::world::role_pod(name, args);
        pod["spec"]["restartPolicy"] = json!("Never");
        world.create::<Pod>(pod);
        world.phase(name, "Succeeded");
        let log = world.logs(name, "main", false).expect("a log");
        assert!(log.contains(wanted), "{log}");
    };
    let Some(host) = host_address() else {
        crate::world::skip(
            "this machine has no address but loopback, so nothing is outside of the cluster",
        );
    };
    run(
        &mut world,
        "tcp",
        &["get", &format!("{host}:{tcp_port}"), "/"],
        "outside",
    );
    run(
        &mut world,
        "udp",
        &["udp", &format!("{host}:{udp_port}")],
        "answer from",
    );
}

/// An address of this machine that is not loopback.
fn host_address() -> Option<std::net::Ipv4Addr> {
    let interfaces = nix::ifaddrs::getifaddrs().ok()?;
    let mut addresses = interfaces.filter_map(|i| Some(i.address?.as_sockaddr_in()?.ip()));
    addresses.find(|address| !address.is_loopback() && address.octets()[0] != 172)
}

/// Twelve pods with an init container and two probed containers each, all at once.
fn dozen() {
    let world = World::new();
    let mut web = web(12, "v1");
    let spec = &mut web["spec"]["template"]["spec"];
    let mut second = spec["containers"][0].clone();
    second["name"] = json!("second");
    second["args"] = json!(["http", "8081"]);
    second["readinessProbe"]["httpGet"]["port"] = json!(8081);
    spec["containers"]
        .as_array_mut()
        .expect("a list")
        .push(second);
    spec["initContainers"] = json!([{"name": "init", "image": "busybox", "command": ["true"]}]);
    let began = std::time::Instant::now();
    world.create::<Deployment>(web);
    eventually("all are available", || available(&world, 12));
    eprintln!("twelve pods were ready after {:?}", began.elapsed());
    let addresses: std::collections::BTreeSet<_> = world
        .list::<Pod>()
        .into_iter()
        .filter_map(|pod| pod.status?.pod_ip)
        .collect();
    assert_eq!(addresses.len(), 12);
}

fn own_account() {
    if std::process::Command::new("curl")
        .arg("--version")
        .output()
        .is_err()
    {
        crate::world::skip("curl is not there");
    }
    let mut world = World::new();
    let script = "cd /var/run/secrets/kubernetes.io/serviceaccount && \
        curl -sS --retry 5 --retry-connrefused --cacert ca.crt -H \"Authorization: Bearer $(cat token)\" \
        https://kubernetes.default.svc/apis/authentication.k8s.io/v1/selfsubjectreviews \
        -H 'content-type: application/json' \
        -d '{\"kind\":\"SelfSubjectReview\",\"apiVersion\":\"authentication.k8s.io/v1\"}'; \
        curl -sS --cacert ca.crt https://kubernetes.default.svc:443/version";
    world.create::<Pod>(script_pod("caller", script));
    world.phase("caller", "Succeeded");
    let log = world.logs("caller", "main", false).expect("a log");
    assert!(log.contains("gitVersion"), "{log}");
    assert!(
        log.contains("system:serviceaccount:default:default"),
        "{log}"
    );
}

fn tunnel() {
    use std::io::{Read as _, Write as _};
    let world = World::new();
    world.create::<Deployment>(web(1, "v1"));
    let service = world.create::<Service>(web_service());
    let address = service
        .spec
        .and_then(|spec| spec.cluster_ip)
        .expect("an address");
    let socket = world.state.path().join("run/egress.sock");
    let answer = eventually("the service answers through the tunnel", || {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).ok()?;
        stream
            .set_read_timeout(Some(std::time::Duration::from_secs(2)))
            .ok()?;
        stream
            .write_all(format!("CONNECT {address}:80 HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
            .ok()?;
        let mut head = [0u8; 39];
        stream.read_exact(&mut head).ok()?;
        assert!(head.starts_with(b"HTTP/1.1 "), "{head:?}");
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.contains("web-").then_some(text)
    });
    assert!(answer.contains("200"), "{answer}");
}
