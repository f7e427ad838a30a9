//! HTTP filters whose configuration is discovered (ECDS): found in a listener, and put in once they are there.

use meltemi_proto::any::{pack, type_name};
use meltemi_traffic::discovery::Reference;
use prost::Name;

use crate::filter_config::decode;
use crate::pb::network_filters::http_connection_manager::v3 as hcm;
use crate::pb::{core, listener as pb, wkt};
use crate::refusal::{Compiled, Within, refuse, refuse_field};
use crate::source::reference;

/// A listener with the discovered configurations put in.
#[derive(Debug)]
pub struct Extended {
    /// The listener. A filter without configuration keeps its reference: its requests fail.
    pub message: pb::Listener,
    /// Configurations that must be there before the listener starts.
    pub awaited: Vec<Reference>,
    /// All discovered configurations.
    pub references: Vec<Reference>,
}

/// Puts discovered filter configurations into a listener; `None` when it has no such filter.
///
/// # Errors
/// A source that is not supported, or a configuration whose type the filter does not permit.
pub fn extend_listener(
    message: &pb::Listener,
    known: impl Fn(&Reference) -> Option<wkt::Any>,
) -> Compiled<Option<Extended>> {
    let mut out = Extended {
        message: message.clone(),
        awaited: Vec::new(),
        references: Vec::new(),
    };
    let found = &mut (&mut out.awaited, &mut out.references);
    for (position, chain) in out.message.filter_chains.iter_mut().enumerate() {
        extend_chain(chain, &known, found).item("filter_chains", position)?;
    }
    if let Some(chain) = &mut out.message.default_filter_chain {
        extend_chain(chain, &known, found).within("default_filter_chain")?;
    }
    Ok((!out.references.is_empty()).then_some(out))
}

/// Awaited and all references.
type Found<'f> = (&'f mut Vec<Reference>, &'f mut Vec<Reference>);

fn extend_chain(
    chain: &mut pb::FilterChain,
    known: &impl Fn(&Reference) -> Option<wkt::Any>,
    found: &mut Found<'_>,
) -> Compiled<()> {
    for (position, filter) in chain.filters.iter_mut().enumerate() {
        let Some(pb::filter::ConfigType::TypedConfig(any)) = &mut filter.config_type else {
            continue;
        };
        if type_name(&any.type_url) != hcm::HttpConnectionManager::full_name() {
            continue;
        }
        let mut manager: hcm::HttpConnectionManager = decode(any).item("filters", position)?;
        let mut changed = false;
        for (number, filter) in manager.http_filters.iter_mut().enumerate() {
            changed |= extend_filter(filter, known, found)
                .item("typed_config.http_filters", number)
                .item("filters", position)?;
        }
        if changed {
            *any = pack(&manager);
        }
    }
    Ok(())
}

fn extend_filter(
    filter: &mut hcm::HttpFilter,
    known: &impl Fn(&Reference) -> Option<wkt::Any>,
    found: &mut Found<'_>,
) -> Compiled<bool> {
    let Some(hcm::http_filter::ConfigType::ConfigDiscovery(discovery)) = &filter.config_type else {
        return Ok(false);
    };
    let wanted = checked(discovery, &filter.name).within("config_discovery")?;
    let config = match known(&wanted) {
        Some(any) => {
            permitted(discovery, &any)?;
            Some(any)
        }
        None => {
            if !discovery.apply_default_config_without_warming {
                found.0.push(wanted.clone());
            }
            discovery.default_config.clone()
        }
    };
    found.1.push(wanted);
    let Some(any) = config else { return Ok(false) };
    filter.config_type = Some(hcm::http_filter::ConfigType::TypedConfig(any));
    Ok(true)
}

/// The reference of a discovered configuration, whose settings make sense.
pub(crate) fn checked(discovery: &core::ExtensionConfigSource, name: &str) -> Compiled<Reference> {
    if discovery.type_urls.is_empty() {
        return refuse_field("type_urls", "needs at least one");
    }
    if discovery.apply_default_config_without_warming && discovery.default_config.is_none() {
        return refuse_field(
            "default_config",
            "is required to be applied without warming",
        );
    }
    if let Some(default) = &discovery.default_config {
        permitted(discovery, default).within("default_config")?;
    }
    reference(discovery.config_source.as_ref(), name).within("config_source")
}

fn permitted(discovery: &core::ExtensionConfigSource, any: &wkt::Any) -> Compiled<()> {
    let given = type_name(&any.type_url);
    if discovery
        .type_urls
        .iter()
        .any(|url| type_name(url) == given)
    {
        Ok(())
    } else {
        refuse(format!("{given} is none of the filter's type_urls"))
    }
}

/// A discovered configuration: its name and content.
///
/// # Errors
/// When it has no content.
pub fn extension_config(message: &core::TypedExtensionConfig) -> Compiled<wkt::Any> {
    match &message.typed_config {
        Some(any) => Ok(any.clone()),
        None => refuse_field("typed_config", "is required"),
    }
}
