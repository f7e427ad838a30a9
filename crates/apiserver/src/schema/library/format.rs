//! `format.dns1123Label().validate(x)` and its siblings: an optional list of what is wrong.

use cel::common::types::{CelOptional, CelString};
use cel::common::value::Val;
use cel::{DeclarationError, Env};

use super::opaque_value;
use crate::schema::formats;
use crate::validate::names;

/// A named format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Format(&'static str);
opaque_value!(Format, "kubernetes.NamedFormat");

/// Declares one constructor for each format.
macro_rules! formats {
    ($env:expr, $($function:ident => $name:literal),+ $(,)?) => {
        $(
            fn $function() -> Format {
                Format($name)
            }
            $env.add_overload(concat!("format.", $name), concat!("format.", $name, "()"), vec![], |_| {
                Ok(cel::common::value::CowVal::owned($function()))
            })?;
        )+
    };
}

pub(super) fn register(env: &mut Env) -> Result<(), DeclarationError> {
    formats!(env,
        dns1123_label => "dns1123Label",
        dns1123_subdomain => "dns1123Subdomain",
        dns1035_label => "dns1035Label",
        qualified_name => "qualifiedName",
        dns1123_label_prefix => "dns1123LabelPrefix",
        dns1123_subdomain_prefix => "dns1123SubdomainPrefix",
        dns1035_label_prefix => "dns1035LabelPrefix",
        label_value => "labelValue",
        uri => "uri",
        uuid => "uuid",
        byte => "byte",
        date => "date",
        datetime => "datetime",
    );
    cel::add_member_overload!(env, fn validate: (Format, CelString) -> CelOptional)?;
    Ok(())
}

fn problems(format: &str, text: &str) -> Vec<String> {
    let prefix =
        |check: fn(&str) -> Vec<String>| check(&format!("{}a", text.trim_end_matches('-')));
    match format {
        "dns1123Label" => names::dns1123_label(text),
        "dns1123Subdomain" => names::dns1123_subdomain(text),
        "dns1035Label" => names::dns1035_label(text),
        "qualifiedName" => names::qualified_name(text),
        "dns1123LabelPrefix" => prefix(names::dns1123_label),
        "dns1123SubdomainPrefix" => prefix(names::dns1123_subdomain),
        "dns1035LabelPrefix" => prefix(names::dns1035_label),
        "labelValue" => names::label_value(text),
        other if formats::is_valid(other, text) => Vec::new(),
        other => vec![format!("must be a valid {other}")],
    }
}

/// None when the text has the format, else what is wrong.
fn validate(format: &Format, text: &CelString<'_>) -> CelOptional<'static> {
    let problems = problems(format.0, text.inner());
    if problems.is_empty() {
        return CelOptional::from(None::<Box<dyn Val>>);
    }
    let list: Box<dyn Val> = Box::new(super::strings(problems));
    CelOptional::from(Some(list))
}
