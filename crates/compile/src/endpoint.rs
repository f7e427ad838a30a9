//! Endpoint assignments.

use std::sync::Arc;

use meltemi_traffic::Fraction;
use meltemi_traffic::endpoint::{Assignment, CheckTarget, Endpoint, Health, LocalityEndpoints};
use prost::Name;

use crate::coverage;
use crate::pb::{core, endpoint as pb};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{address, locality, metadata, number, number_or, optional_fraction};

/// Compiles an assignment.
///
/// # Errors
/// The first field that has no effect or no sense.
pub fn assignment(message: &pb::ClusterLoadAssignment) -> Compiled<Arc<Assignment>> {
    coverage::check(message, &pb::ClusterLoadAssignment::full_name())?;
    if message.cluster_name.is_empty() {
        return refuse_field("cluster_name", "is required");
    }
    embedded(message).map(Arc::new)
}

/// An assignment inside a cluster that was already checked.
pub(crate) fn embedded(message: &pb::ClusterLoadAssignment) -> Compiled<Assignment> {
    let localities = each("endpoints", &message.endpoints, group)?;
    let highest = localities
        .iter()
        .map(|group| group.priority)
        .max()
        .unwrap_or(0);
    if let Some(missing) =
        (0..highest).find(|p| localities.iter().all(|group| group.priority != *p))
    {
        return refuse_field(
            "endpoints",
            format!("priority {missing} is missing: priorities must be contiguous"),
        );
    }
    let policy = message.policy.clone().unwrap_or_default();
    let drops = policy.drop_overloads.iter().map(|drop| {
        (
            drop.category.as_str().into(),
            optional_fraction(drop.drop_percentage.as_ref(), Fraction::NONE),
        )
    });
    Ok(Assignment {
        cluster: message.cluster_name.as_str().into(),
        localities,
        overprovisioning: number_or(
            policy.overprovisioning_factor.as_ref(),
            Assignment::DEFAULT_OVERPROVISIONING,
        ),
        drop_overloads: drops.collect(),
        weighted_priority_health: policy.weighted_priority_health,
    })
}

fn group(message: &pb::LocalityLbEndpoints) -> Compiled<LocalityEndpoints> {
    if message.priority > 128 {
        return refuse_field("priority", "must be at most 128");
    }
    Ok(LocalityEndpoints {
        locality: locality(message.locality.as_ref()),
        priority: message.priority,
        weight: number(message.load_balancing_weight.as_ref()),
        endpoints: each("lb_endpoints", &message.lb_endpoints, |host| {
            host_of(host).map(Arc::new)
        })?,
    })
}

fn host_of(message: &pb::LbEndpoint) -> Compiled<Endpoint> {
    let host = match &message.host_identifier {
        Some(pb::lb_endpoint::HostIdentifier::Endpoint(host)) => host,
        Some(pb::lb_endpoint::HostIdentifier::EndpointName(_)) => {
            return refuse_field("endpoint_name", "not supported");
        }
        None => return refuse("needs an endpoint"),
    };
    let Some(first) = &host.address else {
        return refuse_field("endpoint.address", "is required");
    };
    let weight = number_or(message.load_balancing_weight.as_ref(), 1);
    if weight == 0 {
        return refuse_field("load_balancing_weight", "must be at least 1");
    }
    let additional = each(
        "endpoint.additional_addresses",
        &host.additional_addresses,
        |more| match &more.address {
            Some(more) => address(more),
            None => refuse("needs an address"),
        },
    )?;
    Ok(Endpoint {
        address: address(first).within("endpoint.address")?,
        additional,
        hostname: host.hostname.as_str().into(),
        health: health(message.health_status()),
        weight,
        metadata: metadata(message.metadata.as_ref()),
        check: check_target(host.health_check_config.as_ref())
            .within("endpoint.health_check_config")?,
    })
}

fn check_target(message: Option<&pb::endpoint::HealthCheckConfig>) -> Compiled<CheckTarget> {
    let Some(message) = message else {
        return Ok(CheckTarget::default());
    };
    let Ok(port) = u16::try_from(message.port_value) else {
        return refuse_field("port_value", "must be at most 65535");
    };
    Ok(CheckTarget {
        port: (port > 0).then_some(port),
        address: message
            .address
            .as_ref()
            .map(|given| address(given).within("address"))
            .transpose()?,
        hostname: message.hostname.as_str().into(),
        disabled: message.disable_active_health_check,
    })
}

fn health(wire: core::HealthStatus) -> Health {
    use core::HealthStatus;
    match wire {
        HealthStatus::Unknown | HealthStatus::Healthy => Health::Healthy,
        HealthStatus::Degraded => Health::Degraded,
        HealthStatus::Draining => Health::Draining,
        HealthStatus::Unhealthy | HealthStatus::Timeout => Health::Unhealthy,
    }
}
