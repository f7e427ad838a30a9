//! HTTP filters. A [`Filter`] is made once for each connection manager; the exchange walks the list of them.
//!
//! Each filter has a module of its own with `on_request`; what it wants of the response it leaves at the stage. A
//! filter that may wait for a call is boxed, so that the future of an exchange does not grow with the filters.

mod buffer;
mod compressor;
mod cors;
mod ext_authz;
mod fault;
mod forward_proxy;
pub mod grpc_stats;
mod grpc_web;
mod header_mutation;
mod header_to_metadata;
mod jwt_authn;
mod local_limit;
pub mod pace;
mod rate_limit;
pub mod rbac;
pub(crate) mod set_filter_state;

use std::sync::Arc;

use meltemi_traffic::Str;
use meltemi_traffic::ext_authz::ExtAuthz;
use meltemi_traffic::fault::Fault;
use meltemi_traffic::hcm::{
    Compressor, FilterOverride, FilterStateValue, ForwardProxy, HeaderMutation, HeaderToMetadata,
    HttpFilter, HttpFilterKind,
};
use meltemi_traffic::ratelimit::{LocalRateLimit, RateLimit};
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
    ForwardProxy(ForwardProxy),
    HeaderToMetadata(Arc<HeaderToMetadata>),
    SetFilterState(Arc<Vec<FilterStateValue>>),
    Buffer(u32),
    JwtAuthn(jwt_authn::Authenticator),
    ExtAuthz(Arc<ExtAuthz>, ext_authz::Stats),
    LocalRateLimit(Arc<LocalRateLimit>, local_limit::Stats),
    RateLimit(Arc<RateLimit>),
    GrpcWeb,
    Compressor(Arc<Compressor>, compressor::Stats),
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
            HttpFilterKind::ForwardProxy(proxy) => Kind::ForwardProxy(proxy.clone()),
            HttpFilterKind::HeaderToMetadata(rules) => Kind::HeaderToMetadata(Arc::clone(rules)),
            HttpFilterKind::SetFilterState(values) => Kind::SetFilterState(Arc::clone(values)),
            HttpFilterKind::Buffer(max) => Kind::Buffer(*max),
            HttpFilterKind::JwtAuthn(config) => {
                Kind::JwtAuthn(jwt_authn::Authenticator::new(config, &scope))
            }
            HttpFilterKind::ExtAuthz(config) => {
                let stats = ext_authz::Stats::new(&scope, config);
                Kind::ExtAuthz(Arc::clone(config), stats)
            }
            HttpFilterKind::LocalRateLimit(limit) => Kind::LocalRateLimit(
                Arc::clone(limit),
                local_limit::Stats::new(&limit.stat_prefix),
            ),
            HttpFilterKind::RateLimit(limit) => Kind::RateLimit(Arc::clone(limit)),
            HttpFilterKind::Router(_)
            | HttpFilterKind::GrpcStats { .. }
            | HttpFilterKind::IstioAlpn(_)
            | HttpFilterKind::IstioPeerMetadata(_)
            | HttpFilterKind::IstioStats(_)
            | HttpFilterKind::OnDemand(_)
            | HttpFilterKind::Missing => return None,
            HttpFilterKind::GrpcWeb => Kind::GrpcWeb,
            HttpFilterKind::Compressor(config) => {
                let stats = compressor::Stats::new(&scope, config);
                Kind::Compressor(Arc::clone(config), stats)
            }
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
    // table: each filter, and the route's settings that it takes
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
            (Kind::ForwardProxy(proxy), setting) => {
                Box::pin(forward_proxy::on_request(proxy, setting, stage)).await
            }
            (Kind::HeaderToMetadata(own), setting) => {
                header_to_metadata::on_request(own, setting, stage);
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
            (Kind::JwtAuthn(authenticator), setting) => {
                let route = match setting {
                    Some(FilterOverride::JwtAuthn(route)) => Some(route),
                    _ => None,
                };
                Box::pin(authenticator.on_request(route, stage)).await
            }
            (Kind::ExtAuthz(config, stats), setting) => {
                let route = match setting {
                    Some(FilterOverride::ExtAuthz(route)) => Some(route),
                    _ => None,
                };
                Box::pin(ext_authz::on_request(stats, config, route, stage)).await
            }
            (Kind::LocalRateLimit(_, stats), Some(FilterOverride::LocalRateLimit(limit)))
            | (Kind::LocalRateLimit(limit, stats), _) => {
                local_limit::on_request(stats, limit, stage)
            }
            (Kind::GrpcWeb, _) => {
                grpc_web::on_request(stage);
                Ok(())
            }
            (Kind::Compressor(config, stats), _) => {
                if config.enabled {
                    compressor::on_request(config, stats, stage);
                }
                Ok(())
            }
            (Kind::RateLimit(limit), setting) => {
                let route = match setting {
                    Some(FilterOverride::RateLimit(route)) => Some(&**route),
                    _ => None,
                };
                Box::pin(rate_limit::on_request(limit, route, stage)).await
            }
        }
    }

    /// A filter before this one answered: some still change the response.
    pub fn on_skipped<S: Stage>(&self, stage: &mut S, setting: Option<&FilterOverride>) {
        match &self.kind {
            Kind::HeaderMutation(own) => header_mutation::on_skipped(own, setting, stage),
            Kind::HeaderToMetadata(own) => header_to_metadata::on_skipped(own, setting, stage),
            _ => {}
        }
    }
}
