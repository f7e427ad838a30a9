//! What passes between two injected pods: large bodies, slow ones, upgrades, plain bytes, and how it is recorded.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use meltemi_e2e::{Mesh, User, eventually, processes::Process};

/// Longest time until a change has arrived everywhere.
const SETTLE: Duration = Duration::from_secs(40);
/// A large body, bytes.
const LARGE: u64 = 1 << 30;
/// What a proxy may grow by while a large body passes, KiB.
const GROWTH: u64 = 4 << 10;

/// Answers when the client is done (9000), greets first (9100, 3306), upgrades and echoes (9200).
const SERVER: &str = r#"
import socket, threading
def whole(c):
    n = 0
    while True:
        b = c.recv(65536)
        if not b: break
        n += len(b)
    c.sendall(b'got %d' % n)
    c.close()
def greet(c):
    c.sendall(b'5.7.44-log\0')
    b = c.recv(100)
    c.sendall(b'hello ' + b)
    c.close()
def upgrade(c):
    h = b''
    while not h.endswith(b'\r\n\r\n'): h += c.recv(4096)
    if b'upgrade: websocket' not in h.lower():
        c.sendall(b'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n')
        return c.close()
    c.sendall(b'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello')
    while True:
        b = c.recv(4096)
        if not b: break
        c.sendall(b)
    c.close()
def serve(port, handle):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(('0.0.0.0', port))
    s.listen(64)
    while True:
        c, _ = s.accept()
        threading.Thread(target=handle, args=(c,), daemon=True).start()
for port, handle in [(9000, whole), (9100, greet), (9200, upgrade)]:
    threading.Thread(target=serve, args=(port, handle), daemon=True).start()
serve(3306, greet)
"#;

/// One large body down and its number of bytes, then one up and what the server says of it; a line for each.
const LARGE_BODIES: &str = r#"
import socket, sys
size = int(sys.argv[1])
def call(head):
    s = socket.create_connection(('httpbin', 8000), timeout=60)
    s.sendall(head)
    return s
def down():
    s = call(b'GET /bytes/%d HTTP/1.1\r\nHost: httpbin:8000\r\nConnection: close\r\n\r\n' % size)
    f = s.makefile('rb', 1 << 16)
    assert b' 200 ' in f.readline()
    chunked = False
    while True:
        line = f.readline().lower()
        if line == b'\r\n': break
        chunked |= line.startswith(b'transfer-encoding: chunked')
    n, buffer = 0, memoryview(bytearray(1 << 20))
    def take(left):
        while left:
            k = f.readinto(buffer[:min(left, len(buffer))])
            assert k, 'cut short'
            left -= k
    if not chunked: take(size); return size
    while True:
        k = int(f.readline(), 16)
        if not k: return n
        take(k); f.readline(); n += k
def up():
    s = call(b'POST /upload HTTP/1.1\r\nHost: httpbin:8000\r\nConnection: close\r\nContent-Length: %d\r\n\r\n' % size)
    block, left = bytes(1 << 18), size
    while left:
        s.sendall(block[:min(left, len(block))]); left -= min(left, len(block))
    answer = b''
    while True:
        b = s.recv(65536)
        if not b: return answer.split(b'\r\n\r\n', 1)[1].decode()
        answer += b
print(down(), flush=True)
print(up(), flush=True)
"#;

/// Milliseconds from a request to the first byte of a body that takes its time; the best of a few.
const FIRST_BYTE: &str = r#"
import http.client, time
best = 1e9
for _ in range(8):
    c = http.client.HTTPConnection('httpbin', 8000, timeout=20)
    c.request('GET', '/headers'); c.getresponse().read()
    since = time.monotonic()
    c.request('GET', '/drip/2')
    r = c.getresponse(); r.read(1)
    best = min(best, time.monotonic() - since)
    assert len(r.read()) == 1
print(best * 1000)
"#;

fn manifests() -> String {
    let script: String = SERVER
        .lines()
        .map(|line| format!("          {line}\n"))
        .collect();
    let deployment = |name: &str, container: &str| {
        format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: {name}}}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n  \
             template:\n    metadata: {{labels: {{app: {name}, version: v1}}}}\n    spec:\n      serviceAccountName: {name}\n      containers:\n      - name: app\n{container}---\n"
        )
    };
    let service = |name: &str, app: &str, ports: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {app}}}, ports: [{ports}]}}\n---\n"
        )
    };
    [
        deployment("httpbin", "        image: meltemi/go-httpbin\n        ports: [{containerPort: 8080}]\n        lifecycle: {preStop: {exec: {command: [sleep, '1']}}}\n"),
        service("httpbin", "httpbin", "{name: http, port: 8000, targetPort: 8080}"),
        deployment("client", "        image: meltemi/meltemi\n        args: [sample, tcp-echo]\n"),
        deployment("bytes", &format!("        image: python\n        command:\n        - python3\n        - -c\n        - |\n{script}")),
        service("named", "bytes", "{name: tcp-whole, port: 9000}, {name: tcp-greet, port: 9100}, {name: http-upgrade, port: 9200}"),
        service("unnamed", "bytes", "{port: 9000}"),
        service("undecided", "bytes", "{port: 9100}"),
        service("database", "bytes", "{port: 3306}"),
    ]
    .concat()
}

/// The application or the sidecar of a pod.
fn process(mesh: &Mesh, pod: &str, sidecar: bool) -> Process {
    let ours = |process: &Process| {
        let word = if sidecar { "proxy sidecar" } else { "sample " };
        let name = process
            .variable("POD_NAME")
            .or_else(|| process.variable("HOSTNAME"));
        process.command.contains(word) && name.is_some_and(|name| name.starts_with(pod))
    };
    eventually(SETTLE, &format!("{pod} runs"), || {
        mesh.processes()
            .into_iter()
            .find(ours)
            .ok_or_else(|| format!("{:?}", mesh.processes()))
    })
}

/// Python in the network and mount namespaces of a process.
fn python(inside: &Process, script: &str, arguments: &[&str]) -> Child {
    Command::new("nsenter")
        .args(["--target", &inside.pid.to_string(), "--net", "--mount"])
        .args(["python3", "-c", script])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nsenter runs")
}

/// What a script prints.
fn says(inside: &Process, script: &str) -> Result<String, String> {
    let output = python(inside, script, &[])
        .wait_with_output()
        .expect("python ends");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A line of `/proc/PID/status`, KiB.
fn memory(process: &Process, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).expect("it runs");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .expect("the kernel tells it")
}

/// One large body each way; neither proxy's highest resident size is far above what it was.
fn large_bodies_leave_no_trace_in_memory(mesh: &Mesh, client: &Process) {
    let proxies = ["client", "httpbin"].map(|pod| process(mesh, pod, true));
    // The first bytes page code in; they are no growth.
    let small = python(client, LARGE_BODIES, &["262144"])
        .wait_with_output()
        .expect("python ends");
    assert!(
        small.status.success(),
        "{}",
        String::from_utf8_lossy(&small.stderr)
    );
    let before = proxies.each_ref().map(|proxy| memory(proxy, "VmRSS"));
    for proxy in &proxies {
        std::fs::write(format!("/proc/{}/clear_refs", proxy.pid), "5").expect("the peak is reset");
    }
    let mut transfer = python(client, LARGE_BODIES, &[&LARGE.to_string()]);
    let stdout = transfer.stdout.take().expect("piped");
    for (line, expected) in BufReader::new(stdout)
        .lines()
        .zip([LARGE.to_string(), format!("{{\"received\":{LARGE}}}")])
    {
        assert_eq!(line.expect("text"), expected);
        for (proxy, before) in proxies.iter().zip(before) {
            let growth = memory(proxy, "VmHWM").saturating_sub(before);
            println!(
                "{} grew by {growth} KiB",
                proxy.variable("POD_NAME").unwrap_or_default()
            );
            assert!(growth < GROWTH, "{growth} KiB from {before} KiB");
        }
    }
    let ended = transfer.wait_with_output().expect("python ends");
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
}

fn first_bytes_are_not_held_back(client: &Process) {
    let best: f64 = says(client, FIRST_BYTE)
        .expect("the body arrives")
        .parse()
        .expect("a number");
    println!("first byte after {best:.1} ms");
    assert!(best < 50.0, "{best} ms");
}

fn plain_bytes_and_upgrades_pass(client: &Process) {
    let whole = |host: &str| {
        format!(
            "import socket\ns = socket.create_connection(('{host}', 9000), timeout=10)\ns.sendall(b'x' * 100000)\ns.shutdown(socket.SHUT_WR)\nb = b''\nwhile True:\n    k = s.recv(100)\n    if not k: break\n    b += k\nprint(b.decode())"
        )
    };
    let greeted = |host: &str, port: u16| {
        format!(
            "import socket\ns = socket.create_connection(('{host}', {port}), timeout=10)\nb = b''\nwhile not b.endswith(b'\\0'): b += s.recv(1)\ns.sendall(b'you')\nwhile True:\n    k = s.recv(100)\n    if not k: break\n    b += k\nprint(b.replace(b'\\0', b' ').decode())"
        )
    };
    for host in ["named", "unnamed"] {
        assert_eq!(
            says(client, &whole(host)).as_deref(),
            Ok("got 100000"),
            "half-close, {host}"
        );
    }
    for (host, port) in [("named", 9100), ("database", 3306)] {
        assert_eq!(
            says(client, &greeted(host, port)).as_deref(),
            Ok("5.7.44-log hello you"),
            "{host}"
        );
    }
    // Where the protocol is to be detected and nothing limits that, a server is heard only after its client has spoken.
    let undecided = "import socket\ns = socket.create_connection(('undecided', 9100), timeout=10)\ns.settimeout(0.3)\ntry:\n    s.recv(1); print('greeted')\nexcept TimeoutError:\n    s.settimeout(10); s.sendall(b'you')\n    b = b''\n    while True:\n        k = s.recv(100)\n        if not k: break\n        b += k\n    print(b.replace(b'\\0', b' ').decode())";
    assert_eq!(
        says(client, undecided).as_deref(),
        Ok("5.7.44-log hello you")
    );
    let upgrade = "import socket\ns = socket.create_connection(('named', 9200), timeout=10)\ns.sendall(b'GET /chat HTTP/1.1\\r\\nHost: named:9200\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n')\nb = b''\nwhile not b.endswith(b'hello'): b += s.recv(1)\nassert b.startswith(b'HTTP/1.1 101 '), b\nfor word in (b'one', b'two'):\n    s.sendall(word)\n    b = b''\n    while b != word: b += s.recv(1)\ns.shutdown(socket.SHUT_WR)\nassert s.recv(1) == b''\nprint('upgraded')";
    assert_eq!(says(client, upgrade).as_deref(), Ok("upgraded"));
}

/// Labels that Istio's own metric has.
const LABELS: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];

fn fetch(inside: &Process, port: u16, path: &str) -> Result<String, String> {
    says(
        inside,
        &format!(
            "import urllib.request as u; print(u.urlopen('http://127.0.0.1:{port}{path}', timeout=5).read().decode())"
        ),
    )
}

fn both_sides_count_the_request(mesh: &Mesh, client: &Process) {
    let call = "import http.client as h\nc = h.HTTPConnection('httpbin', 8000)\nc.request('GET', '/status/418')\nprint(c.getresponse().status)";
    assert_eq!(says(client, call).as_deref(), Ok("418"));
    let server = process(mesh, "httpbin", true);
    for (inside, reporter, security) in [
        (client, "source", "unknown"),
        (&server, "destination", "mutual_tls"),
    ] {
        for port in [15020, 15090] {
            let line = eventually(SETTLE, &format!("{reporter} counts the request"), || {
                let text = fetch(inside, port, "/stats/prometheus")?;
                let line = text.lines().find(|line| {
                    line.starts_with("istio_requests_total{")
                        && line.contains(&format!("reporter=\"{reporter}\""))
                        && line.contains("response_code=\"418\"")
                });
                line.map(str::to_owned).ok_or(text)
            });
            for label in LABELS {
                assert!(line.contains(&format!("{label}=\"")), "{label}: {line}");
            }
            for part in [
                "source_workload=\"client\"",
                "source_principal=\"spiffe://cluster.local/ns/default/sa/client\"",
                "destination_workload=\"httpbin\"",
                "destination_principal=\"spiffe://cluster.local/ns/default/sa/httpbin\"",
                "destination_service=\"httpbin.default.svc.cluster.local\"",
                "destination_version=\"v1\"",
                "request_protocol=\"http\"",
                &format!("connection_security_policy=\"{security}\""),
            ] {
                assert!(line.contains(part), "{part}: {line}");
            }
            assert!(line.ends_with(" 1"), "{line}");
        }
        assert!(fetch(inside, 15021, "/healthz/ready").is_ok());
        assert_eq!(fetch(inside, 15000, "/ready").as_deref(), Ok("LIVE"));
        let dump = fetch(inside, 15000, "/config_dump").expect("a dump");
        let dump: serde_json::Value = serde_json::from_str(&dump).expect("JSON");
        assert!(
            dump["configs"]
                .as_array()
                .is_some_and(|parts| parts.len() >= 4)
        );
        let clusters = fetch(inside, 15000, "/clusters").expect("clusters");
        assert!(
            clusters.contains("outbound|8000||httpbin.default.svc.cluster.local::"),
            "{clusters}"
        );
    }
}

/// Lines of a sidecar's log that name a path.
fn recorded(mesh: &Mesh, app: &str, path: &str) -> Vec<String> {
    let log = mesh.kubectl_text(&["logs", &format!("deployment/{app}"), "-c", "istio-proxy"]);
    log.lines()
        .filter(|line| line.contains(path))
        .map(str::to_owned)
        .collect()
}

/// Each exchange is one line on each side, also one that its client left.
fn every_exchange_is_recorded_once(mesh: &Mesh, client: &Process) {
    let leave = "import socket\ns = socket.create_connection(('httpbin', 8000), timeout=10)\ns.sendall(b'GET /delay/30?left HTTP/1.1\\r\\nHost: httpbin:8000\\r\\n\\r\\n')\ns.settimeout(0.5)\ntry:\n    s.recv(1)\nexcept TimeoutError:\n    print('left')";
    assert_eq!(says(client, leave).as_deref(), Ok("left"));
    for app in ["client", "httpbin"] {
        let lines = eventually(SETTLE, &format!("{app} records it"), || {
            let lines = recorded(mesh, app, "/delay/30?left");
            if lines.is_empty() {
                Err(app.to_owned())
            } else {
                Ok(lines)
            }
        });
        assert!(
            lines.len() == 1 && lines[0].contains("\" 0 DC downstream_remote_disconnect "),
            "{lines:?}"
        );
        let lines = recorded(mesh, app, "/status/418");
        assert!(
            lines.len() == 1 && lines[0].contains("HTTP/1.1\" 418 - via_upstream "),
            "{lines:?}"
        );
    }
}

/// A restart of two servers, which go on for a moment until everybody knows, while a slow body is on its way: the body arrives whole, and no other request fails.
fn a_restart_cuts_nothing_off(mesh: &Mesh, client: &Process) {
    let slow = "import http.client as h\nc = h.HTTPConnection('httpbin', 8000, timeout=20)\nc.request('GET', '/drip/16')\nr = c.getresponse()\nr.read(1)\nprint('begun', flush=True)\nprint(1 + len(r.read()), flush=True)";
    let many = "import http.client as h, select\nn = 0\nprint('begun', flush=True)\nwhile not select.select([0], [], [], 0.01)[0]:\n    c = h.HTTPConnection('httpbin', 8000, timeout=20)\n    c.request('GET', '/headers')\n    r = c.getresponse(); r.read(); n += 1\n    if r.status != 200: print(r.status, dict(r.headers), flush=True)\nprint('ok' if n > 20 else n, flush=True)";
    let start = |script: &str| {
        let mut child = Command::new("nsenter")
            .args(["--target", &client.pid.to_string(), "--net", "--mount"])
            .args(["python3", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("nsenter runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert_eq!(lines.next().expect("a line").expect("text"), "begun");
        (child, lines)
    };
    let _ = mesh.kubectl_text(&["scale", "deployment/httpbin", "--replicas=2"]);
    eventually(SETTLE, "the client knows two endpoints", || {
        let clusters = fetch(client, 15000, "/clusters")?;
        let known = clusters.lines().filter(|line| {
            line.starts_with("outbound|8000||httpbin.") && line.contains("::health_flags::healthy")
        });
        match known.count() {
            2 => Ok(()),
            other => Err(format!("{other}: {clusters}")),
        }
    });
    let (mut one, mut slow) = start(slow);
    let (mut others, many) = start(many);
    let _ = mesh.kubectl_text(&["rollout", "restart", "deployment/httpbin"]);
    let done = mesh.kubectl_text(&["rollout", "status", "deployment/httpbin", "--timeout=60s"]);
    assert!(done.contains("successfully rolled out"), "{done}");
    assert_eq!(slow.next().expect("a line").expect("text"), "16");
    let table = || mesh.kubectl_text(&["get", "pods", "-l", "app=httpbin", "--no-headers"]);
    eventually(SETTLE, "the old pods have gone", || {
        let pods = table();
        if pods.lines().count() == 2 {
            Ok(())
        } else {
            Err(pods)
        }
    });
    drop(others.stdin.take());
    let rest: Vec<String> = many.map_while(Result::ok).collect();
    assert_eq!(rest, ["ok"]);
    for child in [&mut one, &mut others] {
        assert!(child.wait().expect("python ends").success());
    }
}

#[test]
fn streams_pass_two_sidecars_untouched_and_are_recorded_once() {
    if !User::possible().contains(&User::Root) {
        println!("SKIPPED: root is needed to enter the pods' namespaces");
        return;
    }
    let Some(mesh) = Mesh::up(User::Root, &[]) else {
        return;
    };
    let _ = mesh.kubectl_text(&[
        "label",
        "--overwrite",
        "namespace",
        "default",
        "istio-injection=enabled",
    ]);
    mesh.apply_text("streams", &manifests());
    for name in ["httpbin", "client", "bytes"] {
        let done = mesh.kubectl_text(&[
            "rollout",
            "status",
            &format!("deployment/{name}"),
            "--timeout=60s",
        ]);
        assert!(done.contains("successfully rolled out"), "{done}");
    }
    let client = process(&mesh, "client", false);
    let answers = "import http.client as h\nc = h.HTTPConnection('httpbin', 8000, timeout=5)\nc.request('GET', '/headers')\nprint(c.getresponse().status)";
    eventually(SETTLE, "the client reaches httpbin", || {
        match says(&client, answers)?.as_str() {
            "200" => Ok(()),
            other => Err(other.to_owned()),
        }
    });
    both_sides_count_the_request(&mesh, &client);
    first_bytes_are_not_held_back(&client);
    plain_bytes_and_upgrades_pass(&client);
    every_exchange_is_recorded_once(&mesh, &client);
    large_bodies_leave_no_trace_in_memory(&mesh, &client);
    a_restart_cuts_nothing_off(&mesh, &client);
    mesh.stop();
}
