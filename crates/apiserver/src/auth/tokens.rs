//! Service-account tokens: ES256 JWTs, issued by TokenRequest and checked on every request.
//!
//! A token is only as alive as what it is bound to: its service account, and its pod or secret,
//! must still exist with the same UID.

use std::collections::BTreeMap;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::User;
use crate::store::{Key, Store};

/// The issuer, and the audience of the API itself, as every kubeadm cluster has it.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Tokens a little ahead of our clock are accepted.
const SKEW_SECONDS: i64 = 60;

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three base64url parts of JSON.
    #[error("malformed token")]
    Malformed,
    /// Not ours.
    #[error("signature does not verify")]
    Signature,
    /// Another issuer's.
    #[error("wrong issuer")]
    Issuer,
    /// For somebody else.
    #[error("token audiences {found:?} is invalid for the target audiences {wanted:?}")]
    Audience {
        /// In the token.
        found: Vec<String>,
        /// Asked for.
        wanted: Vec<String>,
    },
    /// Over.
    #[error("token has expired")]
    Expired,
    /// What it was bound to is gone.
    #[error("{what} has been deleted")]
    Unbound {
        /// Service account, pod or secret.
        what: String,
    },
    /// The key file is not a P-256 PKCS#8 key.
    #[error("the service-account key cannot be read")]
    Key,
}

/// What a token binds to beside its service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// `pod` or `secret`, as the claim is called.
    pub claim: &'static str,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// The pod's node.
    pub node: Option<String>,
}

/// What to issue.
#[derive(Debug)]
pub struct Issue<'a> {
    /// Namespace of the service account.
    pub namespace: &'a str,
    /// Its name.
    pub account: &'a str,
    /// Its UID.
    pub account_uid: &'a str,
    /// Audiences, empty for the API's own.
    pub audiences: &'a [String],
    /// Seconds of life.
    pub seconds: i64,
    /// Pod or secret.
    pub binding: Option<Binding>,
}

/// A token that verified.
#[derive(Debug)]
pub struct Verified {
    /// Whose it is.
    pub user: User,
    /// The asked audiences that it has.
    pub audiences: Vec<String>,
}

/// Signs and verifies.
#[derive(Debug)]
pub struct Tokens {
    pair: EcdsaKeyPair,
    key_id: String,
    random: SystemRandom,
}

impl Tokens {
    /// From a PKCS#8 PEM key on P-256.
    ///
    /// # Errors
    /// When it is something else.
    pub fn new(pem: &str) -> Result<Self, TokenError> {
        let body: String = pem.lines().filter(|l| !l.starts_with("-----")).collect();
        let der = base64::engine::general_purpose::STANDARD
            .decode(body)
            .map_err(|_| TokenError::Key)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der)
            .map_err(|_| TokenError::Key)?;
        let key_id = URL_SAFE_NO_PAD.encode(Sha256::digest(pair.public_key().as_ref()));
        Ok(Self {
            pair,
            key_id,
            random: SystemRandom::new(),
        })
    }

    /// The public key as a JWK set (`/openid/v1/jwks`).
    pub fn key_set(&self) -> Value {
        // Uncompressed point: 0x04, then both coordinates.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]})
    }

    /// Issues a token; returns it with its expiry.
    pub fn issue(&self, issue: &Issue<'_>) -> Option<(String, Timestamp)> {
        let now = Timestamp::now().as_second();
        let expires = now + issue.seconds;
        let audiences = if issue.audiences.is_empty() {
            vec![ISSUER.to_owned()]
        } else {
            issue.audiences.to_vec()
        };
        let mut kubernetes = json!({
            "namespace": issue.namespace,
            "serviceaccount": {"name": issue.account, "uid": issue.account_uid},
        });
        if let Some(binding) = &issue.binding {
            kubernetes[binding.claim] = json!({"name": binding.name, "uid": binding.uid});
            if let Some(node) = &binding.node {
                kubernetes["node"] = json!({"name": node});
            }
        }
        let claims = json!({
            "aud": audiences, "exp": expires, "iat": now, "nbf": now, "iss": ISSUER,
            "jti": uuid::Uuid::new_v4().to_string(), "kubernetes.io": kubernetes,
            "sub": format!("system:serviceaccount:{}:{}", issue.namespace, issue.account),
        });
        let header = json!({"alg": "ES256", "kid": self.key_id});
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = self.pair.sign(&self.random, signed.as_bytes()).ok()?;
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        Some((token, Timestamp::from_second(expires).ok()?))
    }

    /// Checks a token for any of `audiences` (empty: the API's own).
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn verify(
        &self,
        token: &str,
        audiences: &[String],
        store: &Store,
    ) -> Result<Verified, TokenError> {
        let claims = self.claims(token)?;
        if claims["iss"] != ISSUER {
            return Err(TokenError::Issuer);
        }
        let now = Timestamp::now().as_second();
        let number = |name: &str| claims[name].as_i64();
        if number("exp").is_none_or(|exp| exp <= now) {
            return Err(TokenError::Expired);
        }
        if number("nbf").is_some_and(|nbf| nbf > now + SKEW_SECONDS) {
            return Err(TokenError::Malformed);
        }
        let found = string_list(&claims["aud"]);
        let own = [ISSUER.to_owned()];
        let wanted = if audiences.is_empty() {
            &own[..]
        } else {
            audiences
        };
        let shared: Vec<String> = wanted
            .iter()
            .filter(|a| found.contains(a))
            .cloned()
            .collect();
        if shared.is_empty() {
            return Err(TokenError::Audience {
                found,
                wanted: wanted.to_vec(),
            });
        }
        let user = bound_user(&claims, store)?;
        Ok(Verified {
            user,
            audiences: shared,
        })
    }

    fn claims(&self, token: &str) -> Result<Value, TokenError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let decode = |part: &str| {
            URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|_| TokenError::Malformed)
        };
        let header: Value =
            serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        if header["alg"] != "ES256" {
            return Err(TokenError::Signature);
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| TokenError::Signature)?;
        serde_json::from_slice(&decode(claims)?).map_err(|_| TokenError::Malformed)
    }
}

fn string_list(value: &Value) -> Vec<String> {
    match value {
        Value::String(one) => vec![one.clone()],
        Value::Array(many) => many
            .iter()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    }
}

/// The user of verified claims, if everything the token is bound to still exists.
fn bound_user(claims: &Value, store: &Store) -> Result<User, TokenError> {
    let kubernetes = &claims["kubernetes.io"];
    let text = |v: &Value| v.as_str().map(str::to_owned).ok_or(TokenError::Malformed);
    let namespace = text(&kubernetes["namespace"])?;
    let account = text(&kubernetes["serviceaccount"]["name"])?;
    let uid = text(&kubernetes["serviceaccount"]["uid"])?;
    check_alive(store, "serviceaccounts", &namespace, &account, &uid)?;
    let mut extra = BTreeMap::new();
    if let Some(id) = claims["jti"].as_str() {
        extra.insert(
            "authentication.kubernetes.io/credential-id".to_owned(),
            vec![format!("JTI={id}")],
        );
    }
    for (claim, resource) in [("pod", "pods"), ("secret", "secrets")] {
        let bound = &kubernetes[claim];
        if bound.is_null() {
            continue;
        }
        let (name, uid) = (text(&bound["name"])?, text(&bound["uid"])?);
        check_alive(store, resource, &namespace, &name, &uid)?;
        if claim == "pod" {
            extra.insert(
                "authentication.kubernetes.io/pod-name".to_owned(),
                vec![name],
            );
            extra.insert("authentication.kubernetes.io/pod-uid".to_owned(), vec![uid]);
        }
    }
    let name = format!("system:serviceaccount:{namespace}:{account}");
    let mut groups = service_account_groups(&name);
    groups.push(super::AUTHENTICATED.into());
    Ok(User {
        name,
        uid,
        groups,
        extra,
    })
}

fn check_alive(
    store: &Store,
    resource: &str,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<(), TokenError> {
    let key = Key::new(&resource.into(), namespace, name);
    let alive = store
        .get(&key)
        .is_some_and(|object| object.value()["metadata"]["uid"] == uid);
    if alive {
        return Ok(());
    }
    Err(TokenError::Unbound {
        what: format!("{resource} {namespace}/{name}"),
    })
}

/// Namespace and name out of `system:serviceaccount:ns:name`.
pub fn split_service_account(user: &str) -> Option<(&str, &str)> {
    user.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// The groups of a service account's user name; empty for other users.
pub fn service_account_groups(user: &str) -> Vec<String> {
    split_service_account(user)
        .map(|(namespace, _)| {
            vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
            ]
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::lossy::LossyMedium;
    use crate::store::{Expect, StoreOptions};

    fn tokens() -> Tokens {
        let key = rcgen::KeyPair::generate().expect("key");
        Tokens::new(&key.serialize_pem()).expect("tokens")
    }

    async fn store_with_account(uid: &str) -> (Store, Key) {
        let medium = LossyMedium::new();
        let store =
            Store::with_backend(Box::new(move || medium.backend()), StoreOptions::default())
                .expect("store");
        let key = Key::new(&"serviceaccounts".into(), "default", "web");
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "web", "namespace": "default", "uid": uid}});
        store
            .put(key.clone(), Expect::Absent, account, None)
            .await
            .expect("create");
        (store, key)
    }

    fn issue<'a>(audiences: &'a [String], seconds: i64) -> Issue<'a> {
        Issue {
            namespace: "default",
            account: "web",
            account_uid: "u1",
            audiences,
            seconds,
            binding: None,
        }
    }

    #[tokio::test]
    async fn a_token_lives_as_long_as_its_account() {
        let (store, key) = store_with_account("u1").await;
        let tokens = tokens();
        let (token, _) = tokens.issue(&issue(&[], 600)).expect("issue");
        let verified = tokens.verify(&token, &[], &store).expect("verify");
        assert_eq!(verified.user.name, "system:serviceaccount:default:web");
        assert!(
            verified
                .user
                .groups
                .contains(&"system:serviceaccounts:default".to_owned())
        );
        store.delete(key, None).await.expect("delete");
        let gone = tokens.verify(&token, &[], &store).unwrap_err();
        assert!(matches!(gone, TokenError::Unbound { .. }));
    }

    #[tokio::test]
    async fn audience_signature_and_expiry_are_checked() {
        let (store, _) = store_with_account("u1").await;
        let (tokens, other) = (tokens(), self::tokens());
        let istio = ["istio-ca".to_owned()];
        let (token, _) = tokens.issue(&issue(&istio, 600)).expect("issue");
        assert!(matches!(
            tokens.verify(&token, &[], &store),
            Err(TokenError::Audience { .. })
        ));
        let verified = tokens.verify(&token, &istio, &store).expect("verify");
        assert_eq!(verified.audiences, istio);
        let foreign = other.verify(&token, &istio, &store).unwrap_err();
        assert_eq!(foreign, TokenError::Signature);
        let (old, _) = tokens.issue(&issue(&[], -1)).expect("issue");
        assert_eq!(
            tokens.verify(&old, &[], &store).unwrap_err(),
            TokenError::Expired
        );
        assert_eq!(
            tokens.verify("a.b", &[], &store).unwrap_err(),
            TokenError::Malformed
        );
    }
}
