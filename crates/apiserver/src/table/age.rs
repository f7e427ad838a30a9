//! Ages as Kubernetes prints them: `5s`, `3m2s`, `47h`, `2y10d`.

use jiff::Timestamp;
use serde_json::Value;

/// How long ago a time (a JSON string or null) was; `<unknown>` when it is absent.
pub(super) fn since(time: &Value, now: Timestamp) -> String {
    match time.as_str() {
        None | Some("") => "<unknown>".to_owned(),
        Some(text) => since_text(text, now),
    }
}

/// How long ago a time was; `<invalid>` when it is not a time.
pub(super) fn since_text(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(then) => human(now.as_second() - then.as_second()),
        Err(_) => "<invalid>".to_owned(),
    }
}

/// The seconds between two times.
pub(super) fn between(start: &Value, end: &Value) -> Option<i64> {
    let parse = |v: &Value| v.as_str()?.parse::<Timestamp>().ok().map(|t| t.as_second());
    Some(parse(end)? - parse(start)?)
}

/// A duration with at most two units, fewer as it grows.
pub(super) fn human(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |a: i64, au: &str, b: i64, bu: &str| {
        if b == 0 {
            format!("{a}{au}")
        } else {
            format!("{a}{au}{b}{bu}")
        }
    };
    match seconds {
        s if s < -1 => "<invalid>".to_owned(),
        s if s < 0 => "0s".to_owned(),
        s if s < 120 => format!("{s}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_lose_precision_as_they_grow() {
        let day = 86400;
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (182, "3m2s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 300, "3h5m"),
            (9 * 3600, "9h"),
            (2 * day, "2d"),
            (2 * day + 3600, "2d1h"),
            (9 * day, "9d"),
            (800 * day, "2y70d"),
            (3650 * day, "10y"),
        ] {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }
}
