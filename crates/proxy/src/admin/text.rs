//! Listeners and certificates as text and JSON.

use std::fmt::Write as _;

use meltemi_traffic::tls::{DataSource, SecretKind};
use serde_json::{Value, json};

use crate::listener::BoundAddress;
use crate::state::Shared;

/// `/listeners`.
pub(super) fn listeners(shared: &Shared) -> String {
    let table = shared.listeners.table();
    let mut out = String::new();
    for (bound, owner) in &table.bound {
        let _ = match &bound.address {
            BoundAddress::Tcp(address) => writeln!(out, "{}::{address}", owner.config.name),
            BoundAddress::Unix(path) => writeln!(out, "{}::{path}", owner.config.name),
        };
    }
    out
}

/// `/listeners?format=json`.
pub(super) fn listeners_json(shared: &Shared) -> Value {
    let table = shared.listeners.table();
    let one = |bound: &BoundAddress| match bound {
        BoundAddress::Tcp(address) => {
            json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
        }
        BoundAddress::Unix(path) => json!({"pipe": {"path": path.as_str()}}),
    };
    let all: Vec<Value> = table
        .bound
        .iter()
        .map(|(bound, owner)| json!({"name": owner.config.name.as_str(), "local_address": one(&bound.address)}))
        .collect();
    json!({ "listener_statuses": all })
}

/// `/certs`.
pub(super) fn certs(shared: &Shared) -> Value {
    let mut certificates = Vec::new();
    for secret in shared.secrets.all() {
        let (key, source) = match &secret.kind {
            SecretKind::Certificate(pair) => ("cert_chain", Some(&pair.chain)),
            SecretKind::Validation(validation) => ("ca_cert", validation.trusted_ca.as_ref()),
            SecretKind::TicketKeys(_) | SecretKind::Generic(_) => continue,
        };
        let Some(DataSource::Inline(pem)) = source else {
            continue;
        };
        let text = String::from_utf8_lossy(pem);
        let Ok(chain) = meltemi_identity::certificates("certificate", &text) else {
            continue;
        };
        let Some(facts) = chain
            .first()
            .and_then(|leaf| meltemi_identity::certificate_facts(leaf).ok())
        else {
            continue;
        };
        let time = |seconds: i64| {
            jiff::Timestamp::from_second(seconds)
                .map(|at| at.to_string())
                .unwrap_or_default()
        };
        let uris: Vec<Value> = facts.uris.iter().map(|uri| json!({ "uri": uri })).collect();
        let days = (facts.not_after - jiff::Timestamp::now().as_second()).max(0) / 86_400;
        certificates.push(json!({ key: [{
            "path": format!("<{}>", secret.name),
            "serial_number": facts.serial,
            "subject_alt_names": uris,
            "days_until_expiration": days.to_string(),
            "valid_from": time(facts.not_before),
            "expiration_time": time(facts.not_after),
        }]}));
    }
    json!({ "certificates": certificates })
}
