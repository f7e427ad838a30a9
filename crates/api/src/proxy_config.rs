//! `ProxyConfig`: settings of proxies that take effect at start.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meta::Spec;
use crate::schema::Nullable;
use crate::selection::WorkloadSelector;

/// Settings of proxies that take effect when a pod is created.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyConfig {
    /// Workloads of the namespace that this is for; none means all of them.
    pub selector: Option<WorkloadSelector>,
    /// Worker threads; one per processor the container may use when unset, all of the machine's when 0.
    #[schemars(with = "Nullable<i32>", range(min = 0))]
    pub concurrency: Option<i32>,
    /// Environment variables of the proxy container.
    #[schemars(transform = value_length)]
    pub environment_variables: BTreeMap<String, String>,
    /// Image of the proxy container.
    pub image: Option<ProxyImage>,
}

impl Spec for ProxyConfig {
    const GROUP: &'static str = "networking.istio.io";
    const KIND: &'static str = "ProxyConfig";
    const PLURAL: &'static str = "proxyconfigs";
    const VERSIONS: &'static [&'static str] = &["v1beta1"];
}

/// Image of the proxy container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyImage {
    /// Variant of the image, such as `distroless` or `debug`.
    pub image_type: String,
}

fn value_length(schema: &mut schemars::Schema) {
    if let Some(serde_json::Value::Object(value)) = schema.get_mut("additionalProperties") {
        value.insert("maxLength".to_owned(), serde_json::json!(2048));
    }
}
