//! VirtualService objects.

mod http;

use meltemi_api::virtual_service as api;
use meltemi_names::{ArcStr, Hostname};
use serde_json::Value;

use super::{Context, ConvertError, labels_of, meta_of, port, texts};
use crate::Visibility;
use crate::meta::Meta;
use crate::routing::{
    Destination, GatewayRef, MatchScope, TcpMatch, TcpRule, TcpShare, TlsMatch, TlsRule,
    VirtualService,
};

pub(crate) fn convert(
    value: &Value,
    context: &Context<'_>,
) -> Result<VirtualService, ConvertError> {
    let object = meltemi_api::Object::<api::VirtualService>::from_value(value)?;
    let meta = meta_of(&object.metadata);
    let spec = &object.spec;
    let names = Names {
        meta: &meta,
        domain: &context.mesh.domain,
    };
    let mut rules = Vec::with_capacity(spec.http.len());
    for (index, rule) in spec.http.iter().enumerate() {
        rules.push(http::rule(&format!("spec.http[{index}]"), rule, &names)?);
    }
    let gateways = if spec.gateways.is_empty() {
        vec![GatewayRef::Mesh]
    } else {
        names.gateways(&spec.gateways)
    };
    let default = &context.mesh.default_virtual_service_export_to;
    Ok(VirtualService {
        hosts: spec.hosts.iter().map(|host| names.host(host)).collect(),
        gateways,
        export_to: Visibility::of(
            spec.export_to.iter().map(String::as_str),
            &meta.namespace,
            default,
        ),
        http: rules,
        tls: spec
            .tls
            .iter()
            .enumerate()
            .map(|(i, rule)| tls_rule(i, rule, &names))
            .collect::<Result<_, _>>()?,
        tcp: spec
            .tcp
            .iter()
            .enumerate()
            .map(|(i, rule)| tcp_rule(i, rule, &names))
            .collect::<Result<_, _>>()?,
        meta,
    })
}

/// Resolves the names that an object writes.
struct Names<'a> {
    meta: &'a Meta,
    domain: &'a str,
}

impl Names<'_> {
    fn host(&self, written: &str) -> Hostname {
        Hostname::resolve(written, &self.meta.namespace, self.domain)
    }

    fn gateways(&self, written: &[String]) -> Vec<GatewayRef> {
        written.iter().map(|name| self.gateway(name)).collect()
    }

    /// `mesh`, `name` of the own namespace, `namespace/name`, or the older `name.namespace.svc.domain`.
    fn gateway(&self, written: &str) -> GatewayRef {
        if written == "mesh" {
            return GatewayRef::Mesh;
        }
        let (namespace, name) = match written.split_once('/') {
            Some((".", name)) => (self.meta.namespace.clone(), name),
            Some((namespace, name)) => (namespace.into(), name),
            None => match written.split_once('.') {
                Some((name, rest)) => (rest.split('.').next().unwrap_or(rest).into(), name),
                None => (self.meta.namespace.clone(), written),
            },
        };
        GatewayRef::Named {
            namespace,
            name: ArcStr::from(name),
        }
    }

    /// Namespace and name, the own namespace when none is written.
    fn delegate(&self, written: &api::Delegate) -> (ArcStr, ArcStr) {
        let namespace = match written.namespace.as_str() {
            "" => self.meta.namespace.clone(),
            stated => stated.into(),
        };
        (namespace, written.name.as_str().into())
    }

    fn destination(
        &self,
        field: &str,
        written: Option<&api::Destination>,
    ) -> Result<Destination, ConvertError> {
        let written = written
            .ok_or_else(|| ConvertError::value(format!("{field}.destination"), "is required"))?;
        let number = written
            .port
            .map(|selector| selector.number)
            .filter(|number| *number > 0);
        Ok(Destination {
            host: self.host(&written.host),
            subset: written.subset.as_str().into(),
            port: number
                .map(|number| port(&format!("{field}.destination.port.number"), number))
                .transpose()?,
        })
    }

    fn shares(
        &self,
        field: &str,
        written: &[api::RouteDestination],
    ) -> Result<Vec<TcpShare>, ConvertError> {
        let share = |(index, share): (usize, &api::RouteDestination)| {
            let field = format!("{field}.route[{index}]");
            Ok(TcpShare {
                destination: self.destination(&field, share.destination.as_ref())?,
                weight: u32::try_from(share.weight).unwrap_or(0),
            })
        };
        written.iter().enumerate().map(share).collect()
    }
}

fn tls_rule(
    index: usize,
    written: &api::TlsRoute,
    names: &Names<'_>,
) -> Result<TlsRule, ConvertError> {
    let field = format!("spec.tls[{index}]");
    let condition = |condition: &api::TlsMatch| {
        Ok(TlsMatch {
            sni_hosts: condition
                .sni_hosts
                .iter()
                .map(|host| Hostname::from(host.as_str()))
                .collect(),
            destination_subnets: texts(&condition.destination_subnets),
            scope: MatchScope {
                port: condition
                    .port
                    .map(|number| port(&format!("{field}.match.port"), number))
                    .transpose()?,
                source_labels: labels_of(&condition.source_labels),
                source_namespace: condition.source_namespace.as_str().into(),
                gateways: names.gateways(&condition.gateways),
            },
        })
    };
    Ok(TlsRule {
        matches: written
            .matches
            .iter()
            .map(condition)
            .collect::<Result<_, ConvertError>>()?,
        route: names.shares(&field, &written.route)?,
    })
}

fn tcp_rule(
    index: usize,
    written: &api::TcpRoute,
    names: &Names<'_>,
) -> Result<TcpRule, ConvertError> {
    let field = format!("spec.tcp[{index}]");
    let condition = |condition: &api::L4Match| {
        Ok(TcpMatch {
            destination_subnets: texts(&condition.destination_subnets),
            scope: MatchScope {
                port: condition
                    .port
                    .map(|number| port(&format!("{field}.match.port"), number))
                    .transpose()?,
                source_labels: labels_of(&condition.source_labels),
                source_namespace: condition.source_namespace.as_str().into(),
                gateways: names.gateways(&condition.gateways),
            },
        })
    };
    Ok(TcpRule {
        matches: written
            .matches
            .iter()
            .map(condition)
            .collect::<Result<_, ConvertError>>()?,
        route: names.shares(&field, &written.route)?,
    })
}
