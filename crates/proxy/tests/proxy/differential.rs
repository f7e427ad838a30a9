//! The same bootstrap and the same bytes for the real Envoy and for us: the same answers and log lines.
//!
//! Left out of the comparison: dates, ids, durations, and the order of different fields.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Proxy, backend, echo, soon};

/// Ends a process with its owner.
struct Envoy {
    process: Child,
    address: SocketAddr,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MELTEMI_TEST_ENVOY") {
        return Some(path.into());
    }
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/envoy/lib");
    let versions = std::fs::read_dir(lib).ok()?.flatten();
    let candidates = versions.map(|entry| entry.path().join("site-packages/envoy/_bin/envoy"));
    candidates.into_iter().find(|path| path.exists())
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

async fn start_envoy(binary: &Path, directory: &Path, yaml: &str) -> Envoy {
    let port = free_port().await;
    let file = directory.join("envoy.yaml");
    std::fs::write(
        &file,
        yaml.replace("port_value: 0", &format!("port_value: {port}")),
    )
    .unwrap();
    let process = Command::new(binary)
        .arg("-c")
        .arg(&file)
        .args([
            "--disable-hot-restart",
            "--concurrency",
            "1",
            "-l",
            "off",
            "--file-flush-interval-msec",
            "10",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    soon("envoy", async {
        while TcpStream::connect(address).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    Envoy { process, address }
}

async fn ask(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A peer that refuses early may close before it has read everything.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = soon("answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sorts the fields, and takes out what may differ.
fn comparable(answer: &str) -> String {
    let parts = answer.split("\r\n\r\n").map(|part| {
        // The backend lists the fields it got, one on each line.
        let mut lines: Vec<String> = part.lines().map(without_chance).collect();
        if lines.len() > 1 {
            lines[1..].sort();
        }
        lines.join("\n")
    });
    parts.collect::<Vec<_>>().join("\n\n")
}

fn without_chance(line: &str) -> String {
    let changing = [
        "date: ",
        "x-request-id: ",
        "x-envoy-upstream-service-time: ",
    ];
    let known = changing.iter().find(|prefix| line.starts_with(**prefix));
    known.map_or_else(|| line.to_owned(), |prefix| format!("{prefix}*"))
}

const ROUTES: &str = r#"
              - { match: { path: /dead }, route: { cluster: dead } }
              - { match: { path: /long }, route: { cluster: silent, max_stream_duration: { max_stream_duration: 0.1s } } }
              - { match: { path: /late }, route: { cluster: silent, timeout: 0.1s } }
              - { match: { path: /direct }, direct_response: { status: 200, body: { inline_string: "hello" } } }
              - { match: { path: /moved }, redirect: { host_redirect: other.example, https_redirect: true } }
              - { match: { path: /moved-prefix }, redirect: { prefix_rewrite: /new, response_code: FOUND } }
              - { match: { path: /nowhere }, route: { cluster: missing } }
              - { match: { prefix: /pre/ }, route: { cluster: backend, prefix_rewrite: /post/, host_rewrite_literal: new.host } }
              - { match: { safe_regex: { regex: "/r/[0-9]+" } }, route: { cluster: backend, regex_rewrite: { pattern: { regex: "^/r/([0-9]+)$" }, substitution: "/number/\\1" } } }
              - { name: changed, match: { path: /changed }, route: { cluster: backend }, request_headers_to_add: [{ header: { key: x-added, value: "%PROTOCOL%" } }], request_headers_to_remove: [x-gone], response_headers_to_add: [{ header: { key: x-answer, value: v } }] }
              - { match: { path: /fault }, route: { cluster: backend }, typed_per_filter_config: { envoy.filters.http.fault: { "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, abort: { http_status: 418, percentage: { numerator: 100 } } } } }
              - { match: { prefix: /user, headers: [{ name: end-user, string_match: { exact: jason } }] }, direct_response: { status: 200, body: { inline_string: "jason" } } }
              - { match: { prefix: /query, query_parameters: [{ name: q, string_match: { prefix: "a" } }] }, direct_response: { status: 202 } }
              - { match: { prefix: /user }, direct_response: { status: 200, body: { inline_string: "other" } } }
              - { match: { prefix: /timeout }, route: { cluster: backend, timeout: 3s } }
              - { match: { prefix: /only, headers: [{ name: never, present_match: true }] }, route: { cluster: backend } }
              - { match: { prefix: "/all" }, route: { cluster: backend, timeout: 0s } }"#;

fn bootstrap(backend: u16, dead: u16, silent: u16, log: &Path) -> String {
    format!(
        r#"
static_resources:
  listeners:
  - name: test
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: test
          normalize_path: true
          delayed_close_timeout: 0.02s
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {log}
              log_format: {{ text_format_source: {{ inline_string: "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %REQ(:AUTHORITY)% %UPSTREAM_CLUSTER% %ROUTE_NAME%\n" }} }}
          route_config:
            name: local
            validate_clusters: false
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:{ROUTES}
          http_filters:
          - name: envoy.filters.http.fault
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault }}
          - name: envoy.filters.http.router
            typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}
  clusters:
  - {{ name: backend, type: STATIC, connect_timeout: 5s, load_assignment: {{ cluster_name: backend, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {backend} }} }} }} }}] }}] }} }}
  - {{ name: dead, type: STATIC, connect_timeout: 1s, load_assignment: {{ cluster_name: dead, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {dead} }} }} }} }}] }}] }} }}
  - {{ name: silent, type: STATIC, connect_timeout: 1s, load_assignment: {{ cluster_name: silent, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {silent} }} }} }} }}] }}] }} }}
"#,
        log = log.display(),
    )
}

/// A request that ends its connection.
fn get(path: &str, fields: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n{fields}Connection: close\r\n\r\n").into_bytes()
}

fn requests() -> Vec<Vec<u8>> {
    let raw = |text: &str| text.as_bytes().to_vec();
    let many: String = (0..120)
        .map(|number| format!("X-{number}: 1\r\n"))
        .collect();
    let mut all: Vec<Vec<u8>> = [
        "/all",
        "/all?b=c#f",
        "/all%2fb/../c",
        "/all/./d//e",
        "/dead",
        "/long",
        "/late",
        "/direct",
        "/moved?x=1",
        "/moved-prefix?x=1",
        "/nowhere",
        "/pre/xyz?q",
        "/r/42",
        "/r/x",
        "/changed",
        "/fault",
        "/user",
        "/query?q=abc",
        "/query?q=b",
        "/timeout",
        "/only",
        "/none",
        "foo",
    ]
    .into_iter()
    .map(|path| get(path, ""))
    .collect();
    all.extend([
        get("/user", "End-User: jason\r\n"),
        get("/changed", "X-Gone: 1\r\n"),
        get("/all", "X-Forwarded-For: 1.2.3.4\r\nX-Envoy-Retry-On: 5xx\r\nX-Forwarded-Proto: https\r\n"),
        get("/all", "TE: trailers, deflate\r\nUpgrade: h2c\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\n"),
        raw("POST /all HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"),
        raw("POST /all HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
        raw("DELETE /all HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
        raw("POST /all HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        raw("HEAD /all HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
        raw("HEAD /direct HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
        raw("GET /all HTTP/1.0\r\nHost: h\r\n\r\n"),
        raw("GET /all HTTP/1.1\r\nConnection: close\r\n\r\n"),
        raw("GET http://x.y/all HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
        raw("POST /all HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        raw("OPTIONS * HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
        raw("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nConnection: close\r\n\r\n"),
        raw("GET /all HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"),
        raw("GET /all HTTP/1.1\r\nHost: h\r\nConnection: close, x-drop\r\nX-Drop: 1\r\n\r\n"),
        raw("POST /all HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab"),
        raw("BAD\r\n\r\n"),
        raw("\r\nGET /all HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
        format!("GET /all HTTP/1.1\r\nHost: h\r\n{many}\r\n").into_bytes(),
        raw("GET /\u{e4} HTTP/1.1\r\nHost: h\r\n\r\n"),
    ]);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_log_lines_are_envoys() {
    let Some(binary) = binary() else {
        println!("SKIPPED: no Envoy under target/envoy");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let (app, dead) = (backend(echo).await.port(), free_port().await);
    // Connections wait in its queue; nobody ever answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap().port();
    let logs = ["envoy", "ours"].map(|name| directory.path().join(name));
    let envoy = start_envoy(
        &binary,
        directory.path(),
        &bootstrap(app, dead, silent, &logs[0]),
    )
    .await;
    let ours = Proxy::start(&bootstrap(app, dead, silent, &logs[1]));
    let requests = requests();
    let mut differences = Vec::new();
    for request in &requests {
        let (theirs, own) = tokio::join!(ask(envoy.address, request), ask(ours.address, request));
        let (theirs, own) = (comparable(&theirs), comparable(&own));
        if theirs != own {
            let request = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
            differences.push(format!("{request}--- envoy\n{theirs}\n--- ours\n{own}\n"));
        }
    }
    ours.engine.flush_logs();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    soon("envoy's log", async {
        while read(&logs[0]).lines().count() < requests.len() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let lines = logs
        .each_ref()
        .map(|path| read(path).lines().map(str::to_owned).collect::<Vec<_>>());
    assert_eq!(lines[1].len(), requests.len(), "one line for each exchange");
    for (theirs, own) in lines[0]
        .iter()
        .zip(&lines[1])
        .filter(|(theirs, own)| theirs != own)
    {
        differences.push(format!("--- envoy\n{theirs}\n--- ours\n{own}\n"));
    }
    assert!(
        differences.is_empty(),
        "{} differences\n{}",
        differences.len(),
        differences.join("\n")
    );
    ours.stop().await;
}
