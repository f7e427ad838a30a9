//! Header mutation with formatted values.

use http::header::{HeaderName, HeaderValue};

use crate::access::{Heads, StreamInfo};
use crate::format::Format;
use crate::headers::{HeadersMut, RequestHeadMut};
use crate::matcher::Field;

/// One change, in the order it applies.
#[derive(Debug, Clone)]
pub enum HeaderOp {
    /// Removes a field.
    Remove(HeaderName),
    /// Adds or replaces a field.
    Set(Box<SetHeader>),
    /// The changes of one level of a route configuration: removals first; then every value is formatted from the
    /// fields as they came, then what replaces is written, then what is added.
    Level(Vec<Self>),
}

/// `HeaderValueOption`.
#[derive(Debug, Clone)]
pub struct SetHeader {
    /// Which field; pseudo headers can only be replaced.
    pub field: Field,
    /// The value.
    pub value: Format,
    /// What happens when the field is present.
    pub action: AppendAction,
    /// A value that comes out empty is still set.
    pub keep_empty: bool,
}

/// What happens when the field is present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppendAction {
    /// Added behind it.
    #[default]
    Append,
    /// Left alone.
    AddIfAbsent,
    /// Replaced, or added.
    Overwrite,
    /// Replaced only.
    OverwriteIfPresent,
}

/// Applies changes to a request.
pub fn apply_request<R: RequestHeadMut>(ops: &[HeaderOp], request: &mut R, info: &StreamInfo<'_>) {
    for op in ops {
        match op {
            HeaderOp::Remove(name) => request.remove(name),
            HeaderOp::Set(set) => {
                let value = request_value(set, request, info);
                write_request(set, &value, set.action, request);
            }
            HeaderOp::Level(level) if is_plain(level) => apply_request(level, request, info),
            HeaderOp::Level(level) => {
                removals(level).for_each(|name| request.remove(name));
                let all: Vec<Pending<'_>> = sets(level)
                    .map(|set| {
                        let value = request_value(set, request, info);
                        Pending::new(set, value, &*request)
                    })
                    .collect();
                for pending in in_order(&all) {
                    write_request(pending.set, &pending.value, pending.action(), request);
                }
            }
        }
    }
}

fn request_value<R: RequestHeadMut>(
    set: &SetHeader,
    request: &R,
    info: &StreamInfo<'_>,
) -> Vec<u8> {
    let mut value = Vec::new();
    let heads = Heads {
        request: Some(request),
        ..Heads::default()
    };
    set.value.render(info, heads, "", &mut value);
    value
}

fn write_request<R: RequestHeadMut>(
    set: &SetHeader,
    value: &[u8],
    action: AppendAction,
    request: &mut R,
) {
    if value.is_empty() && !set.keep_empty {
        return;
    }
    match &set.field {
        Field::Name(name) => set_field(action, name, value, request),
        // A pseudo header is always present, so only replacing has an effect.
        _ if action == AppendAction::AddIfAbsent => {}
        Field::Method => request.set_method(value),
        Field::Path => request.set_path(value),
        Field::Authority => request.set_authority(value),
        Field::Scheme => request.set_scheme(value),
    }
}

/// Applies changes to a response. `heads.request` is what request operators read.
pub fn apply_response<H: HeadersMut>(
    ops: &[HeaderOp],
    response: &mut H,
    info: &StreamInfo<'_>,
    heads: Heads<'_>,
) {
    for op in ops {
        match op {
            HeaderOp::Remove(name) => response.remove(name),
            HeaderOp::Set(set) => {
                let value = response_value(set, response, info, heads);
                write_response(set, &value, set.action, response);
            }
            HeaderOp::Level(level) if is_plain(level) => {
                apply_response(level, response, info, heads);
            }
            HeaderOp::Level(level) => {
                removals(level).for_each(|name| response.remove(name));
                let all: Vec<Pending<'_>> = sets(level)
                    .map(|set| {
                        let value = response_value(set, response, info, heads);
                        Pending::new(set, value, &*response)
                    })
                    .collect();
                for pending in in_order(&all) {
                    write_response(pending.set, &pending.value, pending.action(), response);
                }
            }
        }
    }
}

fn response_value<H: HeadersMut>(
    set: &SetHeader,
    response: &H,
    info: &StreamInfo<'_>,
    heads: Heads<'_>,
) -> Vec<u8> {
    let mut value = Vec::new();
    let heads = Heads {
        response: Some(response),
        ..heads
    };
    set.value.render(info, heads, "", &mut value);
    value
}

fn write_response<H: HeadersMut>(
    set: &SetHeader,
    value: &[u8],
    action: AppendAction,
    response: &mut H,
) {
    if let Field::Name(name) = &set.field
        && (!value.is_empty() || set.keep_empty)
    {
        set_field(action, name, value, response);
    }
}

/// With at most one value, one after the other is the same.
fn is_plain(level: &[HeaderOp]) -> bool {
    sets(level).nth(1).is_none()
}

fn removals(level: &[HeaderOp]) -> impl Iterator<Item = &HeaderName> {
    level.iter().filter_map(|op| match op {
        HeaderOp::Remove(name) => Some(name),
        HeaderOp::Set(_) | HeaderOp::Level(_) => None,
    })
}

fn sets(level: &[HeaderOp]) -> impl Iterator<Item = &SetHeader> {
    level.iter().filter_map(|op| match op {
        HeaderOp::Set(set) => Some(&**set),
        HeaderOp::Remove(_) | HeaderOp::Level(_) => None,
    })
}

/// A value of a level before anything of the level is written.
struct Pending<'s> {
    set: &'s SetHeader,
    value: Vec<u8>,
    /// What happens was decided by the fields that came in; `None` does nothing.
    replaces: Option<bool>,
}

impl<'s> Pending<'s> {
    fn new<H: HeadersMut>(set: &'s SetHeader, value: Vec<u8>, fields: &H) -> Self {
        let present = match &set.field {
            Field::Name(name) => fields.has(name),
            _ => true,
        };
        let replaces = match set.action {
            AppendAction::Append => Some(false),
            AppendAction::AddIfAbsent => (!present).then_some(false),
            AppendAction::Overwrite => Some(true),
            AppendAction::OverwriteIfPresent => present.then_some(true),
        };
        Self {
            set,
            value,
            replaces,
        }
    }

    fn action(&self) -> AppendAction {
        if self.replaces == Some(true) {
            AppendAction::Overwrite
        } else {
            AppendAction::Append
        }
    }
}

/// What replaces goes first, then what is added.
fn in_order<'p, 's>(all: &'p [Pending<'s>]) -> impl Iterator<Item = &'p Pending<'s>> {
    let of = |replaces| all.iter().filter(move |one| one.replaces == Some(replaces));
    of(true).chain(of(false))
}

fn set_field<H: HeadersMut>(action: AppendAction, name: &HeaderName, value: &[u8], to: &mut H) {
    // Bytes that no field may hold can only come from metadata or certificates; such a value is not sent.
    let Ok(value) = HeaderValue::from_bytes(value) else {
        return;
    };
    let present = to.has(name);
    match action {
        AppendAction::Append => to.append(name, value),
        AppendAction::AddIfAbsent if !present => to.append(name, value),
        AppendAction::Overwrite => to.set(name, value),
        AppendAction::OverwriteIfPresent if present => to.set(name, value),
        AppendAction::AddIfAbsent | AppendAction::OverwriteIfPresent => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::{Headers, SimpleRequest};

    fn set(name: &str, value: &str, action: AppendAction) -> HeaderOp {
        HeaderOp::Set(Box::new(SetHeader {
            field: Field::parse(name).unwrap(),
            value: Format::parse(value).unwrap(),
            action,
            keep_empty: false,
        }))
    }

    #[test]
    fn a_header_removed_and_added_at_one_level_is_present() {
        let mut request = SimpleRequest::get("a", "/").with("x-a", "old");
        let name = HeaderName::from_static("x-a");
        let ops = [
            HeaderOp::Remove(name.clone()),
            set("x-a", "new", AppendAction::Append),
        ];
        apply_request(&ops, &mut request, &StreamInfo::default());
        assert_eq!(Headers::get(&request, &name), Some(&b"new"[..]));
    }

    #[test]
    fn values_of_a_level_do_not_see_each_other_and_replacing_goes_first() {
        let mut request = SimpleRequest::get("a", "/").with("x-a", "1");
        let level = HeaderOp::Level(vec![
            set("x-a", "%REQ(x-a)%2", AppendAction::Append),
            set("x-a", "%REQ(x-a)%3", AppendAction::Overwrite),
            set("x-b", "4", AppendAction::Append),
            set("x-b", "5", AppendAction::OverwriteIfPresent),
            set("x-b", "6", AppendAction::AddIfAbsent),
        ]);
        apply_request(&[level], &mut request, &StreamInfo::default());
        let all = |name: &'static str| {
            let mut all = Vec::new();
            Headers::for_each(&request, &HeaderName::from_static(name), &mut |value| {
                all.push(String::from_utf8_lossy(value).into_owned());
            });
            all
        };
        assert_eq!(all("x-a"), ["13", "12"]);
        assert_eq!(all("x-b"), ["4", "6"]);
    }

    #[test]
    fn append_actions_do_what_they_say() {
        let mut request = SimpleRequest::get("a", "/").with("x-a", "1");
        let ops = [
            set("x-a", "2", AppendAction::AddIfAbsent),
            set("x-b", "3", AppendAction::OverwriteIfPresent),
            set("x-c", "4", AppendAction::AddIfAbsent),
            set("x-a", "5", AppendAction::Append),
        ];
        apply_request(&ops, &mut request, &StreamInfo::default());
        let mut all = Vec::new();
        Headers::for_each(&request, &HeaderName::from_static("x-a"), &mut |v| {
            all.push(v.to_vec())
        });
        assert_eq!(all, [b"1".to_vec(), b"5".to_vec()]);
        assert!(!request.has(&HeaderName::from_static("x-b")));
        assert!(request.has(&HeaderName::from_static("x-c")));
    }

    #[test]
    fn values_are_formatted_and_empty_ones_dropped() {
        let mut request = SimpleRequest::get("host.example", "/p?q").with("x-in", "v");
        let ops = [
            set(
                "x-out",
                "%REQ(x-in)%-%REQ(:AUTHORITY)%",
                AppendAction::Overwrite,
            ),
            set("x-none", "%REQ(x-missing)%", AppendAction::Overwrite),
            set(":authority", "other", AppendAction::Overwrite),
        ];
        apply_request(&ops, &mut request, &StreamInfo::default());
        assert_eq!(
            Headers::get(&request, &HeaderName::from_static("x-out")),
            Some(&b"v-host.example"[..])
        );
        assert!(!request.has(&HeaderName::from_static("x-none")));
        assert_eq!(request.authority, "other");
    }
}
