//! Format strings to pieces.

use super::{Format, Piece, operators};

/// A format that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No such operator.
    #[error("unknown command operator {0}")]
    Unknown(String),
    /// An operator that is not closed or does not parse.
    #[error("malformed command operator at {0}")]
    Malformed(String),
    /// An argument that the operator does not take.
    #[error("command operator {operator} does not take the argument {argument}")]
    Argument {
        /// The operator.
        operator: String,
        /// What was given.
        argument: String,
    },
}

/// Shown of a malformed operator.
const SHOWN: usize = 40;

pub(super) fn parse(text: &str) -> Result<Format, FormatError> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        literal.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let malformed = || FormatError::Malformed(rest[at..].chars().take(SHOWN).collect());
        let (name, argument, length, after) = command(tail).ok_or_else(malformed)?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
        }
        let operator = operators::parse(name, argument)?;
        if let Some(length) = length
            && !operators::takes_length(name)
        {
            return Err(FormatError::Argument {
                operator: name.to_owned(),
                argument: format!(":{length}"),
            });
        }
        pieces.push(Piece::Operator(operator, length));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.into()));
    }
    Ok(Format { pieces })
}

/// Splits `NAME(argument):LENGTH%rest`.
fn command(text: &str) -> Option<(&str, Option<&str>, Option<usize>, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
    let (name, mut rest) = text.split_at(end);
    if name.is_empty() {
        return None;
    }
    let mut argument = None;
    if let Some(tail) = rest.strip_prefix('(') {
        // An argument ends at the parenthesis before `%` or `:N%`; it may hold parentheses and, in times, percents.
        let close = tail.match_indices(')').map(|(at, _)| at).find(|at| {
            let after = &tail[at + 1..];
            after.starts_with('%') || (after.starts_with(':') && length(after).is_some())
        })?;
        argument = Some(&tail[..close]);
        rest = &tail[close + 1..];
    }
    let (limit, rest) = if rest.starts_with(':') {
        let (limit, after) = length(rest)?;
        (Some(limit), after)
    } else {
        (None, rest)
    };
    Some((name, argument, limit, rest.strip_prefix('%')?))
}

fn length(text: &str) -> Option<(usize, &str)> {
    let digits = text.strip_prefix(':')?;
    let end = digits.find(|c: char| !c.is_ascii_digit())?;
    let limit = digits[..end].parse().ok()?;
    digits[end..]
        .starts_with('%')
        .then_some((limit, &digits[end..]))
}
