//! `isSorted`, `sum`, `min`, `max`, `indexOf` and `lastIndexOf` of lists.

use cel::common::types::{CelBool, CelInt, DYN_TYPE, LIST_TYPE};
use cel::common::value::CowVal;
use cel::{DeclarationError, Env, ExecutionError, Value};

type Args<'b, 'v> = Vec<CowVal<'b, 'v>>;
type Answer<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

pub(super) fn register(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_member_overload("isSorted", "list.isSorted()", LIST_TYPE, vec![], is_sorted)?;
    env.add_member_overload("sum", "list.sum()", LIST_TYPE, vec![], sum)?;
    env.add_member_overload("min", "list.min()", LIST_TYPE, vec![], min)?;
    env.add_member_overload("max", "list.max()", LIST_TYPE, vec![], max)?;
    env.add_member_overload(
        "indexOf",
        "list.indexOf(dyn)",
        LIST_TYPE,
        vec![DYN_TYPE],
        index_of,
    )?;
    env.add_member_overload(
        "lastIndexOf",
        "list.lastIndexOf(dyn)",
        LIST_TYPE,
        vec![DYN_TYPE],
        last_index_of,
    )?;
    Ok(())
}

fn value(arg: &CowVal<'_, '_>) -> Result<Value, ExecutionError> {
    Value::try_from(arg.as_ref())
}

fn items(args: &Args<'_, '_>) -> Result<Vec<Value>, ExecutionError> {
    match args.first().map(value).transpose()? {
        Some(Value::List(items)) => Ok(items.to_vec()),
        _ => Err(ExecutionError::missing_argument_or_target()),
    }
}

fn answer<'b, 'v>(value: Value) -> Answer<'b, 'v> {
    let boxed: Box<dyn cel::common::value::Val> = value.try_into()?;
    Ok(CowVal::Owned(boxed))
}

fn is_sorted<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let items = items(&args)?;
    let sorted = items.windows(2).all(|w| {
        w[0].partial_cmp(&w[1])
            .is_some_and(std::cmp::Ordering::is_le)
    });
    Ok(CowVal::owned(CelBool::from(sorted)))
}

fn sum<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    let mut items = items(&args)?.into_iter();
    let Some(first) = items.next() else {
        return answer(Value::Int(0));
    };
    answer(items.try_fold(first, |a, b| a + b)?)
}

fn extreme(
    items: Vec<Value>,
    function: &str,
    wanted: std::cmp::Ordering,
) -> Result<Value, ExecutionError> {
    let mut best: Option<Value> = None;
    for item in items {
        if best
            .as_ref()
            .is_none_or(|b| item.partial_cmp(b) == Some(wanted))
        {
            best = Some(item);
        }
    }
    best.ok_or_else(|| {
        ExecutionError::function_error(function, format!("{function} called on empty list"))
    })
}

fn min<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    answer(extreme(items(&args)?, "min", std::cmp::Ordering::Less)?)
}

fn max<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    answer(extreme(items(&args)?, "max", std::cmp::Ordering::Greater)?)
}

fn position<'b, 'v>(args: Args<'b, 'v>, last: bool) -> Answer<'b, 'v> {
    let wanted = args.get(1).map(value).transpose()?;
    let items = items(&args)?;
    let mut found = items
        .iter()
        .enumerate()
        .filter(|(_, item)| Some(*item) == wanted.as_ref())
        .map(|(i, _)| i);
    let index = if last {
        found.next_back()
    } else {
        found.next()
    };
    Ok(CowVal::owned(CelInt::from(
        index.and_then(|i| i64::try_from(i).ok()).unwrap_or(-1),
    )))
}

fn index_of<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    position(args, false)
}

fn last_index_of<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    position(args, true)
}
