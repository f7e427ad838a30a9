//! Annotations of pods whose values are checked before anything is injected.

use std::net::IpAddr;

use serde_json::{Map, Value};

use crate::InjectError;

type Check = fn(&str) -> Result<(), String>;

// table: every checked annotation with its check.
const CHECKS: [(&str, Check); 24] = [
    ("sidecar.istio.io/interceptionMode", interception_mode),
    ("sidecar.istio.io/proxyCPU", quantity),
    ("sidecar.istio.io/proxyCPULimit", quantity),
    ("sidecar.istio.io/proxyMemory", quantity),
    ("sidecar.istio.io/proxyMemoryLimit", quantity),
    ("sidecar.istio.io/rewriteAppHTTPProbers", any),
    ("status.sidecar.istio.io/port", port),
    (
        "readiness.status.sidecar.istio.io/initialDelaySeconds",
        number,
    ),
    ("readiness.status.sidecar.istio.io/periodSeconds", number),
    ("readiness.status.sidecar.istio.io/failureThreshold", number),
    ("readiness.status.sidecar.istio.io/applicationPorts", any),
    (
        "traffic.sidecar.istio.io/includeOutboundIPRanges",
        networks_or_all,
    ),
    (
        "traffic.sidecar.istio.io/excludeOutboundIPRanges",
        excluded_networks,
    ),
    ("traffic.sidecar.istio.io/includeInboundPorts", ports_or_all),
    ("traffic.sidecar.istio.io/excludeInboundPorts", ports),
    ("traffic.sidecar.istio.io/includeOutboundPorts", ports),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", ports),
    ("traffic.sidecar.istio.io/excludeInterfaces", any),
    ("traffic.sidecar.istio.io/kubevirtInterfaces", any),
    ("istio.io/reroute-virtual-interfaces", any),
    ("prometheus.istio.io/merge-metrics", boolean),
    ("sidecar.istio.io/nativeSidecar", boolean),
    ("sidecar.istio.io/statsFlushInterval", any),
    ("meltemi.io/engine", engine),
];

/// Refuses the first annotation that is checked and has a bad value.
pub fn validate(annotations: &Map<String, Value>) -> Result<(), InjectError> {
    for (name, check) in CHECKS {
        let Some(value) = annotations.get(name).and_then(Value::as_str) else {
            continue;
        };
        check(value).map_err(|problem| InjectError::Annotation {
            name: name.to_owned(),
            value: value.to_owned(),
            problem,
        })?;
    }
    Ok(())
}

fn any(_: &str) -> Result<(), String> {
    Ok(())
}

fn ensure(holds: bool, problem: &str) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(problem.to_owned())
    }
}

fn interception_mode(value: &str) -> Result<(), String> {
    ensure(
        matches!(value, "REDIRECT" | "TPROXY" | "NONE"),
        "must be REDIRECT, TPROXY or NONE",
    )
}

fn engine(value: &str) -> Result<(), String> {
    ensure(
        matches!(value, "meltemi" | "envoy"),
        "must be meltemi or envoy",
    )
}

fn boolean(value: &str) -> Result<(), String> {
    ensure(matches!(value, "true" | "false"), "must be true or false")
}

fn port(value: &str) -> Result<(), String> {
    ensure(value.parse::<u16>().is_ok(), "must be a port number")
}

fn number(value: &str) -> Result<(), String> {
    ensure(value.parse::<u32>().is_ok(), "must be a number")
}

fn ports(value: &str) -> Result<(), String> {
    let all = value.split(',').map(str::trim).filter(|p| !p.is_empty());
    ensure(
        all.into_iter().all(|p| p.parse::<u16>().is_ok()),
        "must be port numbers separated by commas",
    )
}

fn ports_or_all(value: &str) -> Result<(), String> {
    if value == "*" { Ok(()) } else { ports(value) }
}

fn networks(value: &str) -> Result<(), String> {
    let all = value.split(',').map(str::trim).filter(|n| !n.is_empty());
    ensure(
        all.into_iter().all(is_network),
        "must be networks such as 10.0.0.0/8 separated by commas",
    )
}

fn excluded_networks(value: &str) -> Result<(), String> {
    // Nothing is captured when everything is excluded, so there is no word for "all" here.
    networks(value).map_err(|problem| format!("excludeIPRanges {problem}"))
}

fn networks_or_all(value: &str) -> Result<(), String> {
    if value == "*" {
        Ok(())
    } else {
        networks(value)
    }
}

fn is_network(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else {
        return false;
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    length.parse::<u8>().is_ok_and(|l| l <= most)
}

/// A number with an optional unit, in Kubernetes' notation.
fn quantity(value: &str) -> Result<(), String> {
    let digits = value.trim_start_matches(['+', '-']);
    let end = digits
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(digits.len());
    let (number, unit) = digits.split_at(end);
    let number_ok = number.parse::<f64>().is_ok();
    let exponent = unit
        .strip_prefix(['e', 'E'])
        .is_some_and(|e| !e.is_empty() && e.parse::<i32>().is_ok());
    let units = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    ensure(
        number_ok && (units.contains(&unit) || exponent),
        "must be a quantity such as 100m or 128Mi",
    )
}
