//! Gateway objects.

use meltemi_api::gateway as api;
use meltemi_names::{ArcStr, Hostname, Protocol};
use serde_json::Value;

use super::{ConvertError, labels_of, meta_of, port, texts};
use crate::gateway::{Gateway, Server, ServerHost, ServerTls, ServerTlsMode};

pub(crate) fn convert(value: &Value) -> Result<Gateway, ConvertError> {
    let object = meltemi_api::Object::<api::Gateway>::from_value(value)?;
    let meta = meta_of(&object.metadata);
    let mut servers = Vec::with_capacity(object.spec.servers.len());
    for (index, written) in object.spec.servers.iter().enumerate() {
        servers.push(server(
            &format!("spec.servers[{index}]"),
            written,
            &meta.namespace,
        )?);
    }
    Ok(Gateway {
        selector: labels_of(&object.spec.selector),
        servers,
        meta,
    })
}

fn server(field: &str, written: &api::Server, own: &ArcStr) -> Result<Server, ConvertError> {
    let declared = written
        .port
        .as_ref()
        .ok_or_else(|| ConvertError::value(format!("{field}.port"), "is required"))?;
    let protocol = Protocol::parse(&declared.protocol).ok_or_else(|| {
        ConvertError::value(
            format!("{field}.port.protocol"),
            format!(
                "`{}` is not one of HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TLS, TCP, MONGO",
                declared.protocol
            ),
        )
    })?;
    Ok(Server {
        port: port(&format!("{field}.port.number"), declared.number)?,
        port_name: declared.name.as_str().into(),
        protocol,
        bind: written.bind.as_str().into(),
        hosts: written
            .hosts
            .iter()
            .map(|host| server_host(host, own))
            .collect(),
        tls: written.tls.as_ref().map(|tls| server_tls(tls, protocol)),
    })
}

/// `[namespace/]host`; no namespace or `*` means all, `.` the gateway's own.
fn server_host(written: &str, own: &ArcStr) -> ServerHost {
    let (namespace, host) = written.split_once('/').unwrap_or(("*", written));
    let namespace = match namespace {
        "*" | "" => None,
        "." => Some(own.clone()),
        named => Some(named.into()),
    };
    ServerHost {
        namespace,
        host: Hostname::from(host),
    }
}

fn server_tls(tls: &api::ServerTls, protocol: Protocol) -> ServerTls {
    // `mode` of a plain HTTP server has no meaning: such a block only asks for the redirect.
    let mode = match tls.mode {
        _ if protocol.is_http() => ServerTlsMode::None,
        api::ServerTlsMode::Passthrough => ServerTlsMode::Passthrough,
        api::ServerTlsMode::Simple => ServerTlsMode::Simple,
        api::ServerTlsMode::Mutual => ServerTlsMode::Mutual,
        api::ServerTlsMode::AutoPassthrough => ServerTlsMode::AutoPassthrough,
        api::ServerTlsMode::IstioMutual => ServerTlsMode::IstioMutual,
        api::ServerTlsMode::OptionalMutual => ServerTlsMode::OptionalMutual,
    };
    let credential = Some(tls.credential_name.as_str()).filter(|name| !name.is_empty());
    let names = credential
        .into_iter()
        .chain(tls.credential_names.iter().map(String::as_str));
    ServerTls {
        mode,
        https_redirect: tls.https_redirect,
        credential_names: names.map(ArcStr::from).collect(),
        ca_credential_name: tls.ca_cert_credential_name.as_str().into(),
        server_certificate: tls.server_certificate.as_str().into(),
        private_key: tls.private_key.as_str().into(),
        ca_certificates: tls.ca_certificates.as_str().into(),
        subject_alt_names: texts(&tls.subject_alt_names),
        min_version: version(tls.min_protocol_version).into(),
        max_version: version(tls.max_protocol_version).into(),
        cipher_suites: texts(&tls.cipher_suites),
    }
}

fn version(version: api::TlsVersion) -> &'static str {
    match version {
        api::TlsVersion::Auto => "",
        api::TlsVersion::V1_0 => "TLSv1_0",
        api::TlsVersion::V1_1 => "TLSv1_1",
        api::TlsVersion::V1_2 => "TLSv1_2",
        api::TlsVersion::V1_3 => "TLSv1_3",
    }
}
