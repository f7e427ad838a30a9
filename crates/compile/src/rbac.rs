//! Role-based access control.

use meltemi_traffic::path::Template;
use meltemi_traffic::rbac::{Permission, Policy, Principal, RbacAction, RbacFilter, Rules};

use crate::filter_config::decode;
use crate::pb::{core, http_filters, kinds, matcher, network_filters, rbac as pb};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{cidr, header_matcher, metadata_matcher, string_matcher};

/// The HTTP filter.
pub(crate) fn http_filter(message: &http_filters::rbac::v3::Rbac) -> Compiled<RbacFilter> {
    Ok(RbacFilter {
        rules: message
            .rules
            .as_ref()
            .map(|rules| rules_of(rules).within("rules"))
            .transpose()?,
        shadow: message
            .shadow_rules
            .as_ref()
            .map(|rules| rules_of(rules).within("shadow_rules"))
            .transpose()?,
        shadow_prefix: message.shadow_rules_stat_prefix.as_str().into(),
        rules_prefix: message.rules_stat_prefix.as_str().into(),
        ..RbacFilter::default()
    })
}

/// The network filter.
pub(crate) fn network_filter(message: &network_filters::rbac::v3::Rbac) -> Compiled<RbacFilter> {
    use network_filters::rbac::v3::rbac::EnforcementType;
    Ok(RbacFilter {
        rules: message
            .rules
            .as_ref()
            .map(|rules| rules_of(rules).within("rules"))
            .transpose()?,
        shadow: message
            .shadow_rules
            .as_ref()
            .map(|rules| rules_of(rules).within("shadow_rules"))
            .transpose()?,
        shadow_prefix: message.shadow_rules_stat_prefix.as_str().into(),
        rules_prefix: Default::default(),
        stat_prefix: message.stat_prefix.as_str().into(),
        continuous: message.enforcement_type() == EnforcementType::Continuous,
        delay_deny: crate::values::limit("delay_deny", message.delay_deny.as_ref(), None)?,
    })
}

fn rules_of(message: &pb::Rbac) -> Compiled<Rules> {
    let action = match message.action() {
        pb::rbac::Action::Allow => RbacAction::Allow,
        pb::rbac::Action::Deny => RbacAction::Deny,
        pb::rbac::Action::Log => RbacAction::Log,
    };
    let mut names: Vec<_> = message.policies.iter().collect();
    names.sort_by_key(|(name, _)| name.as_str());
    let policies = names
        .into_iter()
        .map(|(name, message)| policy(name, message).entry("policies", name));
    Ok(Rules {
        action,
        policies: policies.collect::<Compiled<_>>()?,
    })
}

fn policy(name: &str, message: &pb::Policy) -> Compiled<Policy> {
    if message.permissions.is_empty() || message.principals.is_empty() {
        return refuse("a policy needs permissions and principals");
    }
    Ok(Policy {
        name: name.into(),
        permissions: each("permissions", &message.permissions, permission)?,
        principals: each("principals", &message.principals, principal)?,
    })
}

fn ports(range: &kinds::Int32Range) -> Compiled<(u32, u32)> {
    match (u32::try_from(range.start), u32::try_from(range.end)) {
        (Ok(start), Ok(end)) if start < end => Ok((start, end)),
        _ => refuse("must be a range of ports"),
    }
}

fn url_path(message: &matcher::PathMatcher) -> Compiled<meltemi_traffic::matcher::StringMatcher> {
    match &message.rule {
        Some(matcher::path_matcher::Rule::Path(inner)) => string_matcher(inner).within("path"),
        None => refuse("needs a path"),
    }
}

fn template(message: &core::TypedExtensionConfig) -> Compiled<Template> {
    use meltemi_proto::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
    let Some(any) = &message.typed_config else {
        return refuse_field("typed_config", "is required");
    };
    let config: UriTemplateMatchConfig = decode(any).within("typed_config")?;
    Template::parse(&config.path_template)
        .or_else(|reason| refuse_field("typed_config.path_template", reason))
}

fn state(
    message: &matcher::FilterStateMatcher,
) -> Compiled<(
    meltemi_traffic::Str,
    meltemi_traffic::matcher::StringMatcher,
)> {
    match &message.matcher {
        Some(matcher::filter_state_matcher::Matcher::StringMatch(inner)) => Ok((
            message.key.as_str().into(),
            string_matcher(inner).within("string_match")?,
        )),
        _ => refuse("only string_match is supported"),
    }
}

// table: kinds of permissions
#[expect(deprecated, reason = "old forms are still sent")]
fn permission(message: &pb::Permission) -> Compiled<Permission> {
    use pb::permission::Rule;
    Ok(match &message.rule {
        Some(Rule::AndRules(set)) => {
            Permission::And(each("and_rules.rules", &set.rules, permission)?)
        }
        Some(Rule::OrRules(set)) => Permission::Or(each("or_rules.rules", &set.rules, permission)?),
        Some(Rule::NotRule(inner)) => {
            Permission::Not(Box::new(permission(inner).within("not_rule")?))
        }
        Some(Rule::Any(any)) => Permission::Any(*any),
        Some(Rule::Header(matcher)) => {
            Permission::Header(header_matcher(matcher).within("header")?)
        }
        Some(Rule::UrlPath(matcher)) => Permission::UrlPath(url_path(matcher).within("url_path")?),
        Some(Rule::UriTemplate(config)) => {
            Permission::Template(template(config).within("uri_template")?)
        }
        Some(Rule::DestinationIp(block)) => {
            Permission::DestinationIp(cidr(block).within("destination_ip")?)
        }
        Some(Rule::DestinationPort(port)) => {
            Permission::DestinationPorts(*port, port.saturating_add(1))
        }
        Some(Rule::DestinationPortRange(range)) => {
            let (start, end) = ports(range).within("destination_port_range")?;
            Permission::DestinationPorts(start, end)
        }
        Some(Rule::Metadata(matcher)) => {
            Permission::Metadata(metadata_matcher(matcher).within("metadata")?)
        }
        Some(Rule::SourcedMetadata(sourced)) => match &sourced.metadata_matcher {
            Some(matcher) if sourced.metadata_source() == pb::MetadataSource::Dynamic => {
                Permission::Metadata(
                    metadata_matcher(matcher).within("sourced_metadata.metadata_matcher")?,
                )
            }
            _ => return refuse_field("sourced_metadata", "only dynamic metadata is supported"),
        },
        Some(Rule::RequestedServerName(matcher)) => {
            Permission::ServerName(string_matcher(matcher).within("requested_server_name")?)
        }
        Some(Rule::Matcher(config)) => {
            return refuse_field(
                "matcher",
                format!("matcher {} is not supported", config.name),
            );
        }
        None => return refuse("needs a rule"),
    })
}

// table: kinds of principals
#[expect(deprecated, reason = "old forms are still sent")]
fn principal(message: &pb::Principal) -> Compiled<Principal> {
    use pb::principal::Identifier;
    Ok(match &message.identifier {
        Some(Identifier::AndIds(set)) => Principal::And(each("and_ids.ids", &set.ids, principal)?),
        Some(Identifier::OrIds(set)) => Principal::Or(each("or_ids.ids", &set.ids, principal)?),
        Some(Identifier::NotId(inner)) => {
            Principal::Not(Box::new(principal(inner).within("not_id")?))
        }
        Some(Identifier::Any(any)) => Principal::Any(*any),
        Some(Identifier::Authenticated(authenticated)) => {
            let name = authenticated.principal_name.as_ref();
            let name = name
                .map(|name| string_matcher(name).within("authenticated.principal_name"))
                .transpose()?;
            Principal::Authenticated(name)
        }
        Some(Identifier::SourceIp(block)) => Principal::RemoteIp(cidr(block).within("source_ip")?),
        Some(Identifier::RemoteIp(block)) => Principal::RemoteIp(cidr(block).within("remote_ip")?),
        Some(Identifier::DirectRemoteIp(block)) => {
            Principal::DirectRemoteIp(cidr(block).within("direct_remote_ip")?)
        }
        Some(Identifier::Header(matcher)) => {
            Principal::Header(header_matcher(matcher).within("header")?)
        }
        Some(Identifier::UrlPath(matcher)) => {
            Principal::UrlPath(url_path(matcher).within("url_path")?)
        }
        Some(Identifier::Metadata(matcher)) => {
            Principal::Metadata(metadata_matcher(matcher).within("metadata")?)
        }
        Some(Identifier::SourcedMetadata(sourced)) => match &sourced.metadata_matcher {
            Some(matcher) if sourced.metadata_source() == pb::MetadataSource::Dynamic => {
                Principal::Metadata(
                    metadata_matcher(matcher).within("sourced_metadata.metadata_matcher")?,
                )
            }
            _ => return refuse_field("sourced_metadata", "only dynamic metadata is supported"),
        },
        Some(Identifier::FilterState(matcher)) => {
            let (key, value) = state(matcher).within("filter_state")?;
            Principal::FilterState(key, value)
        }
        Some(Identifier::Custom(config)) => {
            return refuse_field(
                "custom",
                format!("principal {} is not supported", config.name),
            );
        }
        None => return refuse("needs an identifier"),
    })
}
