//! Preference of endpoints by place.

use meltemi_translate::ResourceKind;
use serde_json::Value;

use crate::mesh::Mesh;

/// Three pods of one service in three places.
const SPREAD: &str = r#"
{kind: Service, metadata: {name: store}, spec: {clusterIP: 10.96.3.1, selector: {app: store}, ports: [{name: http, port: 80}]}}
---
{kind: Deployment, metadata: {name: near}, spec: {template: {metadata: {labels: {app: store, tier: gold, topology.istio.io/locality: eu.a.1}}, spec: {}}}}
---
{kind: Deployment, metadata: {name: zone}, spec: {template: {metadata: {labels: {app: store, tier: lead, topology.istio.io/locality: eu.b.1}}, spec: {}}}}
---
{kind: Deployment, metadata: {name: far}, spec: {template: {metadata: {labels: {app: store, tier: gold, topology.istio.io/locality: us.a.1}}, spec: {}}}}
"#;

/// Place, priority and weight of each group that a client at `eu/a/1` gets under a policy.
fn groups(policy: &str) -> Vec<(String, u64, u64)> {
    let rule = format!(
        "{{kind: DestinationRule, metadata: {{name: store}}, spec: {{host: store, trafficPolicy: {policy}}}}}"
    );
    let mut mesh = Mesh::bookinfo(&[SPREAD, &rule]);
    let mut client = mesh.sidecar("productpage-v1").at("eu/a/1");
    let json = client.json(
        ResourceKind::Endpoints,
        "outbound|80||store.default.svc.cluster.local",
    );
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let group = |group: &Value| {
        let place = format!(
            "{}/{}",
            text(&group["locality"]["region"]),
            text(&group["locality"]["zone"])
        );
        (
            place,
            group["priority"].as_u64().unwrap_or(0),
            group["load_balancing_weight"].as_u64().unwrap_or(0),
        )
    };
    json["endpoints"]
        .as_array()
        .expect("groups")
        .iter()
        .map(group)
        .collect()
}

fn row(place: &str, priority: u64, weight: u64) -> (String, u64, u64) {
    (place.to_owned(), priority, weight)
}

#[test]
fn nearer_endpoints_come_first_where_failing_ones_are_ejected() {
    let ranked = [row("eu/a", 0, 1), row("eu/b", 1, 1), row("us/a", 2, 1)];
    assert_eq!(groups("{outlierDetection: {}}"), ranked);
    let equal = [row("eu/a", 0, 1), row("eu/b", 0, 1), row("us/a", 0, 1)];
    assert_eq!(groups("{loadBalancer: {simple: RANDOM}}"), equal);
    assert_eq!(
        groups("{outlierDetection: {}, loadBalancer: {localityLbSetting: {enabled: false}}}"),
        equal
    );
}

#[test]
fn shares_divide_the_traffic_and_other_places_get_none() {
    let policy = "{loadBalancer: {localityLbSetting: {distribute: [{from: us/*, to: {'us/*': 100}}, {from: eu/a/*, to: {'eu/*': 80, 'us/a/1': 20}}]}}}";
    assert_eq!(
        groups(policy),
        [row("eu/a", 0, 40), row("eu/b", 0, 40), row("us/a", 0, 20)]
    );
    let only = "{loadBalancer: {localityLbSetting: {distribute: [{from: eu, to: {us: 100}}]}}}";
    assert_eq!(groups(only), [row("us/a", 0, 100)]);
}

#[test]
fn a_region_that_does_not_take_over_comes_last() {
    let policy = "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: eu, to: asia}]}}}";
    assert_eq!(
        groups(policy),
        [row("eu/a", 0, 1), row("eu/b", 1, 1), row("us/a", 2, 1)]
    );
}

#[test]
fn endpoints_are_ranked_by_the_labels_that_they_share() {
    let policy = "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failoverPriority: ['tier=gold', topology.kubernetes.io/region]}}}";
    assert_eq!(
        groups(policy),
        [row("eu/a", 0, 1), row("us/a", 1, 1), row("eu/b", 2, 1)]
    );
}

#[test]
fn a_client_whose_place_is_unknown_has_no_preference() {
    let rule = "{kind: DestinationRule, metadata: {name: store}, spec: {host: store, trafficPolicy: {outlierDetection: {}}}}";
    let mut mesh = Mesh::bookinfo(&[SPREAD, rule]);
    let endpoints = mesh.sidecar("productpage-v1").endpoints();
    let groups = &endpoints["outbound|80||store.default.svc.cluster.local"].endpoints;
    assert!(groups.iter().all(|group| group.priority == 0));
}
