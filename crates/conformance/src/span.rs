//! Durations as people write them: `20ms`, `1.5s`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};

/// A duration from text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is no duration (20ms, 1.5s)")))
    }
}

fn parse(text: &str) -> Option<Span> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s')?, 1.0),
    };
    let seconds = number.parse::<f64>().ok()? * unit;
    Duration::try_from_secs_f64(seconds).ok().map(Span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_milliseconds_are_read() {
        assert_eq!(parse("20ms"), Some(Span(Duration::from_millis(20))));
        assert_eq!(parse("1.5s"), Some(Span(Duration::from_millis(1500))));
        assert_eq!((parse("5"), parse("-1s"), parse("s")), (None, None, None));
    }
}
