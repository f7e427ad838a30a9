//! HTTP filters. A [`Filter`] is made once for each connection manager; the exchange walks the list of them.
//!
//! Each filter has a module of its own with `on_request`; what it wants of the response it leaves at the stage. A
//! filter that may wait for a call is boxed, so that the future of an exchange does not grow with the filters.

mod buffer;
mod cors;
mod fault;
mod header_mutation;
pub mod pace;
pub mod rbac;
mod set_filter_state;

use std::sync::Arc;

use meltemi_traffic::Str;
use meltemi_traffic::fault::Fault;
use meltemi_traffic::hcm::{
    FilterOverride, FilterStateValue, HeaderMutation, HttpFilter, HttpFilterKind,
};
use meltemi_traffic::rbac::RbacFilter;

use crate::stage::{Stage, Stop};

/// One filter of a connection manager, with what its exchanges share.
#[derive(Debug)]
pub struct Filter {
    name: Str,
    disabled: bool,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Rbac(Arc<RbacFilter>, rbac::Stats),
    Fault(Arc<Fault>, fault::Stats),
    Cors(cors::Stats),
    HeaderMutation(Arc<HeaderMutation>),
    SetFilterState(Arc<Vec<FilterStateValue>>),
    Buffer(u32),
}

impl Filter {
    /// Takes a filter into use. `None` for those that act elsewhere: the router, and Istio's metrics, peer metadata
    /// and ALPN, which the connection manager reads from its configuration. `prefix` is its statistics prefix.
    #[must_use]
    pub fn new(config: &HttpFilter, prefix: &str) -> Option<Self> {
        let scope = format!("http.{prefix}.");
        let kind = match &config.kind {
            HttpFilterKind::Rbac(rbac) => {
                let stats = rbac::Stats::new(&format!("{scope}rbac."), rbac);
                Kind::Rbac(Arc::clone(rbac), stats)
            }
            HttpFilterKind::Fault(fault) => {
                Kind::Fault(Arc::clone(fault), fault::Stats::new(&scope))
            }
            HttpFilterKind::Cors => Kind::Cors(cors::Stats::new(&scope)),
            HttpFilterKind::HeaderMutation(changes) => Kind::HeaderMutation(Arc::clone(changes)),
            HttpFilterKind::SetFilterState(values) => Kind::SetFilterState(Arc::clone(values)),
            HttpFilterKind::Buffer(max) => Kind::Buffer(*max),
            HttpFilterKind::Router(_)
            | HttpFilterKind::GrpcStats { .. }
            | HttpFilterKind::IstioAlpn(_)
            | HttpFilterKind::IstioPeerMetadata(_)
            | HttpFilterKind::IstioStats(_)
            | HttpFilterKind::LocalRateLimit(_)
            | HttpFilterKind::GrpcWeb
            | HttpFilterKind::Compressor(_) => return None,
        };
        Some(Self {
            name: config.name.clone(),
            disabled: config.disabled,
            kind,
        })
    }

    /// Configured name: the key of settings on routes.
    #[must_use]
    pub fn name(&self) -> &Str {
        &self.name
    }

    /// Whether a route's setting lets the filter run.
    #[must_use]
    pub fn is_on(&self, setting: Option<&FilterOverride>) -> bool {
        match setting {
            Some(FilterOverride::Disabled) => false,
            Some(_) => true,
            None => !self.disabled,
        }
    }

    /// Lets the filter see the request. `setting` is the route's.
    ///
    /// # Errors
    /// The answer of a filter that refuses or answers, or the client's end.
    pub async fn on_request<S: Stage>(
        &self,
        stage: &mut S,
        setting: Option<&FilterOverride>,
    ) -> Result<(), Stop> {
        match (&self.kind, setting) {
            (Kind::Rbac(..), Some(FilterOverride::Rbac(None))) => Ok(()),
            (Kind::Rbac(_, stats), Some(FilterOverride::Rbac(Some(rbac))))
            | (Kind::Rbac(rbac, stats), _) => rbac::on_request(stats, rbac, stage),
            (Kind::Fault(_, stats), Some(FilterOverride::Fault(fault)))
            | (Kind::Fault(fault, stats), _) => {
                Box::pin(fault::on_request(stats, fault, stage)).await
            }
            (Kind::Cors(stats), Some(FilterOverride::Cors(policy))) => {
                cors::on_request(stats, policy, stage)
            }
            (Kind::Cors(_), _) => Ok(()),
            (Kind::HeaderMutation(own), setting) => {
                header_mutation::on_request(own, setting, stage);
                Ok(())
            }
            (Kind::SetFilterState(values), _) => {
                set_filter_state::on_request(values, stage);
                Ok(())
            }
            (Kind::Buffer(_), Some(FilterOverride::Buffer(None))) => Ok(()),
            (Kind::Buffer(_), Some(FilterOverride::Buffer(Some(max)))) | (Kind::Buffer(max), _) => {
                Box::pin(buffer::on_request(*max, stage)).await
            }
        }
    }

    /// A filter before this one answered: some still change the response.
    pub fn on_skipped<S: Stage>(&self, stage: &mut S, setting: Option<&FilterOverride>) {
        if let Kind::HeaderMutation(own) = &self.kind {
            header_mutation::on_skipped(own, setting, stage);
        }
    }
}
