//! `RequestAuthentication`: which tokens of end users are accepted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::meta::Spec;
use crate::scalars::Duration;
use crate::schema::rule;
use crate::selection::{TargetRef, WorkloadSelector, one_selection};

/// Says which JSON web tokens are accepted; requests with an invalid token are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [one_selection("selector", &["selector", "targetRef", "targetRefs"])]))]
pub struct RequestAuthentication {
    /// Workloads of the namespace that this is for; none means all of them.
    pub selector: Option<WorkloadSelector>,
    /// Use `targetRefs`.
    pub target_ref: Option<TargetRef>,
    /// Gateways or services that this is for.
    #[schemars(length(max = 16))]
    pub target_refs: Vec<TargetRef>,
    /// Accepted tokens; a request may carry one of any rule.
    #[schemars(length(max = 4096))]
    pub jwt_rules: Vec<JwtRule>,
}

impl Spec for RequestAuthentication {
    const GROUP: &'static str = "security.istio.io";
    const KIND: &'static str = "RequestAuthentication";
    const PLURAL: &'static str = "requestauthentications";
    const VERSIONS: &'static [&'static str] = &["v1", "v1beta1"];
    const SHORT_NAMES: &'static [&'static str] = &["ra"];
}

/// Tokens of one issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule(
    "(has(self.jwksUri) ? 1 : 0) + (has(self.jwks_uri) ? 1 : 0) + (has(self.jwks) ? 1 : 0) <= 1",
    "only one of jwks or jwksUri can be set"
)]))]
pub struct JwtRule {
    /// Issuer that the token states.
    #[schemars(length(min = 1))]
    pub issuer: String,
    /// Audiences, one of which the token has to be for.
    #[schemars(inner(length(min = 1)))]
    pub audiences: Vec<String>,
    /// Where the issuer's public keys are.
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = url_rules()))]
    pub jwks_uri: String,
    /// Older spelling of `jwksUri`.
    #[serde(rename = "jwks_uri")]
    #[schemars(length(min = 1, max = 2048), extend("x-kubernetes-validations" = url_rules()))]
    pub jwks_uri_snake: String,
    /// The issuer's public keys.
    pub jwks: String,
    /// Headers that may carry the token.
    pub from_headers: Vec<JwtHeader>,
    /// Query parameters that may carry the token.
    #[schemars(inner(length(min = 1)))]
    pub from_params: Vec<String>,
    /// Header in which the payload is passed on.
    pub output_payload_to_header: String,
    /// Passes the token itself on.
    pub forward_original_token: bool,
    /// Headers in which single claims are passed on.
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// Longest time to fetch keys; 5 s when unset.
    pub timeout: Option<Duration>,
    /// Cookies that may carry the token.
    #[schemars(inner(length(min = 1)))]
    pub from_cookies: Vec<String>,
    /// Claims that hold several values separated by spaces.
    #[schemars(length(max = 64), inner(length(min = 1)))]
    pub space_delimited_claims: Vec<String>,
    /// Whether a token has to be there.
    pub presence: Presence,
}

/// A header that may carry a token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["name"]))]
pub struct JwtHeader {
    /// Name.
    #[schemars(length(min = 1))]
    pub name: String,
    /// What precedes the token.
    pub prefix: String,
}

/// A header in which a claim is passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["header", "claim"]))]
pub struct ClaimToHeader {
    /// Name of the header.
    #[schemars(length(min = 1), regex(pattern = "^[-_A-Za-z0-9]+$"))]
    pub header: String,
    /// Claim, with dots between nested names.
    #[schemars(length(min = 1))]
    pub claim: String,
}

/// Whether a token has to be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Presence {
    /// Requests without a token pass.
    #[default]
    Optional,
    /// They are refused.
    Required,
}

fn url_rules() -> Value {
    json!([rule(
        r#"url(self).getScheme() in ["http", "https"]"#,
        "url must have scheme http:// or https://"
    )])
}
