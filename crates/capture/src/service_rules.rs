//! Services in the node's namespace: one verdict map from (address, protocol, port) to a chain that
//! picks an endpoint. One change costs one small transaction, not one per pod.
//!
//! Knows addresses only, not Services: the caller resolves those.

use crate::netlink::NetlinkError;
use crate::netns::NetNs;
use crate::pod_network::Cidr4;
use std::net::{Ipv4Addr, SocketAddrV4};

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

/// The table `ip svc` of the node's namespace and what was last written to it.
#[derive(Debug)]
pub struct ServiceTable {}

impl ServiceTable {
    /// Installs the table without services.
    pub fn create(netns: &NetNs, config: ServiceTableConfig) -> Result<Self, NetlinkError> {
        let _ = (netns, config);
        unimplemented!()
    }

    /// Makes the table say exactly `rules`: only differences are sent, in one transaction (more
    /// than one when very large). Established connections stay. On error call it again with the
    /// whole list: what the kernel has is then written anew.
    pub fn apply(&mut self, rules: &[ServiceRule]) -> Result<Changes, NetlinkError> {
        let _ = rules;
        unimplemented!()
    }
}
