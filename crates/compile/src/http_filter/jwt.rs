//! `envoy.filters.http.jwt_authn`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use meltemi_traffic::Str;
use meltemi_traffic::jwt::{JwtAuthn, JwtPerRoute, KeySource, Provider, RemoteKeys, Requirement};

use crate::grpc_service::server;
use crate::pb::http_filters::jwt_authn::v3 as pb;
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::route::route_match;
use crate::values::{duration, header_name, inline_data, limit, number_or, strs};

/// Envoy's defaults.
const CACHE: Duration = Duration::from_secs(600);
const REFETCH: Duration = Duration::from_secs(1);
const BACK_OFF: Duration = Duration::from_secs(1);
const CLOCK_SKEW: u32 = 60;

/// Providers by name, sorted.
struct Names<'m>(Vec<&'m str>);

impl Names<'_> {
    fn find(&self, name: &str) -> Compiled<usize> {
        self.0
            .binary_search(&name)
            .or_else(|_| refuse_field("provider_name", format!("{name:?} is not configured")))
    }
}

pub(super) fn jwt_authn(message: &pb::JwtAuthentication) -> Compiled<JwtAuthn> {
    let mut names = Names(message.providers.keys().map(String::as_str).collect());
    names.0.sort_unstable();
    let providers = names
        .0
        .iter()
        .map(|name| provider(name, &message.providers[*name]).entry("providers", name))
        .map(|provider| provider.map(Arc::new))
        .collect::<Compiled<_>>()?;
    let named = requirements(&message.requirement_map, &names)?;
    let rules = each("rules", &message.rules, |rule| {
        let Some(matches) = &rule.r#match else {
            return refuse_field("match", "is required");
        };
        let matches = Arc::new(route_match(matches).within("match")?);
        let required = match &rule.requirement_type {
            None => None,
            Some(pb::requirement_rule::RequirementType::Requires(inner)) => Some(Arc::new(
                requirement(inner, &names, &[]).within("requires")?,
            )),
            Some(pb::requirement_rule::RequirementType::RequirementName(name)) => {
                let found = named.iter().find(|(have, _)| have == name);
                match found {
                    Some((_, found)) => Some(Arc::clone(found)),
                    None => {
                        return refuse_field(
                            "requirement_name",
                            format!("{name:?} is not in requirement_map"),
                        );
                    }
                }
            }
        };
        Ok((matches, required))
    })?;
    Ok(JwtAuthn {
        providers,
        rules,
        named,
        bypass_preflight: message.bypass_cors_preflight,
        strip_failure: message.strip_failure_response,
        stat_prefix: message.stat_prefix.as_str().into(),
    })
}

fn requirements(
    map: &HashMap<String, pb::JwtRequirement>,
    names: &Names<'_>,
) -> Compiled<Vec<(Str, Arc<Requirement>)>> {
    let mut all: Vec<_> = map.iter().collect();
    all.sort_by_key(|(name, _)| name.as_str());
    all.into_iter()
        .map(|(name, message)| {
            let compiled = requirement(message, names, &[]).entry("requirement_map", name)?;
            Ok((name.as_str().into(), Arc::new(compiled)))
        })
        .collect()
}

/// `around` are the providers that a list of alternatives names beside this requirement.
fn requirement(
    message: &pb::JwtRequirement,
    names: &Names<'_>,
    around: &[usize],
) -> Compiled<Requirement> {
    use pb::jwt_requirement::RequiresType as By;
    Ok(match &message.requires_type {
        None => Requirement::Nothing,
        Some(By::ProviderName(name)) => Requirement::Provider(names.find(name)?, None),
        Some(By::ProviderAndAudiences(both)) => {
            let audiences = strs(&both.audiences);
            let provider = names
                .find(&both.provider_name)
                .within("provider_and_audiences")?;
            Requirement::Provider(provider, (!audiences.is_empty()).then_some(audiences))
        }
        Some(By::RequiresAny(list)) => any(&list.requirements, names).within("requires_any")?,
        Some(By::RequiresAll(list)) => Requirement::All(each(
            "requires_all.requirements",
            &list.requirements,
            |one| requirement(one, names, &[]),
        )?),
        Some(By::AllowMissing(_)) => Requirement::AllowMissing(around.to_vec()),
        Some(By::AllowMissingOrFailed(_)) => Requirement::AllowAny(around.to_vec()),
        #[allow(unreachable_patterns, reason = "new kinds of requirements may come")]
        Some(_) => return refuse("this kind of requirement is not supported"),
    })
}

/// Alternatives; what allows a missing token is tried last, once.
fn any(list: &[pb::JwtRequirement], names: &Names<'_>) -> Compiled<Requirement> {
    use pb::jwt_requirement::RequiresType as By;
    let mut around = Vec::new();
    for one in list {
        match &one.requires_type {
            Some(By::ProviderName(name)) => around.push(names.find(name)?),
            Some(By::ProviderAndAudiences(both)) => around.push(names.find(&both.provider_name)?),
            _ => {}
        }
    }
    let compiled = each("requirements", list, |one| requirement(one, names, &around))?;
    let (optional, mut regular): (Vec<_>, Vec<_>) = compiled
        .into_iter()
        .partition(|one| matches!(one, Requirement::AllowMissing(_) | Requirement::AllowAny(_)));
    let widest = optional
        .iter()
        .position(|one| matches!(one, Requirement::AllowAny(_)))
        .unwrap_or(0);
    regular.extend(optional.into_iter().nth(widest));
    Ok(Requirement::Any(regular))
}

fn provider(name: &str, message: &pb::JwtProvider) -> Compiled<Provider> {
    use pb::jwt_provider::JwksSourceSpecifier as By;
    let keys = match &message.jwks_source_specifier {
        Some(By::LocalJwks(source)) => KeySource::Inline(inline_data(source).within("local_jwks")?),
        Some(By::RemoteJwks(remote)) => {
            KeySource::Remote(remote_keys(remote).within("remote_jwks")?)
        }
        None => return refuse("needs local_jwks or remote_jwks"),
    };
    let optional_header = |field: &str, name: &str| {
        (!name.is_empty())
            .then(|| header_name(name).within(field))
            .transpose()
    };
    let mut space_delimited = Vec::new();
    if let Some(normalize) = &message.normalize_payload_in_metadata {
        space_delimited = strs(&normalize.space_delimited_claims);
    }
    Ok(Provider {
        name: name.into(),
        issuer: message.issuer.as_str().into(),
        audiences: strs(&message.audiences),
        keys,
        forward: message.forward,
        from_headers: each("from_headers", &message.from_headers, |header| {
            let name = header_name(&header.name).within("name")?;
            Ok((name, Str::from(header.value_prefix.as_str())))
        })?,
        from_params: strs(&message.from_params),
        from_cookies: strs(&message.from_cookies),
        payload_header: optional_header("forward_payload_header", &message.forward_payload_header)?,
        pad_payload: message.pad_forward_payload_header,
        payload_in_metadata: message.payload_in_metadata.as_str().into(),
        header_in_metadata: message.header_in_metadata.as_str().into(),
        failure_in_metadata: message.failed_status_in_metadata.as_str().into(),
        space_delimited,
        claim_headers: each("claim_to_headers", &message.claim_to_headers, |claim| {
            let header = header_name(&claim.header_name).within("header_name")?;
            let path = claim.claim_name.split('.').map(Str::from).collect();
            Ok((header, path))
        })?,
        clear_route_cache: message.clear_route_cache,
        clock_skew: Duration::from_secs(u64::from(match message.clock_skew_seconds {
            0 => CLOCK_SKEW,
            given => given,
        })),
        require_expiration: message.require_expiration,
        max_lifetime: limit("max_lifetime", message.max_lifetime.as_ref(), None)?,
    })
}

fn remote_keys(message: &pb::RemoteJwks) -> Compiled<RemoteKeys> {
    let Some(uri) = &message.http_uri else {
        return refuse_field("http_uri", "is required");
    };
    let server = server(uri).within("http_uri")?;
    let cache = limit("cache_duration", message.cache_duration.as_ref(), None)?;
    let ahead = message
        .async_fetch
        .as_ref()
        .map(|fetch| -> Compiled<Duration> {
            let again = fetch
                .failed_refetch_duration
                .as_ref()
                .map(duration)
                .transpose();
            Ok(again.within("failed_refetch_duration")?.unwrap_or(REFETCH))
        })
        .transpose()
        .within("async_fetch")?;
    let (mut retries, mut back_off) = (0, BACK_OFF);
    if let Some(policy) = &message.retry_policy {
        retries = number_or(policy.num_retries.as_ref(), 1);
        let base = policy
            .retry_back_off
            .as_ref()
            .and_then(|b| b.base_interval.as_ref());
        if let Some(base) = base {
            back_off = duration(base).within("retry_policy.retry_back_off.base_interval")?;
        }
    }
    Ok(RemoteKeys {
        cluster: server.cluster,
        host: server.host,
        path: server.path,
        timeout: server.timeout.unwrap_or(REFETCH),
        cache: cache.unwrap_or(CACHE),
        ahead,
        retries,
        back_off,
    })
}

pub(super) fn per_route(message: &pb::PerRouteConfig) -> Compiled<JwtPerRoute> {
    use pb::per_route_config::RequirementSpecifier as By;
    match &message.requirement_specifier {
        Some(By::Disabled(true)) => Ok(JwtPerRoute::Disabled),
        Some(By::RequirementName(name)) => Ok(JwtPerRoute::Named(name.as_str().into())),
        Some(By::Disabled(false)) => refuse_field("disabled", "must be true"),
        None => refuse("needs disabled or requirement_name"),
    }
}
