//! `envoy.filters.http.dynamic_forward_proxy`: the request waits until the host that it asks for has an address.

use http::StatusCode;
use meltemi_traffic::cluster::ClusterKind;
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::hcm::{FilterOverride, ForwardHost, ForwardProxy};
use meltemi_traffic::headers::{RequestHead as _, RequestHeadMut as _};
use meltemi_upstream::dns_cache::{LookupError, Name};

use crate::stage::{Answer, Stage, Stop};

/// Waits for the name, where the route leads to a cluster that forwards to it.
pub(super) async fn on_request<S: Stage>(
    config: &ForwardProxy,
    setting: Option<&FilterOverride>,
    stage: &mut S,
) -> Result<(), Stop> {
    if stage.route().is_none() {
        return Ok(());
    }
    let clusters = stage.upstreams().clusters;
    let Some(cluster) = clusters.get(stage.cluster_name()) else {
        return Ok(());
    };
    if !matches!(cluster.config.kind, ClusterKind::DynamicForwardProxy(_)) {
        return Ok(());
    }
    if let Some(FilterOverride::ForwardProxy(host)) = setting {
        let wanted = match host {
            ForwardHost::Unchanged => None,
            ForwardHost::Literal(host) => Some(host.as_bytes().to_vec()),
            ForwardHost::Header(name) => stage
                .fields()
                .get(name)
                .map(|value| value.as_bytes().to_vec()),
        };
        if let Some(wanted) = wanted {
            stage.request_mut().set_authority(&wanted);
        }
    }
    let authority = String::from_utf8_lossy(stage.request().authority()).into_owned();
    if authority.is_empty() {
        let answer = Answer::new(
            StatusCode::BAD_REQUEST,
            "Empty host header",
            "empty_host_header",
        );
        return Err(answer.into());
    }
    let name = Name::parse(&authority, cluster.default_port());
    let cache = clusters.dns_cache(&config.cache);
    match stage
        .wait(async move { cache.resolve(&name).await })
        .await?
    {
        Ok(()) => Ok(()),
        Err(error) => Err(refusal(&error).into()),
    }
}

fn refusal(error: &LookupError) -> Answer {
    let (body, details, flags) = match error {
        LookupError::Overflow => (
            "DNS cache overflow",
            "dns_cache_overflow".to_owned(),
            ResponseFlags::NONE,
        ),
        LookupError::Pending => (
            "Dynamic forward proxy pending request overflow",
            "dynamic_forward_proxy_pending_request_overflow".to_owned(),
            ResponseFlags::NONE,
        ),
        LookupError::Failed(why) => (
            "DNS resolution failure",
            format!("dns_resolution_failure{{{why}}}"),
            ResponseFlags::DNS_RESOLUTION_FAILED,
        ),
    };
    Answer::new(StatusCode::SERVICE_UNAVAILABLE, body, details).flag(flags)
}
