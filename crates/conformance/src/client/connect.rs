//! Opening a connection: address, source address, PROXY protocol bytes, TLS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use super::wire::{Duplex, Wire};
use crate::bytes_spec::Data;
use crate::certificates::Certificates;

/// Where and how to connect; the fields stand beside those of the step.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    /// Port, `address:port`, or `unix:path`; `${PORT}` when absent.
    pub(crate) to: Option<Value>,
    /// Source address.
    pub(crate) from: Option<IpAddr>,
    /// Bytes before everything else, also before TLS.
    pub(crate) prefix: Option<Data>,
    /// TLS; absent is plain text.
    pub(crate) tls: Option<Tls>,
}

/// TLS options of a client.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tls {
    /// Server name; none when absent.
    pub(crate) sni: Option<String>,
    /// Offered protocols.
    pub(crate) alpn: Vec<String>,
    /// Name of our certificate.
    pub(crate) certificate: Option<String>,
    /// `1.2` or `1.3`; both when absent.
    pub(crate) version: Option<String>,
}

/// A connection, or the name of the way in which it failed.
pub(crate) enum Opened {
    /// Ready.
    Wire(Wire, Option<u16>),
    /// `refused`, `reset`, `eof`, `tls: …`.
    Failed(String),
}

impl Target {
    /// Connects.
    pub(crate) async fn open(
        &self,
        default_port: u16,
        certificates: &Certificates,
    ) -> anyhow::Result<Opened> {
        let mut local_port = None;
        let mut io: Box<dyn Duplex> = match self.address(default_port)? {
            Address::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Box::new(stream),
                Err(error) => return Ok(Opened::Failed(super::wire::ending_of(&error).to_owned())),
            },
            Address::Tcp(address) => match self.tcp(address).await {
                Ok(stream) => {
                    local_port = stream.local_addr().ok().map(|address| address.port());
                    Box::new(stream)
                }
                Err(error) => return Ok(Opened::Failed(super::wire::ending_of(&error).to_owned())),
            },
        };
        if let Some(prefix) = &self.prefix {
            io.write_all(&prefix.bytes()?).await?;
        }
        let Some(tls) = &self.tls else {
            return Ok(Opened::Wire(Wire::new(io, Value::Null), local_port));
        };
        Ok(match tls.handshake(io, certificates).await? {
            Ok(wire) => Opened::Wire(wire, local_port),
            Err(failed) => Opened::Failed(failed),
        })
    }

    fn address(&self, default_port: u16) -> anyhow::Result<Address> {
        let local = |port: u16| Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
        Ok(match &self.to {
            None => local(default_port),
            Some(Value::Number(port)) => local(
                port.as_u64()
                    .and_then(|port| u16::try_from(port).ok())
                    .context("to: no port")?,
            ),
            Some(Value::String(text)) => match text.strip_prefix("unix:") {
                Some(path) => Address::Unix(path.to_owned()),
                None => Address::Tcp(text.parse().with_context(|| format!("to: {text:?}"))?),
            },
            Some(_) => anyhow::bail!("to is a port, address:port, or unix:path"),
        })
    }

    async fn tcp(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(from) = self.from {
            socket.bind((from, 0).into())?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

enum Address {
    Tcp(SocketAddr),
    Unix(String),
}

impl Tls {
    async fn handshake(
        &self,
        io: Box<dyn Duplex>,
        certificates: &Certificates,
    ) -> anyhow::Result<Result<Wire, String>> {
        let mut config = self.config(certificates)?;
        config.enable_sni = self.sni.is_some();
        let name = self.sni.clone().unwrap_or_else(|| "localhost".to_owned());
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = match connector.connect(ServerName::try_from(name)?, io).await {
            Ok(stream) => stream,
            Err(error) => return Ok(Err(tls_failure(&error))),
        };
        let (_, session) = stream.get_ref();
        let alpn = session
            .alpn_protocol()
            .map(|name| String::from_utf8_lossy(name).into_owned());
        let version = session
            .protocol_version()
            .map(|version| format!("{version:?}"));
        let peer = session
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(common_name);
        let facts = json!({ "alpn": alpn, "version": version, "certificate": peer });
        Ok(Ok(Wire::new(Box::new(stream), facts)))
    }

    fn config(&self, certificates: &Certificates) -> anyhow::Result<rustls::ClientConfig> {
        let versions = match self.version.as_deref() {
            None => rustls::ALL_VERSIONS.to_vec(),
            Some("1.2") => vec![&rustls::version::TLS12],
            Some("1.3") => vec![&rustls::version::TLS13],
            Some(other) => anyhow::bail!("tls version {other:?}"),
        };
        let builder = rustls::ClientConfig::builder_with_protocol_versions(&versions)
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verify::Anybody::new()));
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let (chain, key) = pair(certificates, name)?;
                builder.with_client_auth_cert(chain, key)?
            }
        };
        config.alpn_protocols = self
            .alpn
            .iter()
            .map(|name| name.clone().into_bytes())
            .collect();
        Ok(config)
    }
}

/// A certificate of the run with its key.
pub(crate) fn pair(
    certificates: &Certificates,
    name: &str,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let certificate = CertificateDer::from_pem_file(certificates.file(&format!("{name}.pem")))
        .with_context(|| format!("certificate {name:?}"))?;
    let key = PrivateKeyDer::from_pem_file(certificates.file(&format!("{name}.key")))?;
    Ok((vec![certificate], key))
}

/// Common name of a certificate.
pub(crate) fn common_name(certificate: &CertificateDer<'_>) -> Value {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return Value::Null;
    };
    let name = parsed.subject().iter_common_name().next();
    json!(name.and_then(|name| name.as_str().ok()))
}

fn tls_failure(error: &std::io::Error) -> String {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::AlertReceived(alert)) => format!("tls alert: {alert:?}"),
        Some(_) => "tls error".to_owned(),
        None => super::wire::ending_of(error).to_owned(),
    }
}

mod verify {
    //! Trusts every server: what a proxy presents is observed, not judged.

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::{
        CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
    };
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub(super) struct Anybody(CryptoProvider);

    impl Anybody {
        pub(super) fn new() -> Self {
            Self(aws_lc_rs::default_provider())
        }
    }

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(
                message,
                certificate,
                signature,
                &self.0.signature_verification_algorithms,
            )
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(
                message,
                certificate,
                signature,
                &self.0.signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}
