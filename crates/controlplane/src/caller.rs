//! Who calls: a service-account token, checked by the API server, or a certificate of the mesh.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use meltemi_identity::service::{Authenticator, Credentials};
use meltemi_kube::{Api, Client};

/// Audience of the tokens that workloads present.
const AUDIENCE: &str = "istio-ca";
/// User name prefix of service accounts.
const ACCOUNT_PREFIX: &str = "system:serviceaccount:";
/// Group of every service account.
const ACCOUNT_GROUP: &str = "system:serviceaccounts";
/// The API server must answer within this time; the caller tries again.
const REVIEW_DEADLINE: Duration = Duration::from_secs(10);

/// Checks tokens with the API server.
pub(crate) struct KubernetesTokens {
    client: Client,
    trust_domain: String,
}

impl KubernetesTokens {
    pub(crate) fn new(client: Client, trust_domain: String) -> Self {
        Self {
            client,
            trust_domain,
        }
    }

    async fn review(&self, token: &str) -> Result<String, String> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let parameters = Default::default();
        let answer = tokio::time::timeout(REVIEW_DEADLINE, api.create(&parameters, &review))
            .await
            .map_err(|_| "review the token: no answer within 10 s".to_owned())?
            .map_err(|error| format!("review the token: {error}"))?;
        let status = answer.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            return Err(status
                .error
                .unwrap_or_else(|| "the token is not valid".to_owned()));
        }
        if !status
            .audiences
            .unwrap_or_default()
            .iter()
            .any(|audience| audience == AUDIENCE)
        {
            return Err(format!("the token is not for the audience {AUDIENCE}"));
        }
        let info = status.user.unwrap_or_default();
        let user = info.username.unwrap_or_default();
        let in_group = info
            .groups
            .unwrap_or_default()
            .iter()
            .any(|group| group == ACCOUNT_GROUP);
        let account = user
            .strip_prefix(ACCOUNT_PREFIX)
            .and_then(|account| account.split_once(':'))
            .filter(|_| in_group);
        let (namespace, name) =
            account.ok_or_else(|| format!("{user} is not a service account"))?;
        Ok(format!(
            "spiffe://{}/ns/{namespace}/sa/{name}",
            self.trust_domain
        ))
    }
}

impl Authenticator for KubernetesTokens {
    async fn authenticate(&self, credentials: &Credentials) -> Result<String, String> {
        if let Some(uri) = credentials
            .certificate_uris
            .iter()
            .find(|uri| uri.starts_with("spiffe://"))
        {
            return Ok(uri.clone());
        }
        match &credentials.token {
            Some(token) => self.review(token).await,
            None => Err("neither a client certificate nor a bearer token".to_owned()),
        }
    }
}
