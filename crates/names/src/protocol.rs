//! Application protocols of ports and how a port declares its own.

use std::fmt;

/// The protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.
    Http,
    /// HTTP/2 in clear text.
    Http2,
    /// gRPC.
    Grpc,
    /// gRPC-Web.
    GrpcWeb,
    /// HTTP as an explicit proxy.
    HttpProxy,
    /// HTTPS that the mesh does not open.
    Https,
    /// TLS that the mesh does not open.
    Tls,
    /// Bytes.
    Tcp,
    /// MongoDB.
    Mongo,
    /// MySQL.
    MySql,
    /// Redis.
    Redis,
    /// Datagrams; ignored by the mesh.
    Udp,
    /// Not declared: detected from the first bytes of a connection.
    Auto,
}

impl Protocol {
    /// What a Kubernetes port declares: `appProtocol`, else the port name's prefix, else well-known server-first
    /// ports are bytes, else it is detected.
    #[must_use]
    pub fn of_port(transport: &str, app_protocol: Option<&str>, name: &str, port: u16) -> Self {
        if transport.eq_ignore_ascii_case("UDP") {
            return Self::Udp;
        }
        match app_protocol {
            Some("kubernetes.io/h2c") => return Self::Http2,
            Some("kubernetes.io/ws") => return Self::Http,
            Some("kubernetes.io/wss") => return Self::Https,
            Some(declared) => {
                if let Some(protocol) = Self::of_port_name(declared) {
                    return protocol;
                }
            }
            None => {}
        }
        match Self::of_port_name(name) {
            Some(protocol) => protocol,
            None if SERVER_FIRST_PORTS.contains(&port) => Self::Tcp,
            None => Self::Auto,
        }
    }

    /// The protocol that a port name announces by the text before its first `-`.
    #[must_use]
    pub fn of_port_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        if name == "grpc-web" || name.starts_with("grpc-web-") {
            return Some(Self::GrpcWeb);
        }
        Self::parse(name.split('-').next().unwrap_or(&name))
    }

    /// The protocol of this name, in any letter case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        // table: one row for each protocol name
        Some(match name.to_ascii_lowercase().as_str() {
            "http" => Self::Http,
            "http2" => Self::Http2,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "http_proxy" => Self::HttpProxy,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "tcp" => Self::Tcp,
            "mongo" => Self::Mongo,
            "mysql" => Self::MySql,
            "redis" => Self::Redis,
            "udp" => Self::Udp,
            _ => return None,
        })
    }

    /// Routed by HTTP rules.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(
            self,
            Self::Http | Self::Http2 | Self::Grpc | Self::GrpcWeb | Self::HttpProxy
        )
    }

    /// HTTP/2 towards the application.
    #[must_use]
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Carries gRPC messages.
    #[must_use]
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::GrpcWeb)
    }

    /// TLS that passes through unopened.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Handled as bytes.
    #[must_use]
    pub fn is_tcp(self) -> bool {
        matches!(
            self,
            Self::Tcp | Self::Https | Self::Tls | Self::Mongo | Self::MySql | Self::Redis
        )
    }
}

/// Ports whose servers speak first by convention: waiting for the client's bytes there would hang.
pub const SERVER_FIRST_PORTS: [u16; 4] = [25, 53, 3306, 27017];

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "HTTP",
            Self::Http2 => "HTTP2",
            Self::Grpc => "GRPC",
            Self::GrpcWeb => "GRPC-Web",
            Self::HttpProxy => "HTTP_PROXY",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Mongo => "Mongo",
            Self::MySql => "MySQL",
            Self::Redis => "Redis",
            Self::Udp => "UDP",
            Self::Auto => "auto",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_protocol_beats_the_port_name_and_the_name_beats_the_port_number() {
        let table = [
            (None, "http", 9080, Protocol::Http),
            (None, "http-monitoring", 15014, Protocol::Http),
            (None, "grpc-xds", 15010, Protocol::Grpc),
            (None, "grpc-web", 80, Protocol::GrpcWeb),
            (None, "grpc-web-x", 80, Protocol::GrpcWeb),
            (None, "HTTP2", 80, Protocol::Http2),
            (None, "dns-tcp", 53, Protocol::Tcp),
            (None, "metrics", 9153, Protocol::Auto),
            (None, "", 3306, Protocol::Tcp),
            (Some("kubernetes.io/h2c"), "tcp", 80, Protocol::Http2),
            (Some("https"), "http", 443, Protocol::Https),
            (Some("unknown.example"), "http", 80, Protocol::Http),
        ];
        for (app, name, port, expected) in table {
            assert_eq!(
                Protocol::of_port("TCP", app, name, port),
                expected,
                "{app:?} {name} {port}"
            );
        }
        assert_eq!(Protocol::of_port("UDP", None, "http", 53), Protocol::Udp);
    }
}
