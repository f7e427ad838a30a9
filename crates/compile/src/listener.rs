//! Listeners.

use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use meltemi_proto::any::type_name;
use meltemi_traffic::Limit;
use meltemi_traffic::chain::ChainIndex;
use meltemi_traffic::endpoint::Address;
use meltemi_traffic::listener::{
    ChainMatch, Direction, Listener, ListenerFilter, ListenerFilterKind, ProxyProtocol, TlvRule,
};
use prost::Name;

use crate::access_log::access_logs;
use crate::chain::filter_chain;
use crate::cluster::DEFAULT_BUFFER;
use crate::coverage;
use crate::filter_config::{decode, resolved};
use crate::pb::{core, listener as pb, listener_filters as filters};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{address, flag, limit, metadata, number, number_or, socket_option};

const DEFAULT_FILTERS_TIMEOUT: Limit = Some(Duration::from_secs(15));
const PROXY_PROTOCOL_NAMESPACE: &str = "envoy.filters.listener.proxy_protocol";
const LARGEST_CLIENT_HELLO: u32 = 16 * 1024;

/// Compiles a listener.
///
/// # Errors
/// The first field that has no effect or no sense.
pub fn listener(message: &pb::Listener) -> Compiled<Arc<Listener>> {
    coverage::check(message, &pb::Listener::full_name())?;
    let addresses = addresses(message)?;
    let chains = each("filter_chains", &message.filter_chains, |chain| {
        filter_chain(chain).map(Arc::new)
    })?;
    let default_chain = message
        .default_filter_chain
        .as_ref()
        .map(|chain| filter_chain(chain).map(Arc::new));
    let default_chain = default_chain.transpose().within("default_filter_chain")?;
    if chains.is_empty() && default_chain.is_none() {
        return refuse_field("filter_chains", "a listener needs a filter chain");
    }
    no_duplicates(chains.iter().map(|chain| &chain.matches))?;
    let index = ChainIndex::new(chains.iter().map(|chain| chain.matches.clone()));
    let timeout = message.listener_filters_timeout.as_ref();
    Ok(Arc::new(Listener {
        name: message.name.as_str().into(),
        stat_prefix: message.stat_prefix.as_str().into(),
        metadata: metadata(message.metadata.as_ref()),
        addresses,
        bind_to_port: binds(message),
        use_original_dst: flag(message.use_original_dst.as_ref(), false),
        transparent: flag(message.transparent.as_ref(), false),
        freebind: flag(message.freebind.as_ref(), false),
        reuse_port: flag(message.enable_reuse_port.as_ref(), true),
        backlog: number(message.tcp_backlog_size.as_ref()),
        fast_open: number(message.tcp_fast_open_queue_length.as_ref()),
        options: each("socket_options", &message.socket_options, socket_option)?,
        direction: match message.traffic_direction() {
            core::TrafficDirection::Unspecified => Direction::Unspecified,
            core::TrafficDirection::Inbound => Direction::Inbound,
            core::TrafficDirection::Outbound => Direction::Outbound,
        },
        filters: each(
            "listener_filters",
            &message.listener_filters,
            listener_filter,
        )?,
        filters_timeout: limit("listener_filters_timeout", timeout, DEFAULT_FILTERS_TIMEOUT)?,
        continue_on_timeout: message.continue_on_listener_filters_timeout,
        buffer_limit: number_or(
            message.per_connection_buffer_limit_bytes.as_ref(),
            DEFAULT_BUFFER,
        ),
        chains,
        default_chain,
        index,
        access_log: access_logs("access_log", &message.access_log)?,
        drain_modify_only: message.drain_type() == pb::listener::DrainType::ModifyOnly,
        exact_balance: exact_balance(message),
        ignore_global_limit: message.ignore_global_conn_limit || message.bypass_overload_manager,
    }))
}

fn addresses(message: &pb::Listener) -> Compiled<Vec<Address>> {
    let Some(first) = &message.address else {
        return refuse_field("address", "is required");
    };
    let mut all = vec![address(first).within("address")?];
    all.extend(each(
        "additional_addresses",
        &message.additional_addresses,
        |more| match &more.address {
            Some(more) => address(more).within("address"),
            None => refuse_field("address", "is required"),
        },
    )?);
    if let Some(named) = all
        .iter()
        .find(|address| matches!(address, Address::Named(..)))
    {
        return refuse_field("address", format!("{named} is no IP address"));
    }
    Ok(all)
}

#[expect(deprecated, reason = "the old field is still sent")]
fn binds(message: &pb::Listener) -> bool {
    let old = message
        .deprecated_v1
        .as_ref()
        .and_then(|old| old.bind_to_port.as_ref());
    flag(message.bind_to_port.as_ref(), flag(old, true))
}

fn exact_balance(message: &pb::Listener) -> bool {
    use pb::listener::connection_balance_config::BalanceType;
    let config = message.connection_balance_config.as_ref();
    matches!(
        config.and_then(|config| config.balance_type.as_ref()),
        Some(BalanceType::ExactBalance(_))
    )
}

fn no_duplicates<'m>(matches: impl Iterator<Item = &'m ChainMatch>) -> Compiled<()> {
    let mut seen: AHashMap<&ChainMatch, usize> = AHashMap::new();
    for (position, rule) in matches.enumerate() {
        if let Some(first) = seen.insert(rule, position) {
            let reason = format!("matches the same connections as filter_chains[{first}]");
            return refuse(reason).item("filter_chains", position);
        }
    }
    Ok(())
}

fn listener_filter(message: &pb::ListenerFilter) -> Compiled<ListenerFilter> {
    let Some(pb::listener_filter::ConfigType::TypedConfig(any)) = &message.config_type else {
        return refuse_field("typed_config", "is required");
    };
    let field = "typed_config";
    let any = &*resolved(any).within(field)?;
    let kind = match type_name(&any.type_url) {
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst" => {
            ListenerFilterKind::OriginalDst
        }
        "envoy.extensions.filters.listener.original_src.v3.OriginalSrc" => {
            let config: filters::original_src::v3::OriginalSrc = decode(any).within(field)?;
            ListenerFilterKind::OriginalSrc { mark: config.mark }
        }
        "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol" => {
            let config: filters::proxy_protocol::v3::ProxyProtocol = decode(any).within(field)?;
            ListenerFilterKind::ProxyProtocol(proxy_protocol(&config).within(field)?)
        }
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector" => {
            let config: filters::tls_inspector::v3::TlsInspector = decode(any).within(field)?;
            let initial = number_or(
                config.initial_read_buffer_size.as_ref(),
                LARGEST_CLIENT_HELLO,
            );
            ListenerFilterKind::TlsInspector {
                initial_buffer: usize::try_from(initial.clamp(256, LARGEST_CLIENT_HELLO))
                    .unwrap_or(256),
                close_on_error: config.close_connection_on_client_hello_parsing_errors,
            }
        }
        "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector" => {
            ListenerFilterKind::HttpInspector
        }
        other => return refuse_field(field, format!("listener filter {other} is not supported")),
    };
    let mut filter = ListenerFilter {
        kind,
        disabled_ports: Vec::new(),
        disabled_inverted: false,
    };
    if let Some(predicate) = &message.filter_disabled {
        filter.disabled_inverted =
            disabled(predicate, false, &mut filter.disabled_ports).within("filter_disabled")?;
    }
    Ok(filter)
}

fn proxy_protocol(
    message: &filters::proxy_protocol::v3::ProxyProtocol,
) -> Compiled<Arc<ProxyProtocol>> {
    use core::proxy_protocol_config::Version;
    use filters::proxy_protocol::v3::proxy_protocol::key_value_pair::ValueStringEncoding;
    let refused = |version: Version| message.disallowed_versions.contains(&i32::from(version));
    let rules = each("rules", &message.rules, |rule| {
        let kind = u8::try_from(rule.tlv_type)
            .or_else(|_| refuse_field("tlv_type", "must be less than 256"))?;
        let Some(pair) = &rule.on_tlv_present else {
            return Ok(None);
        };
        if pair.value_string_encoding() == ValueStringEncoding::Base64 {
            let field = "on_tlv_present.value_string_encoding";
            return refuse_field(field, "BASE64 is not supported");
        }
        let namespace = match pair.metadata_namespace.as_str() {
            "" => PROXY_PROTOCOL_NAMESPACE,
            named => named,
        };
        Ok(Some(TlvRule {
            kind,
            namespace: namespace.into(),
            key: pair.key.as_str().into(),
        }))
    })?;
    Ok(Arc::new(ProxyProtocol {
        optional: message.allow_requests_without_proxy_protocol,
        refuse_v1: refused(Version::V1),
        refuse_v2: refused(Version::V2),
        rules: rules.into_iter().flatten().collect(),
    }))
}

/// Reads ports under which a filter is off; returns whether the set is inverted.
fn disabled(
    message: &pb::ListenerFilterChainMatchPredicate,
    inverted: bool,
    out: &mut Vec<(u32, u32)>,
) -> Compiled<bool> {
    use pb::listener_filter_chain_match_predicate::Rule;
    match &message.rule {
        Some(Rule::DestinationPortRange(range)) => {
            let bound = |n: i32| {
                u32::try_from(n).or_else(|_| refuse_field("destination_port_range", "is no range"))
            };
            out.push((bound(range.start)?, bound(range.end)?));
            Ok(inverted)
        }
        Some(Rule::OrMatch(set)) => {
            for (position, rule) in set.rules.iter().enumerate() {
                if disabled(rule, inverted, out).item("or_match.rules", position)? != inverted {
                    return refuse("negation inside a list of ports is not supported");
                }
            }
            Ok(inverted)
        }
        Some(Rule::NotMatch(inner)) if !inverted => disabled(inner, true, out).within("not_match"),
        Some(Rule::AnyMatch(_)) => {
            out.push((0, u32::MAX));
            Ok(inverted)
        }
        _ => refuse("only ports, or_match, and one not_match are supported"),
    }
}
