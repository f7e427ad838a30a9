//! `envoy.filters.http.fault`.

use meltemi_proto::envoy::extensions::filters::common::fault::v3 as shared_fault;
use meltemi_traffic::Fraction;
use meltemi_traffic::fault::{AbortKind, Fault, FaultAbort, FaultDelay, FaultRate};

use crate::pb::http_filters as filters;
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{duration, header_matcher, number, optional_fraction, strs};

pub(super) fn fault(message: &filters::fault::v3::HttpFault) -> Compiled<Fault> {
    use shared_fault::fault_rate_limit::LimitType;
    let response_rate = message.response_rate_limit.as_ref().map(|limit| {
        let fixed = match &limit.limit_type {
            Some(LimitType::FixedLimit(fixed)) if fixed.limit_kbps == 0 => {
                return refuse_field("fixed_limit.limit_kbps", "must be at least 1");
            }
            Some(LimitType::FixedLimit(fixed)) => Some(fixed.limit_kbps),
            Some(LimitType::HeaderLimit(_)) => None,
            None => return refuse("needs fixed_limit or header_limit"),
        };
        Ok(FaultRate {
            fixed,
            share: optional_fraction(limit.percentage.as_ref(), Fraction::NONE),
        })
    });
    Ok(Fault {
        delay: message
            .delay
            .as_ref()
            .map(fault_delay)
            .transpose()
            .within("delay")?,
        abort: message
            .abort
            .as_ref()
            .map(fault_abort)
            .transpose()
            .within("abort")?,
        upstream_cluster: message.upstream_cluster.as_str().into(),
        headers: each("headers", &message.headers, header_matcher)?,
        downstream_nodes: strs(&message.downstream_nodes),
        max_active: number(message.max_active_faults.as_ref()),
        response_rate: response_rate.transpose().within("response_rate_limit")?,
    })
}

fn fault_delay(message: &shared_fault::FaultDelay) -> Compiled<FaultDelay> {
    use shared_fault::fault_delay::FaultDelaySecifier as By;
    let share = optional_fraction(message.percentage.as_ref(), Fraction::NONE);
    let fixed = match &message.fault_delay_secifier {
        Some(By::FixedDelay(fixed)) => {
            let fixed = duration(fixed).within("fixed_delay")?;
            if fixed.is_zero() {
                return refuse_field("fixed_delay", "must be greater than 0s");
            }
            Some(fixed)
        }
        Some(By::HeaderDelay(_)) => None,
        None => return refuse("needs fixed_delay or header_delay"),
    };
    Ok(FaultDelay { fixed, share })
}

fn fault_abort(message: &filters::fault::v3::FaultAbort) -> Compiled<FaultAbort> {
    use filters::fault::v3::fault_abort::ErrorType as By;
    let kind = match &message.error_type {
        Some(By::HttpStatus(status)) if (200..600).contains(status) => {
            AbortKind::Http(u16::try_from(*status).unwrap_or(500))
        }
        Some(By::HttpStatus(_)) => return refuse_field("http_status", "must be from 200 to 599"),
        Some(By::GrpcStatus(status)) => AbortKind::Grpc(*status),
        Some(By::HeaderAbort(_)) => AbortKind::FromHeader,
        None => return refuse("needs http_status, grpc_status or header_abort"),
    };
    Ok(FaultAbort {
        kind,
        share: optional_fraction(message.percentage.as_ref(), Fraction::NONE),
    })
}
