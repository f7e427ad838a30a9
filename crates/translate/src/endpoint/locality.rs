//! Preference of endpoints by place: shares of the traffic, or priorities that take over from each other.

use std::collections::BTreeMap;

use meltemi_model::endpoint::Endpoint;
use meltemi_names::{ArcStr, Labels, Locality};

use super::{Group, PlaceInput};

/// Endpoints in another region than the one that takes over.
const NOT_THE_FAILOVER: u32 = 4;
/// Ranks by place for each rank by labels.
const RANKS_BY_PLACE: u32 = 5;

/// The groups with weights and priorities as seen from the client.
pub(super) fn prefer<'a>(groups: Vec<Group<'a>>, place: &PlaceInput) -> Vec<Group<'a>> {
    let setting = &place.setting;
    let shares = setting
        .distribute
        .iter()
        .find(|(from, _)| covers(from, &place.client));
    if let Some((_, shares)) = shares {
        return distribute(groups, shares);
    }
    if !setting.distribute.is_empty() {
        return groups;
    }
    compact(rank(groups, place))
}

/// Whether a pattern `region/zone/subzone` covers a place.
fn covers(pattern: &str, place: &Locality) -> bool {
    let parts = [&place.region, &place.zone, &place.sub_zone];
    let wanted = pattern.split('/').zip(parts);
    wanted
        .take_while(|(wanted, _)| *wanted != "*")
        .all(|(wanted, part)| wanted.is_empty() || wanted == *part)
}

/// Divides the traffic: each share among the places that it covers, by their size. Others get nothing.
fn distribute<'a>(groups: Vec<Group<'a>>, shares: &[(ArcStr, u32)]) -> Vec<Group<'a>> {
    let share_of = |group: &Group<'_>| shares.iter().position(|(to, _)| covers(to, group.locality));
    let mut totals = vec![0_u64; shares.len()];
    for group in &groups {
        if let Some(index) = share_of(group) {
            totals[index] += u64::from(group.weight);
        }
    }
    let weighted = groups.into_iter().filter_map(|mut group| {
        let index = share_of(&group)?;
        let weight =
            (u64::from(group.weight) * u64::from(shares[index].1)).div_ceil(totals[index].max(1));
        group.weight = u32::try_from(weight).ok().filter(|weight| *weight > 0)?;
        Some(group)
    });
    weighted.collect()
}

/// Splits the groups by their ranks: by labels first, by place among equals.
fn rank<'a>(groups: Vec<Group<'a>>, place: &PlaceInput) -> Vec<Group<'a>> {
    let setting = &place.setting;
    let mut out = Vec::with_capacity(groups.len());
    for group in groups {
        let by_place = rank_by_place(place, group.locality);
        if setting.failover_priority.is_empty() {
            out.push(Group {
                priority: by_place,
                ..group
            });
            continue;
        }
        let mut by_rank: BTreeMap<u32, Vec<&Endpoint>> = BTreeMap::new();
        for endpoint in group.members {
            let by_labels = rank_by_labels(place, endpoint);
            let rank = if setting.failover.is_empty() {
                by_labels
            } else {
                by_labels * RANKS_BY_PLACE + by_place
            };
            by_rank.entry(rank).or_default().push(endpoint);
        }
        out.extend(by_rank.into_iter().map(|(priority, members)| Group {
            locality: group.locality,
            weight: u32::try_from(members.len()).unwrap_or(u32::MAX),
            members,
            priority,
        }));
    }
    out
}

/// The nearer the lower.
fn rank_by_place(place: &PlaceInput, other: &Locality) -> u32 {
    let client = &place.client;
    if client.region != other.region {
        let heir = place
            .setting
            .failover
            .iter()
            .find(|(from, _)| *from == client.region);
        return match heir {
            Some((_, to)) if *to != other.region => NOT_THE_FAILOVER,
            _ => 3,
        };
    }
    match (client.zone == other.zone, client.sub_zone == other.sub_zone) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

/// How many of the labels, from the first that differs on, are not shared.
fn rank_by_labels(place: &PlaceInput, endpoint: &Endpoint) -> u32 {
    let wanted = &place.setting.failover_priority;
    let none = Labels::new();
    let own = endpoint.labels().unwrap_or(&none);
    let shared = wanted.iter().take_while(|label| {
        let theirs = |key: &str| topology(key, own, &endpoint.locality);
        match label.split_once('=') {
            Some((key, value)) => theirs(key).is_some_and(|theirs| theirs == value),
            None => theirs(label) == topology(label, &place.labels, &place.client),
        }
    });
    u32::try_from(wanted.len() - shared.count()).unwrap_or(u32::MAX)
}

/// A label; those of the topology come from the place where it is known.
fn topology<'a>(key: &str, labels: &'a Labels, place: &'a Locality) -> Option<&'a ArcStr> {
    let part = match key {
        "topology.kubernetes.io/region" => Some(&place.region),
        "topology.kubernetes.io/zone" => Some(&place.zone),
        "topology.istio.io/subzone" => Some(&place.sub_zone),
        _ => None,
    };
    part.filter(|part| !part.is_empty())
        .or_else(|| labels.get(key))
}

/// Priorities without gaps, as the data plane demands, the preferred groups first.
fn compact(mut groups: Vec<Group<'_>>) -> Vec<Group<'_>> {
    let mut ranks: Vec<u32> = groups.iter().map(|group| group.priority).collect();
    ranks.sort_unstable();
    ranks.dedup();
    for group in &mut groups {
        let position = ranks.binary_search(&group.priority).unwrap_or(0);
        group.priority = u32::try_from(position).unwrap_or(u32::MAX);
    }
    groups.sort_by_key(|group| group.priority);
    groups
}
