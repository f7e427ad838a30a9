//! `envoy.filters.http.rbac`: asks the policies, and records what shadow rules would have said.

use http::StatusCode;
use meltemi_traffic::metadata::{Metadata, Value};
use meltemi_traffic::rbac::{DENIED_BODY, RbacAction, RbacFilter, Shadowed};

use crate::counters::Counter;
use crate::stage::{Answer, Stage, Stop};

/// Namespace of the shadow verdict in dynamic metadata.
const NAMESPACE: &str = "envoy.filters.http.rbac";

/// Counters of one filter.
#[derive(Debug)]
pub struct Stats {
    allowed: Counter,
    denied: Counter,
    shadow_allowed: Counter,
    shadow_denied: Counter,
}

impl Stats {
    /// The counters below a scope that ends with a dot (`http.<prefix>.rbac.`, `<prefix>rbac.`). A prefix of the rules
    /// is a part of its own in the names.
    pub fn new(scope: &str, config: &RbacFilter) -> Self {
        let named = |prefix: &str, name: &str| {
            let joint = if prefix.is_empty() { "" } else { "." };
            Counter::named(format!("{scope}{prefix}{joint}{name}"))
        };
        Self {
            allowed: named(&config.rules_prefix, "allowed"),
            denied: named(&config.rules_prefix, "denied"),
            shadow_allowed: named(&config.shadow_prefix, "shadow_allowed"),
            shadow_denied: named(&config.shadow_prefix, "shadow_denied"),
        }
    }

    /// Counts an enforced verdict.
    pub fn judged(&self, allowed: bool) {
        if allowed {
            self.allowed.inc();
        } else {
            self.denied.inc();
        }
    }

    /// Counts a shadow verdict and writes it down.
    pub fn shadowed(
        &self,
        namespace: &str,
        prefix: &str,
        verdict: &Shadowed,
        metadata: &mut Metadata,
    ) {
        let result = if verdict.allowed {
            self.shadow_allowed.inc();
            "allowed"
        } else {
            self.shadow_denied.inc();
            "denied"
        };
        let mut set = |name: &str, value| {
            metadata.set(namespace, &format!("{prefix}{name}"), Value::String(value));
        };
        if let Some(policy) = &verdict.policy {
            set("shadow_effective_policy_id", policy.clone());
        }
        set("shadow_engine_result", result.into());
    }
}

/// Asks the policies.
pub(super) fn on_request<S: Stage>(
    stats: &Stats,
    rbac: &RbacFilter,
    stage: &mut S,
) -> Result<(), Stop> {
    let judged = stage.with_facts(|facts| rbac.judge(facts));
    if let Some(shadow) = &judged.shadow {
        stats.shadowed(NAMESPACE, &rbac.shadow_prefix, shadow, stage.metadata());
    }
    let Some(verdict) = judged.enforced else {
        return Ok(());
    };
    stats.judged(verdict.allowed);
    if rbac
        .rules
        .as_ref()
        .is_some_and(|rules| rules.action == RbacAction::Log)
    {
        stage.metadata().set(
            "envoy.common",
            "access_log_hint",
            Value::Bool(verdict.policy.is_some()),
        );
    }
    if verdict.allowed {
        return Ok(());
    }
    Err(Answer::new(StatusCode::FORBIDDEN, DENIED_BODY, verdict.denial_details()).into())
}
