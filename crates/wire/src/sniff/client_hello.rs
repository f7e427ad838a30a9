//! Reading server name and offered protocols out of a TLS ClientHello (RFC 8446 §4.1.2, RFC 6066 §3, RFC 7301).

/// Most bytes looked at, as Envoy's `tls_inspector`; a longer hello counts as no TLS.
pub const MAX_CLIENT_HELLO: usize = 16 * 1024;

/// What a ClientHello offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// Server name indication in lower case.
    pub server_name: Option<String>,
    /// Offered application protocols, in the client's order.
    pub alpn: Vec<Vec<u8>>,
}

/// Result of looking at the first bytes of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// Undecided: read more.
    NeedMore,
    /// A TLS client.
    Hello(ClientHello),
    /// Something else, or a hello that cannot be read.
    NotTls,
}

/// Looks at the bytes received so far. A hello that spans several records is put together.
pub fn inspect(bytes: &[u8]) -> Tls {
    let mut hello = Vec::new();
    let mut rest = bytes;
    loop {
        // Record: type 22 (handshake), version 3.x, length.
        if rest.first().is_some_and(|kind| *kind != 22)
            || rest.get(1).is_some_and(|major| *major != 3)
        {
            return Tls::NotTls;
        }
        let Some(header) = rest.get(..5) else {
            return need_more(bytes);
        };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > MAX_CLIENT_HELLO {
            return Tls::NotTls;
        }
        let available = rest.len().min(5 + length);
        hello.extend_from_slice(&rest[5..available]);
        if hello.first().is_some_and(|kind| *kind != 1) {
            return Tls::NotTls;
        }
        if let Some(&[_, a, b, c]) = hello.first_chunk::<4>() {
            let wanted = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if wanted + 4 > MAX_CLIENT_HELLO {
                return Tls::NotTls;
            }
            if let Some(body) = hello.get(4..4 + wanted) {
                return parse(body).map_or(Tls::NotTls, Tls::Hello);
            }
        }
        if available < 5 + length {
            return need_more(bytes);
        }
        rest = &rest[available..];
    }
}

fn need_more(bytes: &[u8]) -> Tls {
    if bytes.len() >= MAX_CLIENT_HELLO {
        Tls::NotTls
    } else {
        Tls::NeedMore
    }
}

/// A cursor that never reads past its end.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<usize> {
        self.take(1).map(|bytes| usize::from(bytes[0]))
    }

    fn u16(&mut self) -> Option<usize> {
        self.take(2)
            .map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    }
}

fn parse(body: &[u8]) -> Option<ClientHello> {
    let mut reader = Reader(body);
    reader.take(2 + 32)?;
    let session = reader.u8()?;
    reader.take(session)?;
    let suites = reader.u16()?;
    reader.take(suites)?;
    let compressions = reader.u8()?;
    reader.take(compressions)?;
    let mut hello = ClientHello::default();
    if reader.0.is_empty() {
        return Some(hello);
    }
    let length = reader.u16()?;
    let mut extensions = Reader(reader.take(length)?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let length = extensions.u16()?;
        let content = extensions.take(length)?;
        match kind {
            0 => hello.server_name = server_name(content)?,
            16 => hello.alpn = alpn(content)?,
            _ => {}
        }
    }
    Some(hello)
}

#[allow(
    clippy::option_option,
    reason = "outer: malformed; inner: no name of a known kind"
)]
fn server_name(content: &[u8]) -> Option<Option<String>> {
    let mut reader = Reader(content);
    let length = reader.u16()?;
    let mut list = Reader(reader.take(length)?);
    while !list.0.is_empty() {
        let kind = list.u8()?;
        let length = list.u16()?;
        let name = list.take(length)?;
        if kind == 0 {
            return Some(Some(std::str::from_utf8(name).ok()?.to_ascii_lowercase()));
        }
    }
    Some(None)
}

fn alpn(content: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut reader = Reader(content);
    let length = reader.u16()?;
    let mut list = Reader(reader.take(length)?);
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let length = list.u8()?;
        protocols.push(list.take(length)?.to_vec());
    }
    Some(protocols)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [
            &kind.to_be_bytes()[..],
            &(content.len() as u16).to_be_bytes(),
            content,
        ]
        .concat()
    }

    fn hello_bytes() -> Vec<u8> {
        let name = b"Reviews.Default";
        let sni = [&[0, 18, 0, 0, 15][..], name].concat();
        let alpn = b"\x00\x0b\x05istio\x02h2\x01x";
        let alpn = [&[0, alpn.len() as u8 - 2][..], &alpn[2..]].concat();
        let extensions = [
            extension(10, &[0, 2, 0, 29]),
            extension(0, &sni),
            extension(16, &alpn),
        ]
        .concat();
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(0);
        body.extend([0, 2, 0x13, 0x01, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut handshake = vec![1, 0, 0, body.len() as u8];
        handshake.extend(body);
        handshake
    }

    fn records(handshake: &[u8], size: usize) -> Vec<u8> {
        handshake
            .chunks(size)
            .flat_map(|part| [&[22, 3, 1, 0, part.len() as u8][..], part].concat())
            .collect()
    }

    #[test]
    fn name_and_protocols_are_read_however_the_hello_is_cut_into_records() {
        for size in [20, 50, 200] {
            let bytes = records(&hello_bytes(), size);
            let Tls::Hello(hello) = inspect(&bytes) else {
                panic!("no hello with records of {size}")
            };
            assert_eq!(hello.server_name.as_deref(), Some("reviews.default"));
            assert_eq!(
                hello.alpn,
                [b"istio".to_vec(), b"h2".to_vec(), b"x".to_vec()]
            );
            for cut in 0..bytes.len() {
                assert_eq!(inspect(&bytes[..cut]), Tls::NeedMore, "cut at {cut}");
            }
        }
    }

    #[test]
    fn other_bytes_are_not_tls() {
        for bytes in [
            &b"GET / HTTP/1.1"[..],
            &[22, 2],
            &[22, 3, 1, 0, 0],
            &[22, 3, 1, 0, 4, 2],
            &[22, 3, 1, 255, 255],
        ] {
            assert_eq!(inspect(bytes), Tls::NotTls, "{bytes:?}");
        }
        let mut broken = records(&hello_bytes(), 200);
        let last = broken.len() - 1;
        broken[last - 10] = 255;
        assert_eq!(inspect(&broken), Tls::NotTls);
    }
}
