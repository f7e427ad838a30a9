//! Virtual hosts and clusters that a request needs and that are not there yet (`on_demand`).

use std::sync::Arc;

use meltemi_traffic::Str;
use meltemi_traffic::hcm::{FilterOverride, OnDemand, RouteSource};
use meltemi_traffic::route::{Action, Route, RouteTable};
use meltemi_upstream::cluster::Cluster;

use super::plan::Plan;
use super::record::Exchange;
use super::reply::Reply;
use crate::discovery::demand::{LONGEST_WAIT, Name, Outcome};

/// Loads what a plan lacks, and makes the plan anew with it.
///
/// # Errors
/// 503 when it did not come in time. That it does not exist is no error: the request meets no route or no cluster.
pub(super) async fn complete(exchange: &mut Exchange, mut plan: Plan) -> Result<Plan, Reply> {
    if plan.is_missing() && virtual_host(exchange, &plan.table).await? {
        plan = plan.again(exchange)?;
    }
    let forwards = matches!(plan.route.action, Action::Forward(_)) && !plan.is_missing();
    if forwards && exchange.cluster.is_none() {
        exchange.cluster = cluster(exchange, &plan.route).await?;
    }
    Ok(plan)
}

/// Asks for the virtual host of a request that has none; true when it came.
async fn virtual_host(exchange: &Exchange, table: &Arc<RouteTable>) -> Result<bool, Reply> {
    let authority = &exchange.request.authority;
    if table.virtual_hosts_from.is_none() || table.host(authority).is_some() {
        return Ok(false);
    }
    let RouteSource::Rds(reference) = &exchange.context.hcm().routes else {
        return Ok(false);
    };
    let Ok(host) = std::str::from_utf8(authority) else {
        return Ok(false);
    };
    let name = Name::VirtualHost {
        table: reference.key.clone(),
        host: host.to_ascii_lowercase().into(),
    };
    let demand = &exchange.context.worker().shared.demand;
    match demand.ask(name, LONGEST_WAIT).await {
        Outcome::Loaded => Ok(true),
        Outcome::Absent => Ok(false),
        Outcome::Unavailable => Err(Reply::on_demand_unavailable()),
    }
}

/// Asks for the cluster that a route names.
async fn cluster(exchange: &Exchange, route: &Route) -> Result<Option<Arc<Cluster>>, Reply> {
    let Some((filter, settings)) = &exchange.context.runtime().on_demand else {
        return Ok(None);
    };
    let settings: &OnDemand = match route.overrides.get(filter) {
        Some(FilterOverride::OnDemand(own)) => own,
        Some(FilterOverride::Disabled) => return Ok(None),
        _ => settings,
    };
    let Some(clusters) = &settings.clusters else {
        return Ok(None);
    };
    let shared = &exchange.context.worker().shared;
    let wanted: &Str = &exchange.cluster_name;
    let name = Name::Cluster {
        source: clusters.source.clone(),
        name: wanted.clone(),
    };
    let wait = clusters
        .timeout
        .map_or(LONGEST_WAIT, |timeout| timeout.min(LONGEST_WAIT));
    match shared.demand.ask(name, wait).await {
        Outcome::Loaded => Ok(shared.clusters.get(wanted)),
        Outcome::Absent => Ok(None),
        Outcome::Unavailable => Err(Reply::on_demand_unavailable()),
    }
}
