//! Single values: names, texts, numbers, ports, durations, rates.

use std::str::FromStr;

use voipfleet_ruleset::identifiers::{InvalidName, is_name};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{PortRange, RateUnit};

use super::super::diagnostic::{Span, quoted};
use super::super::document::Batch;
use super::super::schema::{ROLES, TRANSPORTS};
use super::super::traffic::Transport;
use super::super::yaml::{Node, Value};
use super::Decoder;

/// The longest free text, in characters.
const MAX_TEXT: usize = 80;

/// The highest port.
const MAX_PORT: u32 = 65_535;

impl Decoder<'_> {
    /// A name.
    pub(super) fn name<N: FromStr<Err = InvalidName>>(
        &mut self,
        node: &Node<'_>,
        what: &str,
    ) -> Option<N> {
        let text = self.scalar(node, what)?;
        let name = text.parse().ok();
        if name.is_none() {
            self.bad_name(node.span, text);
        }
        name
    }

    pub(super) fn bad_name(&mut self, span: Span, text: &str) {
        let lower = text.to_lowercase().replace(' ', "-");
        let meant = if is_name(&lower) {
            format!("; `{lower}` would do")
        } else {
            String::new()
        };
        self.sink.error(
            span,
            format!("{} is not a name", quoted(text)),
            "bad name",
            format!(
                "use 1 to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit{meant}"
            ),
        );
    }

    /// A short text.
    pub(super) fn text(&mut self, node: &Node<'_>, what: &str) -> Option<String> {
        let text = self.scalar(node, what)?;
        let length = text.chars().count();
        let good = (1..=MAX_TEXT).contains(&length)
            && text.trim() == text
            && !text.chars().any(char::is_control);
        if !good {
            self.sink.error(
                node.span,
                format!("{} is no text for `{what}`", quoted(text)),
                "",
                format!("write 1 to {MAX_TEXT} characters on one line"),
            );
        }
        good.then(|| text.to_owned())
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, node: &Node<'_>, what: &str) -> Option<bool> {
        let text = self.scalar(node, what)?;
        match text {
            "true" => return Some(true),
            "false" => return Some(false),
            _ => {}
        }
        self.sink.error(
            node.span,
            format!(
                "`{what}` must be true or false, and this is {}",
                quoted(text)
            ),
            "",
            "write `true` or `false`",
        );
        None
    }

    /// A whole number.
    pub(super) fn count(
        &mut self,
        node: &Node<'_>,
        what: &str,
        least: u32,
        most: u32,
    ) -> Option<u32> {
        let text = self.scalar(node, what)?;
        let number = digits(text).filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.sink.error(
                node.span,
                format!("{} is no number for `{what}`", quoted(text)),
                "",
                format!("write a whole number from {least} to {most}"),
            );
        }
        number
    }

    /// One of a few words.
    pub(super) fn choice(
        &mut self,
        node: &Node<'_>,
        what: &str,
        words: &'static [&'static str],
    ) -> Option<&'static str> {
        let text = self.scalar(node, what)?;
        let found = words.iter().copied().find(|word| *word == text);
        if found.is_none() {
            let all = words.join(", ");
            let help = match self.sink.nearest(text, words.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`? It is one of: {all}"),
                None => format!("it is one of: {all}"),
            };
            self.sink.error(
                node.span,
                if words == ROLES {
                    format!("{} is not a role", quoted(text))
                } else {
                    format!("{} is no value for `{what}`", quoted(text))
                },
                "",
                help,
            );
        }
        found
    }

    pub(super) fn role(&mut self, node: &Node<'_>, what: &str) -> Option<Role> {
        self.choice(node, what, ROLES)?.parse().ok()
    }

    pub(super) fn transport(&mut self, node: &Node<'_>, what: &str) -> Option<Transport> {
        match self.choice(node, what, TRANSPORTS)? {
            "tcp" => Some(Transport::Tcp),
            _ => Some(Transport::Udp),
        }
    }

    /// One or several of a few words, each once.
    pub(super) fn distinct<T: PartialEq>(
        &mut self,
        node: &Node<'_>,
        what: &str,
        read: fn(&mut Self, &Node<'_>, &str) -> Option<T>,
    ) -> Vec<T> {
        let mut values = Vec::new();
        for item in self.one_or_many(node, what) {
            if let Some(value) = read(self, item, what)
                && !values.contains(&value)
            {
                values.push(value);
            }
        }
        values
    }

    /// A number, `a-b`, `80,443`, or a list of them; not empty.
    pub(super) fn ports(&mut self, node: &Node<'_>, what: &str) -> Option<Vec<PortRange>> {
        let before = self.sink.errors();
        let mut ranges = Vec::new();
        for item in self.one_or_many(node, what) {
            let Some(text) = self.scalar(item, what) else {
                continue;
            };
            // Quotes surround the text; escapes inside shift its parts.
            let quotes = item.span.len().saturating_sub(text.len());
            let mut at = quotes / 2;
            for part in text.split(',') {
                let word = part.trim();
                let offset = at + (part.len() - part.trim_start().len());
                at += part.len() + 1;
                let span = if matches!(quotes, 0 | 2) {
                    item.span.part(offset, word.len())
                } else {
                    item.span
                };
                ranges.extend(self.port_range(word, span));
            }
        }
        if ranges.is_empty() && before == self.sink.errors() {
            self.sink.error(
                node.span,
                format!("`{what}` names no port"),
                "",
                "write a port (5060), a range (10000-20000) or several (80,443)",
            );
        }
        (before == self.sink.errors()).then_some(ranges)
    }

    fn port_range(&mut self, text: &str, span: Span) -> Option<PortRange> {
        let (first, last) = match text.split_once(['-', ':']) {
            None => (text, text),
            Some((first, last)) => (first.trim(), last.trim()),
        };
        let (Some(low), Some(high)) = (digits(first), digits(last)) else {
            self.sink.error(
                span,
                format!("{} is not a port", quoted(text)),
                "",
                "write a port (5060), a range (10000-20000) or several (80,443)",
            );
            return None;
        };
        for (number, word) in [(low, first), (high, last)] {
            if !(1..=MAX_PORT).contains(&number) {
                let at = if word == first {
                    0
                } else {
                    text.len() - last.len()
                };
                let part = if span.len() == text.len() {
                    span.part(at, word.len())
                } else {
                    span
                };
                self.sink.error(
                    part,
                    format!("port {number} is out of range"),
                    "",
                    "ports are 1 to 65535",
                );
                return None;
            }
        }
        if low > high {
            self.sink.error(
                span,
                format!("the range {} runs backwards", quoted(text)),
                "",
                format!("write {high}-{low}"),
            );
            return None;
        }
        PortRange::new(u16::try_from(low).ok()?, u16::try_from(high).ok()?)
    }

    /// A duration in milliseconds: `500ms`, `30s`, `5m`, `1h`, `7d`, `2w`.
    pub(super) fn duration(
        &mut self,
        node: &Node<'_>,
        what: &str,
        least: u64,
        most: u64,
    ) -> Option<u64> {
        let text = self.scalar(node, what)?;
        let millis = duration(text);
        match millis {
            Some(millis) if (least..=most).contains(&millis) => return Some(millis),
            Some(_) => self.sink.error(
                node.span,
                format!("{} is out of range for `{what}`", quoted(text)),
                "",
                format!(
                    "it is {} to {}",
                    written_duration(least),
                    written_duration(most)
                ),
            ),
            None => self.sink.error(
                node.span,
                format!("{} is not a duration", quoted(text)),
                "",
                "write a whole number with its unit: 500ms, 30s, 5m, 1h, 7d or 2w",
            ),
        }
        None
    }

    /// `20/s`, `100/m` or `1000/h`: count and unit.
    pub(super) fn rate(&mut self, node: &Node<'_>, what: &str) -> Option<(u32, RateUnit)> {
        let text = self.scalar(node, what)?;
        let found = text.split_once('/').and_then(|(count, unit)| {
            let unit = match unit {
                "s" => RateUnit::Second,
                "m" => RateUnit::Minute,
                "h" => RateUnit::Hour,
                _ => return None,
            };
            let count = digits(count)?;
            (1..=voipfleet_ruleset::ruleset::Rate::MAX)
                .contains(&count)
                .then_some((count, unit))
        });
        if found.is_none() {
            self.sink.error(
                node.span,
                format!("{} is not a rate", quoted(text)),
                "",
                "write packets for each second, minute or hour, 1 to 10000 of them: 20/s, 100/m or \
                 1000/h",
            );
        }
        found
    }

    /// A number of nodes, or `25%`.
    pub(super) fn batch(&mut self, node: &Node<'_>, what: &str) -> Option<Batch> {
        let text = self.scalar(node, what)?;
        let found = match text.strip_suffix('%') {
            Some(percent) => digits(percent)
                .and_then(|percent| u8::try_from(percent).ok())
                .filter(|percent| (1..=100).contains(percent))
                .map(Batch::Percent),
            None => digits(text)
                .filter(|count| (1..=10_000).contains(count))
                .map(Batch::Count),
        };
        if found.is_none() {
            self.sink.error(
                node.span,
                format!("{} is no value for `{what}`", quoted(text)),
                "",
                "write a number of nodes (5) or a part of them (25%)",
            );
        }
        found
    }

    /// A single address, for a test packet.
    pub(super) fn host(&mut self, node: &Node<'_>, what: &str) -> Option<std::net::IpAddr> {
        let text = self.scalar(node, what)?;
        let host = text.parse().ok();
        if host.is_none() {
            self.sink.error(
                node.span,
                format!("{} is not an address", quoted(text)),
                "",
                "write one address, as 203.0.113.9 or \"2001:db8::9\"",
            );
        }
        host
    }

    /// What a probe reaches.
    pub(super) fn target<T: FromStr>(
        &mut self,
        node: &Node<'_>,
        what: &str,
        help: &str,
    ) -> Option<T> {
        let text = self.scalar(node, what)?;
        let target = text.parse().ok();
        if target.is_none() {
            self.sink.error(
                node.span,
                format!("{} is no target for `{what}`", quoted(text)),
                "",
                help,
            );
        }
        target
    }
}

/// A number without sign, point or separator.
pub(super) fn digits(text: &str) -> Option<u32> {
    let formed = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    formed.then(|| text.parse().ok()).flatten()
}

fn duration(text: &str) -> Option<u64> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(at)?;
    let scale = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 7 * 86_400_000,
        _ => return None,
    };
    Some(u64::from(digits(number)?) * scale)
}

/// A duration as documents write it, in the largest unit that fits exactly.
pub(in super::super) fn written_duration(millis: u64) -> String {
    match millis {
        _ if millis > 0 && millis.is_multiple_of(3_600_000) => format!("{}h", millis / 3_600_000),
        _ if millis > 0 && millis.is_multiple_of(60_000) => format!("{}m", millis / 60_000),
        _ if millis > 0 && millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        _ => format!("{millis}ms"),
    }
}

/// Whether a node is a list without items, or nothing.
pub(super) fn is_empty(node: &Node<'_>) -> bool {
    node.is_null() || matches!(&node.value, Value::Sequence(items) if items.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_milliseconds_to_weeks() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("7d", 7 * 86_400_000),
            ("2w", 14 * 86_400_000),
        ] {
            assert_eq!(duration(text), Some(millis), "{text}");
        }
        for bad in ["", "5", "d", "1y", "1h30m", "-1d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
