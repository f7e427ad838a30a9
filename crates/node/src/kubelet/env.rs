//! A container's environment and command line, with Kubernetes' precedence and `$(VAR)` expansion.

use std::collections::BTreeMap;
use std::sync::Arc;

use indexmap::IndexMap;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Secret, Service};
use meltemi_kube::Store;

use super::fields::PodFields;

/// Why the container cannot be configured (`CreateContainerConfigError`).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A ConfigMap or Secret that is not optional does not exist.
    #[error("{kind} \"{name}\" not found")]
    NoObject { kind: &'static str, name: String },
    /// It exists but lacks the key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        kind: &'static str,
        namespace: String,
        name: String,
        key: String,
    },
    /// A field path or resource that the downward API does not know.
    #[error("the downward API does not know \"{0}\"")]
    Field(String),
}

/// Where values come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub(crate) fields: PodFields<'a>,
    pub(crate) config_maps: &'a Store<ConfigMap>,
    pub(crate) secrets: &'a Store<Secret>,
    pub(crate) services: &'a Store<Service>,
}

/// The environment of a container.
pub(crate) type Environment = IndexMap<String, String>;

impl Sources<'_> {
    fn namespace(&self) -> &str {
        self.fields
            .pod
            .metadata
            .namespace
            .as_deref()
            .unwrap_or_default()
    }

    /// The environment of `container`, starting from `base` (what the node itself sets).
    pub(crate) fn environment(
        &self,
        container: &Container,
        base: Environment,
    ) -> Result<Environment, ConfigError> {
        let mut env = base;
        let links = self
            .fields
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.enable_service_links)
            .unwrap_or(true);
        for service in self.linked_services(links) {
            env.extend(service_variables(&service));
        }
        for from in container.env_from.iter().flatten() {
            let prefix = from.prefix.as_deref().unwrap_or_default();
            let values = if let Some(map) = &from.config_map_ref {
                self.config_map(&map.name, map.optional)?
            } else if let Some(secret) = &from.secret_ref {
                self.secret(&secret.name, secret.optional)?
            } else {
                BTreeMap::new()
            };
            env.extend(
                values
                    .into_iter()
                    .map(|(key, value)| (format!("{prefix}{key}"), value)),
            );
        }
        for variable in container.env.iter().flatten() {
            let value = match (&variable.value, &variable.value_from) {
                (Some(value), _) if !value.is_empty() => Some(expand(value, &env)),
                (_, Some(source)) => self.referenced(source, &container.name)?,
                _ => Some(String::new()),
            };
            if let Some(value) = value {
                env.insert(variable.name.clone(), value);
            }
        }
        Ok(env)
    }

    /// The value a `valueFrom` names; `None` when it is optional and absent.
    fn referenced(
        &self,
        source: &EnvVarSource,
        container: &str,
    ) -> Result<Option<String>, ConfigError> {
        if let Some(field) = &source.field_ref {
            let value = self.fields.field(&field.field_path);
            return value
                .map(Some)
                .ok_or_else(|| ConfigError::Field(field.field_path.clone()));
        }
        if let Some(resource) = &source.resource_field_ref {
            let value = self.fields.resource(resource, container);
            return value
                .map(Some)
                .ok_or_else(|| ConfigError::Field(resource.resource.clone()));
        }
        if let Some(key) = &source.config_map_key_ref {
            let values = self.config_map(&key.name, key.optional)?;
            return self.key(values, "ConfigMap", &key.name, &key.key, key.optional);
        }
        if let Some(key) = &source.secret_key_ref {
            let values = self.secret(&key.name, key.optional)?;
            return self.key(values, "Secret", &key.name, &key.key, key.optional);
        }
        Ok(None)
    }

    fn key(
        &self,
        mut values: BTreeMap<String, String>,
        kind: &'static str,
        name: &str,
        key: &str,
        optional: Option<bool>,
    ) -> Result<Option<String>, ConfigError> {
        match values.remove(key) {
            Some(value) => Ok(Some(value)),
            None if optional == Some(true) => Ok(None),
            None => Err(ConfigError::NoKey {
                kind,
                namespace: self.namespace().to_owned(),
                name: name.to_owned(),
                key: key.to_owned(),
            }),
        }
    }

    fn config_map(
        &self,
        name: &str,
        optional: Option<bool>,
    ) -> Result<BTreeMap<String, String>, ConfigError> {
        match self.config_maps.find(self.namespace(), name) {
            Some(map) => Ok(map.data.clone().unwrap_or_default()),
            None if optional == Some(true) => Ok(BTreeMap::new()),
            None => Err(ConfigError::NoObject {
                kind: "configmap",
                name: name.to_owned(),
            }),
        }
    }

    fn secret(
        &self,
        name: &str,
        optional: Option<bool>,
    ) -> Result<BTreeMap<String, String>, ConfigError> {
        match self.secrets.find(self.namespace(), name) {
            Some(secret) => Ok(secret
                .data
                .iter()
                .flatten()
                .map(|(key, value)| (key.clone(), String::from_utf8_lossy(&value.0).into_owned()))
                .collect()),
            None if optional == Some(true) => Ok(BTreeMap::new()),
            None => Err(ConfigError::NoObject {
                kind: "secret",
                name: name.to_owned(),
            }),
        }
    }

    /// `default/kubernetes` always, and with service links the pod's own namespace's services.
    fn linked_services(&self, links: bool) -> Vec<Arc<Service>> {
        let mut services: Vec<_> = self
            .services
            .find("default", "kubernetes")
            .into_iter()
            .collect();
        if links {
            services.extend(self.services.in_namespace(self.namespace()));
        }
        services.retain(|service| {
            let ip = service
                .spec
                .as_ref()
                .and_then(|spec| spec.cluster_ip.as_deref());
            ip.is_some_and(|ip| !ip.is_empty() && ip != "None")
        });
        services
    }
}

/// `NAME_SERVICE_HOST` and friends.
fn service_variables(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let name = service
        .metadata
        .name
        .as_deref()
        .unwrap_or_default()
        .to_uppercase()
        .replace('-', "_");
    let ip = spec.cluster_ip.clone().unwrap_or_default();
    let mut variables = vec![(format!("{name}_SERVICE_HOST"), ip.clone())];
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let number = port.port;
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{ip}:{number}", protocol.to_lowercase());
        let link = format!("{name}_PORT_{number}_{protocol}");
        if index == 0 {
            variables.push((format!("{name}_SERVICE_PORT"), number.to_string()));
            variables.push((format!("{name}_PORT"), url.clone()));
        }
        if let Some(port_name) = &port.name {
            let port_name = port_name.to_uppercase().replace('-', "_");
            variables.push((
                format!("{name}_SERVICE_PORT_{port_name}"),
                number.to_string(),
            ));
        }
        variables.push((link.clone(), url));
        variables.push((format!("{link}_PROTO"), protocol.to_lowercase()));
        variables.push((format!("{link}_PORT"), number.to_string()));
        variables.push((format!("{link}_ADDR"), ip.clone()));
    }
    variables
}

/// Replaces `$(NAME)` by its value; unknown names stay as they are, `$$` is a literal `$`.
pub(crate) fn expand(text: &str, env: &Environment) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            result.push('$');
            rest = after;
        } else if let Some((name, after)) = rest
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match env.get(name) {
                Some(value) => result.push_str(value),
                None => result.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            result.push('$');
        }
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::fields::Capacity;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};
    use std::net::Ipv4Addr;

    fn environment(container: Value) -> Result<Environment, ConfigError> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns"}, "spec": {"containers": []}
        }))
        .expect("a pod");
        let (config_maps, secrets, services) =
            (Store::default(), Store::default(), Store::default());
        let parse = |value: Value| Arc::new(serde_json::from_value(value).expect("a map"));
        config_maps.insert(parse(
            json!({"metadata": {"name": "m", "namespace": "ns"}, "data": {"a": "1", "b": "2"}}),
        ));
        services.insert(Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "web-app", "namespace": "ns"},
                "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80}]}}))
            .expect("a service"),
        ));
        let sources = Sources {
            fields: PodFields {
                pod: &pod,
                address: Some(Ipv4Addr::new(10, 244, 0, 7)),
                host_address: Ipv4Addr::new(10, 244, 0, 1),
                node: Capacity { cpus: 1, memory: 1 },
                node_name: "n",
            },
            config_maps: &config_maps,
            secrets: &secrets,
            services: &services,
        };
        sources.environment(
            &serde_json::from_value(container).expect("a container"),
            Environment::new(),
        )
    }

    #[test]
    fn later_sources_win_and_may_name_earlier_ones() {
        let env = environment(json!({"name": "c",
            "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}],
            "env": [{"name": "P_a", "value": "own"}, {"name": "JOINED", "value": "$(P_a)/$(P_b)/$(NONE)/$$(P_a)"},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "URL", "value": "$(WEB_APP_SERVICE_HOST):$(WEB_APP_SERVICE_PORT_HTTP)"}]}))
        .expect("an environment");
        assert_eq!(env["JOINED"], "own/2/$(NONE)/$(P_a)");
        assert_eq!(env["IP"], "10.244.0.7");
        assert_eq!(env["URL"], "10.96.0.9:80");
        assert_eq!(env["WEB_APP_PORT_80_TCP_PROTO"], "tcp");
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = |source: Value| {
            environment(json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]}))
                .expect_err("an error")
                .to_string()
        };
        assert_eq!(
            missing(json!({"secretKeyRef": {"name": "s", "key": "k"}})),
            "secret \"s\" not found"
        );
        assert_eq!(
            missing(json!({"configMapKeyRef": {"name": "m", "key": "k"}})),
            "couldn't find key k in ConfigMap ns/m"
        );
    }

    #[test]
    fn an_optional_key_that_is_absent_sets_nothing() {
        let env = environment(json!({"name": "c", "env": [
            {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k", "optional": true}}}]}));
        assert!(!env.expect("an environment").contains_key("X"));
    }
}
