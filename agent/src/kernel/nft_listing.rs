//! The filter table as nft lists it, in place of what iptables cannot print.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::Value;
use voipfleet_ruleset::iptables::SavedChain;

use super::NftForm;

/// A table in the words of nft.
#[derive(Debug, Default)]
pub(super) struct NftTable {
    chains: Vec<NftChain>,
}

/// One of its chains.
#[derive(Debug)]
pub(super) struct NftChain {
    pub(super) name: String,
    /// `ACCEPT` or `DROP` of a base chain.
    policy: Option<String>,
    pub(super) rules: Vec<NftRule>,
}

/// One of its rules.
#[derive(Debug)]
pub(super) struct NftRule {
    /// As nft prints it, without counters and handle.
    pub(super) text: String,
    /// The first extension of iptables that it uses.
    pub(super) extension: Option<String>,
    /// Whether it has an expression for which iptables has no words.
    pub(super) is_nft_only: bool,
    /// Where it sends packets, as iptables says it.
    target: Option<Target>,
    /// Whether it is for some packets only.
    is_conditional: bool,
    comment: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Jump(String),
    Goto(String),
}

impl Target {
    /// What cannot be told counts as a target that may accept.
    fn unknown() -> Self {
        Target::Jump("ACCEPT".to_owned())
    }
}

impl NftTable {
    /// Reads it from the forms that `list` lists. None without nft, or where nft knows no JSON.
    pub(super) fn read(mut list: impl FnMut(NftForm) -> Option<String>) -> Option<Self> {
        let json = list(NftForm::Json)?;
        let text = list(NftForm::Text).unwrap_or_default();
        Self::parse(&json, &text)
    }

    fn parse(json: &str, text: &str) -> Option<Self> {
        let listed: Value = serde_json::from_str(json).ok()?;
        let words = by_handle(text);
        let mut table = Self::default();
        let objects = listed.get("nftables")?.as_array()?;
        for chain in objects.iter().filter_map(|object| object.get("chain")) {
            let policy = chain.get("policy").and_then(Value::as_str);
            table.chains.push(NftChain {
                name: chain.get("name")?.as_str()?.to_owned(),
                policy: policy.map(str::to_ascii_uppercase),
                rules: Vec::new(),
            });
        }
        for rule in objects.iter().filter_map(|object| object.get("rule")) {
            let name = rule.get("chain")?.as_str()?;
            let mut chains = table.chains.iter_mut();
            let chain = chains.find(|chain| chain.name == name)?;
            chain.rules.push(NftRule::parse(rule, &words)?);
        }
        Some(table)
    }

    /// Its chains without their rules.
    pub(super) fn declared(&self) -> Vec<SavedChain> {
        self.chains
            .iter()
            .map(|chain| SavedChain {
                name: chain.name.clone(),
                policy: chain.policy.clone(),
                rules: Vec::new(),
            })
            .collect()
    }

    pub(super) fn chain(&self, name: &str) -> Option<&NftChain> {
        self.chains.iter().find(|chain| chain.name == name)
    }
}

impl NftRule {
    fn parse(rule: &Value, words: &HashMap<u64, String>) -> Option<Self> {
        let handle = rule.get("handle")?.as_u64()?;
        let expressions = rule.get("expr")?.as_array()?;
        let mut parsed = Self {
            text: String::new(),
            extension: None,
            is_nft_only: false,
            target: None,
            is_conditional: false,
            comment: rule
                .get("comment")
                .and_then(Value::as_str)
                .map(str::to_owned),
        };
        for expression in expressions {
            let (key, value) = expression.as_object()?.iter().next()?;
            parsed.take(key, value);
        }
        let text = words.get(&handle).cloned();
        parsed.text =
            text.unwrap_or_else(|| rule.get("expr").map(Value::to_string).unwrap_or_default());
        Some(parsed)
    }

    fn take(&mut self, key: &str, value: &Value) {
        match key {
            "counter" | "continue" | "comment" => {}
            "accept" | "drop" | "return" => {
                self.target = Some(Target::Jump(key.to_ascii_uppercase()));
            }
            "reject" => self.target = Some(Target::Jump("REJECT".to_owned())),
            "queue" => self.target = Some(Target::Jump("NFQUEUE".to_owned())),
            "jump" | "goto" => self.target = Some(jump(key, value)),
            "vmap" => {
                self.is_nft_only = true;
                self.is_conditional = true;
                self.target = Some(of_map(value));
            }
            "xt" => self.take_extension(value),
            "match" => {
                self.is_conditional = true;
                self.is_nft_only |= !is_plain_match(value);
            }
            "limit" | "log" => self.is_conditional |= key == "limit",
            _ => {
                self.is_conditional = true;
                self.is_nft_only = true;
            }
        }
    }

    fn take_extension(&mut self, value: &Value) {
        let word = |key: &str| value.get(key).and_then(Value::as_str);
        let name = word("name").map(str::to_owned);
        match word("type") {
            Some("target") => {
                let known = name.clone().map(Target::Jump);
                self.target = Some(known.unwrap_or_else(Target::unknown));
            }
            // It is for every packet; nft does not print its words.
            Some("match") if name.as_deref() == Some("comment") => {
                self.comment.get_or_insert_default();
            }
            Some("match") => self.is_conditional = true,
            // Old releases of nft name neither.
            _ => {
                self.is_conditional = true;
                self.target.get_or_insert_with(Target::unknown);
            }
        }
        if name.as_deref() != Some("comment") {
            self.extension = self.extension.take().or(name);
        }
    }

    /// The rule as a line of iptables-save. The conditions that iptables has no words for are those
    /// of nft, under a match that no iptables has.
    pub(super) fn line(&self, chain: &str) -> String {
        let mut line = format!("-A {chain}");
        if let Some(comment) = &self.comment {
            let _ = write!(line, " -m comment --comment {}", quote(comment));
        }
        if self.is_conditional {
            let _ = write!(line, " -m nft --string {}", quote(&self.text));
        }
        match &self.target {
            Some(Target::Jump(to)) => {
                let _ = write!(line, " -j {to}");
            }
            Some(Target::Goto(to)) => {
                let _ = write!(line, " -g {to}");
            }
            None => {}
        }
        line
    }
}

/// As iptables-save quotes it.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

fn jump(key: &str, value: &Value) -> Target {
    // A chain without a name has its rules here.
    let Some(to) = value.get("target").and_then(Value::as_str) else {
        return Target::unknown();
    };
    if key == "goto" {
        Target::Goto(to.to_owned())
    } else {
        Target::Jump(to.to_owned())
    }
}

/// A verdict map sends packets to several targets: it may accept unless all of them drop.
fn of_map(value: &Value) -> Target {
    let elements = value.get("data").and_then(|data| data.get("set"));
    let Some(elements) = elements.and_then(Value::as_array) else {
        return Target::unknown(); // a map with a name
    };
    let drops = |element: &Value| {
        let verdict = element.get(1).and_then(Value::as_object);
        verdict.is_some_and(|verdict| verdict.contains_key("drop"))
    };
    if elements.iter().all(drops) {
        Target::Jump("DROP".to_owned())
    } else {
        Target::unknown()
    }
}

/// Whether iptables has words for a match: a field of a header or of the packet, compared with one
/// value, prefix or range.
fn is_plain_match(value: &Value) -> bool {
    let left = value
        .get("left")
        .map(|left| left.get("&").and_then(|and| and.get(0)).unwrap_or(left));
    let field =
        left.is_some_and(|left| left.get("meta").is_some() || left.get("payload").is_some());
    let one = match value.get("right") {
        Some(Value::Object(right)) => right.contains_key("prefix") || right.contains_key("range"),
        Some(Value::Array(_)) | None => false,
        Some(_) => true,
    };
    field && one
}

/// The rules of `nft -a list table` by their handles.
fn by_handle(text: &str) -> HashMap<u64, String> {
    let rule = |line: &str| {
        let (rule, handle) = line.rsplit_once(" # handle ")?;
        let words: Vec<&str> = rule
            .split_whitespace()
            .filter(|word| *word != "counter")
            .collect();
        Some((handle.trim().parse().ok()?, words.join(" ")))
    };
    text.lines().filter_map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft 1.0.6 lists what other programs leave beside our chains.
    const JSON: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
      {"table": {"family": "ip", "name": "filter", "handle": 1}},
      {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "handle": 6, "type": "filter",
        "hook": "input", "prio": 0, "policy": "drop"}},
      {"chain": {"family": "ip", "table": "filter", "name": "rtpengine", "handle": 7}},
      {"rule": {"chain": "INPUT", "handle": 10, "expr": [
        {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": "tcp"}},
        {"counter": {"packets": 3, "bytes": 9}}, {"jump": {"target": "f2b-sshd"}}]}},
      {"rule": {"chain": "INPUT", "handle": 11, "expr": [
        {"counter": {"packets": 0, "bytes": 0}}, {"jump": {"target": "VF-INPUT"}}]}},
      {"rule": {"chain": "INPUT", "handle": 14, "expr": [{"vmap": {"key": {"ct": {"key": "state"}},
        "data": {"set": [["invalid", {"drop": null}], ["established", {"accept": null}]]}}}]}},
      {"rule": {"chain": "INPUT", "handle": 15, "comment": "a \"b\"", "expr": [
        {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["new"]}},
        {"goto": {"target": "rtpengine"}}]}},
      {"rule": {"chain": "INPUT", "handle": 16, "expr": [{"vmap": {"key": {"meta": {"key": "mark"}},
        "data": {"set": [[1, {"drop": null}]]}}}]}},
      {"rule": {"chain": "INPUT", "handle": 17, "expr": [{"drop": null}]}},
      {"rule": {"chain": "rtpengine", "handle": 18, "expr": [
        {"xt": {"type": "target", "name": "RTPENGINE"}}]}},
      {"rule": {"chain": "rtpengine", "handle": 19, "expr": [
        {"xt": {"type": "match", "name": "string"}}, {"accept": null}]}},
      {"rule": {"chain": "rtpengine", "handle": 20, "expr": [{"xt": null}]}}]}"#;
    const TEXT: &str = "table ip filter { # handle 1\n\tchain INPUT { # handle 6\n\t\ttype filter \
                        hook input priority filter; policy drop;\n\t\tmeta l4proto tcp counter \
                        jump f2b-sshd # handle 10\n\t\tct state vmap { invalid : drop, established \
                        : accept } # handle 14\n\t\tct state new goto rtpengine comment \"a\" # \
                        handle 15\n\t\tmeta mark vmap { 1 : drop } # handle 16\n\t}\n}\n";

    #[test]
    fn rules_of_nft_read_as_lines_with_their_targets() {
        let table = NftTable::parse(JSON, TEXT).unwrap();
        let declared = table.declared();
        assert_eq!(declared[0].policy.as_deref(), Some("DROP"));
        assert_eq!(declared[1].policy, None);
        let lines: Vec<String> = ["INPUT", "rtpengine"]
            .into_iter()
            .flat_map(|name| {
                let rules = table.chain(name).unwrap().rules.iter();
                rules.map(move |rule| rule.line(name))
            })
            .collect();
        assert_eq!(
            lines,
            [
                "-A INPUT -m nft --string \"meta l4proto tcp jump f2b-sshd\" -j f2b-sshd",
                "-A INPUT -j VF-INPUT",
                "-A INPUT -m nft --string \"ct state vmap { invalid : drop, established : accept \
                 }\" -j ACCEPT",
                "-A INPUT -m comment --comment \"a \\\"b\\\"\" -m nft --string \"ct state new goto \
                 rtpengine comment \\\"a\\\"\" -g rtpengine",
                "-A INPUT -m nft --string \"meta mark vmap { 1 : drop }\" -j DROP",
                "-A INPUT -j DROP",
                "-A rtpengine -j RTPENGINE",
                "-A rtpengine -m nft --string \"[{\\\"xt\\\":{\\\"name\\\":\\\"string\\\",\
                 \\\"type\\\":\\\"match\\\"}},{\\\"accept\\\":null}]\" -j ACCEPT",
                "-A rtpengine -m nft --string \"[{\\\"xt\\\":null}]\" -j ACCEPT",
            ]
        );
    }

    #[test]
    fn rules_that_only_nft_has_words_for_are_told_apart() {
        let table = NftTable::parse(JSON, TEXT).unwrap();
        let only: Vec<bool> = table
            .chain("INPUT")
            .unwrap()
            .rules
            .iter()
            .map(|r| r.is_nft_only)
            .collect();
        assert_eq!(only, [false, false, true, true, true, false]);
        let names = table.chain("rtpengine").unwrap().rules.iter();
        let names: Vec<Option<&str>> = names.map(|rule| rule.extension.as_deref()).collect();
        assert_eq!(names, [Some("RTPENGINE"), Some("string"), None]);
    }

    #[test]
    fn output_that_is_no_table_gives_none() {
        for json in [
            "",
            "{}",
            "JSON support not compiled-in",
            "{\"nftables\": 1}",
        ] {
            assert!(NftTable::parse(json, TEXT).is_none(), "{json}");
        }
    }
}
