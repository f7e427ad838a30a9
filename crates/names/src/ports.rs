//! Fixed ports of the mesh.

/// The proxy's admin interface (loopback).
pub const ADMIN: u16 = 15000;
/// Captured outbound traffic.
pub const OUTBOUND: u16 = 15001;
/// Captured inbound traffic.
pub const INBOUND: u16 = 15006;
/// HBONE (HTTP/2 CONNECT over mutual TLS).
pub const HBONE: u16 = 15008;
/// xDS and CSR in clear text.
pub const XDS_PLAIN: u16 = 15010;
/// xDS and CSR over TLS.
pub const XDS_TLS: u16 = 15012;
/// Monitoring of the control plane.
pub const CONTROL_MONITORING: u16 = 15014;
/// Webhooks of the control plane.
pub const WEBHOOK: u16 = 15017;
/// The agent: merged metrics, rewritten probes, health.
pub const AGENT: u16 = 15020;
/// Readiness of the proxy.
pub const STATUS: u16 = 15021;
/// The agent's DNS.
pub const DNS: u16 = 15053;
/// The proxy's own Prometheus endpoint.
pub const PROMETHEUS: u16 = 15090;
/// East-west traffic between networks.
pub const EAST_WEST: u16 = 15443;

/// Ports on which no wildcard outbound listener may be generated: the proxy itself binds them.
pub const RESERVED_WILDCARD: [u16; 4] = [OUTBOUND, INBOUND, STATUS, PROMETHEUS];
