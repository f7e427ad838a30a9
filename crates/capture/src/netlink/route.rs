//! Links, addresses, routes and routing rules.

use super::message::{ACK, Buffer, CREATE, EXCL, REQUEST, attributes, u32_at};
use super::socket::{NetlinkError, NetlinkSocket};
use crate::netns::NetNs;
use nix::sys::socket::SockProtocol;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const NEWROUTE: u16 = 24;
const GETROUTE: u16 = 26;
const NEWRULE: u16 = 32;

const IFLA_IFNAME: u16 = 3;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 0x02;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
/// Answer a route question with the routing table's entry.
const RTM_F_FIB_MATCH: u32 = 0x2000;

/// Bytes before a link's attributes.
const LINK_HEADER: usize = 16;
/// `IF_OPER_UP`.
const OPERATIONAL: u8 = 6;
const RUNNING_DEADLINE: Duration = Duration::from_secs(5);

/// The main routing table.
pub(crate) const MAIN_TABLE: u32 = 254;
/// The loopback interface's index in every namespace.
pub(crate) const LOOPBACK: u32 = 1;

/// IPv4 settings of a link, as numbered by `IFLA_INET_CONF`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ipv4Conf {
    /// `net.ipv4.conf.LINK.forwarding`.
    Forwarding = 1,
    /// `net.ipv4.conf.LINK.send_redirects`.
    SendRedirects = 6,
    /// `net.ipv4.conf.LINK.rp_filter`.
    RpFilter = 8,
}

/// What happens to a packet that takes a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum RouteKind {
    /// Sent on.
    #[default]
    Unicast = 1,
    /// Delivered here (transparent sockets).
    Local = 2,
    /// Answered with "host unreachable".
    Unreachable = 7,
}

/// One route. Unset fields are left to the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    /// Destination network.
    pub(crate) destination: IpAddr,
    /// Its prefix length; 0 is the default route.
    pub(crate) prefix: u8,
    /// Next hop.
    pub(crate) gateway: Option<IpAddr>,
    /// Index of the outgoing link.
    pub(crate) link: Option<u32>,
    /// Preferred source address.
    pub(crate) source: Option<IpAddr>,
    /// What it does.
    pub(crate) kind: RouteKind,
    /// The routing table.
    pub(crate) table: u32,
}

impl Route {
    /// A unicast route of the main table.
    pub(crate) fn to(destination: IpAddr, prefix: u8) -> Self {
        Self {
            destination,
            prefix,
            gateway: None,
            link: None,
            source: None,
            kind: RouteKind::Unicast,
            table: MAIN_TABLE,
        }
    }
}

/// A `NETLINK_ROUTE` socket in one network namespace.
#[derive(Debug)]
pub(crate) struct RouteSocket(NetlinkSocket);

impl RouteSocket {
    /// In the calling thread's namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        NetlinkSocket::open(SockProtocol::NetlinkRoute)
            .map(Self)
            .map_err(|e| NetlinkError::new("open a routing socket", e))
    }

    /// In `ns`, usable from any thread.
    pub(crate) fn open_in(ns: &NetNs) -> Result<Self, NetlinkError> {
        NetlinkSocket::open_in(ns, SockProtocol::NetlinkRoute)
            .map(Self)
            .map_err(|e| NetlinkError::new("open a routing socket", e))
    }

    /// A pair of connected links: `name` here (with index `index`, 0 = any), `peer` with index
    /// `peer_index` in `peer_ns`.
    pub(crate) fn create_veth(
        &mut self,
        (name, index): (&str, u32),
        (peer, peer_index): (&str, u32),
        peer_ns: &NetNs,
    ) -> Result<(), NetlinkError> {
        let mut buffer = Buffer::new();
        buffer.message(NEWLINK, REQUEST | ACK | CREATE | EXCL, |b| {
            link_header(b, index, 0, 0);
            b.string(IFLA_IFNAME, name);
            b.nest(IFLA_LINKINFO, |b| {
                b.string(IFLA_INFO_KIND, "veth");
                b.nest(IFLA_INFO_DATA, |b| {
                    b.nest(VETH_INFO_PEER, |b| {
                        link_header(b, peer_index, 0, 0);
                        b.string(IFLA_IFNAME, peer);
                        b.ne32(IFLA_NET_NS_FD, peer_ns.as_fd().as_raw_fd() as u32);
                    });
                });
            });
        });
        self.0
            .transact(&mut buffer, 0, || format!("create veth {name}"))
    }

    /// Brings a link up and sets IPv4 settings of it.
    pub(crate) fn set_up(
        &mut self,
        index: u32,
        conf: &[(Ipv4Conf, u32)],
    ) -> Result<(), NetlinkError> {
        let up = libc::IFF_UP as u32;
        let mut buffer = Buffer::new();
        buffer.message(NEWLINK, REQUEST | ACK, |b| {
            link_header(b, index, up, up);
            if !conf.is_empty() {
                b.nest(IFLA_AF_SPEC, |b| {
                    b.nest(libc::AF_INET as u16, |b| {
                        b.nest(IFLA_INET_CONF, |b| {
                            for (key, value) in conf {
                                b.ne32(*key as u16, *value);
                            }
                        });
                    });
                });
            }
        });
        self.0
            .transact(&mut buffer, 0, || format!("set link {index} up"))
    }

    /// Waits until a link that was set up before its peer passes packets.
    ///
    /// The peer's coming up is noticed by a work queue of the kernel; until that has run, packets
    /// are dropped without a word and their senders lose a second. Recent kernels run it before they
    /// answer the question asked here; older ones tell when it has run.
    pub(crate) fn wait_running(&mut self, index: u32) -> Result<(), NetlinkError> {
        let deadline = Instant::now() + RUNNING_DEADLINE;
        while self.operational_state(index)? != OPERATIONAL {
            if Instant::now() > deadline {
                let late = std::io::ErrorKind::TimedOut;
                return Err(NetlinkError::new(format!("wait for link {index}"), late));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    fn operational_state(&mut self, index: u32) -> Result<u8, NetlinkError> {
        let mut buffer = Buffer::new();
        buffer.message(GETLINK, REQUEST | ACK, |b| link_header(b, index, 0, 0));
        let mut state = 0;
        self.0
            .exchange(&mut buffer, 0, |m| {
                let all = m.body.get(LINK_HEADER..).unwrap_or(&[]);
                let found = attributes(all).find(|(kind, _)| *kind == IFLA_OPERSTATE);
                state = found
                    .and_then(|(_, value)| value.first().copied())
                    .unwrap_or(0);
            })
            .map_err(|(source, detail)| NetlinkError {
                operation: format!("read the state of link {index}"),
                detail,
                source,
            })?;
        Ok(state)
    }

    /// The index of the link called `name`.
    pub(crate) fn link_index(&mut self, name: &str) -> Result<u32, NetlinkError> {
        let mut buffer = Buffer::new();
        buffer.message(GETLINK, REQUEST | ACK, |b| {
            link_header(b, 0, 0, 0);
            b.string(IFLA_IFNAME, name);
        });
        let mut index = 0;
        self.0
            .exchange(&mut buffer, 0, |m| index = u32_at(m.body, 4).unwrap_or(0))
            .map_err(|(source, detail)| NetlinkError {
                operation: format!("find link {name}"),
                detail,
                source,
            })?;
        Ok(index)
    }

    /// Deletes the link with this index.
    pub(crate) fn delete_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let mut buffer = Buffer::new();
        buffer.message(DELLINK, REQUEST | ACK, |b| link_header(b, index, 0, 0));
        self.0
            .transact(&mut buffer, 0, || format!("delete link {index}"))
    }

    /// Adds an address. IPv6 addresses skip duplicate detection: usable at once.
    pub(crate) fn add_address(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), NetlinkError> {
        let mut buffer = Buffer::new();
        buffer.message(NEWADDR, REQUEST | ACK | CREATE | EXCL, |b| {
            b.put(&[
                family(address),
                prefix,
                if address.is_ipv6() { IFA_F_NODAD } else { 0 },
                0,
            ]);
            b.put(&index.to_ne_bytes());
            let bytes = address_bytes(address);
            b.attribute(IFA_LOCAL, &bytes);
            b.attribute(IFA_ADDRESS, &bytes);
        });
        self.0
            .transact(&mut buffer, 0, || format!("add address {address}/{prefix}"))
    }

    /// Adds a route; `EEXIST` when the same destination has one.
    pub(crate) fn add_route(&mut self, route: &Route) -> Result<(), NetlinkError> {
        let mut buffer = Buffer::new();
        buffer.message(NEWROUTE, REQUEST | ACK | CREATE | EXCL, |b| {
            route_body(b, route)
        });
        self.0.transact(&mut buffer, 0, || {
            format!("add route to {}/{}", route.destination, route.prefix)
        })
    }

    /// The prefix length of the route that a packet to `destination` would take; `None` when there
    /// is none.
    pub(crate) fn matching_prefix(
        &mut self,
        destination: IpAddr,
    ) -> Result<Option<u8>, NetlinkError> {
        let bytes = address_bytes(destination);
        let mut buffer = Buffer::new();
        buffer.message(GETROUTE, REQUEST | ACK, |b| {
            b.put(&[
                family(destination),
                (bytes.len() * 8) as u8,
                0,
                0,
                0,
                0,
                0,
                0,
            ]);
            b.put(&RTM_F_FIB_MATCH.to_ne_bytes());
            b.attribute(RTA_DST, &bytes);
        });
        let mut prefix = None;
        let answer = self.0.exchange(&mut buffer, 0, |m| {
            if m.kind == NEWROUTE {
                prefix = m.body.get(1).copied();
            }
        });
        match answer {
            Ok(()) => Ok(prefix),
            Err((e, _))
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ENETUNREACH | libc::EHOSTUNREACH)
                ) =>
            {
                Ok(None)
            }
            Err((source, detail)) => Err(NetlinkError {
                operation: format!("look up the route to {destination}"),
                detail,
                source,
            }),
        }
    }

    /// Packets with this mark use another routing table.
    pub(crate) fn add_mark_rule(
        &mut self,
        ipv6: bool,
        mark: u32,
        table: u32,
    ) -> Result<(), NetlinkError> {
        let family = if ipv6 { libc::AF_INET6 } else { libc::AF_INET } as u8;
        let mut buffer = Buffer::new();
        buffer.message(NEWRULE, REQUEST | ACK | CREATE | EXCL, |b| {
            // fib_rule_hdr: family, lengths, tos, table, two reserved bytes, action "to table".
            b.put(&[family, 0, 0, 0, 0, 0, 0, 1]);
            b.put(&0u32.to_ne_bytes());
            b.ne32(FRA_FWMARK, mark);
            b.ne32(FRA_TABLE, table);
        });
        self.0.transact(&mut buffer, 0, || {
            format!("add routing rule for mark {mark:#x}")
        })
    }
}

fn link_header(b: &mut Buffer, index: u32, flags: u32, change: u32) {
    b.put(&[libc::AF_UNSPEC as u8, 0, 0, 0]);
    b.put(&index.to_ne_bytes());
    b.put(&flags.to_ne_bytes());
    b.put(&change.to_ne_bytes());
}

fn route_body(b: &mut Buffer, route: &Route) {
    let scope = match (route.kind, route.gateway) {
        (RouteKind::Local, _) => libc::RT_SCOPE_HOST,
        (RouteKind::Unicast, None) => libc::RT_SCOPE_LINK,
        _ => libc::RT_SCOPE_UNIVERSE,
    };
    let scope = if route.destination.is_ipv6() {
        libc::RT_SCOPE_UNIVERSE
    } else {
        scope
    };
    let short_table = u8::try_from(route.table).unwrap_or(0);
    b.put(&[
        family(route.destination),
        route.prefix,
        0,
        0,
        short_table,
        libc::RTPROT_STATIC,
        scope,
    ]);
    b.put(&[route.kind as u8]);
    b.put(&0u32.to_ne_bytes());
    b.ne32(RTA_TABLE, route.table);
    if route.prefix > 0 {
        b.attribute(RTA_DST, &address_bytes(route.destination));
    }
    if let Some(gateway) = route.gateway {
        b.attribute(RTA_GATEWAY, &address_bytes(gateway));
    }
    if let Some(link) = route.link {
        b.ne32(RTA_OIF, link);
    }
    if let Some(source) = route.source {
        b.attribute(RTA_PREFSRC, &address_bytes(source));
    }
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

/// An address in network order.
pub(crate) fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
