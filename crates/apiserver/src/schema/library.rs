//! Kubernetes' own CEL functions: URLs, addresses, regular expressions, lists, quantities and formats.

mod address;
mod format;
mod lists;
mod quantity;
mod url;

pub(super) use url::Url;

use cel::common::types::{CelBool, CelString};
use cel::{DeclarationError, Env, ExecutionError};

/// Declares everything on an environment.
pub(super) fn register(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_extension(cel::extensions::strings)?;
    env.add_extension(cel::extensions::math)?;
    env.add_extension(cel::extensions::encoders)?;
    url::register(env)?;
    address::register(env)?;
    lists::register(env)?;
    quantity::register(env)?;
    format::register(env)?;
    cel::add_member_overload!(env, fn find: (CelString, CelString) -> Result<CelString>)?;
    cel::add_member_overload!(env, fn find_all: (CelString, CelString) -> Result<cel::common::types::CelList>)?;
    Ok(())
}

fn regex(pattern: &CelString<'_>, function: &str) -> Result<regex::Regex, ExecutionError> {
    regex::Regex::new(pattern.inner()).map_err(|e| ExecutionError::function_error(function, e))
}

fn find(
    text: &CelString<'_>,
    pattern: &CelString<'_>,
) -> Result<CelString<'static>, ExecutionError> {
    let found = regex(pattern, "find")?
        .find(text.inner())
        .map_or_else(String::new, |m| m.as_str().to_owned());
    Ok(CelString::from(found))
}

fn find_all(
    text: &CelString<'_>,
    pattern: &CelString<'_>,
) -> Result<cel::common::types::CelList<'static>, ExecutionError> {
    let regex = regex(pattern, "findAll")?;
    let found: Vec<String> = regex
        .find_iter(text.inner())
        .map(|m| m.as_str().to_owned())
        .collect();
    Ok(strings(found))
}

/// A list of strings.
fn strings(values: Vec<String>) -> cel::common::types::CelList<'static> {
    let boxed: Vec<Box<dyn cel::common::value::Val>> = values
        .into_iter()
        .map(|s| Box::new(CelString::from(s)) as Box<dyn cel::common::value::Val>)
        .collect();
    boxed.into()
}

fn truth(value: bool) -> CelBool {
    CelBool::from(value)
}

/// Implements CEL's value trait for a type of ours that only compares for equality.
macro_rules! opaque_value {
    ($type:ty, $name:literal) => {
        impl cel::common::value::Val for $type {
            fn get_type(&self) -> &cel::common::types::Type {
                <Self as cel::common::value::Val>::cel_type()
            }
            fn cel_type() -> &'static cel::common::types::Type {
                static TYPE: cel::common::types::Type =
                    cel::common::types::Type::new_unspecified_type($name);
                &TYPE
            }
            fn equals(&self, other: &dyn cel::common::value::Val) -> bool {
                other.downcast_ref::<Self>().is_some_and(|o| o == self)
            }
            fn clone_as_boxed<'v>(&self) -> Box<dyn cel::common::value::Val + 'v> {
                Box::new(self.clone())
            }
            fn as_any(&self) -> Option<&dyn std::any::Any> {
                Some(self)
            }
        }
        impl cel::common::value::StaticVal for $type {}
    };
}
use opaque_value;
