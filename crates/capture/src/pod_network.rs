//! Routed pod network without a bridge: the node's own network namespace with the gateway address
//! on `lo`, one veth and one /32 route for each pod; as root one more veth to the host.
//!
//! Addresses are the caller's to choose. Never touches the host's network beyond that one veth and
//! its routes, and skips routes that something else owns.

use crate::netlink::NetlinkError;
use crate::netns::NetNs;
use crate::privilege::Mode;
use std::net::{Ipv4Addr, Ipv6Addr};

/// An IPv4 network in CIDR form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr4 {
    /// The network's address.
    pub address: Ipv4Addr,
    /// The prefix length, 0 to 32.
    pub prefix: u8,
}

/// The addresses of the node's network.
#[derive(Debug, Clone)]
pub struct NodeNetworkConfig {
    /// The gateway of every pod, on the node's `lo` (10.244.0.1).
    pub gateway: Ipv4Addr,
    /// Pod addresses (10.244.0.0/17).
    pub pods: Cidr4,
    /// Service addresses (10.96.0.0/16).
    pub services: Cidr4,
    /// Load-balancer addresses (172.18.255.192/26).
    pub load_balancers: Cidr4,
}

impl Default for NodeNetworkConfig {
    fn default() -> Self {
        Self {
            gateway: Ipv4Addr::new(10, 244, 0, 1),
            pods: Cidr4 {
                address: Ipv4Addr::new(10, 244, 0, 0),
                prefix: 17,
            },
            services: Cidr4 {
                address: Ipv4Addr::new(10, 96, 0, 0),
                prefix: 16,
            },
            load_balancers: Cidr4 {
                address: Ipv4Addr::new(172, 18, 255, 192),
                prefix: 26,
            },
        }
    }
}

/// What root mode added to the host's network.
#[derive(Debug, Clone)]
pub struct HostLink {
    /// The link's name on the host (`lp0`).
    pub name: String,
    /// Networks that the host now routes to the node.
    pub routed: Vec<Cidr4>,
    /// Networks left alone because another route already covers them (a VPN, a second platform).
    pub skipped: Vec<Cidr4>,
}

/// The node's network namespace and its links. Dropping it (and everything that holds
/// [`NodeNetwork::netns`]) removes all of it.
#[derive(Debug)]
pub struct NodeNetwork {
    netns: NetNs,
}

impl NodeNetwork {
    /// Makes the node's namespace: gateway on `lo`, forwarding, service routes; in
    /// [`Mode::Root`] also the host's veth and routes. Blocks for a few milliseconds.
    pub fn create(mode: Mode, config: NodeNetworkConfig) -> Result<Self, NetworkError> {
        let _ = (mode, config);
        unimplemented!()
    }

    /// The node's namespace (listeners for DNS, egress, the API relay live here).
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// The host's side in root mode; `None` as an ordinary user.
    pub fn host_link(&self) -> Option<&HostLink> {
        None
    }

    /// Connects a pod's namespace: veth, addresses, routes, `lo`, sysctls. About 1 ms; blocks.
    /// `ipv6` adds an IPv6 address of the pod (and `::6` on `lo`, the twin of 127.0.0.6).
    pub fn attach_pod(
        &self,
        pod: &NetNs,
        address: Ipv4Addr,
        ipv6: Option<Ipv6Addr>,
    ) -> Result<(), NetworkError> {
        let _ = (pod, address, ipv6);
        unimplemented!()
    }

    /// Removes a pod's link and route. Harmless when the pod's namespace is already gone.
    pub fn detach_pod(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        let _ = address;
        unimplemented!()
    }
}

/// Why the pod network could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused a netlink request.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A namespace or socket call failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}
