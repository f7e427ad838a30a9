//! The expressions of a rule: each loads, compares or changes something and passes the packet on to
//! the next, or ends with a verdict.

use super::SetRef;
use crate::netlink::message::Buffer;

/// The first 32-bit register; values longer than four bytes take the following ones too.
pub(crate) const R0: u32 = 8;
/// The second 32-bit register.
pub(crate) const R1: u32 = 9;
/// The third 32-bit register.
pub(crate) const R2: u32 = 10;
/// The register that takes verdicts.
const VERDICT_REGISTER: u32 = 0;

const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// One encoded expression.
#[derive(Debug, Clone)]
pub(crate) struct Expression {
    pub(crate) name: &'static str,
    pub(crate) data: Vec<u8>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Let it pass this hook.
    Accept,
    /// Throw it away.
    Drop,
    /// Back to the calling chain.
    Return,
    /// On to another chain, and back.
    Jump(String),
    /// On to another chain.
    Goto(String),
}

/// What `meta` can load or set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    /// The packet's mark.
    Mark = 3,
    /// Index of the incoming link.
    Iif = 4,
    /// Index of the outgoing link.
    Oif = 5,
    /// Name of the incoming link.
    IifName = 6,
    /// Name of the outgoing link.
    OifName = 7,
    /// Owner of the sending socket.
    SkUid = 10,
    /// Group of the sending socket.
    SkGid = 11,
    /// IPv4 or IPv6.
    NfProto = 15,
    /// Transport protocol.
    L4Proto = 16,
}

/// What `ct` can load or set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conntrack {
    /// State bits.
    State = 0,
    /// Request or reply.
    Direction = 1,
    /// The connection's mark.
    Mark = 3,
    /// The tracking zone.
    Zone = 17,
}

/// Comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Is {
    /// Equal.
    Equal = 0,
    /// Different.
    Different = 1,
}

/// Which header a payload offset counts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    /// IP.
    Network = 1,
    /// TCP or UDP.
    Transport = 2,
}

/// How a number is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NumberKind {
    /// 0, 1, 2, ... in turn.
    Increment = 0,
}

fn expression(name: &'static str, body: impl FnOnce(&mut Buffer)) -> Expression {
    let mut buffer = Buffer::new();
    body(&mut buffer);
    Expression {
        name,
        data: buffer.bytes().to_vec(),
    }
}

/// Writes data for a register.
pub(crate) fn data_value(b: &mut Buffer, data: &[u8]) {
    b.attribute(DATA_VALUE, data);
}

/// Writes a verdict as data.
pub(crate) fn data_verdict(b: &mut Buffer, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5i32, None),
    };
    b.nest(DATA_VERDICT, |b| {
        b.be32(VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            b.string(VERDICT_CHAIN, chain);
        }
    });
}

/// Loads packet metadata.
pub(crate) fn meta(key: Meta, to: u32) -> Expression {
    expression("meta", |b| {
        b.be32(1, to);
        b.be32(2, key as u32);
    })
}

/// Sets packet metadata.
pub(crate) fn meta_set(key: Meta, from: u32) -> Expression {
    expression("meta", |b| {
        b.be32(2, key as u32);
        b.be32(3, from);
    })
}

/// Goes on only when the register compares so.
pub(crate) fn compare(register: u32, is: Is, data: &[u8]) -> Expression {
    expression("cmp", |b| {
        b.be32(1, register);
        b.be32(2, is as u32);
        b.nest(3, |b| data_value(b, data));
    })
}

/// Loads header bytes.
pub(crate) fn payload(base: Base, offset: u32, length: u32, to: u32) -> Expression {
    expression("payload", |b| {
        b.be32(1, to);
        b.be32(2, base as u32);
        b.be32(3, offset);
        b.be32(4, length);
    })
}

/// Keeps the bits of `mask`.
pub(crate) fn mask(register: u32, mask: &[u8]) -> Expression {
    expression("bitwise", |b| {
        b.be32(1, register);
        b.be32(2, register);
        b.be32(3, mask.len() as u32);
        b.nest(4, |b| data_value(b, mask));
        b.nest(5, |b| data_value(b, &vec![0; mask.len()]));
    })
}

/// Loads a constant.
pub(crate) fn immediate(to: u32, data: &[u8]) -> Expression {
    expression("immediate", |b| {
        b.be32(1, to);
        b.nest(2, |b| data_value(b, data));
    })
}

/// Ends the rule with a verdict.
pub(crate) fn verdict(verdict: &Verdict) -> Expression {
    expression("immediate", |b| {
        b.be32(1, VERDICT_REGISTER);
        b.nest(2, |b| data_verdict(b, verdict));
    })
}

/// Goes on only when the register's value is in the set.
pub(crate) fn in_set(set: &SetRef, register: u32) -> Expression {
    lookup(set, register, None)
}

/// Replaces the key in `register` by the map's value in `to`.
pub(crate) fn map_lookup(set: &SetRef, register: u32, to: u32) -> Expression {
    lookup(set, register, Some(to))
}

/// Follows the map's verdict.
pub(crate) fn verdict_map(set: &SetRef, register: u32) -> Expression {
    lookup(set, register, Some(VERDICT_REGISTER))
}

fn lookup(set: &SetRef, register: u32, to: Option<u32>) -> Expression {
    expression("lookup", |b| {
        b.string(1, &set.name);
        b.be32(2, register);
        if let Some(to) = to {
            b.be32(3, to);
        }
        if set.id != 0 {
            b.be32(4, set.id);
        }
    })
}

/// Redirects to this host, port in `register` (two bytes, network order).
pub(crate) fn redirect(register: u32) -> Expression {
    expression("redir", |b| b.be32(1, register))
}

/// Rewrites the destination to the IPv4 address and port in these registers.
pub(crate) fn destination_nat(address: u32, port: u32) -> Expression {
    expression("nat", |b| {
        b.be32(1, 1);
        b.be32(2, libc::AF_INET as u32);
        b.be32(3, address);
        b.be32(4, address);
        b.be32(5, port);
        b.be32(6, port);
    })
}

/// Rewrites the source to the outgoing link's address.
pub(crate) fn masquerade() -> Expression {
    expression("masq", |_| ())
}

/// A number below `modulus`.
pub(crate) fn number(kind: NumberKind, modulus: u32, to: u32) -> Expression {
    expression("numgen", |b| {
        b.be32(1, to);
        b.be32(2, modulus);
        b.be32(3, kind as u32);
    })
}

/// A hash below `modulus` of `length` bytes from `register`.
pub(crate) fn hash(register: u32, length: u32, modulus: u32, to: u32) -> Expression {
    expression("hash", |b| {
        b.be32(1, register);
        b.be32(2, to);
        b.be32(3, length);
        b.be32(4, modulus);
        b.be32(5, 0x4d65_6c74);
        b.be32(7, 0);
    })
}

/// Delivers to a local transparent socket: address (none: the incoming link's) and port registers.
pub(crate) fn transparent_proxy(family: i32, address: Option<u32>, port: u32) -> Expression {
    expression("tproxy", |b| {
        b.be32(1, family as u32);
        if let Some(address) = address {
            b.be32(2, address);
        }
        b.be32(3, port);
    })
}

/// Loads connection metadata.
pub(crate) fn conntrack(key: Conntrack, to: u32) -> Expression {
    expression("ct", |b| {
        b.be32(1, to);
        b.be32(2, key as u32);
    })
}

/// Sets connection metadata.
pub(crate) fn conntrack_set(key: Conntrack, from: u32) -> Expression {
    expression("ct", |b| {
        b.be32(2, key as u32);
        b.be32(4, from);
    })
}

/// Answers a TCP packet with a reset.
pub(crate) fn reject_reset() -> Expression {
    expression("reject", |b| {
        b.be32(1, 1);
        b.attribute(2, &[0]);
    })
}

/// Answers with "port unreachable".
pub(crate) fn reject_unreachable() -> Expression {
    expression("reject", |b| {
        b.be32(1, 0);
        b.attribute(2, &[3]);
    })
}
