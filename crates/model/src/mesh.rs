//! Settings of the whole mesh: the part of Istio's MeshConfig that shapes what proxies get.

use std::time::Duration;

use meltemi_names::{ArcStr, parse_duration};
use serde::Deserialize;
use serde_json::Value;

/// Settings of the whole mesh.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MeshConfig {
    /// The name of this cluster in telemetry.
    pub cluster_id: ArcStr,
    /// The DNS domain of services.
    pub domain: ArcStr,
    /// The trust domain of identities.
    pub trust_domain: ArcStr,
    /// Trust domains that count as equal.
    pub trust_domain_aliases: Vec<ArcStr>,
    /// The namespace of mesh-wide configuration.
    pub root_namespace: ArcStr,
    /// The port of captured outbound traffic.
    pub outbound_port: u16,
    /// The port of captured inbound traffic.
    pub inbound_port: u16,
    /// Time to connect.
    pub connect_timeout: Duration,
    /// Time to wait for the first bytes when the protocol is detected; zero is without limit.
    pub protocol_detection_timeout: Duration,
    /// What becomes of traffic to unknown destinations.
    pub outbound_policy: OutboundPolicy,
    /// Clients use mutual TLS where the server takes it.
    pub auto_mutual_tls: bool,
    /// Where access logs go; empty for none.
    pub access_log_file: ArcStr,
    /// Format of the access log; empty for the default.
    pub access_log_format: ArcStr,
    /// Access logs as JSON.
    pub access_log_json: bool,
    /// HTTP/2 between proxies although ports say HTTP/1.
    pub h2_upgrade: bool,
    /// Retries of routes that name none.
    pub default_retries: DefaultRetries,
    /// Default of `exportTo` for services.
    pub default_service_export_to: Vec<ArcStr>,
    /// Default of `exportTo` for virtual services.
    pub default_virtual_service_export_to: Vec<ArcStr>,
    /// Default of `exportTo` for destination rules.
    pub default_destination_rule_export_to: Vec<ArcStr>,
    /// How paths are brought to a normal form.
    pub path_normalization: PathNormalization,
    /// Percentage of requests that are traced, in millionths; `None` switches tracing off.
    pub trace_sampling: Option<u32>,
}

/// What becomes of traffic to unknown destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutboundPolicy {
    /// It passes.
    AllowAny,
    /// It is refused.
    RegistryOnly,
}

/// How paths are brought to a normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathNormalization {
    /// They are not.
    None,
    /// By RFC 3986.
    Base,
    /// And slashes are merged.
    MergeSlashes,
    /// And escaped slashes are decoded before.
    DecodeAndMergeSlashes,
}

/// Retries of routes that name none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DefaultRetries {
    /// How many; zero for none.
    pub attempts: u32,
    /// Conditions.
    pub retry_on: ArcStr,
}

/// The retry conditions of routes that name none.
pub const DEFAULT_RETRY_ON: &str =
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            cluster_id: "Kubernetes".into(),
            domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: Vec::new(),
            root_namespace: "istio-system".into(),
            outbound_port: meltemi_names::ports::OUTBOUND,
            inbound_port: meltemi_names::ports::INBOUND,
            connect_timeout: Duration::from_secs(10),
            protocol_detection_timeout: Duration::ZERO,
            outbound_policy: OutboundPolicy::AllowAny,
            auto_mutual_tls: true,
            access_log_file: ArcStr::new(),
            access_log_format: ArcStr::new(),
            access_log_json: false,
            h2_upgrade: false,
            default_retries: DefaultRetries {
                attempts: 2,
                retry_on: DEFAULT_RETRY_ON.into(),
            },
            default_service_export_to: vec!["*".into()],
            default_virtual_service_export_to: vec!["*".into()],
            default_destination_rule_export_to: vec!["*".into()],
            path_normalization: PathNormalization::Base,
            trace_sampling: Some(10_000),
        }
    }
}

/// Why mesh settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MeshConfigError {
    /// A field has the wrong type.
    #[error("the mesh configuration cannot be read")]
    Shape {
        /// What was found.
        #[source]
        source: serde_json::Error,
    },
    /// A field has a value without meaning.
    #[error("meshConfig.{field}: `{value}` is not a valid value")]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
}

impl MeshConfig {
    /// Reads the document of the ConfigMap's key `mesh`, parsed to JSON, over the defaults. Fields without meaning
    /// for the control plane's translation are left alone.
    ///
    /// # Errors
    /// When a field has the wrong type or a value without meaning.
    pub fn from_value(value: &Value) -> Result<Self, MeshConfigError> {
        let written =
            Written::deserialize(value).map_err(|source| MeshConfigError::Shape { source })?;
        let mut mesh = Self::default();
        written.names(&mut mesh);
        written.times(&mut mesh)?;
        written.choices(&mut mesh)?;
        Ok(mesh)
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    proxy_listen_port: Option<u16>,
    proxy_inbound_listen_port: Option<u16>,
    connect_timeout: Option<String>,
    protocol_detection_timeout: Option<String>,
    enable_auto_mtls: Option<bool>,
    enable_tracing: Option<bool>,
    access_log_file: Option<ArcStr>,
    access_log_format: Option<ArcStr>,
    access_log_encoding: Option<String>,
    outbound_traffic_policy: Option<Mode>,
    trust_domain: Option<ArcStr>,
    trust_domain_aliases: Option<Vec<ArcStr>>,
    default_service_export_to: Option<Vec<ArcStr>>,
    default_virtual_service_export_to: Option<Vec<ArcStr>>,
    default_destination_rule_export_to: Option<Vec<ArcStr>>,
    root_namespace: Option<ArcStr>,
    h2_upgrade_policy: Option<String>,
    path_normalization: Option<Normalization>,
    default_http_retry_policy: Option<Retry>,
    default_config: Option<Proxy>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Mode {
    mode: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Normalization {
    normalization: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Retry {
    attempts: u32,
    retry_on: ArcStr,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Proxy {
    tracing: Option<Tracing>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tracing {
    sampling: Option<f64>,
}

impl Written {
    fn names(&self, mesh: &mut MeshConfig) {
        let set = |target: &mut ArcStr, written: &Option<ArcStr>| {
            if let Some(text) = written {
                target.clone_from(text);
            }
        };
        set(&mut mesh.trust_domain, &self.trust_domain);
        set(&mut mesh.root_namespace, &self.root_namespace);
        set(&mut mesh.access_log_file, &self.access_log_file);
        set(&mut mesh.access_log_format, &self.access_log_format);
        let list = |target: &mut Vec<ArcStr>, written: &Option<Vec<ArcStr>>| {
            if let Some(texts) = written {
                target.clone_from(texts);
            }
        };
        list(&mut mesh.trust_domain_aliases, &self.trust_domain_aliases);
        list(
            &mut mesh.default_service_export_to,
            &self.default_service_export_to,
        );
        list(
            &mut mesh.default_virtual_service_export_to,
            &self.default_virtual_service_export_to,
        );
        list(
            &mut mesh.default_destination_rule_export_to,
            &self.default_destination_rule_export_to,
        );
        mesh.outbound_port = self.proxy_listen_port.unwrap_or(mesh.outbound_port);
        mesh.inbound_port = self.proxy_inbound_listen_port.unwrap_or(mesh.inbound_port);
    }

    fn times(&self, mesh: &mut MeshConfig) -> Result<(), MeshConfigError> {
        let read = |field: &'static str, written: &Option<String>, default: Duration| match written
        {
            Some(text) => parse_duration(text).map_err(|_| MeshConfigError::Value {
                field,
                value: text.clone(),
            }),
            None => Ok(default),
        };
        mesh.connect_timeout = read(
            "connectTimeout",
            &self.connect_timeout,
            mesh.connect_timeout,
        )?;
        mesh.protocol_detection_timeout = read(
            "protocolDetectionTimeout",
            &self.protocol_detection_timeout,
            mesh.protocol_detection_timeout,
        )?;
        Ok(())
    }

    fn choices(&self, mesh: &mut MeshConfig) -> Result<(), MeshConfigError> {
        let refuse = |field, value: &str| MeshConfigError::Value {
            field,
            value: value.to_owned(),
        };
        mesh.auto_mutual_tls = self.enable_auto_mtls.unwrap_or(mesh.auto_mutual_tls);
        if let Some(policy) = &self.outbound_traffic_policy {
            // An empty object means REGISTRY_ONLY: that is the zero value of the message.
            mesh.outbound_policy = match policy.mode.as_deref() {
                None | Some("REGISTRY_ONLY") => OutboundPolicy::RegistryOnly,
                Some("ALLOW_ANY") => OutboundPolicy::AllowAny,
                Some(other) => return Err(refuse("outboundTrafficPolicy.mode", other)),
            };
        }
        mesh.access_log_json = match self.access_log_encoding.as_deref() {
            None | Some("TEXT") => false,
            Some("JSON") => true,
            Some(other) => return Err(refuse("accessLogEncoding", other)),
        };
        mesh.h2_upgrade = match self.h2_upgrade_policy.as_deref() {
            None | Some("DO_NOT_UPGRADE" | "DEFAULT") => false,
            Some("UPGRADE") => true,
            Some(other) => return Err(refuse("h2UpgradePolicy", other)),
        };
        let normalization = self
            .path_normalization
            .as_ref()
            .and_then(|written| written.normalization.as_deref());
        mesh.path_normalization = match normalization {
            None | Some("DEFAULT" | "BASE") => PathNormalization::Base,
            Some("NONE") => PathNormalization::None,
            Some("MERGE_SLASHES") => PathNormalization::MergeSlashes,
            Some("DECODE_AND_MERGE_SLASHES") => PathNormalization::DecodeAndMergeSlashes,
            Some(other) => return Err(refuse("pathNormalization.normalization", other)),
        };
        if let Some(retry) = &self.default_http_retry_policy {
            let retry_on = if retry.retry_on.is_empty() {
                DEFAULT_RETRY_ON.into()
            } else {
                retry.retry_on.clone()
            };
            mesh.default_retries = DefaultRetries {
                attempts: retry.attempts,
                retry_on,
            };
        }
        let sampling = self
            .default_config
            .as_ref()
            .and_then(|proxy| proxy.tracing.as_ref()?.sampling);
        if let Some(percent) = sampling {
            mesh.trace_sampling = Some(crate::convert::millionths(percent));
        }
        if self.enable_tracing == Some(false) {
            mesh.trace_sampling = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn written_fields_replace_defaults_and_the_rest_stays() {
        let mesh = MeshConfig::from_value(&json!({
            "trustDomain": "shop.example", "accessLogFile": "/dev/stdout", "connectTimeout": "3s",
            "outboundTrafficPolicy": {}, "defaultConfig": {"tracing": {"sampling": 100.0}, "other": {}},
        }))
        .expect("valid");
        assert_eq!(mesh.trust_domain, "shop.example");
        assert_eq!(mesh.connect_timeout, Duration::from_secs(3));
        assert_eq!(mesh.outbound_policy, OutboundPolicy::RegistryOnly);
        assert_eq!(mesh.trace_sampling, Some(1_000_000));
        assert_eq!(mesh.root_namespace, "istio-system");
    }

    #[test]
    fn values_without_meaning_name_their_field() {
        let error =
            MeshConfig::from_value(&json!({"connectTimeout": "soon"})).expect_err("refused");
        assert_eq!(
            error.to_string(),
            "meshConfig.connectTimeout: `soon` is not a valid value"
        );
    }
}
