//! Pod addresses: handed out in turn, so that a freed one is not reused at once.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use meltemi_capture::pod_network::Cidr4;

/// The free and taken addresses of the pod network.
#[derive(Debug)]
pub(crate) struct Addresses {
    first: u32,
    last: u32,
    next: u32,
    taken: BTreeSet<u32>,
}

impl Addresses {
    /// Addresses of `network`; its first two (network and gateway) and its last are never given out.
    pub(crate) fn new(network: Cidr4) -> Self {
        let base = u32::from(network.address);
        let size = 1u64 << (32 - u32::from(network.prefix.min(30)));
        let last = base + u32::try_from(size - 2).unwrap_or(2);
        Self {
            first: base + 2,
            last,
            next: base + 2,
            taken: BTreeSet::new(),
        }
    }

    /// Takes `wanted` if it is free, otherwise the next free one; `None` when all are taken.
    pub(crate) fn take(&mut self, wanted: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
        let wanted = wanted
            .map(u32::from)
            .filter(|a| (self.first..=self.last).contains(a));
        if let Some(wanted) = wanted.filter(|wanted| !self.taken.contains(wanted)) {
            self.taken.insert(wanted);
            return Some(wanted.into());
        }
        let ahead = self.next..=self.last;
        let behind = self.first..self.next;
        let free = ahead
            .chain(behind)
            .find(|address| !self.taken.contains(address))?;
        self.taken.insert(free);
        self.next = if free == self.last {
            self.first
        } else {
            free + 1
        };
        Some(free.into())
    }

    /// Gives an address back.
    pub(crate) fn free(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        Addresses::new(Cidr4 {
            address: Ipv4Addr::new(10, 244, 0, 0),
            prefix: 29,
        })
    }

    #[test]
    fn gateway_and_broadcast_are_never_given_out_and_the_pool_ends() {
        let mut addresses = addresses();
        let all: Vec<u8> = std::iter::from_fn(|| addresses.take(None))
            .map(|address| address.octets()[3])
            .collect();
        assert_eq!(all, [2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_freed_address_is_reused_last_but_can_be_asked_for() {
        let mut addresses = addresses();
        let first = addresses.take(None).expect("free");
        addresses.free(first);
        assert_ne!(addresses.take(None), Some(first));
        assert_eq!(addresses.take(Some(first)), Some(first));
    }
}
