//! `envoy.filters.http.compressor`: gzip for responses whose clients accept it.

use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG,
    HeaderMap, HeaderValue, VARY,
};
use meltemi_traffic::hcm::Compressor;
use meltemi_traffic::headers::{Headers, HeadersMut};
use meltemi_upstream::exchange::ResponseLength;

use crate::counters::Counter;
use crate::stage::{Response, Returning, Stage, Trailers, Transform};

/// What a gzip header calls Unix.
const UNIX: u8 = 3;

/// Envoy's list.
const TYPES: &[&str] = &[
    "application/javascript",
    "application/json",
    "application/xhtml+xml",
    "image/svg+xml",
    "text/css",
    "text/html",
    "text/plain",
    "text/xml",
];

/// Counters of one filter.
#[derive(Debug, Clone)]
pub(super) struct Stats {
    compressed: Counter,
    not_compressed: Counter,
}

impl Stats {
    pub(super) fn new(scope: &str, config: &Compressor) -> Self {
        let scope = format!("{scope}compressor.{}.gzip.", config.library);
        Self {
            compressed: Counter::named(format!("{scope}compressed")),
            not_compressed: Counter::named(format!("{scope}not_compressed")),
        }
    }
}

/// Remembers what the client accepts.
pub(super) fn on_request<S: Stage>(config: &Arc<Compressor>, stats: &Stats, stage: &mut S) {
    let accepted = Headers::get(stage.request(), &ACCEPT_ENCODING).is_some_and(accepts_gzip);
    if config.remove_accept_encoding {
        stage.request_mut().remove(&ACCEPT_ENCODING);
    }
    stage.on_response(Box::new(Compress {
        config: Arc::clone(config),
        stats: stats.clone(),
        accepted,
    }));
}

/// Whether gzip is acceptable: named, or by `*`, with a quality above zero.
fn accepts_gzip(value: &[u8]) -> bool {
    let text = String::from_utf8_lossy(value).to_ascii_lowercase();
    let quality = |wanted: &str| {
        text.split(',').find_map(|part| {
            let mut pieces = part.split(';').map(str::trim);
            if pieces.next() != Some(wanted) {
                return None;
            }
            let q = pieces.find_map(|piece| piece.strip_prefix("q="));
            Some(q.map_or(1.0, |q| q.parse::<f32>().unwrap_or(0.0)))
        })
    };
    quality("gzip").or_else(|| quality("*")).unwrap_or(0.0) > 0.0
}

#[derive(Debug)]
struct Compress {
    config: Arc<Compressor>,
    stats: Stats,
    accepted: bool,
}

impl Compress {
    /// Whether the response can be compressed, whatever the client accepts.
    fn compressible(&self, response: &Response<'_>) -> bool {
        let headers = &*response.headers;
        let long_enough = match response.length {
            ResponseLength::Empty => false,
            ResponseLength::Known(length) => length >= u64::from(self.config.min_content_length),
            ResponseLength::Unknown => true,
        };
        long_enough
            && response.status != http::StatusCode::SWITCHING_PROTOCOLS
            && self.fits_type(headers)
            && !has_token(headers, "no-transform")
            && !(self.config.disable_on_etag && headers.contains_key(ETAG))
            && !headers.contains_key(CONTENT_ENCODING)
    }

    fn fits_type(&self, headers: &HeaderMap) -> bool {
        let Some(kind) = headers.get(CONTENT_TYPE) else {
            return true;
        };
        let kind = String::from_utf8_lossy(kind.as_bytes());
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if self.config.content_types.is_empty() {
            TYPES.iter().any(|one| kind.eq_ignore_ascii_case(one))
        } else {
            let mut types = self.config.content_types.iter();
            types.any(|one| kind.eq_ignore_ascii_case(one))
        }
    }
}

fn has_token(headers: &HeaderMap, token: &str) -> bool {
    headers.get_all(CACHE_CONTROL).iter().any(|value| {
        let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        text.split(',').any(|part| part.trim() == token)
    })
}

impl Returning for Compress {
    fn on_response(self: Box<Self>, response: &mut Response<'_>) {
        let compressible = self.compressible(response);
        let headers = &mut *response.headers;
        if compressible && self.accepted && !response.bodyless {
            let strong = headers
                .get(ETAG)
                .is_some_and(|tag| !tag.as_bytes().starts_with(b"W/"));
            if strong {
                headers.remove(ETAG);
            }
            headers.remove(CONTENT_LENGTH);
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response.length = ResponseLength::Unknown;
            let encoder = GzBuilder::new()
                .operating_system(UNIX)
                .write(Vec::new(), Compression::new(self.config.level));
            response.transforms.push(Box::new(Gzip(encoder)));
            self.stats.compressed.inc();
        } else {
            self.stats.not_compressed.inc();
        }
        if compressible {
            vary(headers);
        }
    }
}

fn vary(headers: &mut HeaderMap) {
    let value = match headers.get(VARY) {
        None => HeaderValue::from_static("Accept-Encoding"),
        Some(have) => {
            let text = String::from_utf8_lossy(have.as_bytes()).into_owned();
            let there = text.split(',').any(|part| {
                matches!(part.trim(), "*") || part.trim().eq_ignore_ascii_case("accept-encoding")
            });
            if there {
                return;
            }
            let joined = HeaderValue::from_str(&format!("{text}, Accept-Encoding"));
            joined.unwrap_or_else(|_| HeaderValue::from_static("Accept-Encoding"))
        }
    };
    headers.insert(VARY, value);
}

#[derive(Debug)]
struct Gzip(GzEncoder<Vec<u8>>);

impl Transform for Gzip {
    fn data(&mut self, data: Bytes) -> Bytes {
        // Writing into memory does not fail.
        let written = self.0.write_all(&data).and_then(|()| self.0.flush());
        if let Err(error) = written {
            tracing::debug!(%error, "not compressed");
        }
        std::mem::take(self.0.get_mut()).into()
    }

    fn end(&mut self, trailers: Trailers) -> (Bytes, Trailers) {
        if let Err(error) = self.0.try_finish() {
            tracing::debug!(%error, "not compressed");
        }
        (std::mem::take(self.0.get_mut()).into(), trailers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    #[test]
    fn a_quality_of_zero_refuses() {
        assert!(accepts_gzip(b"gzip, br"));
        assert!(accepts_gzip(b"*"));
        assert!(accepts_gzip(b"br;q=1, GZIP;q=0.1"));
        assert!(!accepts_gzip(b"gzip;q=0, *"));
        assert!(!accepts_gzip(b"br"));
        assert!(!accepts_gzip(b""));
    }

    #[test]
    fn pieces_make_one_stream() {
        let mut gzip = Gzip(GzEncoder::new(Vec::new(), Compression::default()));
        let mut out = gzip.data(Bytes::from_static(b"hello ")).to_vec();
        out.extend(gzip.data(Bytes::from_static(b"world")));
        out.extend(gzip.end(None).0);
        let mut text = String::new();
        flate2::read::GzDecoder::new(&out[..])
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "hello world");
    }
}
