//! What is on the wire between injected pods, seen by a packet socket in the node's namespace.

use std::{process::Command, time::Duration};

use meltemi_e2e::{
    Mesh, User, eventually,
    processes::Process,
    sniffer::{Sniffer, only_tls_records},
};

/// What a header sent by an application looks like in clear.
const MARKER: &str = "marker-3f1c9a";
/// Port of Bookinfo's services; all their pods and all their callers are injected.
const PORT: u16 = 9080;
const SETTLE: Duration = Duration::from_secs(20);
const OF_PAGE: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-productpage";
const OF_DETAILS: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-details";

#[test]
fn nothing_is_in_clear_between_injected_pods_and_each_side_logs_the_other() {
    for user in User::possible() {
        let Some(mesh) = Mesh::up(user, &["--sample", "bookinfo"]) else {
            return;
        };
        let sniffer = Sniffer::in_node_of(&mesh);
        for _ in 0..20 {
            let page = mesh.page(&[("end-user", MARKER), ("x-request-id", MARKER)]);
            assert!(page.contains("PublisherA"));
        }
        only_tls_was_seen(&sniffer);
        logs_name_the_peer(&mesh);
        if nix::unistd::geteuid().is_root() {
            a_dead_sidecar_lets_nothing_past(&mesh);
        }
        only_tls_was_seen(&sniffer);
        mesh.stop();
    }
}

/// Every byte between the pods belongs to a TLS record, in both directions, and the marker is nowhere.
fn only_tls_was_seen(sniffer: &Sniffer) {
    let streams = sniffer.streams(PORT);
    let port = format!(":{PORT}");
    let requests = streams.iter().filter(|stream| stream.to.ends_with(&port));
    assert!(requests.count() > 0, "requests were seen");
    for stream in streams {
        let marker = MARKER.as_bytes();
        let in_clear = stream.bytes.windows(marker.len()).any(|at| at == marker);
        assert!(!in_clear, "from {} to {}", stream.from, stream.to);
        let judged = only_tls_records(&stream.bytes);
        assert_eq!(judged, Ok(()), "from {} to {}", stream.from, stream.to);
    }
}

/// The access log of each side names the identity of the other, where the mesh configuration asks for it.
fn logs_name_the_peer(mesh: &Mesh) {
    let map = mesh.kubectl_json(&["get", "configmap", "istio", "-n", "istio-system"]);
    let text = map["data"]["mesh"].as_str().expect("a mesh configuration");
    let format = "peers down=%DOWNSTREAM_PEER_URI_SAN% up=%UPSTREAM_PEER_URI_SAN%";
    let kept = text.lines().filter(|line| !line.starts_with("accessLog"));
    let text = kept.collect::<Vec<_>>().join("\n");
    let text = format!("{text}\naccessLogFile: /dev/stdout\naccessLogFormat: '{format}'\n");
    let patch = serde_json::json!({"data": {"mesh": text}}).to_string();
    let map = ["patch", "configmap", "istio", "-n", "istio-system", "-p"];
    let _printed = mesh.kubectl_text(&[&map[..], &[&patch]].concat());
    for (pod, expected) in [
        ("productpage-v1", format!("down=- up={OF_DETAILS}")),
        ("details-v1", format!("down={OF_PAGE} up=-")),
    ] {
        let deployment = format!("deployment/{pod}");
        eventually(SETTLE, &format!("the log of {pod} names its peer"), || {
            let _page = mesh.page(&[]);
            let log = mesh.kubectl_text(&["logs", &deployment, "-c", "istio-proxy", "--tail=20"]);
            let known = log.lines().any(|line| line.ends_with(&expected));
            if known { Ok(()) } else { Err(log) }
        });
    }
}

fn process_of(mesh: &Mesh, command: &str, pod: &str) -> Process {
    let mut processes = mesh.processes().into_iter();
    let found = processes.find(|process| {
        let in_pod = process
            .variable("POD_NAME")
            .is_none_or(|name| name.starts_with(pod));
        process.command.contains(command) && in_pod
    });
    found.expect("the process runs")
}

/// The sidecar of the product page stops or dies: its application's calls fail or wait for the next one, none goes
/// past it (the caller looks at the wire).
fn a_dead_sidecar_lets_nothing_past(mesh: &Mesh) {
    let page = process_of(mesh, "sample productpage", "productpage");
    let script = format!(
        "import urllib.request as u; r = u.Request('http://details:9080/details/0', headers={{'end-user': '{MARKER}'}}); \
         print(u.urlopen(r, timeout=3).status)"
    );
    let call = || {
        let output = Command::new("nsenter")
            .args(["--target", &page.pid.to_string(), "--net", "--mount"])
            .args(["python3", "-c", &script])
            .output()
            .expect("nsenter runs");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(())
        } else {
            Err(errors)
        }
    };
    assert_eq!(call(), Ok(()), "through the sidecar");
    let sidecar = process_of(mesh, "proxy sidecar", "productpage");
    // A killed one is started again at once, so that the failure itself is seen on a stopped one.
    let pid = nix::unistd::Pid::from_raw(sidecar.pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("it runs");
    let with_it_stopped = call();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("it runs");
    assert!(with_it_stopped.is_err(), "nothing goes past the sidecar");
    sidecar.kill();
    for _ in 0..10 {
        let _either = call(); // while the sidecar is started again
    }
    eventually(SETTLE, "the next sidecar carries calls", call);
}
