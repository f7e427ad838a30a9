//! Response flags: why an exchange ended as it did, in Envoy's letters.

/// A set of response flags that remembers the order in which they were set: Envoy prints them so (`URX,UT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct ResponseFlags {
    bits: u64,
    /// Six bits for each flag, its bit number plus one, the first flag lowest. Flags beyond [`REMEMBERED`] print last.
    order: u64,
}

/// Bits of one entry of the order.
const ENTRY: u32 = 6;
/// Flags whose order is kept; an exchange has seldom more than three.
const REMEMBERED: u32 = u64::BITS / ENTRY;

macro_rules! flags {
    ($($bit:literal $name:ident $short:literal $long:literal $doc:literal;)*) => {
        impl ResponseFlags {
            $(#[doc = $doc] pub const $name: Self = Self { bits: 1 << $bit, order: $bit + 1 };)*
        }
        /// Every flag: bit number, short and long name.
        const TABLE: &[(u32, &str, &str)] = &[$(($bit, $short, $long)),*];
    };
}

flags! {
    0 FAILED_LOCAL_HEALTH_CHECK "LH" "FailedLocalHealthCheck" "Local health check failed.";
    1 NO_HEALTHY_UPSTREAM "UH" "NoHealthyUpstream" "No healthy upstream host.";
    2 UPSTREAM_REQUEST_TIMEOUT "UT" "UpstreamRequestTimeout" "The upstream request timed out.";
    3 LOCAL_RESET "LR" "LocalReset" "Reset by this proxy.";
    4 UPSTREAM_REMOTE_RESET "UR" "UpstreamRemoteReset" "Reset by the upstream.";
    5 UPSTREAM_CONNECTION_FAILURE "UF" "UpstreamConnectionFailure" "Could not connect upstream.";
    6 UPSTREAM_CONNECTION_TERMINATION "UC" "UpstreamConnectionTermination" "The upstream closed the connection.";
    7 UPSTREAM_OVERFLOW "UO" "UpstreamOverflow" "A circuit breaker was full.";
    8 NO_ROUTE_FOUND "NR" "NoRouteFound" "No route or no filter chain.";
    9 DELAY_INJECTED "DI" "DelayInjected" "A fault delayed the request.";
    10 FAULT_INJECTED "FI" "FaultInjected" "A fault aborted the request.";
    11 RATE_LIMITED "RL" "RateLimited" "Rate limited.";
    12 UNAUTHORIZED_EXTERNAL_SERVICE "UAEX" "UnauthorizedExternalService" "Denied by an authorizer.";
    13 RATE_LIMIT_SERVICE_ERROR "RLSE" "RateLimitServiceError" "The rate limit service failed.";
    14 DOWNSTREAM_CONNECTION_TERMINATION "DC" "DownstreamConnectionTermination" "The client went away.";
    15 UPSTREAM_RETRY_LIMIT_EXCEEDED "URX" "UpstreamRetryLimitExceeded" "Retries or connect attempts used up.";
    16 STREAM_IDLE_TIMEOUT "SI" "StreamIdleTimeout" "The stream was idle for too long.";
    17 INVALID_ENVOY_REQUEST_HEADERS "IH" "InvalidEnvoyRequestHeaders" "A control header was invalid.";
    18 DOWNSTREAM_PROTOCOL_ERROR "DPE" "DownstreamProtocolError" "The client broke the protocol.";
    19 UPSTREAM_MAX_STREAM_DURATION_REACHED "UMSDR" "UpstreamMaxStreamDurationReached" "The upstream stream lived too long.";
    20 RESPONSE_FROM_CACHE "RFCF" "ResponseFromCacheFilter" "Answered from a cache.";
    21 NO_FILTER_CONFIG_FOUND "NFCF" "NoFilterConfigFound" "A filter's configuration was missing.";
    22 DURATION_TIMEOUT "DT" "DurationTimeout" "The connection lived too long.";
    23 UPSTREAM_PROTOCOL_ERROR "UPE" "UpstreamProtocolError" "The upstream broke the protocol.";
    24 NO_CLUSTER_FOUND "NC" "NoClusterFound" "The cluster does not exist.";
    25 OVERLOAD_MANAGER "OM" "OverloadManagerTerminated" "Shed under overload.";
    26 DNS_RESOLUTION_FAILED "DF" "DnsResolutionFailed" "The name could not be resolved.";
    27 DROP_OVERLOAD "DO" "DropOverload" "Dropped as the endpoints' policy asks.";
    28 DOWNSTREAM_REMOTE_RESET "DR" "DownstreamRemoteReset" "The client reset the stream.";
    29 UNCONDITIONAL_DROP_OVERLOAD "UDO" "UnconditionalDropOverload" "Dropped wholly as the endpoints' policy asks.";
}

impl ResponseFlags {
    /// No flag.
    pub const NONE: Self = Self { bits: 0, order: 0 };

    /// Adds flags.
    pub fn add(&mut self, other: Self) {
        if self.bits == 0 {
            *self = other;
            return;
        }
        let mut rest = other.order;
        while rest != 0 {
            let entry = rest & ((1 << ENTRY) - 1);
            let count = (u64::BITS - self.order.leading_zeros()).div_ceil(ENTRY);
            if self.bits & (1 << (entry - 1)) == 0 && count < REMEMBERED {
                self.order |= entry << (count * ENTRY);
            }
            rest >>= ENTRY;
        }
        self.bits |= other.bits;
    }

    /// True when any flag of `other` is set.
    #[must_use]
    pub fn any_of(self, other: Self) -> bool {
        self.bits & other.bits != 0
    }

    /// True when no flag is set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.bits == 0
    }

    /// The set's bits, as a cheap map key.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.bits
    }

    /// The flag with this short name.
    #[must_use]
    pub fn from_short(name: &str) -> Option<Self> {
        let (bit, ..) = TABLE.iter().find(|(_, short, _)| *short == name)?;
        Some(Self {
            bits: 1 << bit,
            order: u64::from(bit + 1),
        })
    }

    /// Calls `each` with the short name of every set flag.
    pub fn for_each_short(self, mut each: impl FnMut(&'static str)) {
        for (_, short, _) in self.entries() {
            each(short);
        }
    }

    /// Short names joined by commas, `-` for none. Does not allocate for none or one flag.
    #[must_use]
    pub fn short(self) -> std::borrow::Cow<'static, str> {
        self.join(|entry| entry.1)
    }

    /// Long names joined by commas, `-` for none.
    #[must_use]
    pub fn long(self) -> std::borrow::Cow<'static, str> {
        self.join(|entry| entry.2)
    }

    /// The flags in the order in which they were set, then those whose order is not known.
    fn entries(self) -> impl Iterator<Item = &'static (u32, &'static str, &'static str)> {
        let position = move |n: u32| (self.order >> (n * ENTRY)) & ((1 << ENTRY) - 1);
        let find = move |bit: u64| TABLE.iter().find(move |(have, ..)| u64::from(*have) == bit);
        let known = (0..REMEMBERED).filter_map(move |n| find(position(n).checked_sub(1)?));
        let listed = (0..REMEMBERED)
            .filter_map(move |n| position(n).checked_sub(1))
            .fold(0_u64, |all, bit| all | 1 << bit);
        let left = self.bits & !listed;
        known.chain(TABLE.iter().filter(move |(bit, ..)| left & (1 << bit) != 0))
    }

    fn join(
        self,
        name: impl Fn(&(u32, &'static str, &'static str)) -> &'static str,
    ) -> std::borrow::Cow<'static, str> {
        let mut set = self.entries();
        let Some(first) = set.next() else {
            return "-".into();
        };
        let Some(second) = set.next() else {
            return name(first).into();
        };
        let mut all = format!("{},{}", name(first), name(second));
        for entry in set {
            all.push(',');
            all.push_str(name(entry));
        }
        all.into()
    }
}

impl std::ops::BitOr for ResponseFlags {
    type Output = Self;
    fn bitor(mut self, other: Self) -> Self {
        self.add(other);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_in_the_order_in_which_they_were_set() {
        let mut flags = ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED
            | ResponseFlags::UPSTREAM_CONNECTION_FAILURE;
        flags.add(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        flags.add(ResponseFlags::DELAY_INJECTED | ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        assert_eq!(flags.short(), "URX,UF,DI");
        assert_eq!(
            flags.long(),
            "UpstreamRetryLimitExceeded,UpstreamConnectionFailure,DelayInjected"
        );
        assert_eq!(ResponseFlags::NONE.short(), "-");
        assert_eq!(
            ResponseFlags::from_short("NR"),
            Some(ResponseFlags::NO_ROUTE_FOUND)
        );
    }

    #[test]
    fn all_flags_at_once_are_all_printed() {
        let all = TABLE
            .iter()
            .fold(ResponseFlags::NONE, |all, (_, short, _)| {
                all | ResponseFlags::from_short(short).unwrap()
            });
        assert_eq!(all.short().split(',').count(), TABLE.len());
    }
}
