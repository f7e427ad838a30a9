//! Filter chains and what they match.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ahash::AHasher;
use meltemi_proto::any::type_name;
use meltemi_traffic::Str;
use meltemi_traffic::listener::{ChainMatch, FilterChain, SourceType, Terminal};
use meltemi_traffic::tls::DownstreamTls;
use prost::Message;

use crate::filter_config::decode;
use crate::network_filter::{NetworkPart, network_filter};
use crate::pb::{core, listener as pb, sockets};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{cidr, limit, metadata, number, strs};

/// Compiles one chain.
pub(crate) fn filter_chain(message: &pb::FilterChain) -> Compiled<FilterChain> {
    let mut filters = Vec::new();
    let mut terminal = None;
    for (position, filter) in message.filters.iter().enumerate() {
        if terminal.is_some() {
            return refuse("stands behind the filter that must be the last")
                .item("filters", position);
        }
        match network_filter(filter).item("filters", position)? {
            NetworkPart::Inner(filter) => filters.push(filter),
            NetworkPart::Last(last) => terminal = Some(last),
        }
    }
    if terminal.is_none() && !filters.is_empty() {
        return refuse_field("filters", "the last filter must be one that ends a chain");
    }
    let matches = message
        .filter_chain_match
        .as_ref()
        .map(|m| chain_match(m).within("filter_chain_match"));
    let tls = message
        .transport_socket
        .as_ref()
        .map(|socket| downstream(socket).within("transport_socket"));
    let connect = message.transport_socket_connect_timeout.as_ref();
    Ok(FilterChain {
        name: message.name.as_str().into(),
        metadata: metadata(message.metadata.as_ref()),
        matches: matches.transpose()?.unwrap_or_default(),
        tls: tls.transpose()?.flatten(),
        connect_timeout: limit("transport_socket_connect_timeout", connect, None)?,
        filters,
        terminal: terminal.unwrap_or(Terminal::Close),
        hash: hash_of(message),
    })
}

fn hash_of(message: &pb::FilterChain) -> u64 {
    // A fixed state: the same configuration hashes to the same value over the life of the process.
    let mut hasher = AHasher::default();
    message.encode_to_vec().hash(&mut hasher);
    hasher.finish()
}

fn downstream(message: &core::TransportSocket) -> Compiled<Option<Arc<DownstreamTls>>> {
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = &message.config_type else {
        return if message.name == "envoy.transport_sockets.raw_buffer" {
            Ok(None)
        } else {
            refuse_field("typed_config", "is required")
        };
    };
    match type_name(&any.type_url) {
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => Ok(None),
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext" => {
            let context: sockets::tls::v3::DownstreamTlsContext =
                decode(any).within("typed_config")?;
            Ok(Some(Arc::new(
                crate::tls::downstream(&context).within("typed_config")?,
            )))
        }
        other => refuse_field(
            "typed_config",
            format!("transport socket {other} is not supported"),
        ),
    }
}

fn chain_match(message: &pb::FilterChainMatch) -> Compiled<ChainMatch> {
    use pb::filter_chain_match::ConnectionSourceType as Wire;
    let port = number(message.destination_port.as_ref())
        .map(u16::try_from)
        .transpose();
    let source_ports = each("source_ports", &message.source_ports, |port| {
        u16::try_from(*port).or_else(|_| refuse("must be at most 65535"))
    })?;
    let server_names = each("server_names", &message.server_names, |name| {
        let inner = name.strip_prefix("*.").unwrap_or(name);
        if inner.is_empty() || inner.contains('*') {
            return refuse(format!(
                "{name} is no server name: a wildcard is *. and a domain"
            ));
        }
        Ok(Str::from(name.to_ascii_lowercase()))
    })?;
    Ok(ChainMatch {
        destination_port: port
            .or_else(|_| refuse_field("destination_port", "must be at most 65535"))?,
        destination: each("prefix_ranges", &message.prefix_ranges, cidr)?,
        server_names,
        transport: message.transport_protocol.as_str().into(),
        application_protocols: strs(&message.application_protocols),
        direct_source: each(
            "direct_source_prefix_ranges",
            &message.direct_source_prefix_ranges,
            cidr,
        )?,
        source_type: match message.source_type() {
            Wire::Any => SourceType::Any,
            Wire::SameIpOrLoopback => SourceType::Local,
            Wire::External => SourceType::External,
        },
        source: each("source_prefix_ranges", &message.source_prefix_ranges, cidr)?,
        source_ports,
    })
}
