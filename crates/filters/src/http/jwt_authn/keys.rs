//! Key sets (RFC 7517) and signatures (RFC 7518, RFC 8037).

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::Value;

use super::token::{Failure, Token};

/// Keys of one set that are kept.
const MAX_KEYS: usize = 1000;

/// A key set.
#[derive(Debug)]
pub(super) struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    kid: String,
    alg: String,
    material: Material,
}

enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Curve, and the uncompressed point.
    Ec(Curve, Vec<u8>),
    Ed25519(Vec<u8>),
    Secret(Vec<u8>),
}

impl std::fmt::Debug for Material {
    /// Only the kind: secrets must not show.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rsa { .. } => "Rsa",
            Self::Ec(..) => "Ec",
            Self::Ed25519(_) => "Ed25519",
            Self::Secret(_) => "Secret",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    /// Bytes of a coordinate.
    fn size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

impl KeySet {
    /// Reads a key set; keys of unknown kinds are left out.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let json: Value = serde_json::from_slice(bytes).map_err(|_| Failure::KeysJson)?;
        let Some(keys) = json.get("keys") else {
            return Err(Failure::KeysMissing);
        };
        let Value::Array(keys) = keys else {
            return Err(Failure::KeysNoArray);
        };
        let keys: Vec<Key> = keys.iter().take(MAX_KEYS).filter_map(Key::parse).collect();
        if keys.is_empty() {
            return Err(Failure::NoValidKeys);
        }
        Ok(Self(keys))
    }

    /// Verifies a signature by any key that fits.
    pub(super) fn verify(&self, token: &Token) -> Result<(), Failure> {
        let mut tried = false;
        for key in &self.0 {
            let other_kid = !token.kid.is_empty() && !key.kid.is_empty() && token.kid != key.kid;
            let other_alg = !key.alg.is_empty() && key.alg != token.alg;
            if other_kid || other_alg {
                continue;
            }
            tried = true;
            if key.verifies(token) {
                return Ok(());
            }
        }
        Err(if tried {
            Failure::VerificationFailed
        } else {
            Failure::NoKeyMatches
        })
    }
}

impl Key {
    fn parse(json: &Value) -> Option<Self> {
        let text = |name: &str| json.get(name).and_then(Value::as_str).unwrap_or_default();
        let bytes = |name: &str| {
            let text = text(name);
            let decoded = URL_SAFE_NO_PAD
                .decode(text)
                .or_else(|_| URL_SAFE.decode(text));
            decoded.ok().filter(|bytes| !bytes.is_empty())
        };
        let alg = text("alg");
        let material = match text("kty") {
            "RSA" if alg.is_empty() || alg.starts_with("RS") || alg.starts_with("PS") => {
                Material::Rsa {
                    n: without_zeros(bytes("n")?),
                    e: without_zeros(bytes("e")?),
                }
            }
            "EC" => {
                let curve = match (text("crv"), alg) {
                    ("P-256", "" | "ES256") | ("", "ES256") => Curve::P256,
                    ("P-384", "" | "ES384") | ("", "ES384") => Curve::P384,
                    ("P-521", "" | "ES512") | ("", "ES512") => Curve::P521,
                    _ => return None,
                };
                Material::Ec(curve, point(curve, &bytes("x")?, &bytes("y")?)?)
            }
            "OKP" if text("crv") == "Ed25519" => {
                Material::Ed25519(bytes("x").filter(|x| x.len() == 32)?)
            }
            "oct" => Material::Secret(bytes("k")?),
            _ => return None,
        };
        Some(Self {
            kid: text("kid").to_owned(),
            alg: alg.to_owned(),
            material,
        })
    }

    fn verifies(&self, token: &Token) -> bool {
        let (message, signature) = (token.signed.as_bytes(), &token.signature);
        match (&self.material, token.alg.as_str()) {
            (Material::Rsa { n, e }, alg) => rsa(alg).is_some_and(|parameters| {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(parameters, message, signature).is_ok()
            }),
            (Material::Ec(curve, point), alg) => {
                let algorithm = match (curve, alg) {
                    (Curve::P256, "ES256") => &ECDSA_P256_SHA256_FIXED,
                    (Curve::P384, "ES384") => &ECDSA_P384_SHA384_FIXED,
                    (Curve::P521, "ES512") => &ECDSA_P521_SHA512_FIXED,
                    _ => return false,
                };
                let key = UnparsedPublicKey::new(algorithm, point);
                key.verify(message, signature).is_ok()
            }
            (Material::Ed25519(key), "EdDSA") => UnparsedPublicKey::new(&ED25519, key)
                .verify(message, signature)
                .is_ok(),
            (Material::Secret(secret), alg) => {
                let algorithm = match alg {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => return false,
                };
                hmac::verify(&hmac::Key::new(algorithm, secret), message, signature).is_ok()
            }
            (Material::Ed25519(_), _) => false,
        }
    }
}

fn rsa(alg: &str) -> Option<&'static RsaParameters> {
    Some(match alg {
        "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
        "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn without_zeros(bytes: Vec<u8>) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0);
    bytes[start.unwrap_or(0)..].to_vec()
}

/// SEC 1: 4, then both coordinates at full length.
fn point(curve: Curve, x: &[u8], y: &[u8]) -> Option<Vec<u8>> {
    let mut out = vec![4];
    for coordinate in [x, y] {
        let missing = curve.size().checked_sub(coordinate.len())?;
        out.extend(std::iter::repeat_n(0, missing));
        out.extend_from_slice(coordinate);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    fn signed(kid: &str) -> (String, EcdsaKeyPair) {
        let random = SystemRandom::new();
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let head = part(&format!(r#"{{"alg":"ES256","kid":"{kid}"}}"#));
        let message = format!("{head}.{}", part(r#"{"iss":"me"}"#));
        let signature = pair.sign(&random, message.as_bytes()).unwrap();
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        (token, pair)
    }

    fn set(pair: &EcdsaKeyPair, kid: &str) -> KeySet {
        let point = pair.public_key().as_ref();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let json = serde_json::json!({"keys": [
            {"kty": "EC", "crv": "P-256", "kid": kid, "x": part(&point[1..33]), "y": part(&point[33..])}
        ]});
        KeySet::parse(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_key_that_signed_verifies_and_another_does_not() {
        let (text, pair) = signed("k");
        let token = Token::parse(&text).unwrap();
        assert_eq!(set(&pair, "k").verify(&token), Ok(()));
        let (_, other) = signed("k");
        assert_eq!(
            set(&other, "k").verify(&token),
            Err(Failure::VerificationFailed)
        );
        assert_eq!(set(&pair, "x").verify(&token), Err(Failure::NoKeyMatches));
    }

    #[test]
    fn a_set_without_usable_keys_is_refused() {
        let failure = |text: &str| KeySet::parse(text.as_bytes()).map(|_| ()).unwrap_err();
        assert_eq!(failure("x"), Failure::KeysJson);
        assert_eq!(failure("{}"), Failure::KeysMissing);
        assert_eq!(failure(r#"{"keys":1}"#), Failure::KeysNoArray);
        assert_eq!(failure(r#"{"keys":[{"kty":"?"}]}"#), Failure::NoValidKeys);
    }
}
