//! Consistent hashing with bounded loads: a host that has more than its share passes the request on, in an order
//! that the hash determines.

use super::consistent::Entry;

/// Shares of the hosts of one table.
#[derive(Debug)]
pub(super) struct Bounded {
    /// Percent of the mean load at which a host is passed over.
    factor: u32,
    /// Hosts in table order, with their shares.
    shares: Vec<(u32, f64)>,
    /// All hosts of the cluster: their requests together are the load that is divided.
    cluster: usize,
}

impl Bounded {
    pub(super) fn new(factor: u32, entries: &[Entry<'_>], cluster: usize) -> Self {
        Self {
            factor,
            shares: entries.iter().map(|(at, _, share)| (*at, *share)).collect(),
            cluster,
        }
    }

    /// `first`, or the first host in the hash's order that has room, or the one with the least load for its share.
    pub(super) fn relieve(&self, first: u32, hash: u64, active: &dyn Fn(usize) -> u64) -> u32 {
        let total: u64 = (0..self.cluster).map(active).sum();
        let slots = ((total + 1) * u64::from(self.factor)).div_ceil(100);
        let load = |host: u32, share: f64| {
            let mine = (slots as f64 * share).ceil().max(1.0);
            active(host as usize) as f64 / mine
        };
        let share = |host: u32| {
            let found = self.shares.iter().find(|(at, _)| *at == host);
            found.map_or(1.0, |(_, share)| *share)
        };
        let mut best = (first, load(first, share(first)));
        if best.1 <= 1.0 {
            return first;
        }
        // The seed is cut to the generator's word on purpose.
        #[allow(clippy::cast_possible_truncation)]
        let mut random = Mt19937::new(hash as u32);
        let mut order: Vec<usize> = (0..self.shares.len()).collect();
        for at in 0..order.len() {
            let other = at + random.below(order.len() - at);
            order.swap(at, other);
            let (host, share) = self.shares[order[at]];
            if host == first {
                continue;
            }
            let load = load(host, share);
            if load <= 1.0 {
                return host;
            }
            if load < best.1 {
                best = (host, load);
            }
        }
        best.0
    }
}

/// The Mersenne Twister of the C++ standard library, because the order of hosts must be the same everywhere.
struct Mt19937 {
    state: [u32; Self::SIZE],
    next: usize,
}

impl Mt19937 {
    const SIZE: usize = 624;
    const SHIFT: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [0_u32; Self::SIZE];
        state[0] = seed;
        for at in 1..Self::SIZE {
            let before = state[at - 1];
            // `at` is below 624.
            #[allow(clippy::cast_possible_truncation)]
            let number = at as u32;
            state[at] = 1_812_433_253_u32
                .wrapping_mul(before ^ (before >> 30))
                .wrapping_add(number);
        }
        Self {
            state,
            next: Self::SIZE,
        }
    }

    fn next(&mut self) -> u32 {
        if self.next == Self::SIZE {
            self.twist();
        }
        let mut value = self.state[self.next];
        self.next += 1;
        value ^= value >> 11;
        value ^= (value << 7) & 0x9d2c_5680;
        value ^= (value << 15) & 0xefc6_0000;
        value ^ (value >> 18)
    }

    fn twist(&mut self) {
        for at in 0..Self::SIZE {
            let joined =
                (self.state[at] & 0x8000_0000) | (self.state[(at + 1) % Self::SIZE] & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[at] = self.state[(at + Self::SHIFT) % Self::SIZE] ^ (joined >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// A number below `end`, every one with the same chance.
    fn below(&mut self, end: usize) -> usize {
        let end = u32::try_from(end.max(1)).unwrap_or(u32::MAX);
        let bucket = (1_u64 << 32) / u64::from(end);
        loop {
            let number = u64::from(self.next()) / bucket;
            if number < u64::from(end) {
                return usize::try_from(number).unwrap_or(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_standard_one() {
        // The C++ standard names the 10,000th number of the default seed.
        let mut random = Mt19937::new(5489);
        let last = (0..10_000).map(|_| random.next()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn a_busy_host_passes_the_request_on_and_always_to_the_same_one() {
        let entries: Vec<Entry<'_>> = (0..4).map(|at| (at, "", 0.25)).collect();
        let bounded = Bounded::new(125, &entries, 4);
        let active = |at: usize| if at == 0 { 9 } else { 0 };
        let chosen = bounded.relieve(0, 77, &active);
        assert_ne!(chosen, 0);
        assert_eq!(bounded.relieve(0, 77, &active), chosen);
        assert_eq!(bounded.relieve(1, 77, &active), 1);
    }

    #[test]
    fn when_all_have_too_much_the_least_loaded_takes_it() {
        let entries: Vec<Entry<'_>> = vec![(0, "", 0.98), (1, "", 0.01), (2, "", 0.01)];
        let bounded = Bounded::new(100, &entries, 3);
        // Three slots for the first, one for each of the others.
        let active = |at: usize| [0, 2, 3][at];
        assert_eq!(bounded.relieve(2, 5, &active), 0);
        let active = |at: usize| [60, 2, 3][at];
        assert_eq!(bounded.relieve(2, 5, &active), 0);
    }
}
