//! Numbers, times and foreign text as an operator reads them.

use std::fmt::Display;
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};
use serde::{Serialize, Serializer};

/// A moment of the wire: milliseconds of Unix time, 0 for never. Serialized as RFC 3339, or
/// null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(Option<Timestamp>);

impl Moment {
    /// Reads the wire's number.
    pub fn of(unix_ms: u64) -> Self {
        let known = i64::try_from(unix_ms).ok().filter(|ms| *ms > 0);
        Self(known.and_then(|ms| Timestamp::from_millisecond(ms).ok()))
    }

    /// `12s ago`, `in 89d`, `never`.
    pub fn relative(self, now: Timestamp) -> String {
        let Some(at) = self.0 else {
            return "never".to_owned();
        };
        let ago = now.duration_since(at);
        if ago.is_negative() {
            format!("in {}", span(ago.abs()))
        } else if ago.as_secs() == 0 {
            "now".to_owned()
        } else {
            format!("{} ago", span(ago))
        }
    }

    /// `2026-11-23 12:00:00`, UTC.
    pub fn seconds(self) -> String {
        self.0.map_or_else(
            || "never".to_owned(),
            |at| at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        )
    }

    /// Whether it lies before `now`.
    pub fn is_past(self, now: Timestamp) -> bool {
        self.0.is_some_and(|at| at <= now)
    }
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        Self(Timestamp::try_from(time).ok())
    }
}

impl Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(at) => write!(f, "{at}"),
            None => f.write_str("never"),
        }
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(at) => serializer.collect_str(&at),
            None => serializer.serialize_none(),
        }
    }
}

/// The largest unit that fits: `45s`, `12m`, `3h`, `89d`.
pub fn span(length: SignedDuration) -> String {
    let seconds = length.as_secs();
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Work that took so long: `142 ms`, `3.1 s`.
pub fn took(ms: u64) -> String {
    if ms < 1000 {
        format!("{ms} ms")
    } else {
        format!("{}.{} s", ms / 1000, ms % 1000 / 100)
    }
}

/// `1 node`, `3 nodes`.
pub fn count(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// `1,204`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|group| std::str::from_utf8(group).ok())
        .collect();
    groups.join(",")
}

/// The start of a digest, enough to compare by eye; `-` for none.
pub fn short_digest(digest: &[u8]) -> String {
    match digest.get(..4) {
        Some(start) => hex::encode(start),
        None => "-".to_owned(),
    }
}

/// Text from elsewhere without what would steer a terminal: a node's words must not be able
/// to repaint an operator's screen. Line ends stay.
pub fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| *c != '\r')
        .map(|c| match c {
            '\n' => c,
            '\t' => ' ',
            // Bidirectional overrides reorder what stands around them.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// `text`, or `-` where there is none.
pub fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        printable(text)
    }
}

/// `text`, or null where there is none.
pub fn or_null(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// A length of time as it is written on a command line: `30s`, `5m`, `1h30m`.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let length: SignedDuration = text
        .parse()
        .map_err(|_| "write a length of time, for example 30s, 5m or 1h".to_owned())?;
    if length.is_zero() {
        return Err("must be longer than nothing".to_owned());
    }
    length
        .try_into()
        .map_err(|_| "cannot be negative".to_owned())
}

/// Milliseconds of the wire.
pub fn millis(length: std::time::Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_from_here() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let at = |seconds: i64| {
            let ms = (now.as_second() - seconds) * 1000;
            Moment::of(ms.try_into().unwrap()).relative(now)
        };
        assert_eq!(at(12), "12s ago");
        assert_eq!(at(0), "now");
        assert_eq!(at(3 * 3600), "3h ago");
        assert_eq!(at(-89 * 86_400), "in 89d");
        assert_eq!(Moment::of(0).relative(now), "never");
        assert_eq!(Moment::of(u64::MAX).relative(now), "never");
    }

    #[test]
    fn large_numbers_are_read_in_groups() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(
            printable("a\u{1b}[2Jb\r\nc\u{202e}"),
            "a\u{fffd}[2Jb\nc\u{fffd}"
        );
    }

    #[test]
    fn durations_are_what_people_write() {
        assert_eq!(duration("1h30m").map(millis), Ok(5_400_000));
        assert_eq!(duration("30s").map(millis), Ok(30_000));
        for bad in ["", "0s", "-5s", "5", "soon", "site-a"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
