//! Fault injection decisions.

use std::time::Duration;

use http::header::HeaderName;

use crate::headers::RequestHead;
use crate::matcher::HeaderMatcher;
use crate::{Fraction, Str};

/// `HTTPFault`.
#[derive(Debug, Clone, Default)]
pub struct Fault {
    /// Delay.
    pub delay: Option<FaultDelay>,
    /// Abort.
    pub abort: Option<FaultAbort>,
    /// Only for this upstream cluster; empty is any.
    pub upstream_cluster: Str,
    /// All must match.
    pub headers: Vec<HeaderMatcher>,
    /// Only from these nodes (x-envoy-downstream-service-node); empty is any.
    pub downstream_nodes: Vec<Str>,
    /// Faults at once.
    pub max_active: Option<u32>,
    /// Speed of responses.
    pub response_rate: Option<FaultRate>,
}

/// A speed of responses.
#[derive(Debug, Clone, Copy)]
pub struct FaultRate {
    /// KiB per second; `None` is read from x-envoy-fault-throughput-response.
    pub fixed: Option<u64>,
    /// Its share.
    pub share: Fraction,
}

/// A delay.
#[derive(Debug, Clone, Copy)]
pub struct FaultDelay {
    /// Its length; `None` is read from x-envoy-fault-delay-request (ms).
    pub fixed: Option<Duration>,
    /// Its share.
    pub share: Fraction,
}

/// An abort.
#[derive(Debug, Clone, Copy)]
pub struct FaultAbort {
    /// What is answered.
    pub kind: AbortKind,
    /// Its share.
    pub share: Fraction,
}

/// What an abort answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortKind {
    /// This HTTP status.
    Http(u16),
    /// This gRPC status.
    Grpc(u32),
    /// Read from x-envoy-fault-abort-request or x-envoy-fault-abort-grpc-request.
    FromHeader,
}

/// Body of an HTTP abort.
pub const ABORT_BODY: &str = "fault filter abort";

/// What to do with a request: first the delay, then the abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultPlan {
    /// KiB per second of the response.
    pub response_kib: Option<u64>,
    /// Wait so long.
    pub delay: Option<Duration>,
    /// Then answer this.
    pub abort: Option<AbortKind>,
}

const DELAY: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request");
const DELAY_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request-percentage");
const ABORT: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request");
const ABORT_GRPC: HeaderName = HeaderName::from_static("x-envoy-fault-abort-grpc-request");
const ABORT_SHARE: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request-percentage");
const RATE: HeaderName = HeaderName::from_static("x-envoy-fault-throughput-response");
const RATE_SHARE: HeaderName =
    HeaderName::from_static("x-envoy-fault-throughput-response-percentage");
const NODE: HeaderName = HeaderName::from_static("x-envoy-downstream-service-node");

impl Fault {
    /// Decides; `random` gives a new number for each draw, `cluster` is the request's upstream cluster.
    #[must_use]
    pub fn plan<R: RequestHead + ?Sized>(
        &self,
        request: &R,
        cluster: &str,
        mut random: impl FnMut() -> u64,
    ) -> FaultPlan {
        if !self.concerns(request, cluster) {
            return FaultPlan::default();
        }
        let response_kib = self.response_rate.and_then(|rate| {
            let kib = match rate.fixed {
                Some(fixed) => fixed,
                None => number(request, &RATE).filter(|kib| *kib > 0)?,
            };
            let share = lowered(request, &RATE_SHARE, rate.share, rate.fixed.is_none());
            share.hits(random()).then_some(kib)
        });
        let delay = self.delay.and_then(|delay| {
            let length = match delay.fixed {
                Some(fixed) => fixed,
                None => Duration::from_millis(number(request, &DELAY)?),
            };
            let share = lowered(request, &DELAY_SHARE, delay.share, delay.fixed.is_none());
            (share.hits(random()) && !length.is_zero()).then_some(length)
        });
        let abort = self.abort.and_then(|abort| {
            let from_header = abort.kind == AbortKind::FromHeader;
            let kind = if from_header {
                header_abort(request)?
            } else {
                abort.kind
            };
            lowered(request, &ABORT_SHARE, abort.share, from_header)
                .hits(random())
                .then_some(kind)
        });
        FaultPlan {
            response_kib,
            delay,
            abort,
        }
    }

    fn concerns<R: RequestHead + ?Sized>(&self, request: &R, cluster: &str) -> bool {
        (self.upstream_cluster.is_empty() || self.upstream_cluster == cluster)
            && self.headers.iter().all(|matcher| matcher.matches(request))
            && (self.downstream_nodes.is_empty()
                || request
                    .get(&NODE)
                    .is_some_and(|node| self.downstream_nodes.iter().any(|n| n.as_bytes() == node)))
    }
}

fn number<R: RequestHead + ?Sized>(request: &R, name: &HeaderName) -> Option<u64> {
    std::str::from_utf8(request.get(name)?)
        .ok()?
        .trim()
        .parse()
        .ok()
}

fn header_abort<R: RequestHead + ?Sized>(request: &R) -> Option<AbortKind> {
    if let Some(status) = number(request, &ABORT).and_then(|n| u16::try_from(n).ok()) {
        return (200..600)
            .contains(&status)
            .then_some(AbortKind::Http(status));
    }
    let status = number(request, &ABORT_GRPC)?;
    u32::try_from(status).ok().map(AbortKind::Grpc)
}

/// A percentage header can only lower the share.
fn lowered<R: RequestHead + ?Sized>(
    request: &R,
    name: &HeaderName,
    share: Fraction,
    allowed: bool,
) -> Fraction {
    if !allowed {
        return share;
    }
    match number(request, name).and_then(|n| u32::try_from(n).ok()) {
        Some(numerator) => Fraction {
            numerator: numerator.min(share.numerator),
            ..share
        },
        None => share,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::SimpleRequest;

    #[test]
    fn delay_and_abort_are_drawn_apart() {
        let fault = Fault {
            delay: Some(FaultDelay {
                fixed: Some(Duration::from_secs(7)),
                share: Fraction {
                    numerator: 50,
                    denominator: 100,
                },
            }),
            abort: Some(FaultAbort {
                kind: AbortKind::Http(500),
                share: Fraction {
                    numerator: 10,
                    denominator: 100,
                },
            }),
            ..Fault::default()
        };
        let plan = |draws: [u64; 2]| {
            let mut draws = draws.into_iter();
            fault.plan(&SimpleRequest::get("a", "/"), "c", || draws.next().unwrap())
        };
        assert_eq!(plan([99, 99]), FaultPlan::default());
        assert_eq!(
            plan([49, 10]),
            FaultPlan {
                delay: Some(Duration::from_secs(7)),
                ..FaultPlan::default()
            }
        );
        assert_eq!(
            plan([50, 9]),
            FaultPlan {
                abort: Some(AbortKind::Http(500)),
                ..FaultPlan::default()
            }
        );
    }

    #[test]
    fn header_controlled_faults_need_their_header_and_only_lower_the_share() {
        let fault = Fault {
            abort: Some(FaultAbort {
                kind: AbortKind::FromHeader,
                share: Fraction {
                    numerator: 50,
                    denominator: 100,
                },
            }),
            ..Fault::default()
        };
        let request = SimpleRequest::get("a", "/");
        assert_eq!(fault.plan(&request, "c", || 0).abort, None);
        let request = request.with("x-envoy-fault-abort-request", "418");
        assert_eq!(
            fault.plan(&request, "c", || 49).abort,
            Some(AbortKind::Http(418))
        );
        let request = request.with("x-envoy-fault-abort-request-percentage", "90");
        assert_eq!(fault.plan(&request, "c", || 50).abort, None);
    }

    #[test]
    fn a_zero_share_never_hits() {
        let fault = Fault {
            abort: Some(FaultAbort {
                kind: AbortKind::Http(500),
                share: Fraction::NONE,
            }),
            ..Fault::default()
        };
        assert_eq!(
            fault.plan(&SimpleRequest::get("a", "/"), "c", || 0),
            FaultPlan::default()
        );
    }
}
