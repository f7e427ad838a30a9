//! Conditions and actions as rules spell them, made of [`expression`](super::expression)s.

use super::SetRef;
use super::expression::{
    Base, Conntrack, Expression, Is, Meta, R0, Verdict, compare, conntrack, conntrack_set,
    destination_nat, immediate, in_set, mask, meta, meta_set, payload, redirect, verdict,
};
use crate::netlink::route::{LOOPBACK, address_bytes};
use crate::pod_rules::IpRange;
use std::net::{IpAddr, SocketAddrV4};

/// One condition or action of a rule.
pub(crate) type Part = Vec<Expression>;

/// TCP's protocol number.
pub(crate) const TCP: u8 = libc::IPPROTO_TCP as u8;
/// UDP's protocol number.
pub(crate) const UDP: u8 = libc::IPPROTO_UDP as u8;

const NAME_LENGTH: usize = 16;

/// `meta l4proto PROTOCOL`.
pub(crate) fn protocol(number: u8) -> Part {
    vec![meta(Meta::L4Proto, R0), compare(R0, Is::Equal, &[number])]
}

/// `meta l4proto != PROTOCOL`.
pub(crate) fn not_protocol(number: u8) -> Part {
    vec![
        meta(Meta::L4Proto, R0),
        compare(R0, Is::Different, &[number]),
    ]
}

/// `iif lo`.
pub(crate) fn from_loopback(is: Is) -> Part {
    vec![
        meta(Meta::Iif, R0),
        compare(R0, is, &LOOPBACK.to_ne_bytes()),
    ]
}

/// `oif lo`.
pub(crate) fn to_loopback(is: Is) -> Part {
    vec![
        meta(Meta::Oif, R0),
        compare(R0, is, &LOOPBACK.to_ne_bytes()),
    ]
}

/// `iifname NAME`.
pub(crate) fn from_link(name: &str) -> Part {
    vec![
        meta(Meta::IifName, R0),
        compare(R0, Is::Equal, &padded(name)),
    ]
}

/// `oifname NAME`.
pub(crate) fn to_link(name: &str) -> Part {
    vec![
        meta(Meta::OifName, R0),
        compare(R0, Is::Equal, &padded(name)),
    ]
}

/// `iifname PREFIX*`.
pub(crate) fn from_link_prefix(prefix: &str) -> Part {
    vec![
        meta(Meta::IifName, R0),
        compare(R0, Is::Equal, prefix.as_bytes()),
    ]
}

fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME_LENGTH, 0);
    bytes
}

/// `meta mark N`.
pub(crate) fn marked(mark: u32) -> Part {
    vec![
        meta(Meta::Mark, R0),
        compare(R0, Is::Equal, &mark.to_ne_bytes()),
    ]
}

/// `meta mark set N`.
pub(crate) fn set_mark(mark: u32) -> Part {
    vec![immediate(R0, &mark.to_ne_bytes()), meta_set(Meta::Mark, R0)]
}

/// `meta skuid N`.
pub(crate) fn socket_user(uid: u32) -> Part {
    vec![
        meta(Meta::SkUid, R0),
        compare(R0, Is::Equal, &uid.to_ne_bytes()),
    ]
}

/// `meta skgid N`.
pub(crate) fn socket_group(gid: u32) -> Part {
    vec![
        meta(Meta::SkGid, R0),
        compare(R0, Is::Equal, &gid.to_ne_bytes()),
    ]
}

/// `tcp dport N` (or udp).
pub(crate) fn destination_port(transport: u8, is: Is, port: u16) -> Part {
    port_at(transport, 2, is, port)
}

/// `tcp sport N` (or udp).
pub(crate) fn source_port(transport: u8, port: u16) -> Part {
    port_at(transport, 0, Is::Equal, port)
}

fn port_at(transport: u8, offset: u32, is: Is, port: u16) -> Part {
    let mut part = protocol(transport);
    part.push(payload(Base::Transport, offset, 2, R0));
    part.push(compare(R0, is, &port.to_be_bytes()));
    part
}

/// `tcp dport @SET` (or udp).
pub(crate) fn destination_port_in(transport: u8, set: &SetRef) -> Part {
    let mut part = protocol(transport);
    part.push(payload(Base::Transport, 2, 2, R0));
    part.push(in_set(set, R0));
    part
}

/// `ip saddr RANGE` or `ip6 saddr RANGE`.
pub(crate) fn source(range: IpRange) -> Part {
    address(range, Is::Equal, (12, 8))
}

/// `ip daddr RANGE` or `ip6 daddr RANGE`.
pub(crate) fn destination(is: Is, range: IpRange) -> Part {
    address(range, is, (16, 24))
}

/// `ip daddr @SET` (IPv4) or `ip6 daddr @SET`.
pub(crate) fn destination_in(ipv6: bool, set: &SetRef) -> Part {
    address_in(ipv6, set, (16, 24))
}

/// `ip saddr @SET` (IPv4) or `ip6 saddr @SET`.
pub(crate) fn source_in(ipv6: bool, set: &SetRef) -> Part {
    address_in(ipv6, set, (12, 8))
}

/// `ip daddr RANGE` in a table of one address family, where the version needs no check.
pub(crate) fn destination_in_family(is: Is, range: IpRange) -> Part {
    bare_address(range, is, (16, 24))
}

fn address_in(ipv6: bool, set: &SetRef, (offset4, offset6): (u32, u32)) -> Part {
    let (offset, length) = if ipv6 { (offset6, 16) } else { (offset4, 4) };
    let mut part = ip_version(ipv6);
    part.push(payload(Base::Network, offset, length, R0));
    part.push(in_set(set, R0));
    part
}

fn address(range: IpRange, is: Is, offsets: (u32, u32)) -> Part {
    let mut part = ip_version(range.address.is_ipv6());
    part.extend(bare_address(range, is, offsets));
    part
}

fn bare_address(range: IpRange, is: Is, (offset4, offset6): (u32, u32)) -> Part {
    let bytes = address_bytes(range.address);
    let offset = if range.address.is_ipv6() {
        offset6
    } else {
        offset4
    };
    let bits = prefix_mask(range.prefix, bytes.len());
    let network: Vec<u8> = bytes.iter().zip(&bits).map(|(a, m)| a & m).collect();
    let mut part = vec![payload(Base::Network, offset, bytes.len() as u32, R0)];
    if usize::from(range.prefix) < bytes.len() * 8 {
        part.push(mask(R0, &bits));
    }
    part.push(compare(R0, is, &network));
    part
}

fn prefix_mask(prefix: u8, length: usize) -> Vec<u8> {
    (0..length)
        .map(|i| match usize::from(prefix).saturating_sub(i * 8) {
            0 => 0,
            n if n >= 8 => 0xff,
            n => 0xffu8 << (8 - n),
        })
        .collect()
}

/// `meta nfproto ipv4` or `ipv6`.
pub(crate) fn ip_version(ipv6: bool) -> Part {
    let number = if ipv6 {
        libc::NFPROTO_IPV6
    } else {
        libc::NFPROTO_IPV4
    } as u8;
    vec![meta(Meta::NfProto, R0), compare(R0, Is::Equal, &[number])]
}

/// A verdict.
pub(crate) fn then(what: Verdict) -> Part {
    vec![verdict(&what)]
}

/// `redirect to :PORT`.
pub(crate) fn redirect_to(port: u16) -> Part {
    vec![immediate(R0, &port.to_be_bytes()), redirect(R0)]
}

/// `dnat ip to ADDRESS:PORT`.
pub(crate) fn dnat_to(to: SocketAddrV4) -> Part {
    use super::expression::R1;
    vec![
        immediate(R0, &to.ip().octets()),
        immediate(R1, &to.port().to_be_bytes()),
        destination_nat(R0, R1),
    ]
}

/// `ct zone set N`.
pub(crate) fn set_zone(zone: u16) -> Part {
    vec![
        immediate(R0, &zone.to_ne_bytes()),
        conntrack_set(Conntrack::Zone, R0),
    ]
}

/// `ct mark N`.
pub(crate) fn connection_marked(mark: u32) -> Part {
    vec![
        conntrack(Conntrack::Mark, R0),
        compare(R0, Is::Equal, &mark.to_ne_bytes()),
    ]
}

/// `ct mark set N`.
pub(crate) fn set_connection_mark(mark: u32) -> Part {
    vec![
        immediate(R0, &mark.to_ne_bytes()),
        conntrack_set(Conntrack::Mark, R0),
    ]
}

/// `ct direction reply`.
pub(crate) fn reply_direction() -> Part {
    vec![
        conntrack(Conntrack::Direction, R0),
        compare(R0, Is::Equal, &[1]),
    ]
}

/// `ct state invalid`.
pub(crate) fn invalid_state() -> Part {
    let invalid = 1u32.to_ne_bytes();
    vec![
        conntrack(Conntrack::State, R0),
        mask(R0, &invalid),
        compare(R0, Is::Different, &[0; 4]),
    ]
}

/// One address as a range.
pub(crate) fn host(address: IpAddr) -> IpRange {
    IpRange {
        address,
        prefix: if address.is_ipv6() { 128 } else { 32 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_masks_cover_whole_and_partial_bytes() {
        assert_eq!(prefix_mask(16, 4), [255, 255, 0, 0]);
        assert_eq!(prefix_mask(26, 4), [255, 255, 255, 0xc0]);
        assert_eq!(prefix_mask(0, 4), [0; 4]);
        assert_eq!(prefix_mask(32, 4), [255; 4]);
    }
}
