//! What is on the wire between two injected pods, seen by a packet socket in the receiver's namespace.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use meltemi_e2e::{Mesh, User, eventually, processes::Process};

/// Prints each TCP payload that arrives on eth0 as hexadecimal, after a line `ready`.
const SNIFFER: &str = "\
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
s.bind(('eth0', 0))
print('ready', flush=True)
while True:
    p = s.recv(65535)
    if p[9] != 6: continue
    t = p[(p[0] & 15) * 4:int.from_bytes(p[2:4], 'big')]
    b = t[(t[12] >> 4) * 4:]
    if b: print(int.from_bytes(t[0:2], 'big'), int.from_bytes(t[2:4], 'big'), b.hex(), flush=True)
";

struct Sniffer {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

/// Starts the sniffer in the network namespace of a process of the pod.
fn sniff(inside: &Process, user: User) -> Sniffer {
    let mut command = Command::new("nsenter");
    command.args(["--target", &inside.pid.to_string(), "--net"]);
    if user == User::Ordinary {
        command.args(["--user", "--preserve-credentials"]);
    }
    let mut child = command
        .args(["python3", "-c", SNIFFER])
        .stdout(Stdio::piped())
        .spawn()
        .expect("nsenter runs");
    let stdout = child.stdout.take().expect("piped");
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    assert_eq!(
        lines.recv_timeout(Duration::from_secs(10)).as_deref(),
        Ok("ready")
    );
    Sniffer { child, lines }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// What a header sent by an application looks like in clear.
const MARKER: &str = "marker-3f1c9a";

#[test]
fn nothing_is_in_clear_between_two_injected_pods_and_each_side_logs_the_other() {
    let Some(mesh) = Mesh::up(User::Root, &["--sample", "bookinfo"]) else {
        return;
    };
    let details = mesh
        .processes()
        .into_iter()
        .find(|process| process.command.contains("sample details"))
        .expect("details runs");
    let sniffer = sniff(&details, mesh.user);
    for _ in 0..20 {
        let page = mesh.page(&[("end-user", MARKER), ("x-request-id", MARKER)]);
        assert!(page.contains("PublisherA"));
    }
    only_tls_was_seen(&sniffer);
    logs_name_the_peer(&mesh);
    a_dead_sidecar_lets_nothing_past(&mesh);
    only_tls_was_seen(&sniffer);
    mesh.stop();
}

/// Every connection to the service begins with a TLS record, and the marker is never in clear.
fn only_tls_was_seen(sniffer: &Sniffer) {
    let mut payloads = 0;
    let mut first_of_connection = std::collections::BTreeSet::new();
    for line in sniffer.lines.try_iter() {
        let mut words = line.split(' ');
        let (Some(from), Some(to), Some(hex)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        // Replies of the platform's DNS and of the control plane come from other ports; what goes to the service is judged.
        if to != "9080" {
            continue;
        }
        payloads += 1;
        assert!(
            !hex.contains(&hex_of(MARKER)),
            "the marker is in clear from port {from}"
        );
        if first_of_connection.insert(from.to_owned()) {
            assert!(
                ["14", "15", "16", "17"].contains(&&hex[..2]),
                "a payload that is no TLS record: {hex:.32}"
            );
        }
    }
    assert!(payloads > 0, "something was seen");
}

fn hex_of(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Both sidecars know whom they speak with: the metrics of each name the other's identity.
fn logs_name_the_peer(mesh: &Mesh) {
    let metrics = |pod: &str| {
        let process = mesh
            .processes()
            .into_iter()
            .find(|process| {
                process.command.contains("proxy sidecar")
                    && process
                        .variable("POD_NAME")
                        .is_some_and(|name| name.starts_with(pod))
            })
            .expect("the sidecar runs");
        let script = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:15090/stats/prometheus').read().decode())";
        let output = Command::new("nsenter")
            .args([
                "--target",
                &process.pid.to_string(),
                "--net",
                "python3",
                "-c",
                script,
            ])
            .output()
            .expect("nsenter runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    eventually(Duration::from_secs(15), "details knows its caller", || {
        let text = metrics("details-v1");
        let known = text.lines().any(|line| {
            line.starts_with("istio_requests_total{")
                && line.contains("reporter=\"destination\"")
                && line.contains("source_principal=\"spiffe://cluster.local/ns/default/sa/bookinfo-productpage\"")
        });
        if known { Ok(()) } else { Err(text) }
    });
    eventually(
        Duration::from_secs(15),
        "productpage knows its server",
        || {
            let text = metrics("productpage-v1");
            let known = text.lines().any(|line| {
            line.starts_with("istio_requests_total{")
                && line.contains("reporter=\"source\"")
                && line.contains("destination_principal=\"spiffe://cluster.local/ns/default/sa/bookinfo-details\"")
        });
            if known { Ok(()) } else { Err(text) }
        },
    );
}

/// The sidecar of the product page stops or dies: its application's calls fail or wait for the next one, none goes
/// past it (the caller looks at the wire).
fn a_dead_sidecar_lets_nothing_past(mesh: &Mesh) {
    let page = mesh
        .processes()
        .into_iter()
        .find(|process| process.command.contains("sample productpage"))
        .expect("it runs");
    let call = "import urllib.request as u; print(u.urlopen('http://details:9080/details/0', timeout=3).status)";
    let direct = |what: &str| {
        let output = Command::new("nsenter")
            .args([
                "--target",
                &page.pid.to_string(),
                "--net",
                "--mount",
                "python3",
                "-c",
                call,
            ])
            .output()
            .expect("nsenter runs");
        (
            output.status.success(),
            format!("{what}: {}", String::from_utf8_lossy(&output.stderr)),
        )
    };
    assert!(
        direct("through the sidecar").0,
        "{}",
        direct("through the sidecar").1
    );
    let sidecar = mesh
        .processes()
        .into_iter()
        .find(|process| {
            process.command.contains("proxy sidecar")
                && process
                    .variable("POD_NAME")
                    .is_some_and(|name| name.starts_with("productpage"))
        })
        .expect("the sidecar runs");
    // A killed one is started again at once, so that the failure itself is seen on a stopped one.
    let pid = nix::unistd::Pid::from_raw(sidecar.pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("it runs");
    let (passed, seen) = direct("with the sidecar stopped");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("it runs");
    assert!(!passed, "{seen}");
    sidecar.kill();
    for _ in 0..10 {
        let _either = direct("while the sidecar is started again");
    }
    eventually(
        Duration::from_secs(20),
        "the next sidecar carries calls",
        || {
            let (passed, seen) = direct("through the next sidecar");
            if passed { Ok(()) } else { Err(seen) }
        },
    );
}
