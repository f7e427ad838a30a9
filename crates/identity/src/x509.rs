//! Reading certificates: the few facts that identity decisions need.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::IdentityError;

/// What a decision may ask of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// URI subject alternative names, in order (SPIFFE ids among them).
    pub uris: Vec<String>,
    /// DNS subject alternative names, in order.
    pub dns_names: Vec<String>,
    /// Subject in RFC 2253 form.
    pub subject: String,
    /// Serial number, lower-case hexadecimal without separators.
    pub serial: String,
    /// Seconds since the epoch.
    pub not_before: i64,
    /// Seconds since the epoch.
    pub not_after: i64,
}

/// Reads the facts of one certificate.
///
/// # Errors
/// [`IdentityError::Parse`] when the bytes are not an X.509 certificate.
pub fn certificate_facts(der: &CertificateDer<'_>) -> Result<CertificateFacts, IdentityError> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|error| IdentityError::Parse {
        what: "certificate",
        reason: error.to_string(),
    })?;
    let (mut uris, mut dns_names) = (Vec::new(), Vec::new());
    if let Ok(Some(san)) = parsed.subject_alternative_name() {
        for name in &san.value.general_names {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(dns) => dns_names.push((*dns).to_owned()),
                _ => {}
            }
        }
    }
    Ok(CertificateFacts {
        uris,
        dns_names,
        subject: parsed.subject().to_string(),
        serial: parsed
            .raw_serial()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
    })
}
