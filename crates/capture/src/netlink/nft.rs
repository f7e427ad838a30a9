//! nf_tables: tables, chains, sets, maps, elements and rules, sent as one atomic batch.
//!
//! Integers in attributes are big-endian. Data in registers is in host order for what the kernel
//! computes (marks, ids, numbers) and in network order for what packets carry (addresses, ports).

pub(crate) mod expression;
pub(crate) mod matching;

use super::message::{APPEND, Buffer, CREATE, EXCL, REQUEST};
use super::socket::{NetlinkError, NetlinkSocket};
use crate::netns::NetNs;
use expression::{Verdict, data_value, data_verdict};
use matching::Part;
use nix::sys::socket::SockProtocol;
use std::net::{Ipv4Addr, Ipv6Addr};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
const SET_DATA_LENGTH: u16 = 7;
const SET_ID: u16 = 10;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENTS_SET_ID: u16 = 4;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_DATA: u16 = 2;

const ANONYMOUS: u32 = 1;
const CONSTANT: u32 = 2;
const MAP: u32 = 8;
/// The data type of verdict maps.
const VERDICT_TYPE: u32 = 0xffff_ff00;
/// Elements in one message: keeps each attribute below its 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 500;

/// The protocol family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    /// IPv4.
    Ip = 2,
}

/// Where a base chain is attached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    /// `nat`, `filter` or `route`.
    pub(crate) kind: &'static str,
    /// The point on the packet's way.
    pub(crate) point: HookPoint,
    /// Lower runs earlier.
    pub(crate) priority: i32,
}

/// Points on a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookPoint {
    /// Just arrived.
    Prerouting = 0,
    /// Passing through.
    Forward = 2,
    /// Made here.
    Output = 3,
    /// About to leave.
    Postrouting = 4,
}

impl HookPoint {
    fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// What a set's keys (or a map's values) are: their length and the number by which the `nft` tool
/// shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DataType {
    number: u32,
    length: u32,
}

impl DataType {
    /// An IPv4 address.
    pub(crate) const ADDRESS4: Self = Self {
        number: 7,
        length: 4,
    };
    /// An IPv6 address.
    pub(crate) const ADDRESS6: Self = Self {
        number: 8,
        length: 16,
    };
    /// A transport protocol.
    pub(crate) const PROTOCOL: Self = Self {
        number: 12,
        length: 4,
    };
    /// A port.
    pub(crate) const PORT: Self = Self {
        number: 13,
        length: 2,
    };
    /// A number in host order; shown as a mark, because plain numbers have no type of their own.
    pub(crate) const INTEGER: Self = Self {
        number: 19,
        length: 4,
    };

    /// As `nft` calls it; only what stands in listings.
    fn name(self) -> Option<&'static str> {
        match self {
            Self::ADDRESS4 => Some("ipv4_addr"),
            Self::ADDRESS6 => Some("ipv6_addr"),
            Self::PORT => Some("inet_service"),
            _ => None,
        }
    }

    /// Several values side by side, each padded to four bytes.
    pub(crate) fn joined(parts: &[Self]) -> Self {
        parts.iter().fold(
            Self {
                number: 0,
                length: 0,
            },
            |all, part| Self {
                number: all.number << 6 | part.number,
                length: all.length + part.length.next_multiple_of(4),
            },
        )
    }
}

/// What a map's elements lead to.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Bytes for a register.
    Data(Vec<u8>),
    /// A verdict.
    Verdict(Verdict),
}

/// One element: its key and, in a map, its value.
pub(crate) type Element = (Vec<u8>, Option<Value>);

/// A set that lookups of the same batch refer to.
#[derive(Debug, Clone)]
pub(crate) struct SetRef {
    pub(crate) name: String,
    pub(crate) id: u32,
}

/// Changes to one table, applied together or not at all.
#[derive(Debug)]
pub(crate) struct Batch {
    buffer: Buffer,
    family: Family,
    table: String,
    messages: usize,
    sets: u32,
    /// The same as commands of the `nft` tool.
    listing: Vec<String>,
}

impl Batch {
    /// An empty batch for `table`.
    pub(crate) fn new(family: Family, table: &str) -> Self {
        let mut buffer = Buffer::new();
        batch_mark(&mut buffer, BATCH_BEGIN);
        Self {
            buffer,
            family,
            table: table.to_owned(),
            messages: 0,
            sets: 0,
            listing: Vec::new(),
        }
    }

    /// Whether nothing was added yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Bytes so far.
    pub(crate) fn size(&self) -> usize {
        self.buffer.bytes().len()
    }

    /// Makes the table unless it exists.
    pub(crate) fn add_table(&mut self) {
        let table = self.table.clone();
        self.put(NEWTABLE, CREATE, |b| b.string(TABLE_NAME, &table));
    }

    /// Deletes the table with all it holds; it must exist.
    pub(crate) fn delete_table(&mut self) {
        let table = self.table.clone();
        self.put(DELTABLE, 0, |b| b.string(TABLE_NAME, &table));
    }

    /// Makes the table; `EEXIST` when there is one.
    pub(crate) fn add_new_table(&mut self) {
        let table = self.table.clone();
        self.list("add table {table}");
        self.put(NEWTABLE, CREATE | EXCL, |b| b.string(TABLE_NAME, &table));
    }

    /// An empty table, whatever was there before. Deleting makes the kernel wait for all packets
    /// on their way (about 17 ms): prefer [`Self::add_new_table`] where there is likely none.
    pub(crate) fn replace_table(&mut self) {
        self.add_table();
        self.delete_table();
        self.add_table();
    }

    /// A chain; without a hook it is only reached by jumps.
    pub(crate) fn add_chain(&mut self, name: &str, hook: Option<Hook>) {
        let table = self.table.clone();
        self.list(&match hook {
            None => format!("add chain {{table}} {name}"),
            Some(hook) => format!(
                "add chain {{table}} {name} {{ type {} hook {} priority {}; }}",
                hook.kind,
                hook.point.name(),
                hook.priority
            ),
        });
        self.put(NEWCHAIN, CREATE, |b| {
            b.string(CHAIN_TABLE, &table);
            b.string(CHAIN_NAME, name);
            if let Some(hook) = hook {
                b.nest(CHAIN_HOOK, |b| {
                    b.be32(HOOK_NUMBER, hook.point as u32);
                    b.be32(HOOK_PRIORITY, hook.priority as u32);
                });
                b.string(CHAIN_TYPE, hook.kind);
            }
        });
    }

    /// Removes the rules of a chain.
    pub(crate) fn flush_chain(&mut self, name: &str) {
        let table = self.table.clone();
        self.put(DELRULE, 0, |b| {
            b.string(RULE_TABLE, &table);
            b.string(RULE_CHAIN, name);
        });
    }

    /// Deletes an empty chain that nothing jumps to.
    pub(crate) fn delete_chain(&mut self, name: &str) {
        let table = self.table.clone();
        self.put(DELCHAIN, 0, |b| {
            b.string(CHAIN_TABLE, &table);
            b.string(CHAIN_NAME, name);
        });
    }

    /// A named set (`value` = `None`), map or verdict map.
    pub(crate) fn add_set(&mut self, name: &str, key: DataType, value: Option<MapValue>) -> SetRef {
        self.new_set(name, 0, key, value)
    }

    /// A set or map without a name of its own, for one rule.
    pub(crate) fn anonymous(
        &mut self,
        key: DataType,
        value: Option<MapValue>,
        elements: &[Element],
    ) -> SetRef {
        let name = if value.is_some() {
            "__map%d"
        } else {
            "__set%d"
        };
        let set = self.new_set(name, ANONYMOUS | CONSTANT, key, value);
        self.add_elements(&set, elements);
        set
    }

    /// Adds elements.
    pub(crate) fn add_elements(&mut self, set: &SetRef, elements: &[Element]) {
        let keys: Option<Vec<String>> = elements.iter().map(|(key, _)| key_text(key)).collect();
        if let Some(keys) = keys.filter(|keys| !keys.is_empty()) {
            let command = format!(
                "add element {{table}} {} {{ {} }}",
                set.name,
                keys.join(", ")
            );
            self.list(&command);
        }
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.elements(NEWSETELEM, CREATE, set, chunk);
        }
    }

    /// Removes elements; they must exist.
    pub(crate) fn delete_elements(&mut self, set: &SetRef, elements: &[Element]) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.elements(DELSETELEM, 0, set, chunk);
        }
    }

    /// Appends a rule made of its parts.
    pub(crate) fn add_rule(&mut self, chain: &str, parts: &[Part]) {
        let table = self.table.clone();
        let words: Vec<&str> = parts
            .iter()
            .map(|part| part.text.as_str())
            .filter(|text| !text.is_empty())
            .collect();
        self.list(&format!("add rule {{table}} {chain} {}", words.join(" ")));
        self.put(NEWRULE, CREATE | APPEND, |b| {
            b.string(RULE_TABLE, &table);
            b.string(RULE_CHAIN, chain);
            b.nest(RULE_EXPRESSIONS, |b| {
                for expression in parts.iter().flat_map(|part| &part.expressions) {
                    b.nest(LIST_ELEMENT, |b| {
                        b.string(EXPRESSION_NAME, expression.name);
                        b.nest(EXPRESSION_DATA, |b| b.put(&expression.data));
                    });
                }
            });
        });
    }

    /// What the batch does, as commands of the `nft` tool.
    pub(crate) fn listing(&self) -> String {
        self.listing.join("\n")
    }

    fn list(&mut self, command: &str) {
        let family = if self.family == Family::Inet {
            "inet"
        } else {
            "ip"
        };
        let table = format!("{family} {}", self.table);
        self.listing.push(command.replace("{table}", &table));
    }

    fn new_set(
        &mut self,
        name: &str,
        flags: u32,
        key: DataType,
        value: Option<MapValue>,
    ) -> SetRef {
        if let Some(kind) = key.name() {
            self.list(&format!("add set {{table}} {name} {{ type {kind}; }}"));
        }
        self.sets += 1;
        let id = self.sets;
        let table = self.table.clone();
        let flags = if value.is_some() { flags | MAP } else { flags };
        self.put(NEWSET, CREATE, |b| {
            b.string(SET_TABLE, &table);
            b.string(SET_NAME, name);
            b.be32(SET_FLAGS, flags);
            b.be32(SET_KEY_TYPE, key.number);
            b.be32(SET_KEY_LENGTH, key.length);
            match value {
                Some(MapValue::Data(data)) => {
                    b.be32(SET_DATA_TYPE, data.number);
                    b.be32(SET_DATA_LENGTH, data.length);
                }
                Some(MapValue::Verdict) => {
                    b.be32(SET_DATA_TYPE, VERDICT_TYPE);
                    b.be32(SET_DATA_LENGTH, 0);
                }
                None => {}
            }
            b.be32(SET_ID, id);
        });
        SetRef {
            name: name.to_owned(),
            id,
        }
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &SetRef, elements: &[Element]) {
        let table = self.table.clone();
        self.put(kind, flags, |b| {
            b.string(ELEMENTS_TABLE, &table);
            b.string(ELEMENTS_SET, &set.name);
            if set.id != 0 {
                b.be32(ELEMENTS_SET_ID, set.id);
            }
            b.nest(ELEMENTS, |b| {
                for (key, value) in elements {
                    b.nest(LIST_ELEMENT, |b| {
                        b.nest(ELEMENT_KEY, |b| data_value(b, key));
                        match value {
                            Some(Value::Data(data)) => {
                                b.nest(ELEMENT_DATA, |b| data_value(b, data))
                            }
                            Some(Value::Verdict(v)) => b.nest(ELEMENT_DATA, |b| data_verdict(b, v)),
                            None => {}
                        }
                    });
                }
            });
        });
    }

    fn put(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Buffer)) {
        let family = self.family as u8;
        self.messages += 1;
        self.buffer
            .message(SUBSYSTEM << 8 | kind, REQUEST | flags, |b| {
                b.put(&[family, 0, 0, 0]);
                body(b);
            });
    }
}

/// A port or an address in words.
fn key_text(key: &[u8]) -> Option<String> {
    match key.len() {
        2 => Some(u16::from_be_bytes(key.try_into().ok()?).to_string()),
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(key).ok()?).to_string()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(key).ok()?).to_string()),
        _ => None,
    }
}

/// What the elements of a map lead to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MapValue {
    /// Values of this type.
    Data(DataType),
    /// Verdicts.
    Verdict,
}

/// A reference to a set that an earlier batch made.
pub(crate) fn existing_set(name: &str) -> SetRef {
    SetRef {
        name: name.to_owned(),
        id: 0,
    }
}

/// A `NETLINK_NETFILTER` socket in one network namespace.
#[derive(Debug)]
pub(crate) struct NftSocket(NetlinkSocket);

impl NftSocket {
    /// In the calling thread's namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        NetlinkSocket::open(SockProtocol::NetlinkNetFilter)
            .map(Self)
            .map_err(|e| NetlinkError::new("open a netfilter socket", e))
    }

    /// In `ns`, usable from any thread.
    pub(crate) fn open_in(ns: &NetNs) -> Result<Self, NetlinkError> {
        NetlinkSocket::open_in(ns, SockProtocol::NetlinkNetFilter)
            .map(Self)
            .map_err(|e| NetlinkError::new("open a netfilter socket", e))
    }

    /// Applies a batch. Nothing of it stays when it fails.
    pub(crate) fn commit(&mut self, batch: Batch) -> Result<(), NetlinkError> {
        let Batch {
            mut buffer,
            table,
            messages,
            ..
        } = batch;
        batch_mark(&mut buffer, BATCH_END);
        // The last change is acknowledged: it is answered after the commit. (Older kernels never
        // answer the end mark itself.)
        self.0.transact(&mut buffer, messages, || {
            format!("change nf_tables table {table}")
        })
    }
}

fn batch_mark(buffer: &mut Buffer, kind: u16) {
    buffer.message(kind, REQUEST, |b| {
        b.put(&[0, 0]);
        b.put(&SUBSYSTEM.to_be_bytes());
    });
}
