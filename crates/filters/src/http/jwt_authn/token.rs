//! A token's parts and claims, and Envoy's words for what can be wrong with them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meltemi_traffic::Str;
use meltemi_traffic::jwt::Provider;
use serde_json::Value;

macro_rules! failures {
    ($($name:ident $code:literal $text:literal;)*) => {
        /// What is wrong with a token, its absence included.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each says what its text says")]
        pub(super) enum Failure { $($name),* }

        impl Failure {
            /// Envoy's sentence.
            pub(super) fn text(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// Envoy's number.
            pub(super) fn code(self) -> u32 {
                match self { $(Self::$name => $code),* }
            }
        }
    };
}

failures! {
    Missing 1 "Jwt is missing";
    NotYetValid 2 "Jwt not yet valid";
    Expired 3 "Jwt is expired";
    BadFormat 4 "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
    HeaderBase64 5 "Jwt header is an invalid Base64url encoded";
    HeaderJson 6 "Jwt header is an invalid JSON";
    HeaderAlg 7 "Jwt header [alg] field is required and must be a string";
    AlgUnsupported 8 "Jwt header [alg] is not supported";
    HeaderKid 9 "Jwt header [kid] field is not a string";
    PayloadBase64 10 "Jwt payload is an invalid Base64url encoded";
    PayloadJson 11 "Jwt payload is an invalid JSON";
    Iss 12 "Jwt payload [iss] field is not a string";
    Sub 13 "Jwt payload [sub] field is not a string";
    Iat 14 "Jwt payload [iat] field is not an integer";
    Nbf 16 "Jwt payload [nbf] field is not an integer";
    Exp 18 "Jwt payload [exp] field is not an integer";
    Jti 20 "Jwt payload [jti] field is not a string";
    Aud 21 "Jwt payload [aud] field is not a string or string list";
    SignatureBase64 22 "Jwt signature is an invalid Base64url encoded";
    UnknownIssuer 26 "Jwt issuer is not configured";
    AudienceNotAllowed 27 "Audiences in Jwt are not allowed";
    VerificationFailed 28 "Jwt verification fails";
    KeysJson 29 "Jwks is an invalid JSON";
    KeysMissing 30 "Jwks does not have [keys] field";
    KeysNoArray 31 "[keys] in Jwks is not an array";
    NoValidKeys 32 "Jwks doesn't have any valid public key";
    NoKeyMatches 33 "Jwks doesn't have key to match kid or alg from Jwt";
    FetchFailed 40 "Jwks remote fetch is failed";
}

/// A token that is well formed.
#[derive(Debug)]
pub(super) struct Token {
    /// `alg`.
    pub(super) alg: String,
    /// `kid`; empty when there is none.
    pub(super) kid: String,
    /// Its header.
    pub(super) header: Value,
    /// Its claims.
    pub(super) payload: Value,
    /// Its claims as they came.
    pub(super) payload_text: String,
    /// What is signed.
    pub(super) signed: String,
    /// The signature.
    pub(super) signature: Vec<u8>,
}

const ALGORITHMS: &[&str] = &[
    "ES256", "ES384", "ES512", "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256",
    "PS384", "PS512", "EdDSA",
];

impl Token {
    /// Reads a token in its compact form.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let mut parts = text.split('.');
        let (Some(header_text), Some(payload_text), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Failure::BadFormat);
        };
        if header_text.is_empty() || payload_text.is_empty() || signature.is_empty() {
            return Err(Failure::BadFormat);
        }
        let header = decoded(header_text, Failure::HeaderBase64, Failure::HeaderJson)?;
        let Some(alg) = header.get("alg").and_then(Value::as_str) else {
            return Err(Failure::HeaderAlg);
        };
        if !ALGORITHMS.contains(&alg) {
            return Err(Failure::AlgUnsupported);
        }
        let kid = optional_text(&header, "kid", Failure::HeaderKid)?.to_owned();
        let payload = decoded(payload_text, Failure::PayloadBase64, Failure::PayloadJson)?;
        optional_text(&payload, "iss", Failure::Iss)?;
        optional_text(&payload, "sub", Failure::Sub)?;
        optional_seconds(&payload, "iat", Failure::Iat)?;
        optional_seconds(&payload, "nbf", Failure::Nbf)?;
        optional_seconds(&payload, "exp", Failure::Exp)?;
        optional_text(&payload, "jti", Failure::Jti)?;
        audiences(&payload)?;
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| Failure::SignatureBase64)?;
        Ok(Self {
            alg: alg.to_owned(),
            kid,
            payload_text: payload_text.to_owned(),
            signed: format!("{header_text}.{payload_text}"),
            header,
            payload,
            signature,
        })
    }

    /// `iss`; empty when there is none.
    pub(super) fn issuer(&self) -> &str {
        self.payload
            .get("iss")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Judges `nbf` and `exp`. `now` is since the Unix epoch.
    pub(super) fn check_times(&self, provider: &Provider, now: Duration) -> Result<(), Failure> {
        let (now, skew) = (now.as_secs(), provider.clock_skew.as_secs());
        let seconds = |name| optional_seconds(&self.payload, name, Failure::Exp);
        let (not_before, expires) = (seconds("nbf")?, seconds("exp")?);
        if not_before.is_some_and(|at| now.saturating_add(skew) < at) {
            return Err(Failure::NotYetValid);
        }
        if expires.is_some_and(|at| now > at.saturating_add(skew)) {
            return Err(Failure::Expired);
        }
        if provider.require_expiration && expires.is_none() {
            return Err(Failure::Expired);
        }
        if let Some(longest) = provider.max_lifetime {
            let from = not_before.or(seconds("iat")?).unwrap_or(now);
            if expires.is_none_or(|at| at.saturating_sub(from) > longest.as_secs()) {
                return Err(Failure::Expired);
            }
        }
        Ok(())
    }

    /// Judges `aud`: any of `wanted`, none wanted is all. A scheme and a trailing slash make no difference.
    pub(super) fn check_audience(&self, wanted: &[Str]) -> Result<(), Failure> {
        if wanted.is_empty() {
            return Ok(());
        }
        let have = audiences(&self.payload)?;
        let fits = have
            .iter()
            .any(|own| wanted.iter().any(|one| plain(one) == plain(own)));
        if fits {
            Ok(())
        } else {
            Err(Failure::AudienceNotAllowed)
        }
    }
}

fn plain(audience: &str) -> &str {
    let rest = audience
        .strip_prefix("https://")
        .or_else(|| audience.strip_prefix("http://"))
        .unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

fn decoded(text: &str, base64: Failure, json: Failure) -> Result<Value, Failure> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| base64)?;
    match serde_json::from_slice(&bytes) {
        Ok(value @ Value::Object(_)) => Ok(value),
        _ => Err(json),
    }
}

fn optional_text<'v>(object: &'v Value, name: &str, failure: Failure) -> Result<&'v str, Failure> {
    match object.get(name) {
        None => Ok(""),
        Some(value) => value.as_str().ok_or(failure),
    }
}

fn optional_seconds(object: &Value, name: &str, failure: Failure) -> Result<Option<u64>, Failure> {
    match object.get(name) {
        None => Ok(None),
        Some(value) => {
            let number = value.as_f64().filter(|number| *number >= 0.0);
            // Fractions of a second are cut; beyond u64 saturates.
            number.map(|number| Some(number as u64)).ok_or(failure)
        }
    }
}

fn audiences(payload: &Value) -> Result<Vec<&str>, Failure> {
    match payload.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one]),
        Some(Value::Array(all)) => all
            .iter()
            .map(|one| one.as_str().ok_or(Failure::Aud))
            .collect(),
        Some(_) => Err(Failure::Aud),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(header: &str, payload: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part(header), part(payload), part("s"))
    }

    #[test]
    fn what_is_wrong_is_said_in_envoys_words() {
        let failure = |token: &str| Token::parse(token).map(|_| ()).unwrap_err().text();
        assert_eq!(
            failure("a.b"),
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
        );
        assert_eq!(
            failure("!.b.c"),
            "Jwt header is an invalid Base64url encoded"
        );
        assert_eq!(failure(&text("{", "{}")), "Jwt header is an invalid JSON");
        assert_eq!(
            failure(&text("{}", "{}")),
            "Jwt header [alg] field is required and must be a string"
        );
        assert_eq!(
            failure(&text(r#"{"alg":"none"}"#, "{}")),
            "Jwt header [alg] is not supported"
        );
        assert_eq!(
            failure(&text(r#"{"alg":"RS256"}"#, r#"{"aud":1}"#)),
            "Jwt payload [aud] field is not a string or string list"
        );
    }

    #[test]
    fn audiences_ignore_scheme_and_trailing_slash() {
        let token = Token::parse(&text(
            r#"{"alg":"RS256"}"#,
            r#"{"aud":"https://a.example/"}"#,
        ))
        .unwrap();
        assert!(token.check_audience(&["a.example".into()]).is_ok());
        assert_eq!(
            token.check_audience(&["b".into()]),
            Err(Failure::AudienceNotAllowed)
        );
    }
}
