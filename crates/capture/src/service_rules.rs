//! Services in the node's namespace: one verdict map from (address, protocol, port) to a chain that
//! picks an endpoint. One change costs one small transaction, not one per pod.
//!
//! Knows addresses only, not Services: the caller resolves those.

use crate::netlink::NetlinkError;
use crate::netlink::conntrack::ConntrackSocket;
use crate::netlink::nft::expression::{
    Base, Is, Meta, NumberKind, R0, R1, R2, Verdict, destination_nat, hash, immediate, in_set,
    map_lookup, masquerade, meta, number, payload, reject_reset, reject_unreachable,
    transparent_proxy, verdict_map,
};
use crate::netlink::nft::matching::{
    Part, TCP, UDP, destination_in_family, dnat_to, from_link_prefix, not_protocol, protocol,
    set_mark, then,
};
use crate::netlink::nft::{
    Batch, DataType, Element, Family, Hook, HookPoint, MapValue, NftSocket, SetRef, Value,
    existing_set,
};
use crate::netlink::route::{LOOPBACK, Route, RouteKind, RouteSocket};
use crate::netns::NetNs;
use crate::pod_network::{Cidr4, POD_LINK_PREFIX};
use crate::pod_rules::IpRange;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

const TABLE: &str = "svc";
const SERVICES: &str = "services";
const HAIRPIN: &str = "hairpin";
/// A transaction is split beyond this size: one datagram must fit the socket's buffer.
const MAX_BATCH: usize = 96 * 1024;
/// The mark and routing table that deliver leaving UDP to the local relay.
const UDP_MARK: u32 = 1;
const UDP_TABLE: u32 = 100;

/// A transport protocol that services can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// How an endpoint is chosen for a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Affinity {
    /// Exact round robin.
    #[default]
    None,
    /// The same client address gets the same endpoint (while the endpoints stay).
    ClientIp,
}

/// One address and port that is translated to endpoints. ClusterIPs, load-balancer addresses and
/// external IPs are all rules of their own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceRule {
    /// The address that clients dial.
    pub address: Ipv4Addr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port that clients dial.
    pub port: u16,
    /// Where connections go; empty means refused at once.
    pub backends: Vec<SocketAddrV4>,
    /// How a backend is chosen.
    pub affinity: Affinity,
}

/// The fixed part of the table.
#[derive(Debug, Clone)]
pub struct ServiceTableConfig {
    /// Networks whose unknown addresses and ports answer "connection refused" instead of hanging.
    pub refuse: Vec<Cidr4>,
    /// Connections of pods that leave for none of these networks go to `egress_tcp`.
    pub inside: Vec<Cidr4>,
    /// Where TCP that leaves the cluster goes: the gateway's address and a port in the node's
    /// namespace; the listener asks [`crate::original_dst`] where to.
    pub egress_tcp: Option<SocketAddrV4>,
    /// The same for UDP, delivered by TPROXY: a port on 127.0.0.1 in the node's namespace.
    pub egress_udp: Option<u16>,
}

/// What an update changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Changes {
    /// Rules that are new.
    pub added: usize,
    /// Rules whose backends or affinity changed.
    pub updated: usize,
    /// Rules that are gone.
    pub removed: usize,
}

type Key = (Ipv4Addr, Protocol, u16);
type Target = (Vec<SocketAddrV4>, Affinity);

/// The table `ip svc` of the node's namespace and what was last written to it.
#[derive(Debug)]
pub struct ServiceTable {
    socket: NftSocket,
    tracked: ConntrackSocket,
    config: ServiceTableConfig,
    services: BTreeMap<Key, Target>,
    hairpin: BTreeSet<Ipv4Addr>,
    /// The last update failed half-way: write everything anew.
    stale: bool,
}

impl ServiceTable {
    /// Installs the table without services.
    pub fn create(netns: &NetNs, config: ServiceTableConfig) -> Result<Self, NetlinkError> {
        if config.egress_udp.is_some() {
            deliver_marked_locally(netns)?;
        }
        let mut table = Self {
            socket: NftSocket::open_in(netns)?,
            tracked: ConntrackSocket::open_in(netns)?,
            config,
            services: BTreeMap::new(),
            hairpin: BTreeSet::new(),
            stale: false,
        };
        table.write_base()?;
        Ok(table)
    }

    /// Makes the table say exactly `rules`: only differences are sent, in one transaction (more
    /// than one when very large). Established connections stay. On error call it again with the
    /// whole list: what the kernel has is then written anew.
    pub fn apply(&mut self, rules: &[ServiceRule]) -> Result<Changes, NetlinkError> {
        if self.stale {
            self.write_base()?;
        }
        let wanted: BTreeMap<Key, Target> = rules
            .iter()
            .filter(|rule| !rule.backends.is_empty())
            .map(|r| {
                (
                    (r.address, r.protocol, r.port),
                    (r.backends.clone(), r.affinity),
                )
            })
            .collect();
        self.stale = true;
        let changes = self.write_changes(&wanted)?;
        self.write_hairpins(&wanted)?;
        self.forget_flows(&wanted)?;
        self.services = wanted;
        self.stale = false;
        Ok(changes)
    }

    fn write_changes(&mut self, wanted: &BTreeMap<Key, Target>) -> Result<Changes, NetlinkError> {
        let mut changes = Changes::default();
        let map = existing_set(SERVICES);
        let mut batch = Batch::new(Family::Ip, TABLE);
        for key in self.services.keys().filter(|key| !wanted.contains_key(key)) {
            changes.removed += 1;
            let chain = chain_name(key);
            batch.delete_elements(&map, &[(map_element(key).0, None)]);
            batch.flush_chain(&chain);
            batch.delete_chain(&chain);
            commit_when_large(&mut self.socket, &mut batch)?;
        }
        for (key, target) in wanted {
            let chain = chain_name(key);
            match self.services.get(key) {
                Some(old) if old == target => continue,
                Some(_) => {
                    changes.updated += 1;
                    batch.flush_chain(&chain);
                    add_choice(&mut batch, &chain, target);
                }
                None => {
                    changes.added += 1;
                    batch.add_chain(&chain, None);
                    add_choice(&mut batch, &chain, target);
                    batch.add_elements(&map, &[map_element(key)]);
                }
            }
            commit_when_large(&mut self.socket, &mut batch)?;
        }
        commit(&mut self.socket, batch)?;
        Ok(changes)
    }

    /// A backend that reaches itself through its own service needs another source address.
    fn write_hairpins(&mut self, wanted: &BTreeMap<Key, Target>) -> Result<(), NetlinkError> {
        let addresses: BTreeSet<Ipv4Addr> = wanted
            .values()
            .flat_map(|(backends, _)| backends)
            .map(|b| *b.ip())
            .collect();
        let set = existing_set(HAIRPIN);
        let element = |address: &Ipv4Addr| -> Element { ([address.octets(); 2].concat(), None) };
        let gone: Vec<_> = self.hairpin.difference(&addresses).map(element).collect();
        let new: Vec<_> = addresses.difference(&self.hairpin).map(element).collect();
        let mut batch = Batch::new(Family::Ip, TABLE);
        batch.delete_elements(&set, &gone);
        batch.add_elements(&set, &new);
        commit(&mut self.socket, batch)?;
        self.hairpin = addresses;
        Ok(())
    }

    /// UDP clients of changed services leave endpoints that are gone.
    fn forget_flows(&mut self, wanted: &BTreeMap<Key, Target>) -> Result<(), NetlinkError> {
        let before = &self.services;
        let is_changed = |key: &Key| wanted.get(key) != before.get(key);
        let mut keys = before.keys().chain(wanted.keys());
        if !keys.any(|key| key.1 == Protocol::Udp && is_changed(key)) {
            return Ok(());
        }
        self.tracked.forget_udp(|flow| {
            let key = (*flow.dialled.ip(), Protocol::Udp, flow.dialled.port());
            let valid = wanted
                .get(&key)
                .is_some_and(|(all, _)| all.contains(&flow.backend));
            is_changed(&key) && !valid
        })
    }

    fn write_base(&mut self) -> Result<(), NetlinkError> {
        let mut batch = Batch::new(Family::Ip, TABLE);
        batch.replace_table();
        let key = DataType::joined(&[DataType::ADDRESS4, DataType::PROTOCOL, DataType::PORT]);
        let services = batch.add_set(SERVICES, key, Some(MapValue::Verdict));
        let pair = DataType::joined(&[DataType::ADDRESS4, DataType::ADDRESS4]);
        let hairpin = batch.add_set(HAIRPIN, pair, None);
        for (chain, point) in [("pre", HookPoint::Prerouting), ("out", HookPoint::Output)] {
            batch.add_chain(
                chain,
                Some(Hook {
                    kind: "nat",
                    point,
                    priority: -100,
                }),
            );
            batch.add_rule(chain, &[find_service(&services)]);
        }
        batch.add_chain(
            "post",
            Some(Hook {
                kind: "nat",
                point: HookPoint::Postrouting,
                priority: 100,
            }),
        );
        batch.add_rule("post", &[addresses_in(&hairpin), vec![masquerade()].into()]);
        self.add_refusals(&mut batch);
        self.add_egress(&mut batch);
        self.socket.commit(batch)?;
        self.services.clear();
        self.hairpin.clear();
        self.stale = false;
        Ok(())
    }

    fn add_refusals(&self, batch: &mut Batch) {
        batch.add_chain("nosvc", None);
        for network in &self.config.refuse {
            let unknown = destination_in_family(Is::Equal, range(network));
            batch.add_rule(
                "nosvc",
                &[unknown.clone(), protocol(TCP), vec![reject_reset()].into()],
            );
            batch.add_rule("nosvc", &[unknown, vec![reject_unreachable()].into()]);
        }
        for (chain, point) in [
            ("nosvc_f", HookPoint::Forward),
            ("nosvc_o", HookPoint::Output),
        ] {
            batch.add_chain(
                chain,
                Some(Hook {
                    kind: "filter",
                    point,
                    priority: 0,
                }),
            );
            batch.add_rule(chain, &[then(Verdict::Jump("nosvc".to_owned()))]);
        }
    }

    /// What pods send to the outside world goes to relays in the node's namespace.
    fn add_egress(&self, batch: &mut Batch) {
        let outside: Vec<Part> = std::iter::once(from_link_prefix(POD_LINK_PREFIX))
            .chain(
                self.config
                    .inside
                    .iter()
                    .map(|n| destination_in_family(Is::Different, range(n))),
            )
            .collect();
        if let Some(listener) = self.config.egress_tcp {
            batch.add_chain(
                "egress",
                Some(Hook {
                    kind: "nat",
                    point: HookPoint::Prerouting,
                    priority: -95,
                }),
            );
            let action = [protocol(TCP), dnat_to(listener)];
            batch.add_rule("egress", &[outside.as_slice(), action.as_slice()].concat());
        }
        if let Some(port) = self.config.egress_udp {
            let hook = Hook {
                kind: "filter",
                point: HookPoint::Prerouting,
                priority: -150,
            };
            batch.add_chain("egress_udp", Some(hook));
            batch.add_rule("egress_udp", &[not_protocol(UDP), then(Verdict::Return)]);
            let action = [
                protocol(UDP),
                set_mark(UDP_MARK),
                vec![
                    immediate(R0, &Ipv4Addr::LOCALHOST.octets()),
                    immediate(R1, &port.to_be_bytes()),
                    transparent_proxy(libc::AF_INET, Some(R0), R1),
                ]
                .into(),
                then(Verdict::Accept),
            ];
            batch.add_rule(
                "egress_udp",
                &[outside.as_slice(), action.as_slice()].concat(),
            );
        }
    }
}

fn commit_when_large(socket: &mut NftSocket, batch: &mut Batch) -> Result<(), NetlinkError> {
    if batch.size() < MAX_BATCH {
        return Ok(());
    }
    commit(
        socket,
        std::mem::replace(batch, Batch::new(Family::Ip, TABLE)),
    )
}

fn commit(socket: &mut NftSocket, batch: Batch) -> Result<(), NetlinkError> {
    if batch.is_empty() {
        Ok(())
    } else {
        socket.commit(batch)
    }
}

/// `ip daddr . meta l4proto . th dport vmap @services`.
fn find_service(services: &SetRef) -> Part {
    vec![
        payload(Base::Network, 16, 4, R0),
        meta(Meta::L4Proto, R1),
        payload(Base::Transport, 2, 2, R2),
        verdict_map(services, R0),
    ]
    .into()
}

/// `ip saddr . ip daddr @hairpin`.
fn addresses_in(set: &SetRef) -> Part {
    vec![
        payload(Base::Network, 12, 4, R0),
        payload(Base::Network, 16, 4, R1),
        in_set(set, R0),
    ]
    .into()
}

/// The rule of a service's chain: choose a backend, rewrite the destination.
fn add_choice(batch: &mut Batch, chain: &str, (backends, affinity): &Target) {
    let transport = if chain.starts_with("udp") {
        protocol(UDP)
    } else {
        protocol(TCP)
    };
    if let [only] = backends.as_slice() {
        batch.add_rule(chain, &[transport, dnat_to(*only)]);
        return;
    }
    let elements: Vec<Element> = backends
        .iter()
        .enumerate()
        .map(|(index, backend)| {
            let mut data = backend.ip().octets().to_vec();
            data.extend_from_slice(&backend.port().to_be_bytes());
            data.extend_from_slice(&[0, 0]);
            (
                (index as u32).to_ne_bytes().to_vec(),
                Some(Value::Data(data)),
            )
        })
        .collect();
    let value = DataType::joined(&[DataType::ADDRESS4, DataType::PORT]);
    let map = batch.anonymous(DataType::INTEGER, Some(MapValue::Data(value)), &elements);
    let count = backends.len() as u32;
    let mut choice = match affinity {
        Affinity::None => vec![number(NumberKind::Increment, count, R0)],
        Affinity::ClientIp => vec![payload(Base::Network, 12, 4, R1), hash(R1, 4, count, R0)],
    };
    choice.push(map_lookup(&map, R0, R0));
    choice.push(destination_nat(R0, R1));
    batch.add_rule(chain, &[transport, choice.into()]);
}

fn chain_name((address, protocol, port): &Key) -> String {
    let kind = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{kind}_{address}_{port}")
}

fn map_element(key: &Key) -> Element {
    let (address, transport, port) = key;
    let number = match transport {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    let mut bytes = address.octets().to_vec();
    bytes.extend_from_slice(&[number, 0, 0, 0]);
    bytes.extend_from_slice(&port.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    (bytes, Some(Value::Verdict(Verdict::Goto(chain_name(key)))))
}

fn range(network: &Cidr4) -> IpRange {
    IpRange {
        address: IpAddr::V4(network.address),
        prefix: network.prefix,
    }
}

/// Packets with the relay's mark are delivered here, whatever their destination.
fn deliver_marked_locally(netns: &NetNs) -> Result<(), NetlinkError> {
    let mut route = RouteSocket::open_in(netns)?;
    route.add_mark_rule(false, UDP_MARK, UDP_TABLE)?;
    route.add_route(&Route {
        link: Some(LOOPBACK),
        kind: RouteKind::Local,
        table: UDP_TABLE,
        ..Route::to(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)
    })
}
