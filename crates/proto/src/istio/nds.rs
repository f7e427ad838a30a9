//! `istio.networking.nds.v1`: the names that a proxy's DNS server answers.

use std::collections::HashMap;

/// Names by host.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NameTable {
    /// Host name to addresses.
    #[prost(map = "string, message", tag = "1")]
    pub table: HashMap<String, NameInfo>,
}

/// What is known of a name.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NameInfo {
    /// Addresses.
    #[prost(string, repeated, tag = "1")]
    pub ips: Vec<String>,
    /// Where it comes from (`Kubernetes`, `External`).
    #[prost(string, tag = "2")]
    pub registry: String,
    /// First label of a Kubernetes name.
    #[prost(string, tag = "3")]
    pub shortname: String,
    /// Namespace of a Kubernetes name.
    #[prost(string, tag = "4")]
    pub namespace: String,
    /// Further names.
    #[prost(string, repeated, tag = "5")]
    pub alt_hosts: Vec<String>,
}

impl prost::Name for NameTable {
    const NAME: &'static str = "NameTable";
    const PACKAGE: &'static str = "istio.networking.nds.v1";
}
