//! `WorkloadEntry`: a workload outside Kubernetes, such as a virtual machine.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::{AGE, Column, Spec};
use crate::schema::{port_rules, rule};

/// A workload outside Kubernetes, as an endpoint of services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [
    rule("has(self.address) || has(self.network)", "Address is required"),
    rule(UDS_WITHOUT_PORTS, "UDS may not include ports")
]))]
pub struct WorkloadEntry {
    /// An IP address, a host name, or `unix://` with a path.
    #[schemars(length(max = 256), extend("x-kubernetes-validations" = address_rules()))]
    pub address: String,
    /// Ports of the workload by the service port's name, where they differ.
    #[schemars(transform = ports_rules)]
    pub ports: BTreeMap<String, u32>,
    /// Labels of the workload.
    #[schemars(extend("maxProperties" = 256))]
    pub labels: BTreeMap<String, String>,
    /// Network of the workload; workloads of one network reach each other directly.
    #[schemars(length(max = 2048))]
    pub network: String,
    /// Place of the workload, as `region/zone/subzone`.
    #[schemars(length(max = 2048))]
    pub locality: String,
    /// Share of the traffic, relative to other endpoints.
    pub weight: u32,
    /// Service account whose identity the workload has.
    #[schemars(length(max = 253))]
    pub service_account: String,
}

impl Spec for WorkloadEntry {
    const GROUP: &'static str = "networking.istio.io";
    const KIND: &'static str = "WorkloadEntry";
    const PLURAL: &'static str = "workloadentries";
    const VERSIONS: &'static [&'static str] = &["v1", "v1alpha3", "v1beta1"];
    const SHORT_NAMES: &'static [&'static str] = &["we"];
    const COLUMNS: &'static [Column] = &[
        AGE,
        Column::new("Address", ".spec.address", "Address of the workload."),
    ];
    const SPEC_REQUIRED: bool = true;
}

pub(crate) const UDS_WITHOUT_PORTS: &str =
    r#"(has(self.address) ? self.address : "").startsWith("unix://") ? !has(self.ports) : true"#;

pub(crate) fn address_rules() -> serde_json::Value {
    serde_json::json!([
        rule(
            r#"self.startsWith("unix://") ? (self.substring(7, 8) == "/" || self.substring(7, 8) == "@") : true"#,
            "UDS must be an absolute path or abstract socket",
        ),
        rule(
            r#"self.startsWith("unix://") ? !self.endsWith("/") : true"#,
            "UDS may not be a dir"
        ),
    ])
}

pub(crate) fn ports_rules(schema: &mut schemars::Schema) {
    let names = rule(
        r#"self.all(key, size(key) < 63 && key.matches("^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$"))"#,
        "port name must be valid",
    );
    schema.insert("maxProperties".to_owned(), serde_json::json!(128));
    schema.insert(
        "x-kubernetes-validations".to_owned(),
        serde_json::json!([names]),
    );
    if let Some(serde_json::Value::Object(value)) = schema.get_mut("additionalProperties") {
        value.insert("x-kubernetes-validations".to_owned(), port_rules());
    }
}
