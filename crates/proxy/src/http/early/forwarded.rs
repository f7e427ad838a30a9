//! X-Forwarded-For and its relatives: who the client is, and whether it is one of ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use meltemi_traffic::access::Protocol;
use meltemi_traffic::hcm::{AddressSource, ConnectionManager};
use meltemi_traffic::matcher::Cidr;

use super::{
    CONTROL, EDGE_CONTROL, Early, FORCE_TRACE, Present, X_ENVOY_EXTERNAL_ADDRESS, X_ENVOY_INTERNAL,
    X_FORWARDED_FOR, X_FORWARDED_PROTO, X_REQUEST_ID,
};
use crate::connection::ConnInfo;
use crate::http::reply::Reply;
use crate::http::request::Request;

/// Peers that are told as our own address.
const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");

/// Says in the request who the client is and how it came.
///
/// # Errors
/// The reply to a request that does not say who its client is.
pub(super) fn apply(
    hcm: &ConnectionManager,
    conn: &ConnInfo,
    request: &mut Request,
    early: &mut Early,
    present: &Present,
) -> Result<(), Reply> {
    let chain = if present.forwarded_for {
        last_xff(&request.headers)
    } else {
        Vec::new()
    };
    let client = if hcm.address_sources.is_empty() {
        by_settings(hcm, conn.remote.ip(), &chain)
    } else {
        by_sources(
            &hcm.address_sources,
            conn.remote.ip(),
            &chain,
            &request.headers,
        )?
    };
    early.remote = Some(client.address);
    if client.append && conn.pipe.is_empty() {
        // The far side could not tell our loopback from its own.
        let peer = conn.remote.ip();
        let shown = if LOOPBACK.contains(&peer) {
            own_address()
        } else {
            peer
        };
        append_xff(&mut request.headers, shown);
    }
    let scheme = if conn.tls.is_some() { "https" } else { "http" };
    let said = present.forwarded_proto && !(hcm.use_remote_address && hcm.xff_trusted_hops == 0);
    let https = if said {
        let have = request.headers.get(X_FORWARDED_PROTO);
        have.is_some_and(|value| value == "https")
    } else {
        let proto = HeaderValue::from_static(scheme);
        request.headers.insert(X_FORWARDED_PROTO, proto);
        conn.tls.is_some()
    };
    if !request.absolute && request.protocol != Protocol::Http2 {
        request.https = https;
    }
    if hcm.append_forwarded_port {
        let port = HeaderValue::from(conn.local.port());
        if hcm.use_remote_address && hcm.xff_trusted_hops == 0 {
            request.headers.insert(X_FORWARDED_PORT, port);
        } else {
            request.headers.entry(X_FORWARDED_PORT).or_insert(port);
        }
    }
    let blocks = &hcm.internal_addresses;
    early.internal = client.single && blocks.iter().any(|block| block.contains(client.address));
    if early.internal {
        request
            .headers
            .insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
        early.force_trace = present.envoy && request.headers.contains_key(FORCE_TRACE);
    } else {
        remove_control(hcm, request, early, present);
    }
    Ok(())
}

/// Who the client is.
struct Client {
    address: IpAddr,
    /// It is known alone, so that it can make the request internal.
    single: bool,
    /// The peer is appended to X-Forwarded-For.
    append: bool,
}

/// By `use_remote_address` and `xff_num_trusted_hops`.
fn by_settings(hcm: &ConnectionManager, peer: IpAddr, chain: &[Option<IpAddr>]) -> Client {
    let hops = hcm.xff_trusted_hops as usize;
    let entry = if hcm.use_remote_address {
        hops
    } else {
        hops + 1
    };
    let single = if hcm.use_remote_address && hops == 0 {
        chain.is_empty()
    } else {
        matches!(chain, [Some(_)])
    };
    Client {
        address: from_right(chain, entry).unwrap_or(peer),
        single,
        append: hcm.use_remote_address && !hcm.skip_xff_append,
    }
}

/// The entry so many from the right; 1 is the last.
fn from_right(chain: &[Option<IpAddr>], entry: usize) -> Option<IpAddr> {
    if entry == 0 {
        return None;
    }
    let at = chain.len().checked_sub(entry)?;
    chain.get(at).copied().flatten()
}

/// By extensions: the first that finds an address.
fn by_sources(
    sources: &[AddressSource],
    peer: IpAddr,
    chain: &[Option<IpAddr>],
    headers: &HeaderMap,
) -> Result<Client, Reply> {
    let mut client = Client {
        address: peer,
        single: false,
        append: false,
    };
    for source in sources {
        let single = matches!(chain, [Some(_)]);
        let (found, single) = match source {
            AddressSource::ForwardedFor { entry, append } => {
                client.append |= append;
                (from_right(chain, *entry), single)
            }
            AddressSource::TrustedBlocks { blocks, append } => {
                client.append |= append;
                (outside(blocks, peer, chain), single)
            }
            AddressSource::Header {
                name,
                trusted,
                refusal,
            } => {
                let value = headers.get(name).and_then(|value| value.to_str().ok());
                let found = value.and_then(|value| value.trim().parse().ok());
                if let (None, Some(status)) = (found, refusal) {
                    let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::FORBIDDEN);
                    return Err(Reply::new(status, "", "rejecting_because_detection_failed"));
                }
                (found, *trusted)
            }
        };
        if let Some(address) = found {
            client.address = address;
            client.single = single;
            break;
        }
    }
    Ok(client)
}

/// The last address before those of proxies; the first one where all are proxies. Nobody can be told apart behind a
/// peer that is no proxy.
fn outside(blocks: &[Cidr], peer: IpAddr, chain: &[Option<IpAddr>]) -> Option<IpAddr> {
    let is_proxy = |address: IpAddr| blocks.iter().any(|block| block.contains(address));
    if !is_proxy(peer) {
        return None;
    }
    let mut found = None;
    for entry in chain.iter().rev() {
        let address = (*entry)?;
        found = Some(address);
        if !is_proxy(address) {
            break;
        }
    }
    found
}

/// Control headers are for internal requests; the edge also says who the outside client is.
fn remove_control(
    hcm: &ConnectionManager,
    request: &mut Request,
    early: &Early,
    present: &Present,
) {
    let edge = hcm.use_remote_address;
    if present.envoy {
        request.headers.remove(X_ENVOY_INTERNAL);
        for name in &CONTROL {
            request.headers.remove(name);
        }
    }
    if edge {
        if present.envoy {
            for name in &EDGE_CONTROL {
                request.headers.remove(name);
            }
        }
        if let Some(address) = early.remote.filter(|address| !address.is_unspecified())
            && let Ok(value) = HeaderValue::from_str(&address.to_string())
        {
            request.headers.insert(X_ENVOY_EXTERNAL_ADDRESS, value);
        }
        if !hcm.preserve_external_request_id {
            request.headers.remove(X_REQUEST_ID);
        }
    }
}

fn last_xff(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let values = headers.get_all(X_FORWARDED_FOR);
    let all = values
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    all.map(|entry| std::str::from_utf8(entry.trim_ascii()).ok()?.parse().ok())
        .collect()
}

/// The machine's first IPv4 address that is not loopback.
pub(crate) fn own_address() -> IpAddr {
    static OWN: std::sync::LazyLock<IpAddr> = std::sync::LazyLock::new(|| {
        let all = nix::ifaddrs::getifaddrs().ok().into_iter().flatten();
        all.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
            .find(|address| !address.is_loopback())
            .unwrap_or(std::net::Ipv4Addr::LOCALHOST)
            .into()
    });
    *OWN
}

pub(crate) fn append_xff(headers: &mut HeaderMap, peer: IpAddr) {
    let peer = peer.to_string();
    let value = match headers.get(X_FORWARDED_FOR) {
        None => HeaderValue::from_str(&peer),
        Some(have) => HeaderValue::from_bytes(&[have.as_bytes(), b",", peer.as_bytes()].concat()),
    };
    if let Ok(value) = value {
        headers.insert(X_FORWARDED_FOR, value);
    }
}
