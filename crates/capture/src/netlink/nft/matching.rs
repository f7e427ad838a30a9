//! Conditions and actions as rules spell them: each has its text in `nft`'s syntax (for `--dry-run`)
//! and its [`expression`](super::expression)s (for the kernel).

use super::SetRef;
use super::expression::{
    Base, Conntrack, Expression, Is, Meta, R0, R1, Verdict, compare, conntrack, conntrack_set,
    destination_nat, immediate, in_set, mask, meta, meta_set, payload, redirect, transparent_proxy,
    verdict,
};
use crate::netlink::route::{LOOPBACK, address_bytes};
use crate::pod_rules::IpRange;
use std::net::{IpAddr, SocketAddrV4};

/// One condition or action of a rule. The default one is always true.
#[derive(Debug, Clone, Default)]
pub(crate) struct Part {
    /// In `nft`'s syntax; empty where nobody prints it.
    pub(crate) text: String,
    pub(crate) expressions: Vec<Expression>,
}

impl From<Vec<Expression>> for Part {
    fn from(expressions: Vec<Expression>) -> Self {
        Self {
            text: String::new(),
            expressions,
        }
    }
}

fn part(text: impl Into<String>, expressions: Vec<Expression>) -> Part {
    Part {
        text: text.into(),
        expressions,
    }
}

/// TCP's protocol number.
pub(crate) const TCP: u8 = libc::IPPROTO_TCP as u8;
/// UDP's protocol number.
pub(crate) const UDP: u8 = libc::IPPROTO_UDP as u8;

const NAME_LENGTH: usize = 16;
/// Offsets of the source address in IPv4 and IPv6 headers.
const SOURCE: (u32, u32) = (12, 8);
/// Offsets of the destination address.
const DESTINATION: (u32, u32) = (16, 24);

/// `meta l4proto PROTOCOL`.
pub(crate) fn protocol(number: u8) -> Part {
    let expressions = vec![meta(Meta::L4Proto, R0), compare(R0, Is::Equal, &[number])];
    part(
        format!("meta l4proto {}", transport_name(number)),
        expressions,
    )
}

/// `meta l4proto != PROTOCOL`.
pub(crate) fn not_protocol(number: u8) -> Part {
    let expressions = vec![
        meta(Meta::L4Proto, R0),
        compare(R0, Is::Different, &[number]),
    ];
    part(
        format!("meta l4proto != {}", transport_name(number)),
        expressions,
    )
}

/// `iif lo`.
pub(crate) fn from_loopback(is: Is) -> Part {
    part(
        format!("iif {}lo", operator(is)),
        meta_is(Meta::Iif, is, LOOPBACK),
    )
}

/// `oif lo`.
pub(crate) fn to_loopback(is: Is) -> Part {
    part(
        format!("oif {}lo", operator(is)),
        meta_is(Meta::Oif, is, LOOPBACK),
    )
}

/// `iifname NAME`.
pub(crate) fn from_link(name: &str) -> Part {
    let expressions = vec![
        meta(Meta::IifName, R0),
        compare(R0, Is::Equal, &padded(name)),
    ];
    part(format!("iifname \"{name}\""), expressions)
}

/// `oifname NAME`.
pub(crate) fn to_link(name: &str) -> Part {
    let expressions = vec![
        meta(Meta::OifName, R0),
        compare(R0, Is::Equal, &padded(name)),
    ];
    part(format!("oifname \"{name}\""), expressions)
}

/// `iifname PREFIX*`.
pub(crate) fn from_link_prefix(prefix: &str) -> Part {
    let expressions = vec![
        meta(Meta::IifName, R0),
        compare(R0, Is::Equal, prefix.as_bytes()),
    ];
    part(format!("iifname \"{prefix}*\""), expressions)
}

fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(NAME_LENGTH, 0);
    bytes
}

/// `meta mark N`.
pub(crate) fn marked(mark: u32) -> Part {
    part(
        format!("meta mark {mark:#x}"),
        meta_is(Meta::Mark, Is::Equal, mark),
    )
}

/// `meta mark set N`.
pub(crate) fn set_mark(mark: u32) -> Part {
    let expressions = vec![immediate(R0, &mark.to_ne_bytes()), meta_set(Meta::Mark, R0)];
    part(format!("meta mark set {mark:#x}"), expressions)
}

/// `meta skuid N`.
pub(crate) fn socket_user(uid: u32) -> Part {
    part(
        format!("meta skuid {uid}"),
        meta_is(Meta::SkUid, Is::Equal, uid),
    )
}

/// `meta skgid N`.
pub(crate) fn socket_group(gid: u32) -> Part {
    part(
        format!("meta skgid {gid}"),
        meta_is(Meta::SkGid, Is::Equal, gid),
    )
}

fn meta_is(key: Meta, is: Is, value: u32) -> Vec<Expression> {
    vec![meta(key, R0), compare(R0, is, &value.to_ne_bytes())]
}

/// `tcp dport N` (or udp).
pub(crate) fn destination_port(transport: u8, is: Is, port: u16) -> Part {
    let text = format!("{} dport {}{port}", transport_name(transport), operator(is));
    part(
        text,
        port_at(transport, 2, compare(R0, is, &port.to_be_bytes())),
    )
}

/// `tcp sport N` (or udp).
pub(crate) fn source_port(transport: u8, port: u16) -> Part {
    let text = format!("{} sport {port}", transport_name(transport));
    part(
        text,
        port_at(transport, 0, compare(R0, Is::Equal, &port.to_be_bytes())),
    )
}

/// `tcp dport @SET` (or udp).
pub(crate) fn destination_port_in(transport: u8, set: &SetRef) -> Part {
    let text = format!("{} dport @{}", transport_name(transport), set.name);
    part(text, port_at(transport, 2, in_set(set, R0)))
}

fn port_at(transport: u8, offset: u32, test: Expression) -> Vec<Expression> {
    let mut expressions = protocol(transport).expressions;
    expressions.push(payload(Base::Transport, offset, 2, R0));
    expressions.push(test);
    expressions
}

/// `ip saddr RANGE` or `ip6 saddr RANGE`.
pub(crate) fn source(range: IpRange) -> Part {
    address("saddr", range, Is::Equal, SOURCE)
}

/// `ip daddr RANGE` or `ip6 daddr RANGE`.
pub(crate) fn destination(is: Is, range: IpRange) -> Part {
    address("daddr", range, is, DESTINATION)
}

/// `ip daddr RANGE` in a table of one address family, where the version needs no check.
pub(crate) fn destination_in_family(is: Is, range: IpRange) -> Part {
    bare_address(range, is, DESTINATION).into()
}

/// `ip daddr @SET` (IPv4) or `ip6 daddr @SET`.
pub(crate) fn destination_in(ipv6: bool, set: &SetRef) -> Part {
    address_in("daddr", ipv6, set, DESTINATION)
}

/// `ip saddr @SET` (IPv4) or `ip6 saddr @SET`.
pub(crate) fn source_in(ipv6: bool, set: &SetRef) -> Part {
    address_in("saddr", ipv6, set, SOURCE)
}

fn address_in(side: &str, ipv6: bool, set: &SetRef, (offset4, offset6): (u32, u32)) -> Part {
    let (offset, length) = if ipv6 { (offset6, 16) } else { (offset4, 4) };
    let mut expressions = ip_version(ipv6).expressions;
    expressions.push(payload(Base::Network, offset, length, R0));
    expressions.push(in_set(set, R0));
    part(
        format!("{} {side} @{}", family_name(ipv6), set.name),
        expressions,
    )
}

fn address(side: &str, range: IpRange, is: Is, offsets: (u32, u32)) -> Part {
    let ipv6 = range.address.is_ipv6();
    let mut expressions = ip_version(ipv6).expressions;
    expressions.extend(bare_address(range, is, offsets));
    let whole = range.prefix == if ipv6 { 128 } else { 32 };
    let suffix = if whole {
        String::new()
    } else {
        format!("/{}", range.prefix)
    };
    let text = format!(
        "{} {side} {}{}{suffix}",
        family_name(ipv6),
        operator(is),
        range.address
    );
    part(text, expressions)
}

fn bare_address(range: IpRange, is: Is, (offset4, offset6): (u32, u32)) -> Vec<Expression> {
    let bytes = address_bytes(range.address);
    let offset = if range.address.is_ipv6() {
        offset6
    } else {
        offset4
    };
    let bits = prefix_mask(range.prefix, bytes.len());
    let network: Vec<u8> = bytes.iter().zip(&bits).map(|(a, m)| a & m).collect();
    let mut expressions = vec![payload(Base::Network, offset, bytes.len() as u32, R0)];
    if usize::from(range.prefix) < bytes.len() * 8 {
        expressions.push(mask(R0, &bits));
    }
    expressions.push(compare(R0, is, &network));
    expressions
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
    let expressions = vec![meta(Meta::NfProto, R0), compare(R0, Is::Equal, &[number])];
    part(
        if ipv6 {
            "meta nfproto ipv6"
        } else {
            "meta nfproto ipv4"
        },
        expressions,
    )
}

/// A verdict.
pub(crate) fn then(what: Verdict) -> Part {
    let text = match &what {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
    };
    part(text, vec![verdict(&what)])
}

/// `redirect to :PORT`.
pub(crate) fn redirect_to(port: u16) -> Part {
    let expressions = vec![immediate(R0, &port.to_be_bytes()), redirect(R0)];
    part(format!("redirect to :{port}"), expressions)
}

/// `tproxy ip to :PORT` or `tproxy ip6 to :PORT`.
pub(crate) fn tproxy_to(ipv6: bool, port: u16) -> Part {
    let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    let expressions = vec![
        immediate(R0, &port.to_be_bytes()),
        transparent_proxy(family, None, R0),
    ];
    part(
        format!("tproxy {} to :{port}", family_name(ipv6)),
        expressions,
    )
}

/// `dnat ip to ADDRESS:PORT`.
pub(crate) fn dnat_to(to: SocketAddrV4) -> Part {
    let expressions = vec![
        immediate(R0, &to.ip().octets()),
        immediate(R1, &to.port().to_be_bytes()),
        destination_nat(R0, R1),
    ];
    part(format!("dnat ip to {to}"), expressions)
}

/// `ct zone set N`.
pub(crate) fn set_zone(zone: u16) -> Part {
    let expressions = vec![
        immediate(R0, &zone.to_ne_bytes()),
        conntrack_set(Conntrack::Zone, R0),
    ];
    part(format!("ct zone set {zone}"), expressions)
}

/// `ct mark N`.
pub(crate) fn connection_marked(mark: u32) -> Part {
    let expressions = vec![
        conntrack(Conntrack::Mark, R0),
        compare(R0, Is::Equal, &mark.to_ne_bytes()),
    ];
    part(format!("ct mark {mark:#x}"), expressions)
}

/// `ct mark set N`.
pub(crate) fn set_connection_mark(mark: u32) -> Part {
    let expressions = vec![
        immediate(R0, &mark.to_ne_bytes()),
        conntrack_set(Conntrack::Mark, R0),
    ];
    part(format!("ct mark set {mark:#x}"), expressions)
}

/// `ct direction reply`.
pub(crate) fn reply_direction() -> Part {
    let expressions = vec![
        conntrack(Conntrack::Direction, R0),
        compare(R0, Is::Equal, &[1]),
    ];
    part("ct direction reply", expressions)
}

/// `ct state invalid`.
pub(crate) fn invalid_state() -> Part {
    let invalid = 1u32.to_ne_bytes();
    let expressions = vec![
        conntrack(Conntrack::State, R0),
        mask(R0, &invalid),
        compare(R0, Is::Different, &[0; 4]),
    ];
    part("ct state invalid", expressions)
}

/// One address as a range.
pub(crate) fn host(address: IpAddr) -> IpRange {
    IpRange {
        address,
        prefix: if address.is_ipv6() { 128 } else { 32 },
    }
}

fn operator(is: Is) -> &'static str {
    match is {
        Is::Equal => "",
        Is::Different => "!= ",
    }
}

fn transport_name(number: u8) -> &'static str {
    if number == UDP { "udp" } else { "tcp" }
}

fn family_name(ipv6: bool) -> &'static str {
    if ipv6 { "ip6" } else { "ip" }
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
