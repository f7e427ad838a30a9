//! Reading certificates: the few facts that identity decisions need.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{
    AttributeTypeAndValue, FromDer, GeneralName, X509Certificate, X509Name,
};

use crate::IdentityError;

/// What a decision may ask of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// URI subject alternative names, in order (SPIFFE ids among them).
    pub uris: Vec<String>,
    /// DNS subject alternative names, in order.
    pub dns_names: Vec<String>,
    /// IP subject alternative names, in order.
    pub ips: Vec<String>,
    /// Email subject alternative names, in order.
    pub emails: Vec<String>,
    /// Subject in RFC 2253 form.
    pub subject: String,
    /// Issuer in RFC 2253 form.
    pub issuer: String,
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
    let (mut ips, mut emails) = (Vec::new(), Vec::new());
    if let Ok(Some(san)) = parsed.subject_alternative_name() {
        for name in &san.value.general_names {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(dns) => dns_names.push((*dns).to_owned()),
                GeneralName::RFC822Name(email) => emails.push((*email).to_owned()),
                GeneralName::IPAddress(bytes) => ips.extend(ip(bytes)),
                _ => {}
            }
        }
    }
    Ok(CertificateFacts {
        uris,
        dns_names,
        ips,
        emails,
        subject: rfc2253(parsed.subject()),
        issuer: rfc2253(parsed.issuer()),
        serial: parsed
            .raw_serial()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        not_before: parsed.validity().not_before.timestamp(),
        not_after: parsed.validity().not_after.timestamp(),
    })
}

fn ip(bytes: &[u8]) -> Option<String> {
    let address: IpAddr = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        16 => <[u8; 16]>::try_from(bytes).ok()?.into(),
        _ => return None,
    };
    Some(address.to_string())
}

/// A name as OpenSSL prints it with `XN_FLAG_RFC2253`: last part first, special characters escaped.
fn rfc2253(name: &X509Name<'_>) -> String {
    let parts: Vec<_> = name.iter_rdn().collect();
    let texts = parts.iter().rev().map(|part| {
        let attributes: Vec<String> = part.iter().map(attribute).collect();
        attributes.join("+")
    });
    texts.collect::<Vec<_>>().join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type();
    let name =
        oid2abbrev(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), |name| name.to_owned());
    let value = attribute.as_str().map_or_else(
        |_| String::from_utf8_lossy(attribute.as_slice()).into_owned(),
        str::to_owned,
    );
    let mut out = format!("{name}=");
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        let edge = (at == 0 && matches!(byte, b' ' | b'#')) || (at == last && byte == b' ');
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            _ if edge => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\{byte:02X}")),
        }
    }
    out
}
