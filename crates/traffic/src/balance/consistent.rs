//! Consistent hashing: a ring or a Maglev table over normalized weights, bounded in load where that is asked for.

use super::HostFacts;
use super::bounded::Bounded;
use super::maglev::MaglevTable;
use super::ring::Ring;
use crate::cluster::LbPolicy;

/// A host, its key and its share of the whole.
pub(super) type Entry<'a> = (u32, &'a str, f64);

/// The table of one priority.
#[derive(Debug)]
pub(super) struct Consistent {
    table: Table,
    bounded: Option<Bounded>,
}

#[derive(Debug)]
enum Table {
    Ring(Ring),
    Maglev(MaglevTable),
}

impl Consistent {
    /// `None` for other policies and without hosts.
    pub(super) fn new(
        policy: &LbPolicy,
        hosts: &[HostFacts<'_>],
        usable: &[u32],
        locality_weighted: bool,
    ) -> Option<Self> {
        let hashing = match policy {
            LbPolicy::RingHash(ring) => ring.hashing,
            LbPolicy::Maglev(maglev) => maglev.hashing,
            _ => return None,
        };
        let entries = if locality_weighted {
            shares_by_locality(hosts, usable)
        } else {
            shares(hosts, usable, 1.0)
        };
        if entries.is_empty() {
            return None;
        }
        let table = match policy {
            LbPolicy::RingHash(settings) => Table::Ring(Ring::new(&entries, settings)),
            LbPolicy::Maglev(settings) => {
                Table::Maglev(MaglevTable::new(&entries, settings.table_size))
            }
            _ => return None,
        };
        let bounded = hashing
            .balance_factor
            .map(|factor| Bounded::new(factor, &entries, hosts.len()));
        Some(Self { table, bounded })
    }

    /// The host for a hash; later attempts look elsewhere.
    pub(super) fn pick(
        &self,
        hash: u64,
        attempt: u32,
        active: &dyn Fn(usize) -> u64,
    ) -> Option<usize> {
        let first = match &self.table {
            Table::Ring(ring) => ring.at(hash, attempt),
            Table::Maglev(table) => table.at(hash, attempt),
        }?;
        let chosen = match &self.bounded {
            Some(bounded) => bounded.relieve(first, hash, active),
            None => first,
        };
        Some(chosen as usize)
    }
}

/// Weights of some hosts as shares of `whole`.
fn shares<'h>(hosts: &[HostFacts<'h>], positions: &[u32], whole: f64) -> Vec<Entry<'h>> {
    let weight = |at: &u32| f64::from(hosts[*at as usize].weight);
    let sum: f64 = positions.iter().map(weight).sum();
    positions
        .iter()
        .map(|at| (*at, hosts[*at as usize].key, weight(at) * whole / sum))
        .collect()
}

/// Each locality gets its share of the whole, which its hosts divide. Localities without a weight get nothing; when
/// no locality of the cluster has one, localities do not count.
fn shares_by_locality<'h>(hosts: &[HostFacts<'h>], positions: &[u32]) -> Vec<Entry<'h>> {
    if hosts.iter().all(|host| host.locality_weight.is_none()) {
        return shares(hosts, positions, 1.0);
    }
    let mut groups: Vec<(u32, u32, Vec<u32>)> = Vec::new();
    for at in positions {
        let host = &hosts[*at as usize];
        match groups
            .iter_mut()
            .find(|(locality, ..)| *locality == host.locality)
        {
            Some((.., members)) => members.push(*at),
            None => groups.push((host.locality, host.locality_weight.unwrap_or(0), vec![*at])),
        }
    }
    let sum: f64 = groups.iter().map(|(_, weight, _)| f64::from(*weight)).sum();
    groups
        .iter()
        .filter(|(_, weight, _)| *weight > 0)
        .flat_map(|(_, weight, members)| shares(hosts, members, f64::from(*weight) / sum))
        .collect()
}
