//! Traffic capture inside one pod: the nf_tables rules that lead its connections through the
//! proxy, from the flags that Kubernetes manifests already carry (`istio-iptables`).
//!
//! Two exemptions are always installed, so that the same rules serve a proxy with its own uid and
//! one that can only mark its sockets.

use crate::netlink::NetlinkError;
use std::net::IpAddr;

/// The mark of the proxy's own connections: exempt from capture.
pub const PROXY_MARK: u32 = 0x539;
/// The mark that leads answers of the application back to a transparent proxy.
pub const TPROXY_MARK: u32 = 0x53a;

/// How inbound connections reach the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InterceptionMode {
    /// Destination rewritten; the proxy asks for the original one.
    #[default]
    Redirect,
    /// Delivered as they are; the application can see the client's address.
    Tproxy,
    /// Not at all.
    None,
}

/// All of something, or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection<T> {
    /// `*`.
    All,
    /// Only these; empty selects nothing.
    Only(Vec<T>),
}

/// An address range, IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpRange {
    /// The network's address.
    pub address: IpAddr,
    /// The prefix length.
    pub prefix: u8,
}

/// What to capture. Field names follow the annotations of `traffic.sidecar.istio.io`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureConfig {
    /// Where outbound connections go (15001).
    pub outbound_port: u16,
    /// Where inbound connections go (15006).
    pub inbound_port: u16,
    /// The port of tunnels between proxies, never captured (15008).
    pub tunnel_port: u16,
    /// Users whose connections are exempt (1337).
    pub proxy_uids: Vec<u32>,
    /// Groups whose connections are exempt (1337).
    pub proxy_gids: Vec<u32>,
    /// How inbound connections reach the proxy.
    pub mode: InterceptionMode,
    /// Inbound ports to capture.
    pub include_inbound_ports: Selection<u16>,
    /// Inbound ports never captured.
    pub exclude_inbound_ports: Vec<u16>,
    /// Outbound destinations to capture.
    pub include_outbound_ranges: Selection<IpRange>,
    /// Outbound destinations never captured.
    pub exclude_outbound_ranges: Vec<IpRange>,
    /// Outbound ports captured whatever their destination.
    pub include_outbound_ports: Vec<u16>,
    /// Outbound ports never captured.
    pub exclude_outbound_ports: Vec<u16>,
    /// Interfaces whose traffic is left alone.
    pub exclude_interfaces: Vec<String>,
    /// Interfaces of virtual machines: their traffic counts as outbound.
    pub virtual_interfaces: Vec<String>,
    /// Lead DNS queries to the proxy's resolver.
    pub redirect_dns: bool,
    /// With `redirect_dns`: queries to any server, not only `dns_servers`.
    pub capture_all_dns: bool,
    /// The pod's name servers (from its `/etc/resolv.conf`).
    pub dns_servers: Vec<IpAddr>,
    /// Drop packets that connection tracking finds invalid.
    pub drop_invalid: bool,
}

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CaptureCommand {
    /// Install the rules.
    Install(CaptureConfig),
    /// Print what would be installed (`--dry-run`).
    DryRun(CaptureConfig),
    /// Remove the rules (`--cleanup-only`).
    Cleanup,
    /// Show the flags (`--help`).
    Help,
}

/// Reads `istio-iptables` flags (`-p 15001 -z 15006 -u 1337 -m REDIRECT -i '*' -x '' -b '*' -d
/// 15090,15021,15020`, long forms, `--flag=value` and `--flag value`). `dns_servers` is left empty:
/// the caller fills it from the pod's resolv.conf ([`dns_servers`]).
pub fn parse_args(args: &[String]) -> Result<CaptureCommand, CaptureError> {
    let _ = args;
    unimplemented!()
}

/// The name servers in a `resolv.conf`.
pub fn dns_servers(resolv_conf: &str) -> Vec<IpAddr> {
    let _ = resolv_conf;
    unimplemented!()
}

/// Installs the rules in the calling thread's network namespace, replacing those of an earlier run.
pub fn install(config: &CaptureConfig) -> Result<(), CaptureError> {
    let _ = config;
    unimplemented!()
}

/// Removes the rules from the calling thread's network namespace. Harmless when there are none.
pub fn remove() -> Result<(), CaptureError> {
    unimplemented!()
}

/// Why capture could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A flag that is unknown or lacks its value.
    #[error("{0}; see `meltemi capture --help`")]
    Flag(String),
    /// A flag's value that cannot be read.
    #[error("{flag}: {value:?} is not {expected}")]
    Value {
        /// The flag.
        flag: String,
        /// What it was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// The kernel refused; usually NET_ADMIN is missing.
    #[error("cannot install capture rules: {0}; the container needs the NET_ADMIN capability")]
    Netlink(#[from] NetlinkError),
}
