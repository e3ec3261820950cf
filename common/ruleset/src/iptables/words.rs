//! Lines of iptables-save as words.

use crate::ruleset::CHAIN_PREFIX;

/// Options whose value can be any text, even one that could be an option.
const TEXT_OPTIONS: [&str; 7] = [
    "--comment",
    "--log-prefix",
    "--nflog-prefix",
    "--ulog-prefix",
    "--string",
    "--hex-string",
    "--name",
];

/// Splits a line at blanks, with double quotes and backslashes as `xtables_save_string`
/// writes them. None for a quote that does not end.
pub(crate) fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut open = false;
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                word.push(chars.next()?);
                open = true;
            }
            '"' => {
                quoted = !quoted;
                open = true;
            }
            ' ' | '\t' if !quoted => {
                if open {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            _ => {
                word.push(c);
                open = true;
            }
        }
    }
    if quoted {
        return None;
    }
    if open {
        words.push(word);
    }
    Some(words)
}

/// The words of a rule without values that can be any text.
pub(crate) fn options(words: &[String]) -> impl Iterator<Item = &str> {
    let mut words = words.iter().map(String::as_str);
    std::iter::from_fn(move || {
        let word = words.next()?;
        if TEXT_OPTIONS.contains(&word) {
            words.next();
        }
        Some(word)
    })
}

/// Whether a quoted text that `line` opens, or that was open before it, goes on in the next.
pub(crate) fn leaves_quote_open(line: &str, mut open: bool) -> bool {
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '"' => open = !open,
            _ => {}
        }
    }
    open
}

/// Where a rule of iptables-save sends a packet: the word after `-j` or `-g`.
pub fn target(rule: &str) -> Option<String> {
    let words = split(rule)?;
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "-j" || word == "-g" {
            return words.next();
        }
        if TEXT_OPTIONS.contains(&word.as_str()) {
            words.next();
        }
    }
    None
}

/// The comment of a rule.
pub(crate) fn comment(rule: &str) -> Option<String> {
    let mut words = split(rule)?.into_iter();
    while let Some(word) = words.next() {
        if word == "--comment" {
            return words.next();
        }
        if TEXT_OPTIONS.contains(&word.as_str()) {
            words.next();
        }
    }
    None
}

/// Whether a chain is ours by its name.
pub(crate) fn is_ours(chain: &str) -> bool {
    chain.starts_with(CHAIN_PREFIX)
}

/// Whether a rule sends packets to one of the chosen chains.
pub(crate) fn jumps_to(rule: &str, chosen: impl Fn(&str) -> bool) -> bool {
    target(rule).is_some_and(|target| chosen(&target))
}

/// The start of `text`, for an error message.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_escapes_come_apart() {
        assert_eq!(
            split(r#"-A X -m comment --comment "a \"b\" -j c" -j LOG --log-prefix "vf: ""#)
                .unwrap(),
            [
                "-A",
                "X",
                "-m",
                "comment",
                "--comment",
                r#"a "b" -j c"#,
                "-j",
                "LOG",
                "--log-prefix",
                "vf: "
            ]
        );
        assert_eq!(split("  a\t b  ").unwrap(), ["a", "b"]);
        assert_eq!(split(r#"a """#).unwrap(), ["a", ""]);
        assert_eq!(split("a \"b"), None);
        assert_eq!(split("a \\"), None);
    }

    #[test]
    fn a_comment_is_no_target() {
        assert_eq!(
            target("-A INPUT -m comment --comment -j -j ACCEPT").as_deref(),
            Some("ACCEPT")
        );
        assert_eq!(
            target(r#"-A INPUT -m comment --comment "-j ACCEPT" -g f2b"#).as_deref(),
            Some("f2b")
        );
        assert_eq!(target("-A INPUT -m comment --comment -j"), None);
        assert_eq!(target("-A INPUT -p tcp"), None);
    }
}
