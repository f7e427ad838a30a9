//! Checks of load balancer settings.

use std::collections::BTreeSet;

use super::Findings;
use super::primitives::duration;
use crate::destination_rule::{
    ConsistentHash, Distribute, Failover, LoadBalancer, LocalityLb, Warmup, ZoneAwareLb,
};

/// Labels that the order by place already covers.
const PLACE_LABELS: [&str; 3] = [
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
];

/// Checks load balancer settings; `ejects` tells whether unhealthy endpoints are found at all.
pub(super) fn check(f: &mut Findings, balancer: &LoadBalancer, ejects: bool) {
    if let Some(hash) = &balancer.consistent_hash {
        f.at("consistentHash", |f| consistent_hash(f, hash));
    }
    if balancer.locality_lb_setting.is_some() && balancer.zone_aware_lb_setting.is_some() {
        f.error("localityLbSetting and zoneAwareLbSetting must not be set together");
    }
    if let Some(locality) = &balancer.locality_lb_setting {
        f.at("localityLbSetting", |f| {
            locality_setting(f, locality, ejects)
        });
    }
    if let Some(zone) = &balancer.zone_aware_lb_setting {
        f.at("zoneAwareLbSetting", |f| zone_setting(f, zone, ejects));
    }
    if balancer.warmup.is_some() && balancer.warmup_duration_secs.is_some() {
        f.error("warmup and warmupDurationSecs must not be set together");
    }
    duration(
        f,
        "warmupDurationSecs",
        balancer.warmup_duration_secs.as_ref(),
    );
    if let Some(settings) = &balancer.warmup {
        f.at("warmup", |f| warmup(f, settings));
    }
}

fn warmup(f: &mut Findings, warmup: &Warmup) {
    f.ensure(warmup.duration.is_some(), "duration must be set");
    duration(f, "duration", warmup.duration.as_ref());
    f.ensure(
        warmup.minimum_percent.is_none_or(|p| p <= 100.0),
        "minimumPercent must not be larger than 100",
    );
    f.ensure(
        warmup.aggression.is_none_or(|a| a > 0.0),
        "aggression must be larger than 0",
    );
}

/// Sizes of hash tables stay below this.
const TABLE_LIMIT: u64 = 5_000_011;

fn consistent_hash(f: &mut Findings, hash: &ConsistentHash) {
    if let Some(cookie) = &hash.http_cookie {
        f.ensure(!cookie.name.is_empty(), "name required for HttpCookie");
        let mut names = BTreeSet::new();
        for attribute in &cookie.attributes {
            f.ensure(
                !attribute.name.is_empty(),
                "cookie attribute must have a name",
            );
            f.ensure(
                names.insert(&attribute.name),
                format!("duplicate cookie attribute {}", attribute.name),
            );
        }
    }
    if hash.minimum_ring_size.is_some_and(|size| size != 0) {
        f.warn("consistent hash minimumRingSize is deprecated, use ringHash.minimumRingSize");
        if hash.ring_hash.is_some() || hash.maglev.is_some() {
            f.error("only one of minimumRingSize, maglev or ringHash can be specified");
        }
    }
    if let Some(size) = hash.maglev.as_ref().and_then(|m| m.table_size) {
        let fits = size > 0 && size < TABLE_LIMIT && is_prime(size);
        f.ensure(
            fits,
            format!("maglev table size {size} must be a prime number below {TABLE_LIMIT}"),
        );
    }
}

fn is_prime(number: u64) -> bool {
    number > 1
        && (2..)
            .take_while(|d| d * d <= number)
            .all(|d| !number.is_multiple_of(d))
}

fn locality_setting(f: &mut Findings, setting: &LocalityLb, ejects: bool) {
    if !setting.distribute.is_empty() && !setting.failover.is_empty() {
        f.error("can not simultaneously specify distribute and failover");
    }
    let origins: Vec<&str> = setting.distribute.iter().map(|d| d.from.as_str()).collect();
    localities(f, &origins);
    f.each("distribute", &setting.distribute, distribute);
    failover(f, &setting.failover, &setting.failover_priority, ejects);
    if !setting.failover.is_empty() && names_place(&setting.failover_priority) {
        f.error("can not simultaneously set failover and failoverPriority with region, zone or subzone labels");
    }
}

fn zone_setting(f: &mut Findings, setting: &ZoneAwareLb, ejects: bool) {
    failover(f, &setting.failover, &setting.failover_priority, ejects);
    f.ensure(
        !names_place(&setting.failover_priority),
        "failoverPriority must not name region, zone or subzone labels",
    );
}

fn names_place(labels: &[String]) -> bool {
    labels
        .iter()
        .any(|label| PLACE_LABELS.contains(&label.split('=').next().unwrap_or_default()))
}

fn failover(f: &mut Findings, failover: &[Failover], priority: &[String], ejects: bool) {
    if !ejects && (!failover.is_empty() || !priority.is_empty()) {
        f.warn("outlier detection policy must be provided for failover");
    }
    f.each("failover", failover, |f, Failover { from, to }| {
        f.ensure(
            from != to,
            format!("locality lb failover has the same region {from} in from and to"),
        );
        for region in [from, to] {
            f.ensure(
                !region.contains('*'),
                format!("locality lb failover region {region} must not contain *"),
            );
            f.ensure(
                !region.contains('/'),
                format!("locality lb failover region {region} must not contain /"),
            );
        }
    });
}

fn distribute(f: &mut Findings, distribute: &Distribute) {
    let mut total: u64 = 0;
    for (to, weight) in &distribute.to {
        f.ensure(
            (1..=100).contains(weight),
            format!("locality weight of {to} must be in range [1, 100]"),
        );
        total += u64::from(*weight);
    }
    f.ensure(
        total == 100,
        format!("total locality weight {total} is not 100"),
    );
    let targets: Vec<&str> = distribute.to.keys().map(String::as_str).collect();
    localities(f, &targets);
}

/// Checks places one by one and against each other.
fn localities(f: &mut Findings, localities: &[&str]) {
    for (at, locality) in localities.iter().enumerate() {
        let star = locality.find('*');
        if star.is_some_and(|at| at + 1 != locality.len()) {
            f.error(format!(
                "locality {locality} wildcard '*' number can not exceed 1 and must be in the end"
            ));
        }
        let empty = *locality != "*" && locality.split('/').any(str::is_empty);
        f.ensure(
            !empty,
            format!("locality {locality} must not contain empty region/zone/subzone info"),
        );
        for other in &localities[..at] {
            f.ensure(
                !overlap(locality, other),
                format!("locality {locality} overlaps with {other}"),
            );
        }
    }
}

fn overlap(a: &str, b: &str) -> bool {
    let mut pairs = a.split('/').zip(b.split('/'));
    pairs.all(|(a, b)| a == b || a == "*" || b == "*")
}
