//! Numbers, times and foreign text in the form in which an operator reads them.
//!
//! Quantities are grouped by thousands (`1,204 nodes`); identifiers that may be pasted into the
//! next command (generations, revisions, tickets, record numbers) never are.

use std::fmt::{Display, Write as _};
use std::time::SystemTime;

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use serde::{Serialize, Serializer};

/// A moment, or none. Serialized as RFC 3339, or null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(Option<Timestamp>);

impl Moment {
    /// Reads the wire's form: milliseconds of Unix time, 0 for none.
    pub fn of(unix_ms: u64) -> Self {
        let known = i64::try_from(unix_ms).ok().filter(|ms| *ms > 0);
        Self(known.and_then(|ms| Timestamp::from_millisecond(ms).ok()))
    }

    /// Whether there is a moment at all.
    pub fn is_known(self) -> bool {
        self.0.is_some()
    }

    /// `12s`: the time since then; `never` without one.
    pub fn age(self, now: Timestamp) -> String {
        self.0.map_or_else(
            || "never".to_owned(),
            |at| span(now.duration_since(at).abs()),
        )
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

/// How long work took: `142 ms`, `3.1 s`, `12m 5s`.
pub fn took(ms: u64) -> String {
    let seconds = ms / 1000;
    match ms {
        ..1000 => format!("{ms} ms"),
        1000..60_000 => format!("{seconds}.{} s", ms % 1000 / 100),
        60_000..3_600_000 => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// `1 node`, `1,204 nodes`, `2 batches`, `3 entries`.
pub fn count(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{} {}", thousands(number), plural(noun))
    }
}

fn plural(noun: &str) -> String {
    match noun.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if ["ch", "sh", "s"].iter().any(|end| noun.ends_with(end)) => format!("{noun}es"),
        None => format!("{noun}s"),
    }
}

/// The first `most` names, then how many more: `sip1, sip2 and 10 more`.
pub fn first_names<S: AsRef<str>>(names: &[S], most: usize) -> String {
    let shown: Vec<&str> = names.iter().take(most).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(most) {
        0 => shown.join(", "),
        more => format!("{} and {} more", shown.join(", "), thousands(more as u64)),
    }
}

/// `sip1`, `sip1, pbx1`, `12 nodes (sip1, sip2, sip3 and 9 more)`.
pub fn node_list<S: AsRef<str>>(nodes: &[S]) -> String {
    const NAMED: usize = 3;
    if nodes.len() <= NAMED {
        first_names(nodes, NAMED)
    } else {
        format!(
            "{} ({})",
            count(nodes.len(), "node"),
            first_names(nodes, NAMED)
        )
    }
}

/// What several nodes have in common is shown once: the nodes of each distinct `text`, in the
/// order in which the texts first came.
pub fn by_text<N, T: PartialEq>(lines: impl IntoIterator<Item = (N, T)>) -> Vec<(Vec<N>, T)> {
    let mut groups: Vec<(Vec<N>, T)> = Vec::new();
    for (node, text) in lines {
        match groups.iter_mut().find(|(_, known)| *known == text) {
            Some((nodes, _)) => nodes.push(node),
            None => groups.push((vec![node], text)),
        }
    }
    groups
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

/// Foreign text with control characters replaced: a node's message must not be able to repaint
/// an operator's screen. Line ends stay.
pub fn printable(text: &str) -> String {
    text.chars()
        .filter(|c| *c != '\r')
        .map(|c| match c {
            '\n' => c,
            '\t' => ' ',
            c if c.is_control() || is_deceptive(c) => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// Whether a character is not seen and changes what is: bidirectional controls reorder the text
/// around them, characters without width make two names look the same.
fn is_deceptive(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Whether a text of JSON or YAML has a character that a terminal obeys or hides. Line ends are its
/// own.
pub fn is_hostile(text: &str) -> bool {
    text.chars()
        .any(|c| c != '\n' && (c.is_control() || is_deceptive(c)))
}

/// JSON with such characters escaped. They are inside strings: outside of them JSON has none.
pub fn escaped_json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && (c.is_control() || is_deceptive(c)) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
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

/// A duration on a command line, in s, m, h, d and w: `30s`, `5m`, `1h30m`, `90d`, `2w`.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    let span: Span = text
        .parse()
        .map_err(|_| "expected a duration such as 30s, 5m, 12h, 7d or 2w".to_owned())?;
    let length = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| "use the units s, m, h, d and w".to_owned())?;
    if !length.is_positive() {
        return Err("must be longer than zero".to_owned());
    }
    length
        .try_into()
        .map_err(|_| "must be longer than zero".to_owned())
}

/// Milliseconds of the wire.
pub fn millis(length: std::time::Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_times() {
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
    fn thousands_are_grouped() {
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
    fn control_characters_are_replaced() {
        assert_eq!(
            printable("a\u{1b}[2Jb\r\nc\u{202e}"),
            "a\u{fffd}[2Jb\nc\u{fffd}"
        );
        assert_eq!(
            printable("ac\u{200b}me \u{9b}31m"),
            "ac\u{fffd}me \u{fffd}31m"
        );
        assert_eq!(
            escaped_json("{\"a\":\"\u{9b}31m\u{2066}é\u{e0041}\"}\n"),
            "{\"a\":\"\\u009b31m\\u2066é\\udb40\\udc41\"}\n"
        );
        assert!(is_hostile("a: \u{9b}") && !is_hostile("a: é\n- ü\n"));
    }

    #[test]
    fn durations_take_seconds_to_weeks() {
        assert_eq!(duration("1h30m").map(millis), Ok(5_400_000));
        assert_eq!(duration("30s").map(millis), Ok(30_000));
        assert_eq!(duration("90d").map(millis), Ok(90 * 86_400_000));
        assert_eq!(duration("2w").map(millis), Ok(14 * 86_400_000));
        for bad in [
            "", "0s", "-5s", "5s ago", "5", "1mo", "1y", "soon", "site-a",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn counts_have_plurals() {
        assert_eq!(count(1, "batch"), "1 batch");
        assert_eq!(count(2, "batch"), "2 batches");
        assert_eq!(count(1204, "entry"), "1,204 entries");
        assert_eq!(took(725_000), "12m 5s");
    }

    #[test]
    fn equal_texts_are_grouped() {
        let lines = [("sip1", "full"), ("sip2", "slow"), ("sip3", "full")];
        assert_eq!(
            by_text(lines),
            [(vec!["sip1", "sip3"], "full"), (vec!["sip2"], "slow")]
        );
        let many: Vec<String> = (1..=12).map(|n| format!("sip{n}")).collect();
        assert_eq!(node_list(&many), "12 nodes (sip1, sip2, sip3 and 9 more)");
        assert_eq!(node_list(&["sip1", "pbx1"]), "sip1, pbx1");
    }
}
