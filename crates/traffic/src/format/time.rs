//! Times in UTC, without a calendar library: a log line is written for every exchange.

use std::time::Duration;

use crate::Str;

/// How a time prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeFormat {
    /// `2023-11-14T22:13:20.123Z`
    Default,
    /// `2023-11-14T22:13:20.123+0000`: the local time zone is UTC here.
    DefaultLocal,
    /// strftime with Envoy's additions.
    Pattern(Str),
}

impl TimeFormat {
    pub(super) fn parse(text: &str) -> Self {
        if text.is_empty() {
            Self::Default
        } else {
            Self::Pattern(text.into())
        }
    }

    pub(super) fn render(&self, since_epoch: Duration, out: &mut Vec<u8>) {
        let civil = Civil::new(since_epoch.as_secs());
        match self {
            Self::Default | Self::DefaultLocal => {
                civil.date(out);
                out.push(b'T');
                civil.time(out);
                out.push(b'.');
                digits(u64::from(since_epoch.subsec_millis()), 3, out);
                out.extend_from_slice(if *self == Self::Default {
                    b"Z"
                } else {
                    b"+0000"
                });
            }
            Self::Pattern(pattern) => strftime(pattern, since_epoch, &civil, out),
        }
    }
}

/// A moment in the proleptic Gregorian calendar.
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    weekday: usize,
    year_day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

const WEEKDAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const MONTH_DAYS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

impl Civil {
    fn new(seconds: u64) -> Self {
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Days since 0000-03-01, so that a leap day ends its year.
        let shifted = days + 719_468;
        let era = shifted / 146_097;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 {
            shifted_month + 3
        } else {
            shifted_month - 9
        };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let before: u64 = (1..month)
            .map(|m| MONTH_DAYS[usize::try_from(m - 1).unwrap_or(0)])
            .sum();
        Self {
            year,
            month,
            day,
            weekday: usize::try_from(days % 7).unwrap_or(0),
            year_day: before + u64::from(month > 2 && leap(year)) + day,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
        }
    }

    fn date(&self, out: &mut Vec<u8>) {
        digits(self.year, 4, out);
        out.push(b'-');
        digits(self.month, 2, out);
        out.push(b'-');
        digits(self.day, 2, out);
    }

    fn time(&self, out: &mut Vec<u8>) {
        digits(self.hour, 2, out);
        out.push(b':');
        digits(self.minute, 2, out);
        out.push(b':');
        digits(self.second, 2, out);
    }
}

/// Decimal digits, zero-padded to a width.
pub(super) fn digits(value: u64, width: usize, out: &mut Vec<u8>) {
    let mut buffer = [b'0'; 20];
    let mut at = buffer.len();
    let mut left = value;
    while left > 0 || at > buffer.len() - width.max(1) {
        at -= 1;
        buffer[at] = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
    }
    out.extend_from_slice(&buffer[at..]);
}

fn strftime(pattern: &str, since_epoch: Duration, civil: &Civil, out: &mut Vec<u8>) {
    let nanos = u64::from(since_epoch.subsec_nanos());
    let fraction = |places: u32, out: &mut Vec<u8>| {
        digits(nanos / 10_u64.pow(9 - places), places as usize, out);
    };
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let Some(directive) = rest.next() else {
            out.push(b'%');
            return;
        };
        match directive {
            // %3f and %E3S: fractions of a second.
            '1'..='9' if rest.as_str().starts_with('f') => {
                rest.next();
                fraction(directive.to_digit(10).unwrap_or(9), out);
            }
            'E' if rest.as_str().chars().nth(1) == Some('S') => {
                let places = rest.next().and_then(|d| d.to_digit(10)).unwrap_or(0).min(9);
                rest.next();
                digits(civil.second, 2, out);
                if places > 0 {
                    out.push(b'.');
                    fraction(places, out);
                }
            }
            other => directive_text(other, since_epoch, civil, out),
        }
    }
}

// table: strftime directives
fn directive_text(directive: char, since_epoch: Duration, civil: &Civil, out: &mut Vec<u8>) {
    let month = MONTHS[usize::try_from(civil.month - 1).unwrap_or(0)];
    let weekday = WEEKDAYS[civil.weekday];
    let twelve = if civil.hour.is_multiple_of(12) {
        12
    } else {
        civil.hour % 12
    };
    match directive {
        'Y' => digits(civil.year, 4, out),
        'y' => digits(civil.year % 100, 2, out),
        'm' => digits(civil.month, 2, out),
        'd' => digits(civil.day, 2, out),
        'e' => out.extend_from_slice(format!("{:2}", civil.day).as_bytes()),
        'H' => digits(civil.hour, 2, out),
        'I' => digits(twelve, 2, out),
        'M' => digits(civil.minute, 2, out),
        'S' => digits(civil.second, 2, out),
        'p' => out.extend_from_slice(if civil.hour < 12 { b"AM" } else { b"PM" }),
        'f' => digits(u64::from(since_epoch.subsec_nanos()), 9, out),
        's' => digits(since_epoch.as_secs(), 1, out),
        'j' => digits(civil.year_day, 3, out),
        'B' => out.extend_from_slice(month.as_bytes()),
        'b' | 'h' => out.extend_from_slice(&month.as_bytes()[..3]),
        'A' => out.extend_from_slice(weekday.as_bytes()),
        'a' => out.extend_from_slice(&weekday.as_bytes()[..3]),
        'F' => civil.date(out),
        'T' => civil.time(out),
        'z' => out.extend_from_slice(b"+0000"),
        'Z' => out.extend_from_slice(b"UTC"),
        'n' => out.push(b'\n'),
        't' => out.push(b'\t'),
        '%' => out.push(b'%'),
        other => {
            out.push(b'%');
            out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pattern: &str, seconds: u64, nanos: u32) -> String {
        let mut out = Vec::new();
        TimeFormat::parse(pattern).render(Duration::new(seconds, nanos), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_default_is_rfc3339_with_milliseconds() {
        assert_eq!(
            text("", 951_782_399, 999_000_000),
            "2000-02-28T23:59:59.999Z"
        );
        assert_eq!(text("", 951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(text("", 4_107_542_400, 0), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn patterns_follow_strftime_and_envoys_fractions() {
        assert_eq!(
            text("%Y/%m/%d %H-%M-%S %s %3f", 1_700_000_000, 123_456_789),
            "2023/11/14 22-13-20 1700000000 123"
        );
        assert_eq!(
            text("%a %b %j %E6S%z", 1_700_000_000, 123_456_789),
            "Tue Nov 318 20.123456+0000"
        );
    }
}
