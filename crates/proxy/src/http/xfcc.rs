//! `x-forwarded-client-cert`.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use meltemi_traffic::hcm::{ConnectionManager, XfccDetails, XfccMode};
use meltemi_traffic::tls::PeerIdentity;

use crate::connection::ConnInfo;

const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// Forwards, extends, replaces or removes the header as the connection manager says; `present` tells that the client sent one.
pub(crate) fn apply(
    hcm: &ConnectionManager,
    conn: &ConnInfo,
    headers: &mut HeaderMap,
    present: bool,
) {
    if hcm.xfcc == XfccMode::AlwaysForwardOnly {
        return;
    }
    let peer = conn
        .tls
        .as_ref()
        .and_then(|tls| tls.peer.as_ref().map(|peer| (tls, peer)));
    let Some((tls, peer)) = peer.filter(|_| hcm.xfcc != XfccMode::Sanitize) else {
        if present {
            headers.remove(XFCC);
        }
        return;
    };
    if hcm.xfcc == XfccMode::ForwardOnly {
        return;
    }
    let mut value = Vec::new();
    if hcm.xfcc == XfccMode::AppendForward {
        for have in headers.get_all(XFCC) {
            value.extend_from_slice(have.as_bytes());
            value.push(b',');
        }
    }
    value.extend_from_slice(element(&tls.local_uris, peer, hcm.xfcc_details).as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&value) {
        headers.insert(XFCC, value);
    }
}

fn element(
    local_uris: &[meltemi_traffic::Str],
    peer: &PeerIdentity,
    details: XfccDetails,
) -> String {
    let mut parts = Vec::new();
    for uri in local_uris {
        parts.push(format!("By={}", quoted(uri)));
    }
    parts.push(format!("Hash={}", peer.fingerprint_256));
    if details.cert {
        parts.push(format!("Cert=\"{}\"", peer.url_encoded_pem()));
    }
    if details.chain {
        parts.push(format!("Chain=\"{}\"", peer.url_encoded_chain()));
    }
    if details.subject {
        parts.push(format!("Subject=\"{}\"", peer.subject.replace('"', "\\\"")));
    }
    if details.uri {
        match peer.uri_sans.as_slice() {
            [] => parts.push("URI=".to_owned()),
            uris => parts.extend(uris.iter().map(|uri| format!("URI={}", quoted(uri)))),
        }
    }
    if details.dns {
        parts.extend(
            peer.dns_sans
                .iter()
                .map(|name| format!("DNS={}", quoted(name))),
        );
    }
    parts.join(";")
}

fn quoted(value: &str) -> String {
    if value.contains([',', ';', '=']) {
        format!("\"{}\"", value.replace('"', "\\\""))
    } else {
        value.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_names_both_sides_in_envoys_order() {
        let peer = PeerIdentity {
            uri_sans: vec!["spiffe://td/ns/a/sa/b".into()],
            fingerprint_256: "ab12".into(),
            ..PeerIdentity::default()
        };
        let details = XfccDetails {
            subject: true,
            uri: true,
            dns: true,
            ..XfccDetails::default()
        };
        assert_eq!(
            element(&["spiffe://td/ns/c/sa/d".into()], &peer, details),
            "By=spiffe://td/ns/c/sa/d;Hash=ab12;Subject=\"\";URI=spiffe://td/ns/a/sa/b"
        );
    }
}
