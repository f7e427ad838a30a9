//! The real h2spec against a plaintext and a TLS listener. `cargo xtask conformance h2spec` builds it and runs this; our
//! own table of its requirements is in `requirements`.

use std::net::SocketAddr;
use std::process::Stdio;

use crate::support::{Http, Proxy, backend, echo, http, soon};

const ROUTES: &str =
    "              - { match: { prefix: \"/\" }, route: { cluster: backend, timeout: 0s } }";

fn tls() -> String {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let quoted = |pem: String| serde_json::to_string(&pem).unwrap();
    format!(
        r#"      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_certificates:
            - certificate_chain: {{ inline_string: {} }}
              private_key: {{ inline_string: {} }}
"#,
        quoted(made.cert.pem()),
        quoted(made.signing_key.serialize_pem()),
    )
}

/// Runs h2spec; the report when anything failed or nothing ran.
async fn judged(
    program: &std::ffi::OsStr,
    address: SocketAddr,
    more: &[&str],
) -> Result<String, String> {
    let port = address.port().to_string();
    let run = tokio::process::Command::new(program)
        .args(["--strict", "--timeout", "5", "--port", &port])
        .args(more)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(std::time::Duration::from_secs(300), run)
        .await
        .map_err(|_| "h2spec did not end".to_owned())?
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let last = report
        .lines()
        .rfind(|line| line.contains(" passed"))
        .unwrap_or_default();
    if last.ends_with(" 0 failed") && output.status.success() {
        Ok(last.to_owned())
    } else {
        Err(report)
    }
}

#[tokio::test]
async fn h2spec_finds_no_failure() {
    let Some(program) = std::env::var_os("MELTEMI_TEST_H2SPEC") else {
        println!("SKIPPED: h2spec is not at hand");
        return;
    };
    let backend = soon("a backend", backend(echo)).await;
    let bootstrap = |manager: &str| {
        let settings = Http {
            manager,
            routes: ROUTES,
            clusters: "",
        };
        http(backend, &settings)
    };
    let plain = Proxy::start(&bootstrap("          codec_type: HTTP2"));
    let secured = bootstrap("").replacen("  clusters:\n", &format!("{}  clusters:\n", tls()), 1);
    let secured = Proxy::start(&secured);
    for (what, proxy, more) in [
        ("plaintext", &plain, &[][..]),
        ("TLS", &secured, &["--tls", "--insecure"]),
    ] {
        match judged(&program, proxy.address, more).await {
            Ok(count) => println!("{what}: {count}"),
            Err(report) => panic!("{what}: {report}"),
        }
    }
    plain.stop().await;
    secured.stop().await;
}
