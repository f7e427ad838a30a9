//! Writing PROXY protocol headers, versions 1 and 2 (HAProxy's proxy-protocol.txt).

use std::net::{IpAddr, SocketAddr};

/// What a header of version 2 starts with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Appends a header of version 1: source and destination of the connection that is proxied.
pub fn write_v1(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let (source, destination) = same_family(source, destination);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let line = format!(
        "PROXY {family} {} {} {} {}\r\n",
        source.ip(),
        destination.ip(),
        source.port(),
        destination.port()
    );
    out.extend_from_slice(line.as_bytes());
}

/// Appends a header of version 2; without addresses it says that the connection speaks for itself. TLVs that do not
/// fit into the header's length are left out.
pub fn write_v2<'t>(
    addresses: Option<(SocketAddr, SocketAddr)>,
    tlvs: impl Iterator<Item = (u8, &'t [u8])>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(SIGNATURE);
    let Some((source, destination)) = addresses else {
        out.extend_from_slice(&[0x20, 0, 0, 0]);
        return;
    };
    let (source, destination) = same_family(source, destination);
    let mut rest = Vec::with_capacity(36);
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(ip) => rest.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => rest.extend_from_slice(&ip.octets()),
        }
    }
    rest.extend_from_slice(&source.port().to_be_bytes());
    rest.extend_from_slice(&destination.port().to_be_bytes());
    for (kind, value) in tlvs {
        let Ok(length) = u16::try_from(value.len()) else {
            continue;
        };
        if rest.len() + 3 + value.len() > usize::from(u16::MAX) {
            break;
        }
        rest.push(kind);
        rest.extend_from_slice(&length.to_be_bytes());
        rest.extend_from_slice(value);
    }
    let length = u16::try_from(rest.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&[0x21, if source.is_ipv4() { 0x11 } else { 0x21 }]);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&rest);
}

/// Both as IPv4 when both are, else both as IPv6.
fn same_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let wide = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (wide(source), wide(destination))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_is_a_line() {
        let mut out = Vec::new();
        write_v1(
            "10.0.0.1:1234".parse().unwrap(),
            "10.0.0.2:80".parse().unwrap(),
            &mut out,
        );
        assert_eq!(out, b"PROXY TCP4 10.0.0.1 10.0.0.2 1234 80\r\n");
    }

    #[test]
    fn version_2_has_addresses_and_tlvs() {
        let mut out = Vec::new();
        let addresses = (
            "10.0.0.1:1234".parse().unwrap(),
            "10.0.0.2:80".parse().unwrap(),
        );
        write_v2(Some(addresses), [(0xea, &b"x"[..])].into_iter(), &mut out);
        let expected = [
            &SIGNATURE[..],
            &[
                0x21, 0x11, 0, 16, 10, 0, 0, 1, 10, 0, 0, 2, 4, 210, 0, 80, 0xea, 0, 1, b'x',
            ],
        ]
        .concat();
        assert_eq!(out, expected);
        let mut local = Vec::new();
        write_v2(None, std::iter::empty(), &mut local);
        assert_eq!(local[12..], [0x20, 0, 0, 0]);
    }
}
