//! How the maths see a message head, independent of who stores it.
//!
//! `wire` keeps heads as slices of the received bytes, HTTP/2 keeps an `http::HeaderMap`; both implement these traits.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Read access to header fields. Names are lower case; pseudo headers are not in here.
pub trait Headers {
    /// The first value of a field.
    fn get(&self, name: &HeaderName) -> Option<&[u8]>;
    /// Every value of a field in order.
    fn for_each<'a>(&'a self, name: &HeaderName, each: &mut dyn FnMut(&'a [u8]));

    /// Bytes of all names and values.
    fn size(&self) -> usize;

    /// True when the field is present.
    fn has(&self, name: &HeaderName) -> bool {
        self.get(name).is_some()
    }
}

/// Write access to header fields.
pub trait HeadersMut: Headers {
    /// Adds a value behind the present ones.
    fn append(&mut self, name: &HeaderName, value: HeaderValue);
    /// Replaces every present value.
    fn set(&mut self, name: &HeaderName, value: HeaderValue);
    /// Removes every value.
    fn remove(&mut self, name: &HeaderName);
}

/// A request's pseudo headers and fields.
pub trait RequestHead: Headers {
    /// `:method`.
    fn method(&self) -> &[u8];
    /// `:scheme`.
    fn scheme(&self) -> &[u8];
    /// `:authority` (HTTP/1: Host).
    fn authority(&self) -> &[u8];
    /// `:path`: path and query as they are forwarded at this moment.
    fn path(&self) -> &[u8];
}

/// A request whose pseudo headers can be rewritten.
pub trait RequestHeadMut: RequestHead + HeadersMut {
    /// Replaces `:authority`.
    fn set_authority(&mut self, value: &[u8]);
    /// Replaces `:path`.
    fn set_path(&mut self, value: &[u8]);
    /// Replaces `:method`.
    fn set_method(&mut self, value: &[u8]);
    /// Replaces `:scheme`.
    fn set_scheme(&mut self, value: &[u8]);
}

impl Headers for HeaderMap {
    fn size(&self) -> usize {
        let fields = self.iter();
        fields
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum()
    }

    fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        Self::get(self, name).map(HeaderValue::as_bytes)
    }

    fn for_each<'a>(&'a self, name: &HeaderName, each: &mut dyn FnMut(&'a [u8])) {
        for value in self.get_all(name) {
            each(value.as_bytes());
        }
    }
}

impl HeadersMut for HeaderMap {
    fn append(&mut self, name: &HeaderName, value: HeaderValue) {
        Self::append(self, name, value);
    }

    fn set(&mut self, name: &HeaderName, value: HeaderValue) {
        self.insert(name, value);
    }

    fn remove(&mut self, name: &HeaderName) {
        Self::remove(self, name);
    }
}

/// A plain request head, for simulation and tests.
#[derive(Debug, Clone, Default)]
pub struct SimpleRequest {
    /// `:method`.
    pub method: String,
    /// `:scheme`.
    pub scheme: String,
    /// `:authority`.
    pub authority: String,
    /// `:path`.
    pub path: String,
    /// Other fields.
    pub headers: HeaderMap,
}

impl SimpleRequest {
    /// A GET over plain HTTP.
    #[must_use]
    pub fn get(authority: &str, path: &str) -> Self {
        Self {
            method: "GET".to_owned(),
            scheme: "http".to_owned(),
            authority: authority.to_owned(),
            path: path.to_owned(),
            headers: HeaderMap::new(),
        }
    }

    /// The same request with one more field.
    ///
    /// # Panics
    /// When `value` holds bytes that no header value may hold.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).expect("a literal header value");
        HeaderMap::append(&mut self.headers, HeaderName::from_static(name), value);
        self
    }
}

impl Headers for SimpleRequest {
    fn size(&self) -> usize {
        Headers::size(&self.headers)
    }

    fn get(&self, name: &HeaderName) -> Option<&[u8]> {
        Headers::get(&self.headers, name)
    }

    fn for_each<'a>(&'a self, name: &HeaderName, each: &mut dyn FnMut(&'a [u8])) {
        Headers::for_each(&self.headers, name, each);
    }
}

impl HeadersMut for SimpleRequest {
    fn append(&mut self, name: &HeaderName, value: HeaderValue) {
        HeadersMut::append(&mut self.headers, name, value);
    }

    fn set(&mut self, name: &HeaderName, value: HeaderValue) {
        HeadersMut::set(&mut self.headers, name, value);
    }

    fn remove(&mut self, name: &HeaderName) {
        HeadersMut::remove(&mut self.headers, name);
    }
}

impl RequestHead for SimpleRequest {
    fn method(&self) -> &[u8] {
        self.method.as_bytes()
    }

    fn scheme(&self) -> &[u8] {
        self.scheme.as_bytes()
    }

    fn authority(&self) -> &[u8] {
        self.authority.as_bytes()
    }

    fn path(&self) -> &[u8] {
        self.path.as_bytes()
    }
}

impl RequestHeadMut for SimpleRequest {
    fn set_authority(&mut self, value: &[u8]) {
        self.authority = String::from_utf8_lossy(value).into_owned();
    }

    fn set_path(&mut self, value: &[u8]) {
        self.path = String::from_utf8_lossy(value).into_owned();
    }

    fn set_method(&mut self, value: &[u8]) {
        self.method = String::from_utf8_lossy(value).into_owned();
    }

    fn set_scheme(&mut self, value: &[u8]) {
        self.scheme = String::from_utf8_lossy(value).into_owned();
    }
}
