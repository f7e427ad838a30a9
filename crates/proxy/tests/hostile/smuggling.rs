//! What we forward is never read differently by whoever stands behind us.
//!
//! Ambiguous requests go through the proxy to nginx, HAProxy, Envoy and hyper, each in front of a recorder. One request in
//! is at most one request out, the same for all, and the connection behind it is left clean: the next client's request
//! arrives as it was sent.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Proxy, backend, full, plain, soon};

/// Method, target, body.
type Seen = (String, String, Vec<u8>);
type Record = Arc<Mutex<Vec<Seen>>>;

/// A server that writes down what it is asked.
async fn recorder() -> (SocketAddr, Record) {
    let record = Record::default();
    let writes = Arc::clone(&record);
    let address = backend(move |request| {
        let record = Arc::clone(&writes);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes());
            let body = body.unwrap_or_default().to_vec();
            let target = head.uri.to_string();
            record.lock().push((head.method.to_string(), target, body));
            http::Response::new(full("seen"))
        }
    })
    .await;
    (address, record)
}

/// Ends a process with its owner.
struct Process(
    Child,
    #[allow(dead_code, reason = "its files")] tempfile::TempDir,
);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

async fn start(
    program: &Path,
    configuration: impl Fn(u16, &Path) -> String,
    arguments: impl Fn(&mut Command, &Path),
) -> (SocketAddr, Process) {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port().await;
    let file = directory.path().join("configuration");
    std::fs::write(&file, configuration(port, directory.path())).unwrap();
    let mut command = Command::new(program);
    arguments(&mut command, &file);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let process = Process(child, directory);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    soon("a server", async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    (address, process)
}

fn nginx(port: u16, directory: &Path, to: SocketAddr) -> String {
    let directory = directory.display();
    format!(
        "daemon off; master_process off; pid {directory}/pid; error_log /dev/null;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{
    listen 127.0.0.1:{port};
    underscores_in_headers on;
    location / {{ proxy_pass http://{to}; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
  }}
}}
"
    )
}

fn haproxy(port: u16, to: SocketAddr) -> String {
    format!(
        "defaults
  mode http
  timeout connect 2s
  timeout client 5s
  timeout server 5s
frontend in
  bind 127.0.0.1:{port}
  default_backend out
backend out
  server recorder {to}
"
    )
}

fn envoy(port: u16, to: SocketAddr) -> String {
    plain(to).replacen("port_value: 0", &format!("port_value: {port}"), 1)
}

fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let standard = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/bin")];
    std::env::split_paths(&path)
        .chain(standard)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// Requests that somebody, somewhere, has read differently than somebody else.
fn corpus() -> Vec<Vec<u8>> {
    const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nhost: h\r\n\r\n";
    let post =
        |fields: &str, body: &str| format!("POST /case HTTP/1.1\r\nhost: h\r\n{fields}\r\n{body}");
    let chunked = |coding: &str| post(coding, &format!("0\r\n\r\n{HIDDEN}"));
    let chunks = |body: &str| post("transfer-encoding: chunked\r\n", body);
    let length = |field: &str| post(field, &format!("x{HIDDEN}"));
    let mut out = vec![
        // Both framings.
        post(
            "content-length: 4\r\ntransfer-encoding: chunked\r\n",
            &format!("0\r\n\r\n{HIDDEN}"),
        ),
        post(
            "transfer-encoding: chunked\r\ncontent-length: 4\r\n",
            &format!("0\r\n\r\n{HIDDEN}"),
        ),
        post(
            &format!(
                "content-length: {}\r\ntransfer-encoding: chunked\r\n",
                HIDDEN.len() + 5
            ),
            &format!("0\r\n\r\n{HIDDEN}"),
        ),
        // Lengths.
        length("content-length: 1\r\ncontent-length: 1\r\n"),
        length("content-length: 1\r\ncontent-length: 34\r\n"),
        length("content-length: 1, 1\r\n"),
        length("content-length: 1,34\r\n"),
        length("content-length: +1\r\n"),
        length("content-length: -1\r\n"),
        length("content-length: 0x1\r\n"),
        length("content-length: 01\r\n"),
        length("content-length: 1 \r\n"),
        length("content-length:\t1\r\n"),
        length("content-length: 1\x0b\r\n"),
        length("content-length : 1\r\n"),
        length("content-length\t: 1\r\n"),
        length(" content-length: 1\r\n"),
        length("content-length: \r\n"),
        length("content-length: 1;q=1\r\n"),
        length("content-length: 99999999999999999999\r\n"),
        length("content_length: 1\r\n"),
        length("x-a: b\r\n content-length: 1\r\n"),
        length("content-length:\r\n 1\r\n"),
        length("content-length: 1\r\n\t\r\n"),
        // Line ends.
        length("x-a: b\ncontent-length: 1\r\n"),
        length("x-a: b\rcontent-length: 1\r\n"),
        length("x-a: b\0content-length: 1\r\n"),
        format!("POST /case HTTP/1.1\nhost: h\ncontent-length: 1\n\nx{HIDDEN}"),
        format!("POST /case HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\nx{HIDDEN}"),
        format!("\r\n\r\n\r\nPOST /case HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\nx{HIDDEN}"),
        // Start lines.
        format!("GET /case HTTP/1.1 {HIDDEN}"),
        format!("GET /case\thttp/1.1\r\nhost: h\r\n\r\n{HIDDEN}"),
        format!("GET  /case HTTP/1.1\r\nhost: h\r\n\r\n{HIDDEN}"),
        format!("GET /case HTTP/1.2\r\nhost: h\r\ncontent-length: 1\r\n\r\nx{HIDDEN}"),
        format!("GET /case HTTP/2.0\r\nhost: h\r\n\r\n{HIDDEN}"),
        format!("GET /case HTTP/0.9\r\n\r\n{HIDDEN}"),
        format!("GET /case\r\n{HIDDEN}"),
        format!(
            "GET /case HTTP/1.0\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"
        ),
        format!("G(ET /case HTTP/1.1\r\nhost: h\r\n\r\n{HIDDEN}"),
        // Hosts and other fields.
        format!("GET /case HTTP/1.1\r\nhost: a\r\nhost: b\r\ncontent-length: 1\r\n\r\nx{HIDDEN}"),
        format!("GET http://other/case HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\nx{HIDDEN}"),
        format!(
            "GET /case HTTP/1.1\r\nhost: h\r\nconnection: content-length\r\ncontent-length: 1\r\n\r\nx{HIDDEN}"
        ),
        format!(
            "GET /case HTTP/1.1\r\nhost: h\r\nconnection: transfer-encoding\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}"
        ),
        format!("GET /case HTTP/1.1\r\nhost: h\r\n: v\r\ncontent-length: 1\r\n\r\nx{HIDDEN}"),
        format!("GET /case HTTP/1.1\r\nhost: h\r\nno-colon\r\ncontent-length: 1\r\n\r\nx{HIDDEN}"),
        format!(
            "GET /case HTTP/1.1\r\nhost: h\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\nconnection: upgrade, http2-settings\r\ncontent-length: 1\r\n\r\nx{HIDDEN}"
        ),
        format!(
            "GET /case HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\nx{HIDDEN}"
        ),
        format!("GET /case HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\nx"),
        format!("HEAD /case HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\nx"),
    ];
    // Transfer codings.
    for coding in [
        "transfer-encoding: identity",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: identity, chunked",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: \"chunked\"",
        "transfer-encoding:\x0bchunked",
        "transfer-encoding: chunked\x0b",
        "transfer-encoding : chunked",
        "transfer-encoding\n: chunked",
        "transfer-encoding:\r\n chunked",
        " transfer-encoding: chunked",
        "x: y\r\n transfer-encoding: chunked",
        "transfer-encoding: ,chunked",
        "transfer-encoding: chunked,",
        "transfer-encoding: CHUNKED",
        "transfer-encoding: chunked;q=1",
        "transfer_encoding: chunked",
        "transfer-encoding: \x01chunked",
        "transfer-encoding: cow\r\ncontent-length: 1",
    ] {
        out.push(chunked(&format!("{coding}\r\n")));
    }
    // Chunks.
    for body in [
        "1;a=b\r\nx\r\n0\r\n\r\n",
        "1;a=\"\r\n\"\r\nx\r\n0\r\n\r\n",
        "1 ;a\r\nx\r\n0\r\n\r\n",
        "1\t\r\nx\r\n0\r\n\r\n",
        "1;\nx\r\n0\r\n\r\n",
        "1\nx\n0\n\n",
        "1\r\nx0\r\n\r\n",
        "01\r\nx\r\n0\r\n\r\n",
        "0x1\r\nx\r\n0\r\n\r\n",
        "+1\r\nx\r\n0\r\n\r\n",
        "-1\r\nx\r\n0\r\n\r\n",
        " 1\r\nx\r\n0\r\n\r\n",
        "1_0\r\nx\r\n0\r\n\r\n",
        "10000000000000001\r\nx\r\n0\r\n\r\n",
        "1\r\nxx\r\n0\r\n\r\n",
        "1\r\nx\r\n00\r\n\r\n",
        "1\r\nx\r\n0;a\r\n\r\n",
        "1\r\nx\r\n0\r\nx-t: v\r\n\r\n",
        "1\r\nx\r\n0\r\ncontent-length: 40\r\n\r\n",
        "1\r\nx\r\n0\r\nbroken\r\n\r\n",
        "1\r\nx\r\n0\r\n\n",
        "1\r\rx\r\n0\r\n\r\n",
        "\r\n1\r\nx\r\n0\r\n\r\n",
        "1\r\nx\r\n0\r\n x: y\r\n\r\n",
        "1;a\0b\r\nx\r\n0\r\n\r\n",
    ] {
        out.push(chunks(&format!("{body}{HIDDEN}")));
    }
    out.into_iter().map(String::into_bytes).collect()
}

/// Sends bytes and waits until the proxy has dealt with them.
async fn send(proxy: &Proxy, bytes: &[u8]) {
    let mut stream = proxy.connect().await;
    let _ = stream.write_all(bytes).await;
    // Our side ends, so that nobody waits for more.
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(2), reading).await;
}

/// What arrives at the recorder for each request of the corpus.
async fn recorded(proxy: &Proxy, record: &Record, name: &str) -> Vec<Option<Seen>> {
    let mut out = Vec::new();
    for (number, bytes) in corpus().iter().enumerate() {
        let shown = String::from_utf8_lossy(bytes);
        send(proxy, bytes).await;
        let clean = format!("GET /clean-{number} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        let answer = proxy.raw(clean.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 200"),
            "{name} after {shown:?}: {answer}"
        );
        let mut seen = std::mem::take(&mut *record.lock());
        let expected = ("GET".to_owned(), format!("/clean-{number}"), Vec::new());
        assert_eq!(seen.pop(), Some(expected), "{name} after {shown:?}");
        // What follows a request that is clear to everybody is the next request; nothing may come out of anything else.
        seen.retain(|(_, target, _)| target != "/hidden" || !clearly_two(&shown));
        assert!(seen.len() <= 1, "{name} read {shown:?} as {seen:?}");
        assert!(
            seen.iter().all(|(_, target, _)| target.ends_with("/case")),
            "{name} read {shown:?} as {seen:?}"
        );
        out.push(seen.pop());
    }
    out
}

/// The specification leaves no doubt that a second request follows.
fn clearly_two(shown: &str) -> bool {
    let clear = [
        "content-length: 1\r\n\r\nx",
        "content-length: 1 \r\n\r\nx",
        "content-length:\t1\r\n\r\nx",
        "content-length: 01\r\n\r\nx",
        "content_length: 1\r\n\r\nx",
        "transfer-encoding: CHUNKED\r\n\r\n",
        "transfer_encoding: chunked\r\n\r\n",
        "\r\ntransfer-encoding: chunked\r\n\r\n",
        "GET http://other/case",
    ];
    clear.iter().any(|part| shown.contains(part))
}

#[tokio::test]
async fn nobody_behind_us_reads_a_request_differently() {
    let mut readings: Vec<(&str, Vec<Option<Seen>>)> = Vec::new();
    let (address, record) = recorder().await;
    let proxy = Proxy::start(&plain(address));
    readings.push(("hyper", recorded(&proxy, &record, "hyper").await));
    proxy.stop().await;

    let envoy_binary = std::env::var_os("MELTEMI_TEST_ENVOY").map(PathBuf::from);
    let programs = [
        ("nginx", found("nginx")),
        ("haproxy", found("haproxy")),
        ("envoy", envoy_binary),
    ];
    for (name, program) in programs {
        let Some(program) = program else {
            println!("SKIPPED: {name} is not installed");
            continue;
        };
        let (to, record) = recorder().await;
        let text = |port: u16, directory: &Path| match name {
            "nginx" => nginx(port, directory, to),
            "haproxy" => haproxy(port, to),
            _ => envoy(port, to),
        };
        let arguments = |command: &mut Command, file: &Path| {
            match name {
                "nginx" => command
                    .arg("-c")
                    .arg(file)
                    .arg("-p")
                    .arg(file.parent().unwrap()),
                "haproxy" => command.arg("-db").arg("-f").arg(file),
                _ => command
                    .args([
                        "--disable-hot-restart",
                        "--concurrency",
                        "1",
                        "-l",
                        "off",
                        "--config-yaml",
                    ])
                    .arg(std::fs::read_to_string(file).unwrap()),
            };
        };
        let (address, process) = start(&program, text, arguments).await;
        let proxy = Proxy::start(&plain(address));
        readings.push((name, recorded(&proxy, &record, name).await));
        proxy.stop().await;
        drop(process);
    }
    let requests = corpus();
    let (_, reference) = &readings[0];
    for (name, reading) in &readings[1..] {
        for ((here, there), bytes) in reference.iter().zip(reading).zip(&requests) {
            // A server may refuse what another takes; it must not read something else.
            if let (Some(here), Some(there)) = (here, there) {
                let shown = String::from_utf8_lossy(bytes);
                let same = here.0 == there.0 && here.2 == there.2;
                assert!(
                    same,
                    "hyper and {name} differ on {shown:?}: {here:?}, {there:?}"
                );
            }
        }
    }
    let taken = reference.iter().flatten().count();
    println!(
        "{} requests, {taken} of them forwarded, {} readers",
        requests.len(),
        readings.len()
    );
    assert!(taken >= 5, "a corpus that is refused wholly shows nothing");
}
