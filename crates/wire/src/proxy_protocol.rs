//! Reading PROXY protocol headers, versions 1 and 2 (HAProxy's proxy-protocol.txt), as Envoy's listener filter does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a header of version 2 starts with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// What a header of version 1 starts with.
const PREFIX_V1: &[u8] = b"PROXY ";
/// Longest line of version 1 with its line end (§2.1).
const MAX_V1: usize = 107;
/// Signature, version and command, family, length.
const FIXED_V2: usize = 16;

/// Version of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// A type-length-value of version 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tlv {
    /// Type.
    pub kind: u8,
    /// Value.
    pub value: Vec<u8>,
}

/// The TLV type of the host name that the client asked for (`PP2_TYPE_AUTHORITY`).
pub const TLV_AUTHORITY: u8 = 0x02;
/// The TLV type of the application protocol (`PP2_TYPE_ALPN`).
pub const TLV_ALPN: u8 = 0x01;

/// A header that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Its version.
    pub version: Version,
    /// Source and destination of the connection that it stands for; `None` when the connection speaks for itself
    /// (`LOCAL`, `UNKNOWN`).
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// In the order received.
    pub tlvs: Vec<Tlv>,
    /// Bytes that it occupies.
    pub len: usize,
}

/// Result of looking at the first bytes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Undecided: read more.
    NeedMore,
    /// A whole header.
    Header(Header),
    /// The bytes start as no header does.
    Absent,
    /// They start as a header and are none.
    Malformed,
}

/// Looks at the bytes received so far.
pub fn inspect(bytes: &[u8]) -> Found {
    if starts(bytes, SIGNATURE) {
        v2(bytes)
    } else if starts(bytes, PREFIX_V1) {
        v1(bytes)
    } else {
        Found::Absent
    }
}

/// Whether the bytes and the pattern agree as far as both go.
fn starts(bytes: &[u8], pattern: &[u8]) -> bool {
    let compared = bytes.len().min(pattern.len());
    bytes[..compared] == pattern[..compared]
}

fn v1(bytes: &[u8]) -> Found {
    let searched = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = searched.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() >= MAX_V1 {
            Found::Malformed
        } else {
            Found::NeedMore
        };
    };
    let Some(addresses) = std::str::from_utf8(&bytes[..end]).ok().and_then(v1_line) else {
        return Found::Malformed;
    };
    Found::Header(Header {
        version: Version::V1,
        addresses,
        tlvs: Vec::new(),
        len: end + 2,
    })
}

/// `PROXY TCP4 source destination port port`, or `PROXY UNKNOWN` and anything.
#[allow(
    clippy::option_option,
    clippy::type_complexity,
    reason = "outer: malformed; inner: the connection speaks for itself"
)]
fn v1_line(line: &str) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let mut parts = line.split(' ').skip(1);
    let family = parts.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let (source, destination) = (parts.next()?, parts.next()?);
    let (source_port, destination_port) = (port(parts.next()?)?, port(parts.next()?)?);
    if parts.next().is_some() {
        return None;
    }
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    Some(Some((
        (address(source)?, source_port).into(),
        (address(destination)?, destination_port).into(),
    )))
}

fn port(text: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

fn v2(bytes: &[u8]) -> Found {
    let Some(fixed) = bytes.first_chunk::<FIXED_V2>() else {
        return Found::NeedMore;
    };
    let (version, command, family) = (fixed[12] >> 4, fixed[12] & 0xf, fixed[13]);
    let len = FIXED_V2 + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if version != 2 || command > 1 {
        return Found::Malformed;
    }
    let Some(rest) = bytes.get(FIXED_V2..len) else {
        return Found::NeedMore;
    };
    let header = |addresses, tlvs| {
        Found::Header(Header {
            version: Version::V2,
            addresses,
            tlvs,
            len,
        })
    };
    if command == 0 {
        return header(None, Vec::new());
    }
    let read = match family {
        0x11 => addresses_v4(rest),
        0x21 => addresses_v6(rest),
        // Envoy takes neither datagrams nor unix sockets.
        _ => None,
    };
    let Some((source, destination, rest)) = read else {
        return Found::Malformed;
    };
    match tlvs(rest) {
        Some(tlvs) => header(Some((source, destination)), tlvs),
        None => Found::Malformed,
    }
}

fn addresses_v4(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    let (part, rest) = bytes.split_first_chunk::<12>()?;
    let ip = |at: usize| Ipv4Addr::new(part[at], part[at + 1], part[at + 2], part[at + 3]);
    let port = |at: usize| u16::from_be_bytes([part[at], part[at + 1]]);
    Some(((ip(0), port(8)).into(), (ip(4), port(10)).into(), rest))
}

fn addresses_v6(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr, &[u8])> {
    let (source, rest) = bytes.split_first_chunk::<16>()?;
    let (destination, rest) = rest.split_first_chunk::<16>()?;
    let (ports, rest) = rest.split_first_chunk::<4>()?;
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some((
        (Ipv6Addr::from(*source), port(0)).into(),
        (Ipv6Addr::from(*destination), port(2)).into(),
        rest,
    ))
}

fn tlvs(mut bytes: &[u8]) -> Option<Vec<Tlv>> {
    let mut out = Vec::new();
    while let Some((&[kind, high, low], rest)) = bytes.split_first_chunk::<3>() {
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        out.push(Tlv {
            kind,
            value: value.to_vec(),
        });
        bytes = rest;
    }
    bytes.is_empty().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    const V4: [u8; 12] = [10, 0, 0, 1, 10, 0, 0, 2, 0x1f, 0x90, 0, 80];

    #[test]
    fn both_versions_give_the_same_addresses() {
        let text = b"PROXY TCP4 10.0.0.1 10.0.0.2 8080 80\r\nGET /";
        let expected = Some((
            "10.0.0.1:8080".parse().unwrap(),
            "10.0.0.2:80".parse().unwrap(),
        ));
        let Found::Header(v1) = inspect(text) else {
            panic!("no header")
        };
        assert_eq!((v1.addresses, v1.len), (expected, text.len() - 5));
        let mut bytes = binary(0x21, 0x11, &V4);
        bytes.extend(b"GET /");
        let Found::Header(v2) = inspect(&bytes) else {
            panic!("no header")
        };
        assert_eq!((v2.addresses, v2.len), (expected, 28));
    }

    #[test]
    fn ipv6_and_values_behind_the_addresses() {
        let mut rest = Vec::new();
        rest.extend([0x20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        rest.extend([0x20, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        rest.extend([0, 1, 0, 2]);
        rest.extend([TLV_AUTHORITY, 0, 3, b'a', b'.', b'b', 0xea, 0, 0]);
        let Found::Header(header) = inspect(&binary(0x21, 0x21, &rest)) else {
            panic!("no header")
        };
        assert_eq!(
            header.addresses,
            Some((
                "[2001::1]:1".parse().unwrap(),
                "[2001::2]:2".parse().unwrap()
            ))
        );
        assert_eq!(header.tlvs[0].value, b"a.b");
        assert_eq!((header.tlvs[1].kind, header.tlvs.len()), (0xea, 2));
    }

    #[test]
    fn connections_that_speak_for_themselves_keep_their_addresses() {
        for bytes in [
            b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            binary(0x20, 0, &[]),
            binary(0x20, 0x11, &V4),
        ] {
            let Found::Header(header) = inspect(&bytes) else {
                panic!("no header in {bytes:?}")
            };
            assert_eq!((header.addresses, header.len), (None, bytes.len()));
        }
    }

    #[test]
    fn every_cut_of_a_header_asks_for_more() {
        let mut long = V4.to_vec();
        long.extend([4, 0, 2, 7, 7]);
        for bytes in [
            b"PROXY TCP6 ::1 ::2 1 2\r\n".to_vec(),
            binary(0x21, 0x11, &long),
        ] {
            assert!(matches!(inspect(&bytes), Found::Header(_)));
            for cut in 0..bytes.len() {
                assert_eq!(inspect(&bytes[..cut]), Found::NeedMore, "cut at {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_header_is_told_from_what_breaks_one() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"PROXX",
            b"\r\n\r\n\0\r\nQUIX",
            b"\0",
        ] {
            assert_eq!(inspect(bytes), Found::Absent, "{bytes:?}");
        }
        let mut cut_value = V4.to_vec();
        cut_value.extend([4, 0, 9, 7]);
        for bytes in [
            b"PROXY TCP4 10.0.0.1 10.0.0.2 8080\r\n".to_vec(),
            b"PROXY TCP4 10.0.0.1 10.0.0.2 8080 80 1\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::2 8080 80\r\n".to_vec(),
            b"PROXY TCP4 10.0.0.1 10.0.0.2 70000 80\r\n".to_vec(),
            b"PROXY TCP4 10.0.0.1 10.0.0.2 +1 80\r\n".to_vec(),
            b"PROXY UDP4 10.0.0.1 10.0.0.2 1 80\r\n".to_vec(),
            [&b"PROXY TCP4 "[..], &[b'1'; 100]].concat(),
            binary(0x31, 0x11, &V4),
            binary(0x22, 0x11, &V4),
            binary(0x21, 0x31, &[0; 216]),
            binary(0x21, 0x12, &V4),
            binary(0x21, 0x11, &V4[..11]),
            binary(0x21, 0x11, &cut_value),
        ] {
            assert_eq!(inspect(&bytes), Found::Malformed, "{bytes:?}");
        }
    }
}
