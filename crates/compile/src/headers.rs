//! Header changes.

use meltemi_traffic::format::Format;
use meltemi_traffic::matcher::Field;
use meltemi_traffic::mutation::{AppendAction, HeaderOp, SetHeader};

use crate::pb::core;
use crate::refusal::{Compiled, Within, each, refuse_field};
use crate::values::{field, header_name};

/// One level of header changes; removals run first.
pub(crate) fn level(
    add_field: &str,
    add: &[core::HeaderValueOption],
    remove_field: &str,
    remove: &[String],
) -> Compiled<Vec<HeaderOp>> {
    let mut ops = each(remove_field, remove, |name| removal(name))?;
    ops.extend(each(add_field, add, set_header)?);
    Ok(if ops.is_empty() {
        Vec::new()
    } else {
        vec![HeaderOp::Level(ops)]
    })
}

fn removal(name: &str) -> Compiled<HeaderOp> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return crate::refusal::refuse(format!("{name} cannot be removed"));
    }
    Ok(HeaderOp::Remove(header_name(name)?))
}

/// `HeaderValueOption`.
pub(crate) fn set_header(message: &core::HeaderValueOption) -> Compiled<HeaderOp> {
    use core::header_value_option::HeaderAppendAction as Wire;
    let Some(header) = &message.header else {
        return refuse_field("header", "is required");
    };
    let text = if header.raw_value.is_empty() {
        header.value.clone()
    } else {
        String::from_utf8_lossy(&header.raw_value).into_owned()
    };
    let mut action = match message.append_action() {
        Wire::AppendIfExistsOrAdd => AppendAction::Append,
        Wire::AddIfAbsent => AppendAction::AddIfAbsent,
        Wire::OverwriteIfExistsOrAdd => AppendAction::Overwrite,
        Wire::OverwriteIfExists => AppendAction::OverwriteIfPresent,
    };
    // The older form of the same choice.
    #[expect(deprecated, reason = "still sent")]
    if message.append.is_some_and(|append| !append.value) && action == AppendAction::Append {
        action = AppendAction::Overwrite;
    }
    let field = field(&header.key).within("header.key")?;
    if matches!(field, Field::Authority) {
        return refuse_field(
            "header.key",
            ":authority and host are changed by a host rewrite",
        );
    }
    let value = Format::parse(&text).map_err(|error| error.to_string());
    let value = value.or_else(|reason| refuse_field("header.value", reason))?;
    Ok(HeaderOp::Set(Box::new(SetHeader {
        field,
        value,
        action,
        keep_empty: message.keep_empty_value,
    })))
}
