//! Where a case runs: its ports, its directory, and the placeholders that name them.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;

use anyhow::Context;

use crate::certificates::Certificates;

/// First port that is handed out. The kernel takes the ports of outgoing connections from 32768 on, so nobody gets
/// one of ours in between.
const FIRST_PORT: u16 = 12_000;
/// How many there are.
const PORTS: u16 = 20_000;

/// A port that no other run on this machine is given: an abstract socket of its number is held.
#[derive(Debug)]
pub(crate) struct Port {
    /// The number.
    pub(crate) number: u16,
    _claim: UnixDatagram,
}

impl Port {
    /// Claims a port on which nobody listens.
    pub(crate) fn claim() -> anyhow::Result<Self> {
        for _ in 0..PORTS {
            let number = FIRST_PORT + fastrand::u16(..PORTS);
            let name = SocketAddr::from_abstract_name(format!("conformance-port-{number}"))?;
            let Ok(claim) = UnixDatagram::bind_addr(&name) else {
                continue;
            };
            if TcpListener::bind(("0.0.0.0", number)).is_ok() {
                return Ok(Self {
                    number,
                    _claim: claim,
                });
            }
        }
        anyhow::bail!("no free port")
    }
}

/// The names that a case may use in `${…}`.
#[derive(Debug)]
pub(crate) struct Place {
    /// Directory of this case's files; both sides find the same path, empty.
    pub(crate) directory: PathBuf,
    ports: BTreeMap<String, Port>,
}

impl Place {
    /// A place without ports yet.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            ports: BTreeMap::new(),
        }
    }

    /// The port of a name; the first use claims it.
    pub(crate) fn port(&mut self, name: &str) -> anyhow::Result<u16> {
        if let Some(port) = self.ports.get(name) {
            return Ok(port.number);
        }
        let port = Port::claim()?;
        let number = port.number;
        self.ports.insert(name.to_owned(), port);
        Ok(number)
    }

    /// Replaces every placeholder.
    pub(crate) fn fill(
        &mut self,
        text: &str,
        certificates: &Certificates,
    ) -> anyhow::Result<String> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            let (before, after) = rest.split_at(start);
            filled.push_str(before);
            let end = after
                .find('}')
                .context("a placeholder without its closing brace")?;
            filled.push_str(&self.value(&after[2..end], certificates)?);
            rest = &after[end + 1..];
        }
        filled.push_str(rest);
        Ok(filled)
    }

    fn value(&mut self, name: &str, certificates: &Certificates) -> anyhow::Result<String> {
        let is_port = name == "ADMIN"
            || name.strip_prefix("PORT").is_some_and(|rest| {
                rest.is_empty() || rest.bytes().all(|byte| byte.is_ascii_digit())
            });
        if is_port || name.starts_with("BACKEND:") {
            return Ok(self.port(name)?.to_string());
        }
        match name.split_once(':') {
            None if name == "DIR" => Ok(self.directory.display().to_string()),
            None if name == "CERTS" => Ok(certificates.directory.display().to_string()),
            Some(("SOCKET", name)) => Ok(self.socket(name).display().to_string()),
            Some(("HASH", name)) => certificates.hash(name),
            _ => anyhow::bail!("unknown placeholder ${{{name}}}"),
        }
    }

    /// The unix socket of a name.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.sock"))
    }
}
