//! The names of the cluster domain, answered from the stores as Kubernetes' DNS specification says.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::watches::{SERVICE_NAME, Stores};

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The name has these addresses.
    Addresses(Vec<Ipv4Addr>),
    /// The name is another name (ExternalName).
    Alias(String),
    /// Service records: port and target name.
    Services(Vec<(u16, String)>),
    /// The name exists, without addresses.
    Exists,
    /// There is no such name.
    Nothing,
}

/// The cluster's names.
#[derive(Debug, Clone)]
pub(super) struct Zone {
    pub(super) stores: Stores,
    pub(super) domain: Arc<str>,
}

impl Zone {
    /// The answer for a name (lower case, without the final dot); `None` when the name is not ours.
    pub(super) fn answer(&self, name: &str) -> Option<Answer> {
        let inside = match name.strip_suffix(&*self.domain)? {
            "" => return Some(Answer::Exists),
            inside => inside.strip_suffix('.')?,
        };
        let labels: Vec<&str> = inside.split('.').rev().collect();
        Some(match labels.as_slice() {
            ["svc" | "pod"] => Answer::Exists,
            ["svc" | "pod", namespace] => self.namespace(namespace),
            ["pod", namespace, address] => self.pod(namespace, address),
            ["svc", namespace, service] => self.service(namespace, service),
            ["svc", namespace, service, host] => self.endpoint(namespace, service, host),
            ["svc", namespace, service, protocol, port] => {
                self.ports(namespace, service, protocol, port)
            }
            _ => Answer::Nothing,
        })
    }

    fn namespace(&self, namespace: &str) -> Answer {
        if self.stores.namespaces.find("", namespace).is_some() {
            Answer::Exists
        } else {
            Answer::Nothing
        }
    }

    /// `10-244-0-5.ns.pod`: any address, as CoreDNS' insecure mode.
    fn pod(&self, namespace: &str, address: &str) -> Answer {
        match address.replace('-', ".").parse() {
            Ok(address) if self.namespace(namespace) == Answer::Exists => {
                Answer::Addresses(vec![address])
            }
            _ => Answer::Nothing,
        }
    }

    fn service(&self, namespace: &str, name: &str) -> Answer {
        let Some(service) = self.stores.services.find(namespace, name) else {
            return Answer::Nothing;
        };
        let spec = service.spec.clone().unwrap_or_default();
        if spec.type_.as_deref() == Some("ExternalName") {
            return spec.external_name.map_or(Answer::Nothing, Answer::Alias);
        }
        if !is_headless(&service) {
            let address = spec.cluster_ip.and_then(|address| address.parse().ok());
            return address.map_or(Answer::Exists, |address| Answer::Addresses(vec![address]));
        }
        let addresses: BTreeSet<Ipv4Addr> = self
            .endpoints(&service)
            .into_iter()
            .flat_map(|endpoint| endpoint.addresses)
            .collect();
        if addresses.is_empty() {
            Answer::Nothing
        } else {
            Answer::Addresses(addresses.into_iter().collect())
        }
    }

    /// One endpoint of a service by its host name, or by its address with dashes.
    fn endpoint(&self, namespace: &str, service: &str, host: &str) -> Answer {
        if host.starts_with('_') {
            return if self.stores.services.find(namespace, service).is_some() {
                Answer::Exists
            } else {
                Answer::Nothing
            };
        }
        let Some(service) = self.stores.services.find(namespace, service) else {
            return Answer::Nothing;
        };
        let found = self
            .endpoints(&service)
            .into_iter()
            .filter(|endpoint| endpoint.name == host);
        let addresses: Vec<Ipv4Addr> = found.flat_map(|endpoint| endpoint.addresses).collect();
        if addresses.is_empty() {
            Answer::Nothing
        } else {
            Answer::Addresses(addresses)
        }
    }

    fn ports(&self, namespace: &str, name: &str, protocol: &str, port: &str) -> Answer {
        let (Some(protocol), Some(port)) = (protocol.strip_prefix('_'), port.strip_prefix('_'))
        else {
            return Answer::Nothing;
        };
        let Some(service) = self.stores.services.find(namespace, name) else {
            return Answer::Nothing;
        };
        let full = format!("{name}.{namespace}.svc.{}", self.domain);
        let matches = |candidate: Option<&str>, transport: Option<&str>| {
            candidate == Some(port) && transport.unwrap_or("TCP").eq_ignore_ascii_case(protocol)
        };
        let number = |port: i32| u16::try_from(port).ok();
        let mut records = Vec::new();
        if is_headless(&service) {
            for endpoint in self.endpoints(&service) {
                let ports = endpoint
                    .ports
                    .iter()
                    .filter(|(n, p, _)| matches(Some(n.as_str()), Some(p.as_str())));
                records
                    .extend(ports.map(|(_, _, port)| (*port, format!("{}.{full}", endpoint.name))));
            }
        } else {
            let ports = service
                .spec
                .iter()
                .flat_map(|spec| spec.ports.iter().flatten());
            let ports =
                ports.filter(|port| matches(port.name.as_deref(), port.protocol.as_deref()));
            records.extend(ports.filter_map(|port| Some((number(port.port)?, full.clone()))));
        }
        if records.is_empty() {
            Answer::Nothing
        } else {
            Answer::Services(records)
        }
    }

    fn endpoints(&self, service: &Service) -> Vec<Named> {
        let meta = &service.metadata;
        let (namespace, name) = (
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref(),
        );
        let slices = self.stores.slices.in_namespace(namespace);
        let own = slices.iter().filter(|slice| {
            slice
                .metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(SERVICE_NAME))
                .map(String::as_str)
                == name
        });
        own.flat_map(|slice| named(slice)).collect()
    }
}

fn is_headless(service: &Service) -> bool {
    service
        .spec
        .as_ref()
        .is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"))
}

/// An endpoint with its name in DNS.
struct Named {
    name: String,
    addresses: Vec<Ipv4Addr>,
    /// Name, protocol, number.
    ports: Vec<(String, String, u16)>,
}

fn named(slice: &EndpointSlice) -> Vec<Named> {
    let ports: Vec<(String, String, u16)> = slice
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let number = u16::try_from(port.port?).ok()?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some((port.name.clone().unwrap_or_default(), protocol, number))
        })
        .collect();
    let ready = slice.endpoints.iter().flatten().filter(|endpoint| {
        endpoint
            .conditions
            .as_ref()
            .and_then(|conditions| conditions.ready)
            .unwrap_or(true)
    });
    ready
        .map(|endpoint| {
            let addresses: Vec<Ipv4Addr> = endpoint
                .addresses
                .iter()
                .filter_map(|a| a.parse().ok())
                .collect();
            let dashed = addresses
                .first()
                .map(|address| address.to_string().replace('.', "-"));
            let name = endpoint.hostname.clone().or(dashed).unwrap_or_default();
            Named {
                name,
                addresses,
                ports: ports.clone(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn zone() -> Zone {
        let stores = Stores::default();
        let insert = |value: serde_json::Value| {
            stores
                .services
                .insert(Arc::new(serde_json::from_value(value).expect("a service")));
        };
        stores.namespaces.insert(Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "ns"}})).expect("one"),
        ));
        insert(json!({"metadata": {"name": "web", "namespace": "ns"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80}]}}));
        insert(
            json!({"metadata": {"name": "db", "namespace": "ns"}, "spec": {"clusterIP": "None"}}),
        );
        insert(json!({"metadata": {"name": "out", "namespace": "ns"},
            "spec": {"type": "ExternalName", "externalName": "example.org"}}));
        let slice = json!({
            "metadata": {"name": "db-1", "namespace": "ns", "labels": {SERVICE_NAME: "db"}}, "addressType": "IPv4",
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.244.0.5"], "hostname": "db-0"}, {"addresses": ["10.244.0.6"]},
                          {"addresses": ["10.244.0.7"], "conditions": {"ready": false}}]});
        stores
            .slices
            .insert(Arc::new(serde_json::from_value(slice).expect("a slice")));
        Zone {
            stores,
            domain: "cluster.local".into(),
        }
    }

    fn addresses(list: &[[u8; 4]]) -> Option<Answer> {
        Some(Answer::Addresses(
            list.iter().map(|octets| Ipv4Addr::from(*octets)).collect(),
        ))
    }

    #[test]
    fn services_pods_and_endpoints_have_their_names() {
        let zone = zone();
        let ask = |name: &str| zone.answer(name);
        assert_eq!(
            ask("web.ns.svc.cluster.local"),
            addresses(&[[10, 96, 0, 7]])
        );
        assert_eq!(
            ask("db.ns.svc.cluster.local"),
            addresses(&[[10, 244, 0, 5], [10, 244, 0, 6]])
        );
        assert_eq!(
            ask("db-0.db.ns.svc.cluster.local"),
            addresses(&[[10, 244, 0, 5]])
        );
        assert_eq!(
            ask("10-244-0-6.db.ns.svc.cluster.local"),
            addresses(&[[10, 244, 0, 6]])
        );
        assert_eq!(
            ask("10-244-0-9.ns.pod.cluster.local"),
            addresses(&[[10, 244, 0, 9]])
        );
        assert_eq!(
            ask("out.ns.svc.cluster.local"),
            Some(Answer::Alias("example.org".to_owned()))
        );
        assert_eq!(
            ask("_http._tcp.web.ns.svc.cluster.local"),
            Some(Answer::Services(vec![(
                80,
                "web.ns.svc.cluster.local".to_owned()
            )]))
        );
    }

    #[test]
    fn names_that_do_not_exist_are_denied_and_foreign_ones_left_to_others() {
        let zone = zone();
        for name in [
            "nope.ns.svc.cluster.local",
            "web.other.svc.cluster.local",
            "a.example.org.svc.cluster.local",
        ] {
            assert_eq!(zone.answer(name), Some(Answer::Nothing), "{name}");
        }
        assert_eq!(zone.answer("ns.svc.cluster.local"), Some(Answer::Exists));
        for name in ["example.org", "notcluster.local", "cluster.localhost"] {
            assert_eq!(zone.answer(name), None, "{name}");
        }
    }
}
