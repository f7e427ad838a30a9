//! Checks of `Gateway`.

use std::collections::BTreeSet;

use super::primitives::{is_dns_label, is_ip, is_wildcard_domain, port};
use super::{Findings, Validate};
use crate::gateway::{Gateway, Port, Server, ServerTls, ServerTlsMode, TlsVersion};
use crate::meta::Object;

impl Validate for Gateway {
    fn check(object: &Object<Self>, f: &mut Findings) {
        let name = &object.metadata.name;
        f.ensure(
            is_dns_label(name),
            format!("invalid gateway name {name:?}: it must be a DNS label"),
        );
        f.ensure(
            !object.spec.servers.is_empty(),
            "gateway must have at least one server",
        );
        f.each("servers", &object.spec.servers, server);
        let mut names = BTreeSet::new();
        for port in object.spec.servers.iter().filter_map(|s| s.port.as_ref()) {
            if !names.insert(&port.name) {
                let name = &port.name;
                f.error(format!(
                    "port names in servers must be unique: duplicate name {name}"
                ));
            }
        }
    }
}

const PROTOCOLS: [&str; 10] = [
    "HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "MONGO", "TCP", "TLS", "REDIS", "MYSQL",
];

fn server(f: &mut Findings, server: &Server) {
    f.ensure(
        !server.hosts.is_empty(),
        "server config must contain at least one host",
    );
    f.each("hosts", &server.hosts, |f, host| gateway_host(f, host));
    let unix = server.bind.starts_with("unix://");
    match &server.port {
        None => f.error("server must have a port"),
        Some(port) => f.at("port", |f| server_port(f, port, unix)),
    }
    f.at("bind", |f| bind(f, &server.bind, server.port.as_ref()));
    let protocol = server
        .port
        .as_ref()
        .map(|p| p.protocol.to_ascii_uppercase())
        .unwrap_or_default();
    f.at("tls", |f| server_tls(f, server, &protocol));
}

fn server_port(f: &mut Findings, value: &Port, unix: bool) {
    let protocol = value.protocol.to_ascii_uppercase();
    f.ensure(
        PROTOCOLS.contains(&protocol.as_str()),
        format!("invalid protocol {:?}", value.protocol),
    );
    if !unix {
        port(f, value.number);
    }
    f.ensure(!value.name.is_empty(), "port name must be set");
    f.ensure(
        value.target_port.is_none_or(|p| p == 0),
        "targetPort has no effect on gateways",
    );
}

fn bind(f: &mut Findings, bind: &str, port: Option<&Port>) {
    if bind.is_empty() {
        return;
    }
    let Some(path) = bind.strip_prefix("unix://") else {
        return f.ensure(is_ip(bind), format!("{bind} is not a valid IP address"));
    };
    let absolute = path.starts_with('/') && !path.ends_with('/');
    let abstract_name = path.starts_with('@') && path.len() > 1;
    f.ensure(
        absolute || abstract_name,
        format!("{bind} is not a valid Unix domain socket"),
    );
    f.ensure(
        port.is_none_or(|p| p.number == 0),
        "port number must be 0 for Unix domain sockets",
    );
}

/// A host, with the namespaces that may use it in front.
fn gateway_host(f: &mut Findings, text: &str) {
    let (namespace, host) = match text.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, text),
    };
    if let Some(namespace) = namespace {
        let known = matches!(namespace, "*" | ".") || is_dns_label(namespace);
        f.ensure(
            known,
            format!("invalid namespace value {namespace:?} in {text:?}"),
        );
    }
    if host == "*" || is_ip(host) {
        return;
    }
    if !is_wildcard_domain(host) {
        f.error(format!(
            "invalid domain name {host:?}: it must be *, a fully qualified name or *. and a name"
        ));
    } else if !host.contains('.') {
        f.error(format!("short names (non FQDN) are not allowed: {host:?}"));
    } else if host.starts_with('*') && !host.starts_with("*.") {
        f.error(format!(
            "partial wildcard {host:?} is not allowed in a domain name"
        ));
    }
}

fn server_tls(f: &mut Findings, server: &Server, protocol: &str) {
    let secure = matches!(protocol, "HTTPS" | "TLS");
    let Some(tls) = &server.tls else {
        return f.ensure(
            !secure,
            format!("server must have TLS settings for {protocol} protocol"),
        );
    };
    if matches!(protocol, "HTTP" | "HTTP2" | "GRPC" | "GRPC-WEB") {
        let bare = ServerTls {
            https_redirect: tls.https_redirect,
            ..ServerTls::default()
        };
        f.ensure(
            *tls == bare,
            format!("server cannot have TLS settings for plain text {protocol} ports"),
        );
    } else if !secure {
        f.error(format!(
            "server cannot have TLS settings for {protocol} ports"
        ));
    } else {
        if tls.https_redirect {
            f.warn("tls.httpsRedirect should only be used with http servers");
        }
        tls_options(f, tls);
    }
}

fn tls_options(f: &mut Findings, tls: &ServerTls) {
    ciphers(f, tls);
    let secret = !tls.credential_name.is_empty() || !tls.credential_names.is_empty();
    match tls.mode {
        ServerTlsMode::IstioMutual => return istio_mutual(f, tls, secret),
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            return passthrough(f, tls, secret);
        }
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {}
    }
    let sources = [
        !tls.server_certificate.is_empty(),
        !tls.credential_name.is_empty(),
        !tls.credential_names.is_empty(),
        !tls.tls_certificates.is_empty(),
    ];
    if sources.into_iter().filter(|set| *set).count() > 1 {
        f.error("only one of credential_name, credential_names, server_certificate/private_key or tls_certificates should be set");
    }
    let mutual = tls.mode != ServerTlsMode::Simple;
    if secret {
        return;
    }
    certificates(f, tls, mutual);
}

fn certificates(f: &mut Findings, tls: &ServerTls, mutual: bool) {
    let name = if mutual { "MUTUAL" } else { "SIMPLE" };
    if mutual && tls.ca_certificates.is_empty() {
        f.error(format!("{name} TLS requires a client CA bundle"));
    }
    if tls.tls_certificates.is_empty() {
        f.ensure(
            !tls.server_certificate.is_empty(),
            format!("{name} TLS requires a server certificate"),
        );
        f.ensure(
            !tls.private_key.is_empty(),
            format!("{name} TLS requires a private key"),
        );
    }
    f.each("tlsCertificates", &tls.tls_certificates, |f, pair| {
        f.ensure(
            !pair.server_certificate.is_empty(),
            format!("{name} TLS requires a server certificate"),
        );
        f.ensure(
            !pair.private_key.is_empty(),
            format!("{name} TLS requires a private key"),
        );
    });
    if tls.tls_certificates.len() > 2 {
        f.warn("more than two certificates are given; only two are used");
    }
    f.ensure(
        mutual || tls.ca_crl.is_empty(),
        "CRL is not supported with SIMPLE TLS",
    );
}

fn istio_mutual(f: &mut Findings, tls: &ServerTls, secret: bool) {
    for (set, what) in [
        (!tls.server_certificate.is_empty(), "server certificate"),
        (!tls.private_key.is_empty(), "private key"),
        (!tls.ca_certificates.is_empty(), "CA bundle"),
        (!tls.tls_certificates.is_empty(), "TLS certificates"),
        (secret, "credential name"),
    ] {
        f.ensure(
            !set,
            format!("ISTIO_MUTUAL TLS cannot have associated {what}"),
        );
    }
}

fn passthrough(f: &mut Findings, tls: &ServerTls, secret: bool) {
    let files = [
        &tls.server_certificate,
        &tls.private_key,
        &tls.ca_certificates,
        &tls.ca_crl,
    ];
    let named = files.iter().any(|file| !file.is_empty());
    if secret || named || !tls.tls_certificates.is_empty() {
        f.warn("PASSTHROUGH mode does not use certificates");
    }
}

const CIPHERS: [&str; 16] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
    "ALL",
];

fn ciphers(f: &mut Findings, tls: &ServerTls) {
    let old = matches!(
        tls.min_protocol_version,
        TlsVersion::V1_0 | TlsVersion::V1_1
    );
    if old && tls.cipher_suites.is_empty() {
        f.warn("TLS version below TLSV1_2 requires cipherSuites, because the default ones do not work with it");
    }
    let mut seen = BTreeSet::new();
    for suite in &tls.cipher_suites {
        let operator = suite.starts_with(['+', '-', '!']);
        if !operator && !CIPHERS.contains(&suite.as_str()) {
            f.warn(format!("ignoring invalid cipher suite {suite}"));
        } else if !seen.insert(suite) {
            f.warn(format!("ignoring duplicate cipher suite {suite}"));
        }
    }
}
