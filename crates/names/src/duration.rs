//! Durations in the form that configuration uses: `1h30m`, `7s`, `250ms`, `0.5s`.

use std::fmt::Write as _;
use std::time::Duration;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// No text at all.
    #[error("a duration is empty; write for example `5s` or `250ms`")]
    Empty,
    /// Not a sequence of numbers with units.
    #[error("`{text}` is not a duration; write for example `5s` or `250ms`")]
    Malformed {
        /// The text.
        text: String,
    },
    /// Larger than can be represented.
    #[error("the duration `{text}` is too long")]
    TooLong {
        /// The text.
        text: String,
    },
}

/// Parses a non-negative duration: decimal numbers, each with one of the units `h`, `m`, `s`, `ms`, `us`, `ns`; or `0`.
///
/// # Errors
/// When the text has another form or does not fit.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    if text.is_empty() {
        return Err(DurationError::Empty);
    }
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let malformed = || DurationError::Malformed {
        text: text.to_owned(),
    };
    let too_long = || DurationError::TooLong {
        text: text.to_owned(),
    };
    let mut rest = text;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(malformed)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let scale = nanos_in(unit).ok_or_else(malformed)?;
        let nanos = scaled(number, scale).ok_or_else(malformed)?;
        total = total.checked_add(nanos).ok_or_else(too_long)?;
        rest = tail;
    }
    let seconds = u64::try_from(total / NANOS_IN_SECOND).map_err(|_| too_long())?;
    let nanos = u32::try_from(total % NANOS_IN_SECOND).map_err(|_| too_long())?;
    Ok(Duration::new(seconds, nanos))
}

/// The shortest form that [`parse_duration`] reads back: `0s`, `250ms`, `1h30m0s`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    if seconds == 0 && nanos > 0 {
        return match nanos {
            n if n % 1_000_000 == 0 => format!("{}ms", n / 1_000_000),
            n if n % 1_000 == 0 => format!("{}us", n / 1_000),
            n => format!("{n}ns"),
        };
    }
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let mut out = String::new();
    if hours > 0 {
        let _ = write!(out, "{hours}h");
    }
    if hours > 0 || minutes > 0 {
        let _ = write!(out, "{minutes}m");
    }
    let _ = write!(out, "{rest}");
    if nanos > 0 {
        let fraction = format!("{nanos:09}");
        let _ = write!(out, ".{}", fraction.trim_end_matches('0'));
    }
    out.push('s');
    out
}

const NANOS_IN_SECOND: u128 = 1_000_000_000;

fn nanos_in(unit: &str) -> Option<u128> {
    Some(match unit {
        "h" => 3600 * NANOS_IN_SECOND,
        "m" => 60 * NANOS_IN_SECOND,
        "s" => NANOS_IN_SECOND,
        "ms" => 1_000_000,
        "us" | "µs" | "μs" => 1_000,
        "ns" => 1,
        _ => return None,
    })
}

/// `number` (digits with at most one point) times `scale`, fractions below a nanosecond cut.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut nanos = whole.checked_mul(scale)?;
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        nanos = nanos.checked_add(u128::from(digit - b'0') * place)?;
    }
    Some(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_forms_parse() {
        let table = [
            ("0", 0),
            ("0s", 0),
            ("7s", 7_000),
            ("250ms", 250),
            ("1.5s", 1_500),
            (".5s", 500),
            ("1h1m1s", 3_661_000),
            ("1h0m0.25s", 3_600_250),
        ];
        for (text, millis) in table {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "-1s",
            "1.2.3s",
            "5x",
            "1d",
            ".s",
            "99999999999999999999999999999h",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn formatted_durations_read_back() {
        for (nanos, text) in [
            (0, "0s"),
            (250_000_000, "250ms"),
            (1_500_000_000, "1.5s"),
            (5_400_000_000_000, "1h30m0s"),
            (90_000_000_000, "1m30s"),
            (42, "42ns"),
        ] {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(format_duration(duration), text);
            assert_eq!(parse_duration(text), Ok(duration));
        }
    }
}
