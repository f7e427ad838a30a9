//! Gateways: what the mesh's edge listens on.

use meltemi_names::{ArcStr, Hostname, Labels, Protocol};

use crate::meta::Meta;
use crate::routing::GatewayRef;

/// Servers for the proxies that a selector names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// Name, namespace, age.
    pub meta: Meta,
    /// Labels of the proxies; empty selects every gateway proxy.
    pub selector: Labels,
    /// What they listen on.
    pub servers: Vec<Server>,
}

impl Gateway {
    /// How rules refer to it.
    #[must_use]
    pub fn reference(&self) -> GatewayRef {
        GatewayRef::Named {
            namespace: self.meta.namespace.clone(),
            name: self.meta.name.clone(),
        }
    }
}

/// One port of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    /// The port, as the gateway's Service or its pod numbers it.
    pub port: u16,
    /// The name of the port.
    pub port_name: ArcStr,
    /// What is spoken.
    pub protocol: Protocol,
    /// The address; empty for all.
    pub bind: ArcStr,
    /// The hosts that may be routed.
    pub hosts: Vec<ServerHost>,
    /// TLS.
    pub tls: Option<ServerTls>,
}

impl Server {
    /// Plain HTTP, routed by requests.
    #[must_use]
    pub fn is_plain_http(&self) -> bool {
        self.protocol.is_http() && !self.terminates_tls()
    }

    /// TLS ends at the gateway.
    #[must_use]
    pub fn terminates_tls(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| {
            !matches!(
                tls.mode,
                ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough | ServerTlsMode::None
            )
        })
    }
}

/// A host that a gateway serves.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerHost {
    /// The namespace whose rules may bind; `None` for all.
    pub namespace: Option<ArcStr>,
    /// The host or wildcard.
    pub host: Hostname,
}

/// TLS at a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerTls {
    /// Which kind.
    pub mode: ServerTlsMode,
    /// Plain requests are sent to HTTPS.
    pub https_redirect: bool,
    /// Secrets with the certificates.
    pub credential_names: Vec<ArcStr>,
    /// Secret with the clients' roots, when not beside the certificate.
    pub ca_credential_name: ArcStr,
    /// File of the certificate.
    pub server_certificate: ArcStr,
    /// File of the key.
    pub private_key: ArcStr,
    /// File of the clients' roots.
    pub ca_certificates: ArcStr,
    /// Accepted names of clients.
    pub subject_alt_names: Vec<ArcStr>,
    /// Lowest version: `TLSV1_2` and so on; empty for the default.
    pub min_version: ArcStr,
    /// Highest version.
    pub max_version: ArcStr,
    /// Cipher suites; none for the default.
    pub cipher_suites: Vec<ArcStr>,
}

/// Kind of TLS at a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerTlsMode {
    /// No TLS (only the redirect is set).
    None,
    /// Routed by server name, not opened.
    Passthrough,
    /// The server shows a certificate.
    Simple,
    /// Both sides do.
    Mutual,
    /// The client may.
    OptionalMutual,
    /// Routed by the mesh's own server names.
    AutoPassthrough,
    /// Both sides, with the mesh's identities.
    IstioMutual,
}
