//! `quantity()`, `isQuantity()` and comparisons of quantities.

use cel::common::types::{CelBool, CelInt, CelString};
use cel::{DeclarationError, Env, ExecutionError};

use super::{opaque_value, truth};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Quantity(f64);
opaque_value!(Quantity, "kubernetes.Quantity");

pub(super) fn register(env: &mut Env) -> Result<(), DeclarationError> {
    cel::add_overload!(env, fn quantity: (CelString) -> Result<Quantity>, name = "quantity")?;
    cel::add_overload!(env, fn is_quantity: (CelString) -> CelBool, name = "isQuantity")?;
    cel::add_member_overload!(env, fn is_greater_than: (Quantity, Quantity) -> CelBool)?;
    cel::add_member_overload!(env, fn is_less_than: (Quantity, Quantity) -> CelBool)?;
    cel::add_member_overload!(env, fn compare_to: (Quantity, Quantity) -> CelInt)?;
    cel::add_member_overload!(env, fn sign: (Quantity) -> CelInt)?;
    cel::add_member_overload!(env, fn is_integer: (Quantity) -> CelBool)?;
    cel::add_member_overload!(env, fn as_integer: (Quantity) -> Result<CelInt>)?;
    Ok(())
}

fn parse(text: &str) -> Option<f64> {
    crate::validate::amount(&serde_json::Value::from(text))
}

fn quantity(text: &CelString<'_>) -> Result<Quantity, ExecutionError> {
    let parsed = parse(text.inner()).map(Quantity);
    parsed.ok_or_else(|| ExecutionError::function_error("quantity", "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"))
}

fn is_quantity(text: &CelString<'_>) -> CelBool {
    truth(parse(text.inner()).is_some())
}

fn is_greater_than(a: &Quantity, b: &Quantity) -> CelBool {
    truth(a.0 > b.0)
}

fn is_less_than(a: &Quantity, b: &Quantity) -> CelBool {
    truth(a.0 < b.0)
}

fn compare_to(a: &Quantity, b: &Quantity) -> CelInt {
    CelInt::from(a.0.partial_cmp(&b.0).map_or(0, |o| o as i64))
}

fn sign(a: &Quantity) -> CelInt {
    compare_to(a, &Quantity(0.0))
}

fn is_integer(a: &Quantity) -> CelBool {
    truth(a.0.fract() == 0.0)
}

fn as_integer(a: &Quantity) -> Result<CelInt, ExecutionError> {
    if a.0.fract() != 0.0 {
        return Err(ExecutionError::function_error(
            "asInteger",
            "cannot convert value to integer",
        ));
    }
    #[allow(clippy::cast_possible_truncation)]
    Ok(CelInt::from(a.0 as i64))
}
