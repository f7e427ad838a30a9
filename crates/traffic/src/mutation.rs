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
                let mut value = Vec::new();
                set.value.render(
                    info,
                    Heads {
                        request: Some(&*request),
                        ..Heads::default()
                    },
                    "",
                    &mut value,
                );
                if value.is_empty() && !set.keep_empty {
                    continue;
                }
                match &set.field {
                    Field::Name(name) => set_field(set.action, name, &value, request),
                    // A pseudo header is always present, so only replacing has an effect.
                    _ if set.action == AppendAction::AddIfAbsent => {}
                    Field::Method => request.set_method(&value),
                    Field::Path => request.set_path(&value),
                    Field::Authority => request.set_authority(&value),
                    Field::Scheme => request.set_scheme(&value),
                }
            }
        }
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
                let Field::Name(name) = &set.field else {
                    continue;
                };
                let mut value = Vec::new();
                set.value.render(
                    info,
                    Heads {
                        response: Some(&*response),
                        ..heads
                    },
                    "",
                    &mut value,
                );
                if !value.is_empty() || set.keep_empty {
                    set_field(set.action, name, &value, response);
                }
            }
        }
    }
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
