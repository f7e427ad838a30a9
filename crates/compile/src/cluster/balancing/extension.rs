//! `load_balancing_policy`: the first policy of the list that is known, in place of `lb_policy` and its settings.

use meltemi_proto::any::type_name;
use meltemi_proto::envoy::extensions::load_balancing_policies as policies;
use meltemi_traffic::cluster::{
    Hashing, LbPolicy, LeastRequest, Maglev, OverrideHost, OverrideSource, RingHash, ZoneAware,
};
use policies::common::v3 as common;

use super::{
    Balancing, double, metadata_path, rounded_ring, slow_start_of, subsets, table_size, wide,
};
use crate::filter_config::decode;
use crate::pb::{cluster as pb, wkt};
use crate::refusal::{Compiled, Within, refuse, refuse_field};
use crate::values::{header_name, number, number_or, percent};

const OURS: &str = "envoy.extensions.load_balancing_policies.";

/// Reads the list into `out`, which holds the cluster's common settings.
pub(super) fn apply(message: &pb::LoadBalancingPolicy, out: &mut Balancing) -> Compiled<()> {
    // Locality settings of the cluster belong to `lb_policy`; policies have their own.
    out.common.locality_weighted = false;
    out.common.zone_aware = None;
    list(message, out)
}

fn list(message: &pb::LoadBalancingPolicy, out: &mut Balancing) -> Compiled<()> {
    for (position, policy) in message.policies.iter().enumerate() {
        let Some(extension) = &policy.typed_extension_config else {
            return refuse_field("typed_extension_config", "is required")
                .item("policies", position);
        };
        let Some(any) = &extension.typed_config else {
            return refuse_field("typed_extension_config.typed_config", "is required")
                .item("policies", position);
        };
        let at = "typed_extension_config.typed_config";
        let name = type_name(&any.type_url);
        let Some(kind) = name.strip_prefix(OURS) else {
            continue;
        };
        return one(kind, any, out).within(at).item("policies", position);
    }
    refuse_field("policies", "name no policy that is known")
}

fn one(kind: &str, any: &wkt::Any, out: &mut Balancing) -> Compiled<()> {
    match kind {
        "round_robin.v3.RoundRobin" => {
            let config: policies::round_robin::v3::RoundRobin = decode(any)?;
            locality(config.locality_lb_config.as_ref(), out)?;
            out.policy = LbPolicy::RoundRobin(slow_start(config.slow_start_config.as_ref())?);
        }
        "least_request.v3.LeastRequest" => {
            let config: policies::least_request::v3::LeastRequest = decode(any)?;
            locality(config.locality_lb_config.as_ref(), out)?;
            use policies::least_request::v3::least_request::SelectionMethod;
            out.policy = LbPolicy::LeastRequest(LeastRequest {
                choices: number_or(config.choice_count.as_ref(), 2).max(2),
                bias: double(config.active_request_bias.as_ref(), 1.0),
                full_scan: config.selection_method() == SelectionMethod::FullScan,
                slow_start: slow_start(config.slow_start_config.as_ref())?,
            });
        }
        "random.v3.Random" => {
            let config: policies::random::v3::Random = decode(any)?;
            locality(config.locality_lb_config.as_ref(), out)?;
            out.policy = LbPolicy::Random;
        }
        "ring_hash.v3.RingHash" => {
            let config: policies::ring_hash::v3::RingHash = decode(any)?;
            out.common.locality_weighted |= config.locality_weighted_lb_config.is_some();
            out.policy = LbPolicy::RingHash(ring(&config)?);
        }
        "maglev.v3.Maglev" => {
            let config: policies::maglev::v3::Maglev = decode(any)?;
            out.common.locality_weighted |= config.locality_weighted_lb_config.is_some();
            out.policy = LbPolicy::Maglev(Maglev {
                table_size: table_size("table_size", config.table_size.as_ref())?,
                hashing: hashing(config.consistent_hashing_lb_config.as_ref())?,
            });
        }
        "cluster_provided.v3.ClusterProvided" => out.policy = LbPolicy::ClusterProvided,
        "override_host.v3.OverrideHost" => {
            let config: policies::override_host::v3::OverrideHost = decode(any)?;
            out.override_host = Some(override_host(&config)?.into());
            child("fallback_policy", config.fallback_policy.as_ref(), out)?;
        }
        "subset.v3.Subset" => {
            let config: policies::subset::v3::Subset = decode(any)?;
            child("subset_lb_policy", config.subset_lb_policy.as_ref(), out)?;
            out.subsets = subsets::of_extension(&config)?.map(Into::into);
        }
        other => return refuse(format!("policy {OURS}{other} is not supported")),
    }
    Ok(())
}

fn child(
    field: &str,
    message: Option<&pb::LoadBalancingPolicy>,
    out: &mut Balancing,
) -> Compiled<()> {
    match message {
        Some(message) => list(message, out).within(field),
        None => refuse_field(field, "is required"),
    }
}

fn slow_start(
    message: Option<&common::SlowStartConfig>,
) -> Compiled<Option<meltemi_traffic::cluster::SlowStart>> {
    message.map_or(Ok(None), |message| {
        slow_start_of(
            message.slow_start_window.as_ref(),
            message.aggression.as_ref(),
            message.min_weight_percent.as_ref(),
        )
        .within("slow_start_config")
    })
}

fn locality(message: Option<&common::LocalityLbConfig>, out: &mut Balancing) -> Compiled<()> {
    use common::locality_lb_config::LocalityConfigSpecifier as By;
    match message.and_then(|message| message.locality_config_specifier.as_ref()) {
        Some(By::LocalityWeightedLbConfig(_)) => out.common.locality_weighted = true,
        Some(By::ZoneAwareLbConfig(config)) => {
            let field = "locality_lb_config.zone_aware_lb_config";
            out.common.zone_aware = Some(ZoneAware {
                routing_enabled: percent("routing_enabled", config.routing_enabled.as_ref(), 100.0)
                    .within(field)?,
                min_cluster_size: wide(config.min_cluster_size.as_ref(), 6),
                fail_traffic_on_panic: config.fail_traffic_on_panic,
            });
        }
        None => {}
    }
    Ok(())
}

#[expect(deprecated, reason = "older places of the hashing settings")]
fn ring(config: &policies::ring_hash::v3::RingHash) -> Compiled<RingHash> {
    let mut hashing = hashing(config.consistent_hashing_lb_config.as_ref())?;
    if config.consistent_hashing_lb_config.is_none() {
        hashing.use_hostname = config.use_hostname_for_hashing;
        hashing.balance_factor = number(config.hash_balance_factor.as_ref());
    }
    let murmur =
        config.hash_function() == policies::ring_hash::v3::ring_hash::HashFunction::MurmurHash2;
    rounded_ring(
        config.minimum_ring_size.as_ref(),
        config.maximum_ring_size.as_ref(),
        murmur,
        hashing,
    )
}

fn hashing(config: Option<&common::ConsistentHashingLbConfig>) -> Compiled<Hashing> {
    let Some(config) = config else {
        return Ok(Hashing::default());
    };
    if !config.hash_policy.is_empty() {
        return refuse_field("consistent_hashing_lb_config.hash_policy", "not supported");
    }
    Ok(Hashing {
        use_hostname: config.use_hostname_for_hashing,
        balance_factor: number(config.hash_balance_factor.as_ref()),
    })
}

fn override_host(config: &policies::override_host::v3::OverrideHost) -> Compiled<OverrideHost> {
    let mut sources = Vec::new();
    for (position, source) in config.override_host_sources.iter().enumerate() {
        let found = match (&source.metadata, source.header.as_str()) {
            (Some(_), name) if !name.is_empty() => refuse("has a header or metadata, not both"),
            (Some(key), _) => metadata_path(key)
                .map(|(namespace, path)| OverrideSource::Metadata(namespace, path))
                .within("metadata"),
            (None, "") => refuse("needs a header or metadata"),
            (None, name) => header_name(name)
                .map(OverrideSource::Header)
                .within("header"),
        };
        sources.push(found.item("override_host_sources", position)?);
    }
    Ok(OverrideHost { sources })
}
