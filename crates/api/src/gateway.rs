//! `Gateway`: ports, hosts and TLS settings at the edge of the mesh.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::Spec;

/// Describes a load balancer at the edge of the mesh: the ports it opens, the hosts and the TLS of each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Gateway {
    /// Ports to open, with the hosts that may be reached through each.
    pub servers: Vec<Server>,
    /// Labels of the gateway workloads, in any namespace, that this configuration is for; none means all.
    pub selector: BTreeMap<String, String>,
}

impl Spec for Gateway {
    const GROUP: &'static str = "networking.istio.io";
    const KIND: &'static str = "Gateway";
    const PLURAL: &'static str = "gateways";
    const VERSIONS: &'static [&'static str] = &["v1", "v1alpha3", "v1beta1"];
    const SHORT_NAMES: &'static [&'static str] = &["gw"];
}

/// One port of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["port", "hosts"]))]
pub struct Server {
    /// The port on which the gateway listens.
    pub port: Option<Port>,
    /// Address or Unix socket to listen on, instead of every address.
    pub bind: String,
    /// Hosts served here, as `dnsName` or `namespace/dnsName`; the namespace may be `*` or `.`.
    pub hosts: Vec<String>,
    /// TLS settings of the port.
    pub tls: Option<ServerTls>,
    /// Where to send traffic that no route matches; accepted and without effect.
    pub default_endpoint: String,
    /// Name for statistics.
    pub name: String,
}

/// A port with its protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["number", "protocol", "name"]))]
pub struct Port {
    /// Port number.
    pub number: u32,
    /// One of HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, TCP, TLS.
    pub protocol: String,
    /// Label of the port, unique within its gateway.
    pub name: String,
    /// Port of the workload; without effect on a gateway.
    pub target_port: Option<u32>,
}

/// TLS of a port that accepts connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "(has(self.tlsCertificates) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1",
        "message": "only one of credentialNames or tlsCertificates can be set"
    },
    {
        "rule": "(has(self.credentialName) ? 1 : 0) + (has(self.credentialNames) ? 1 : 0) <= 1",
        "message": "only one of credentialName or credentialNames can be set"
    },
    {
        "rule": "(has(self.credentialNames) ? 1 : 0) + (has(self.tlsCertificates) ? 1 : 0) <= 1",
        "message": "only one of credentialName or tlsCertificates can be set"
    }
]))]
pub struct ServerTls {
    /// Answers plain HTTP requests with a redirect to HTTPS.
    pub https_redirect: bool,
    /// Who terminates TLS and whether clients have to show a certificate.
    pub mode: ServerTlsMode,
    /// File with the certificate chain of the server.
    pub server_certificate: String,
    /// File with the private key of the server.
    pub private_key: String,
    /// File with the authorities that client certificates are checked against.
    pub ca_certificates: String,
    /// File with the revocation list for client certificates.
    pub ca_crl: String,
    /// Names, one of which a client certificate has to carry.
    pub subject_alt_names: Vec<String>,
    /// Secret, in the gateway workload's namespace, with key and certificates.
    pub credential_name: String,
    /// Two secrets at most, for one RSA and one ECDSA certificate.
    #[schemars(length(min = 1, max = 2))]
    pub credential_names: Vec<String>,
    /// Secret or config map with the authorities for client certificates, where it is a separate one.
    pub ca_cert_credential_name: String,
    /// Two key pairs at most, for one RSA and one ECDSA certificate.
    #[schemars(length(min = 1, max = 2))]
    pub tls_certificates: Vec<TlsCertificate>,
    /// Base64 SHA-256 hashes of the public keys of accepted client certificates.
    pub verify_certificate_spki: Vec<String>,
    /// Hexadecimal SHA-256 hashes of accepted client certificates.
    pub verify_certificate_hash: Vec<String>,
    /// Oldest TLS version accepted.
    pub min_protocol_version: TlsVersion,
    /// Newest TLS version accepted.
    pub max_protocol_version: TlsVersion,
    /// Cipher suites for TLS 1.2 and older, in order of preference.
    pub cipher_suites: Vec<String>,
    /// Curves for the key exchange, in order of preference.
    pub ecdh_curves: Vec<String>,
    /// Skips the check of the peer's certificate; meaningful for clients only.
    #[schemars(with = "crate::schema::Nullable<bool>")]
    pub insecure_skip_verify: Option<bool>,
}

/// A key with its certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsCertificate {
    /// File with the certificate chain.
    pub server_certificate: String,
    /// File with the private key.
    pub private_key: String,
    /// File with the authorities for client certificates.
    pub ca_certificates: String,
}

/// How a gateway port treats TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerTlsMode {
    /// The connection is forwarded unopened; its server name selects the route.
    #[default]
    Passthrough,
    /// The gateway terminates TLS with its own certificate.
    Simple,
    /// As `SIMPLE`, and the client has to show a certificate.
    Mutual,
    /// As `PASSTHROUGH`, with the destination encoded in the server name.
    AutoPassthrough,
    /// Mutual TLS with the mesh's own certificates.
    IstioMutual,
    /// As `MUTUAL`, but clients without a certificate are let in.
    OptionalMutual,
}

/// A version of TLS.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
pub enum TlsVersion {
    /// The proxy's own choice.
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    /// TLS 1.0.
    #[serde(rename = "TLSV1_0")]
    V1_0,
    /// TLS 1.1.
    #[serde(rename = "TLSV1_1")]
    V1_1,
    /// TLS 1.2.
    #[serde(rename = "TLSV1_2")]
    V1_2,
    /// TLS 1.3.
    #[serde(rename = "TLSV1_3")]
    V1_3,
}
