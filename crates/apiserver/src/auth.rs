//! Who is calling: client certificates, service-account tokens, impersonation; and whether they may.
//!
//! Authentication yields a [`User`] or refuses with 401; there is no anonymous access beyond the
//! public paths that the router answers before asking here. Authorization is RBAC over the
//! stored roles and bindings, from a snapshot that is rebuilt only when one of them changed.

pub mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::rbac::{Attributes, Decision, Rules, Subject};
use crate::state::Api;
use crate::status::{ApiError, ApiResult};
use crate::store::Store;
use tokens::Tokens;

/// The group of everybody who authenticated.
const AUTHENTICATED: &str = "system:authenticated";

/// The caller, in the shape of `UserInfo`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User name.
    pub name: String,
    /// UID, for service accounts.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Extra values, for example the token's pod.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// What RBAC looks at.
    pub fn subject(&self) -> Subject {
        Subject {
            name: self.name.clone(),
            groups: self.groups.clone(),
        }
    }

    /// `UserInfo` as reviews carry it.
    pub fn info(&self) -> Value {
        let mut info = Map::new();
        info.insert("username".into(), json!(self.name));
        if !self.uid.is_empty() {
            info.insert("uid".into(), json!(self.uid));
        }
        info.insert("groups".into(), json!(self.groups));
        if !self.extra.is_empty() {
            info.insert("extra".into(), json!(self.extra));
        }
        Value::Object(info)
    }
}

/// The user that a verified client certificate names: common name and organizations.
pub fn user_of_certificate(der: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> = subject
        .iter_organization()
        .filter_map(|o| o.as_str().ok().map(str::to_owned))
        .collect();
    groups.push(AUTHENTICATED.into());
    Some(User {
        name,
        groups,
        ..User::default()
    })
}

/// Names the caller of a request, before impersonation.
pub fn authenticate(
    headers: &HeaderMap,
    certificate: Option<&User>,
    tokens: &Tokens,
    store: &Store,
) -> ApiResult<User> {
    if let Some(user) = certificate {
        return Ok(user.clone());
    }
    let token = headers
        .get(http::header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or_else(ApiError::unauthorized)?;
    let verified = tokens.verify(token, &[], store).map_err(|error| {
        tracing::debug!(error = %error, "token refused");
        ApiError::unauthorized()
    })?;
    Ok(verified.user)
}

/// Replaces the user where `Impersonate-User` asks for it and the caller may.
pub fn impersonate(api: &Api, headers: &HeaderMap, user: User) -> ApiResult<User> {
    let text = |name: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let Some(name) = text("impersonate-user").into_iter().next() else {
        return Ok(user);
    };
    let mut groups = text("impersonate-group");
    let (resource, namespace, short) = match tokens::split_service_account(&name) {
        Some((namespace, account)) => ("serviceaccounts", namespace, account),
        None => ("users", "", name.as_str()),
    };
    let mut asked = vec![(resource, namespace, short)];
    asked.extend(groups.iter().map(|g| ("groups", "", g.as_str())));
    for (resource, namespace, name) in asked {
        let attributes = Attributes {
            verb: "impersonate",
            resource,
            namespace,
            name,
            ..Attributes::default()
        };
        require(api, &user, &attributes)?;
    }
    if groups.is_empty() {
        groups = tokens::service_account_groups(&name);
    }
    if name != "system:anonymous" && !groups.iter().any(|g| g == AUTHENTICATED) {
        groups.push(AUTHENTICATED.into());
    }
    Ok(User {
        name,
        groups,
        ..User::default()
    })
}

/// Decides by RBAC.
pub fn authorize(api: &Api, user: &User, attributes: &Attributes<'_>) -> Decision {
    api.rules
        .current(&api.store, api)
        .authorize(&user.subject(), attributes)
}

/// Refuses with Kubernetes' 403 sentence.
pub fn require(api: &Api, user: &User, attributes: &Attributes<'_>) -> ApiResult<()> {
    let decision = authorize(api, user, attributes);
    if decision.allowed {
        return Ok(());
    }
    Err(forbidden(user, attributes, &decision.reason))
}

fn forbidden(user: &User, a: &Attributes<'_>, reason: &str) -> ApiError {
    let tail = if reason.is_empty() {
        String::new()
    } else {
        format!(": {reason}")
    };
    if let Some(path) = a.path {
        return ApiError::with_details(
            http::StatusCode::FORBIDDEN,
            "Forbidden",
            format!(
                "forbidden: User {:?} cannot {} path {path:?}{tail}",
                user.name, a.verb
            ),
            json!({}),
        );
    }
    let group_resource = if a.group.is_empty() {
        a.resource.to_owned()
    } else {
        format!("{}.{}", a.resource, a.group)
    };
    let named = if a.name.is_empty() {
        group_resource
    } else {
        format!("{group_resource} {:?}", a.name)
    };
    let full = if a.subresource.is_empty() {
        a.resource.to_owned()
    } else {
        format!("{}/{}", a.resource, a.subresource)
    };
    let scope = if a.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", a.namespace)
    };
    let message = format!(
        "{named} is forbidden: User {:?} cannot {} resource {full:?} in API group {:?} {scope}{tail}",
        user.name, a.verb, a.group
    );
    let mut details = json!({"kind": a.resource});
    if !a.name.is_empty() {
        details["name"] = json!(a.name);
    }
    if !a.group.is_empty() {
        details["group"] = json!(a.group);
    }
    ApiError::with_details(http::StatusCode::FORBIDDEN, "Forbidden", message, details)
}

/// The four kinds that decide.
const RBAC_KINDS: [&str; 4] = [
    "clusterroles.rbac.authorization.k8s.io",
    "clusterrolebindings.rbac.authorization.k8s.io",
    "roles.rbac.authorization.k8s.io",
    "rolebindings.rbac.authorization.k8s.io",
];

/// The RBAC snapshot, rebuilt when roles or bindings changed.
#[derive(Debug, Default)]
pub struct RulesCache {
    current: Mutex<Option<(u64, Arc<Rules>)>>,
}

impl RulesCache {
    /// The rules as of now.
    pub fn current(&self, store: &Store, api: &Api) -> Arc<Rules> {
        let kinds = RBAC_KINDS.map(|kind| api.resource_key(kind));
        let version = kinds
            .iter()
            .map(|k| store.last_change(k))
            .max()
            .unwrap_or(0);
        let mut current = self.current.lock();
        if let Some((seen, rules)) = &*current
            && *seen == version
        {
            return Arc::clone(rules);
        }
        let mut objects = kinds.map(|kind| -> Vec<Value> {
            store
                .list(&kind, None, None)
                .map(|snapshot| snapshot.items.iter().map(|(_, s)| s.value()).collect())
                .unwrap_or_default()
        });
        aggregate(&mut objects[0]);
        let [cluster_roles, cluster_bindings, roles, bindings] = &objects;
        let rules = Arc::new(Rules::new(cluster_roles, cluster_bindings, roles, bindings));
        *current = Some((version, Arc::clone(&rules)));
        rules
    }
}

/// Fills the rules of aggregated ClusterRoles from the roles they select.
fn aggregate(cluster_roles: &mut [Value]) {
    let rules: Vec<Option<Value>> = cluster_roles
        .iter()
        .map(|role| crate::rbac::aggregated_rules(role, cluster_roles.iter()))
        .collect();
    for (role, rules) in cluster_roles.iter_mut().zip(rules) {
        if let Some(rules) = rules {
            role["rules"] = rules;
        }
    }
}
