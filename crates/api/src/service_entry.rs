//! `ServiceEntry`: a service that the mesh does not find by itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::meta::{AGE, Column, Spec};
use crate::schema::{port_rules, rule};
use crate::selection::LabelSelector;
use crate::workload_entry::WorkloadEntry;

/// Adds a service to the mesh's registry, inside the mesh or outside of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["hosts"], "x-kubernetes-validations" = rules()))]
pub struct ServiceEntry {
    /// Hosts of the service; a leading wildcard is possible for some kinds of resolution.
    #[schemars(length(min = 1, max = 256), transform = no_bare_wildcard)]
    pub hosts: Vec<String>,
    /// Virtual addresses of the service.
    #[schemars(length(max = 256), inner(length(max = 64)))]
    pub addresses: Vec<String>,
    /// Ports of the service.
    #[schemars(length(max = 256), extend(
        "x-kubernetes-list-type" = "map",
        "x-kubernetes-list-map-keys" = ["name"],
        "x-kubernetes-validations" = [rule(
            "self.all(l1, self.exists_one(l2, l1.number == l2.number))",
            "port number cannot be duplicated"
        )]
    ))]
    pub ports: Vec<ServicePort>,
    /// Whether the service belongs to the mesh.
    pub location: Location,
    /// How addresses of endpoints are found.
    pub resolution: Resolution,
    /// Endpoints.
    #[schemars(length(max = 4096))]
    pub endpoints: Vec<WorkloadEntry>,
    /// Endpoints by label, among pods and workload entries of the namespace.
    pub workload_selector: Option<LabelSelector>,
    /// Namespaces in which the service is visible: `.`, `*`, `~` or names; none means the mesh's default.
    pub export_to: Vec<String>,
    /// Names, one of which the certificates of the endpoints have to carry.
    pub subject_alt_names: Vec<String>,
}

impl Spec for ServiceEntry {
    const GROUP: &'static str = "networking.istio.io";
    const KIND: &'static str = "ServiceEntry";
    const PLURAL: &'static str = "serviceentries";
    const VERSIONS: &'static [&'static str] = &["v1", "v1alpha3", "v1beta1"];
    const SHORT_NAMES: &'static [&'static str] = &["se"];
    const COLUMNS: &'static [Column] = &[
        Column::new("Hosts", ".spec.hosts", "Hosts of the service."),
        Column::new(
            "Location",
            ".spec.location",
            "Whether the service belongs to the mesh.",
        ),
        Column::new(
            "Resolution",
            ".spec.resolution",
            "How addresses of endpoints are found.",
        ),
        AGE,
    ];
    const SPEC_REQUIRED: bool = true;
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["number", "name"]))]
pub struct ServicePort {
    /// Port number.
    #[schemars(extend("x-kubernetes-validations" = port_rules()))]
    pub number: u32,
    /// Protocol; sniffed when empty.
    #[schemars(length(max = 256))]
    pub protocol: String,
    /// Name of the port.
    #[schemars(length(max = 256))]
    pub name: String,
    /// Port of the endpoints, where it differs.
    #[schemars(extend("x-kubernetes-validations" = port_rules()))]
    pub target_port: Option<u32>,
}

/// Whether a service belongs to the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    /// Outside: no mutual TLS, no policies of its own.
    #[default]
    MeshExternal,
    /// Inside.
    MeshInternal,
}

/// How addresses of endpoints are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// Traffic goes to the address that the client chose.
    #[default]
    None,
    /// The endpoints state addresses.
    Static,
    /// Proxies resolve the endpoints' names and balance over all answers.
    Dns,
    /// Proxies resolve the name and use one answer at a time.
    DnsRoundRobin,
    /// Proxies resolve the host that each request asks for.
    DynamicDns,
}

fn rules() -> Value {
    let resolution =
        |default: &str| format!(r#"(has(self.resolution) ? self.resolution : "{default}")"#);
    let cidr = r#"(has(self.addresses) ? self.addresses : []).exists(k, k.contains("/"))"#;
    json!([
        rule(
            "(has(self.workloadSelector) ? 1 : 0) + (has(self.endpoints) ? 1 : 0) <= 1",
            "only one of WorkloadSelector or Endpoints can be set",
        ),
        rule(
            &format!(
                r#"!({cidr} && !({} in ["STATIC", "NONE"]))"#,
                resolution("NONE")
            ),
            "CIDR addresses are allowed only for NONE/STATIC resolution types",
        ),
        rule(
            &format!(
                r#"({} == "NONE") ? !has(self.endpoints) : true"#,
                resolution("NONE")
            ),
            "NONE mode cannot set endpoints",
        ),
        rule(
            &format!(
                r#"({} == "DNS_ROUND_ROBIN") ? ((has(self.endpoints) ? self.endpoints : []).size() <= 1) : true"#,
                resolution("")
            ),
            "DNS_ROUND_ROBIN mode cannot have multiple endpoints",
        ),
    ])
}

fn no_bare_wildcard(schema: &mut schemars::Schema) {
    if let Some(Value::Object(host)) = schema.get_mut("items") {
        let rules = json!([rule(r#"self != "*""#, "hostname cannot be wildcard")]);
        host.insert("x-kubernetes-validations".to_owned(), rules);
    }
}
