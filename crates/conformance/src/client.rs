//! The downstream side: connections to the proxy, and what comes back on them.

pub(crate) mod connect;
pub(crate) mod frames;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod wire;

use std::collections::HashMap;

use parking_lot::Mutex;

use self::http2::Http2;
use self::wire::Wire;

/// An open connection.
pub(crate) enum Connection {
    /// Bytes: HTTP/1 or anything.
    Bytes(Wire),
    /// HTTP/2 through the h2 crate.
    Http2(Http2),
}

/// Connections that a case keeps between steps, by name.
#[derive(Default)]
pub(crate) struct Connections {
    open: Mutex<HashMap<String, Connection>>,
    local_ports: Mutex<Vec<u16>>,
}

impl Connections {
    /// Takes a connection for the time of a step.
    pub(crate) fn take(&self, name: &str) -> Option<Connection> {
        self.open.lock().remove(name)
    }

    /// Keeps it for later steps.
    pub(crate) fn keep(&self, name: &str, connection: Connection) {
        self.open.lock().insert(name.to_owned(), connection);
    }

    /// True when no connection is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.lock().is_empty()
    }

    /// Remembers the port that the kernel chose for a connection.
    pub(crate) fn local_port(&self, port: u16) {
        self.local_ports.lock().push(port);
    }

    /// Ports that the kernel chose.
    pub(crate) fn local_ports(&self) -> Vec<u16> {
        self.local_ports.lock().clone()
    }

    /// Closes all.
    pub(crate) fn clear(&self) {
        self.open.lock().clear();
    }
}
