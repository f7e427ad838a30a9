//! Two clients, one configuration: a data plane without Istio's filters gets the same in everything else.

use meltemi_translate::{Filters, ProxyKind, ResourceKind};
use serde_json::Value;

use crate::mesh::{Mesh, SUBSETS};

fn resources(filters: Filters, kind: ProxyKind, deployment: &str) -> Vec<Value> {
    let mut mesh = Mesh::bookinfo(&[SUBSETS]);
    let mut proxy = mesh.proxy(kind, deployment, filters);
    let kinds = ResourceKind::PUSH_ORDER.into_iter();
    kinds
        .flat_map(|kind| proxy.resources(kind))
        .map(|r| meltemi_proto::json::print_any(&r.body))
        .collect()
}

/// Takes out Istio's filters, and the offers that stand for one of them.
fn without_istio(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.retain(|item| {
                !item["name"]
                    .as_str()
                    .is_some_and(|name| name.starts_with("istio."))
            });
            items.iter_mut().for_each(without_istio);
        }
        Value::Object(fields) => {
            fields.remove("alpn_protocols");
            fields.values_mut().for_each(without_istio);
            fields.retain(|_, field| !field.as_array().is_some_and(Vec::is_empty));
        }
        _ => {}
    }
}

#[test]
fn the_profiles_differ_in_istios_filters_and_offers_only() {
    for (kind, deployment) in [
        (ProxyKind::Sidecar, "productpage-v1"),
        (ProxyKind::Router, "istio-ingressgateway"),
    ] {
        let mut ours = resources(Filters::all(), kind, deployment);
        let mut stock = resources(Filters::stock(), kind, deployment);
        assert_ne!(ours, stock);
        assert!(
            !Value::from(stock.clone())
                .to_string()
                .contains("\"istio.stats\"")
        );
        ours.iter_mut().chain(&mut stock).for_each(without_istio);
        assert_eq!(ours, stock);
    }
}

#[test]
fn a_client_without_the_alpn_filter_offers_its_protocol_on_the_cluster() {
    let offers = |filters, cluster: &str| {
        let mut mesh = Mesh::bookinfo(&[]);
        let json = mesh
            .proxy(ProxyKind::Sidecar, "productpage-v1", filters)
            .json(ResourceKind::Cluster, cluster);
        json["transport_socket_matches"][0]["transport_socket"]["typed_config"]["common_tls_context"]["alpn_protocols"]
            .to_string()
    };
    let http = "outbound|9080||reviews.default.svc.cluster.local";
    assert_eq!(
        offers(Filters::stock(), http),
        r#"["istio-http/1.1","istio","http/1.1"]"#
    );
    assert_eq!(
        offers(Filters::all(), http),
        r#"["istio-peer-exchange","istio"]"#
    );
    let http2 = "outbound|80||istio-ingressgateway.istio-system.svc.cluster.local";
    assert_eq!(
        offers(Filters::stock(), http2),
        r#"["istio-h2","istio","h2"]"#
    );
    assert_eq!(
        offers(Filters::all(), http2),
        r#"["istio-peer-exchange","istio","h2"]"#
    );
}
