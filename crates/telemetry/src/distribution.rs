//! Distributions as Envoy keeps them: values fall into bins of two significant decimal digits, so that quantiles and
//! any choice of bucket bounds can be read from the same bins.
//!
//! [`Histogram::record`] is one relaxed atomic increment. Readers see what was there at the last [`Histogram::flush`],
//! as Envoy's admin port shows what its statistics sinks were told.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Bins of a power of ten: mantissas 10 to 99.
const BINS: usize = 90;
/// Powers of ten that a 64-bit value can have.
const DECADES: usize = 20;
/// The quantiles that Envoy computes.
pub const QUANTILES: [f64; 10] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 1.0];
/// Upper bounds of buckets where nothing is configured.
pub const DEFAULT_BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1_000.0,
    2_500.0,
    5_000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];

/// A distribution that grows; the bins of a power of ten are made with its first value.
#[derive(Debug, Default)]
pub struct Histogram {
    zeros: AtomicU64,
    decades: [OnceLock<Box<[AtomicU64; BINS]>>; DECADES],
    flushed: Mutex<Flushed>,
}

/// A histogram as it was when it was last flushed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Flushed {
    /// All values.
    pub cumulative: Distribution,
    /// The values between the last two flushes.
    pub interval: Distribution,
}

/// How many values fell into each bin.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distribution(Vec<(Bin, u64)>);

/// A bin, by lower bound and width.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Bin {
    /// Its least value.
    pub lower: f64,
    /// 0 for the bin of zeros.
    pub width: f64,
}

impl Histogram {
    /// Counts a time, in whole milliseconds.
    pub fn record_time(&self, time: Duration) {
        self.record(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }

    /// Counts a value.
    pub fn record(&self, value: u64) {
        let Some(exponent) = value.checked_ilog10() else {
            self.zeros.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let mantissa = match exponent.checked_sub(1) {
            None => value * 10,
            Some(below) => value / 10_u64.pow(below),
        };
        let bins = self.decades[exponent as usize]
            .get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
        bins[(mantissa - 10) as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Takes what was counted since the last call into view.
    pub fn flush(&self) {
        let now = self.now();
        let mut flushed = self.flushed.lock();
        flushed.interval = now.without(&flushed.cumulative);
        flushed.cumulative = now;
    }

    /// What readers see.
    pub fn flushed(&self) -> Flushed {
        self.flushed.lock().clone()
    }

    fn now(&self) -> Distribution {
        let mut out = Vec::new();
        let mut push = |bin: Bin, count: &AtomicU64| {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                out.push((bin, count));
            }
        };
        push(Bin::ZERO, &self.zeros);
        for (exponent, bins) in self.decades.iter().enumerate() {
            for (at, count) in bins
                .get()
                .into_iter()
                .flat_map(|bins| bins.iter().enumerate())
            {
                push(Bin::new(at, exponent), count);
            }
        }
        Distribution(out)
    }
}

impl Bin {
    const ZERO: Self = Self {
        lower: 0.0,
        width: 0.0,
    };

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "small numbers"
    )]
    fn new(at: usize, exponent: usize) -> Self {
        let power = 10_f64.powi(exponent as i32);
        Self {
            lower: (at + 10) as f64 / 10.0 * power,
            width: power / 10.0,
        }
    }

    /// The value that stands for all of the bin in sums.
    fn middle(self) -> f64 {
        let upper = self.lower + self.width;
        if upper == 0.0 {
            return 0.0;
        }
        2.0 * self.lower * (upper / (self.lower + upper))
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^53")]
impl Distribution {
    /// The bins that have values, least first.
    pub fn bins(&self) -> impl Iterator<Item = (Bin, u64)> {
        self.0.iter().copied()
    }

    /// Values in all.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// Their sum, as far as the bins tell.
    #[must_use]
    pub fn sum(&self) -> f64 {
        // From a positive zero on: an empty sum of floats is a negative one.
        let bins = self.0.iter();
        bins.fold(0.0, |sum, (bin, count)| sum + bin.middle() * *count as f64)
    }

    /// Values of bins that begin at or below a bound.
    #[must_use]
    pub fn up_to(&self, bound: f64) -> u64 {
        let below = self.0.iter().filter(|(bin, _)| bin.lower <= bound);
        below.map(|(_, count)| count).sum()
    }

    /// The value below which this part of all values is; NaN when there are none. Values of a bin are taken as evenly
    /// spread over it.
    #[must_use]
    pub fn quantile(&self, part: f64) -> f64 {
        let total = self.count();
        if total == 0 {
            return f64::NAN;
        }
        let rank = (part * total as f64).ceil().max(1.0);
        let mut before = 0.0;
        for (bin, count) in &self.0 {
            let count = *count as f64;
            if before + count >= rank {
                return bin.lower + bin.width * ((rank - before) / (count + 1.0));
            }
            before += count;
        }
        f64::NAN
    }

    fn without(&self, before: &Self) -> Self {
        let mut old = before.0.iter().peekable();
        let mut out = Vec::new();
        for (bin, count) in &self.0 {
            while old.next_if(|(have, _)| have < bin).is_some() {}
            let had = old
                .next_if(|(have, _)| have == bin)
                .map_or(0, |(_, had)| *had);
            if *count > had {
                out.push((*bin, count - had));
            }
        }
        Self(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[u64]) -> Histogram {
        let histogram = Histogram::default();
        for value in values {
            histogram.record(*value);
        }
        histogram.flush();
        histogram
    }

    #[test]
    fn values_fall_into_bins_of_two_digits() {
        let bins = |value| {
            let all = of(&[value]).flushed().cumulative;
            all.bins().map(|(bin, _)| (bin.lower, bin.width)).next()
        };
        assert_eq!(bins(0), Some((0.0, 0.0)));
        assert_eq!(bins(1), Some((1.0, 0.1)));
        assert_eq!(bins(9), Some((9.0, 0.1)));
        assert_eq!(bins(43), Some((43.0, 1.0)));
        assert_eq!(bins(1999), Some((1900.0, 100.0)));
        assert!(bins(u64::MAX).is_some());
    }

    #[test]
    fn quantiles_and_sums_are_envoys() {
        let two = of(&[2, 43]).flushed().cumulative;
        let shown = QUANTILES.map(|part| two.quantile(part).to_string());
        assert_eq!(shown[..3], ["2.05", "2.05", "2.05"]);
        assert_eq!(shown[3..], ["43.5"; 7]);
        assert_eq!(format!("{:.13}", two.sum()), "45.5430333613681");
        let same = of(&[1, 1]).flushed().cumulative;
        assert_eq!(same.quantile(0.5).to_string(), "1.0333333333333334");
        assert_eq!(same.quantile(1.0).to_string(), "1.0666666666666667");
        assert!(Distribution::default().quantile(0.5).is_nan());
    }

    #[test]
    fn a_bound_takes_the_bin_that_begins_at_it() {
        let all = of(&[0, 2, 43]).flushed().cumulative;
        assert_eq!(
            [0.5, 2.0, 42.0, 43.0].map(|bound| all.up_to(bound)),
            [1, 2, 2, 3]
        );
    }

    #[test]
    fn an_interval_is_what_came_since_the_last_flush() {
        let histogram = of(&[5, 7]);
        histogram.record(7);
        histogram.record(0);
        assert_eq!(histogram.flushed().cumulative.count(), 2);
        histogram.flush();
        let flushed = histogram.flushed();
        assert_eq!(
            (flushed.cumulative.count(), flushed.interval.count()),
            (4, 2)
        );
        histogram.flush();
        assert_eq!(histogram.flushed().interval, Distribution::default());
    }
}
