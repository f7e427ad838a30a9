//! TLS contexts and secrets.

use std::sync::Arc;

use meltemi_traffic::Str;
use meltemi_traffic::tls::{
    CertificatePair, CertificateSource, DownstreamTls, SanKind, SanMatcher, Secret, SecretKind,
    TlsCommon, TlsVersion, UpstreamTls, Validation, ValidationSource,
};
use prost::Name;

use crate::coverage;
use crate::pb::sockets::tls::v3 as tls;
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::source::secret_reference;
use crate::values::{data_source, flag, number_or, string_matcher, strs};

/// Compiles a secret.
///
/// # Errors
/// The first field that has no effect or no sense.
pub fn secret(message: &tls::Secret) -> Compiled<Arc<Secret>> {
    coverage::check(message, &tls::Secret::full_name())?;
    use tls::secret::Type;
    let kind = match &message.r#type {
        Some(Type::TlsCertificate(certificate)) => {
            SecretKind::Certificate(pair(certificate).within("tls_certificate")?)
        }
        Some(Type::ValidationContext(context)) => {
            SecretKind::Validation(Box::new(validation(context).within("validation_context")?))
        }
        Some(Type::SessionTicketKeys(keys)) => {
            SecretKind::TicketKeys(each("session_ticket_keys.keys", &keys.keys, data_source)?)
        }
        Some(Type::GenericSecret(generic)) => match &generic.secret {
            Some(source) => {
                SecretKind::Generic(data_source(source).within("generic_secret.secret")?)
            }
            None => return refuse_field("generic_secret.secret", "is required"),
        },
        None => return refuse("a secret needs a content"),
    };
    Ok(Arc::new(Secret {
        name: message.name.as_str().into(),
        kind,
    }))
}

fn pair(message: &tls::TlsCertificate) -> Compiled<CertificatePair> {
    let (Some(chain), Some(key)) = (&message.certificate_chain, &message.private_key) else {
        return refuse("a certificate needs certificate_chain and private_key");
    };
    Ok(CertificatePair {
        chain: data_source(chain).within("certificate_chain")?,
        key: data_source(key).within("private_key")?,
    })
}

#[expect(deprecated, reason = "the untyped matchers are what Istio sends")]
fn validation(message: &tls::CertificateValidationContext) -> Compiled<Validation> {
    use tls::certificate_validation_context::TrustChainVerification;
    let mut sans = each(
        "match_typed_subject_alt_names",
        &message.match_typed_subject_alt_names,
        typed_san,
    )?;
    sans.extend(each(
        "match_subject_alt_names",
        &message.match_subject_alt_names,
        |matcher| {
            Ok(SanMatcher {
                kind: None,
                value: string_matcher(matcher)?,
            })
        },
    )?);
    let lower = |text: &String| Str::from(text.replace(':', "").to_ascii_lowercase());
    Ok(Validation {
        trusted_ca: message
            .trusted_ca
            .as_ref()
            .map(|ca| data_source(ca).within("trusted_ca"))
            .transpose()?,
        crl: message
            .crl
            .as_ref()
            .map(|crl| data_source(crl).within("crl"))
            .transpose()?,
        only_leaf_revocation: message.only_verify_leaf_cert_crl,
        sans,
        certificate_hashes: message.verify_certificate_hash.iter().map(lower).collect(),
        spki_hashes: strs(&message.verify_certificate_spki),
        allow_expired: message.allow_expired_certificate,
        accept_untrusted: message.trust_chain_verification()
            == TrustChainVerification::AcceptUntrusted,
    })
}

fn typed_san(message: &tls::SubjectAltNameMatcher) -> Compiled<SanMatcher> {
    use tls::subject_alt_name_matcher::SanType;
    let kind = match message.san_type() {
        SanType::Uri => SanKind::Uri,
        SanType::Dns => SanKind::Dns,
        SanType::Email => SanKind::Email,
        SanType::IpAddress => SanKind::Ip,
        SanType::OtherName | SanType::Unspecified => {
            return refuse_field("san_type", "not supported");
        }
    };
    let Some(matcher) = &message.matcher else {
        return refuse_field("matcher", "is required");
    };
    Ok(SanMatcher {
        kind: Some(kind),
        value: string_matcher(matcher).within("matcher")?,
    })
}

/// `DownstreamTlsContext`.
pub(crate) fn downstream(message: &tls::DownstreamTlsContext) -> Compiled<DownstreamTls> {
    use tls::downstream_tls_context::SessionTicketKeysType;
    let disable_tickets = match &message.session_ticket_keys_type {
        None => false,
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(disable)) => *disable,
        Some(SessionTicketKeysType::SessionTicketKeys(_)) => {
            return refuse_field("session_ticket_keys", "not supported");
        }
        Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(_)) => {
            return refuse_field("session_ticket_keys_sds_secret_config", "not supported");
        }
    };
    let Some(inner) = &message.common_tls_context else {
        return refuse_field("common_tls_context", "is required");
    };
    let common = common(inner).within("common_tls_context")?;
    if common.certificates.is_empty() {
        return refuse_field("common_tls_context", "a server needs a certificate");
    }
    Ok(DownstreamTls {
        common,
        require_client_certificate: flag(message.require_client_certificate.as_ref(), false),
        require_sni: flag(message.require_sni.as_ref(), false),
        disable_tickets,
    })
}

/// `UpstreamTlsContext`.
pub(crate) fn upstream(message: &tls::UpstreamTlsContext) -> Compiled<UpstreamTls> {
    let common = match &message.common_tls_context {
        Some(inner) => common(inner).within("common_tls_context")?,
        None => TlsCommon::default(),
    };
    if common.certificates.len() > 1 {
        return refuse_field("common_tls_context", "a client has at most one certificate");
    }
    if message.sni.len() > 255 {
        return refuse_field("sni", "is longer than 255 bytes");
    }
    Ok(UpstreamTls {
        common,
        sni: message.sni.as_str().into(),
        auto_host_sni: message.auto_host_sni,
        auto_sni_san_validation: message.auto_sni_san_validation,
        max_session_keys: number_or(message.max_session_keys.as_ref(), 1),
    })
}

fn common(message: &tls::CommonTlsContext) -> Compiled<TlsCommon> {
    let parameters = message.tls_params.clone().unwrap_or_default();
    let mut certificates = each("tls_certificates", &message.tls_certificates, |given| {
        pair(given).map(CertificateSource::Given)
    })?;
    certificates.extend(each(
        "tls_certificate_sds_secret_configs",
        &message.tls_certificate_sds_secret_configs,
        |sds| secret_reference(sds).map(CertificateSource::Sds),
    )?);
    Ok(TlsCommon {
        min_version: version(parameters.tls_minimum_protocol_version()),
        max_version: version(parameters.tls_maximum_protocol_version()),
        cipher_suites: strs(&parameters.cipher_suites),
        curves: strs(&parameters.ecdh_curves),
        alpn: strs(&message.alpn_protocols),
        certificates,
        validation: message
            .validation_context_type
            .as_ref()
            .map(validation_source)
            .transpose()?,
    })
}

fn version(wire: tls::tls_parameters::TlsProtocol) -> Option<TlsVersion> {
    use tls::tls_parameters::TlsProtocol;
    match wire {
        TlsProtocol::TlsAuto => None,
        // rustls speaks nothing older; a lower bound below 1.2 is therefore 1.2.
        TlsProtocol::TlSv10 | TlsProtocol::TlSv11 | TlsProtocol::TlSv12 => Some(TlsVersion::V12),
        TlsProtocol::TlSv13 => Some(TlsVersion::V13),
    }
}

fn validation_source(
    message: &tls::common_tls_context::ValidationContextType,
) -> Compiled<ValidationSource> {
    use tls::common_tls_context::ValidationContextType as By;
    match message {
        By::ValidationContext(context) => Ok(ValidationSource {
            given: validation(context).within("validation_context")?,
            sds: None,
        }),
        By::ValidationContextSdsSecretConfig(sds) => Ok(ValidationSource {
            given: Validation::default(),
            sds: Some(secret_reference(sds).within("validation_context_sds_secret_config")?),
        }),
        By::CombinedValidationContext(combined) => {
            let default = combined
                .default_validation_context
                .clone()
                .unwrap_or_default();
            let sds = combined.validation_context_sds_secret_config.as_ref();
            Ok(ValidationSource {
                given: validation(&default)
                    .within("combined_validation_context.default_validation_context")?,
                sds: sds
                    .map(secret_reference)
                    .transpose()
                    .within("combined_validation_context.validation_context_sds_secret_config")?,
            })
        }
        _ => refuse("certificate provider plug-ins are not supported"),
    }
}
