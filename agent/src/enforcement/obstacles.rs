//! Rules and sets of other programs that the node's tools cannot print. Ours are read around them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use voipfleet_ruleset::iptables::{HiddenCause, HiddenRule, Unprintable};
use voipfleet_ruleset::ruleset::{CHAIN_PREFIX, Family};

use super::kernel_state::KernelState;
use crate::kernel::SetObstacle;

/// Rules that a message names.
const NAMED: usize = 3;

/// What was read only by other means than iptables-save and ipset save.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Obstacles {
    /// The filter tables of the families that were read; none: iptables-save prints it.
    pub tables: BTreeMap<Family, Option<Unprintable>>,
    /// None where the sets were not read.
    pub sets: Option<Option<SetObstacle>>,
}

impl Obstacles {
    /// Takes them from what was read.
    pub(super) fn of(read: &mut KernelState) -> Self {
        let tables = read.tables.iter();
        let of_table = tables.filter_map(|(family, table)| {
            let table = table.as_ref().ok()?;
            Some((*family, table.unprintable.clone()))
        });
        Self {
            tables: of_table.collect(),
            sets: match &read.sets {
                Some(Ok(_)) => Some(read.set_obstacle.take()),
                Some(Err(_)) | None => None,
            },
        }
    }

    /// Takes what a later inspection found of the parts that it read.
    pub fn update(&mut self, newer: Obstacles) {
        self.tables.extend(newer.tables);
        self.sets = newer.sets.or(self.sets.take());
    }

    /// Whether the rules of `family` could not be printed.
    pub fn has_unprintable(&self, family: Family) -> bool {
        self.tables.get(&family).is_some_and(Option::is_some)
    }

    /// A line for each. `author` is who made the rules of a family unprintable, where it is known.
    pub fn describe(&self, author: impl Fn(Family) -> Option<String>) -> Vec<String> {
        let mut lines: Vec<String> = self
            .tables
            .iter()
            .filter_map(|(family, why)| {
                Some(describe_table(
                    *family,
                    why.as_ref()?,
                    author(*family).as_deref(),
                ))
            })
            .collect();
        lines.extend(self.sets.iter().flatten().map(describe_sets));
        lines
    }
}

/// A program that is known to make rules which iptables cannot print.
struct Program {
    name: &'static str,
    is: fn(&HiddenRule) -> bool,
    advice: &'static str,
}

const PROGRAMS: [Program; 2] = [
    Program {
        name: "rtpengine",
        is: |rule| {
            let names = |text: &str| text.to_ascii_lowercase().contains("rtpengine");
            let by_extension = match &rule.cause {
                HiddenCause::NoLibrary(Some(extension)) => names(extension),
                _ => false,
            };
            by_extension || names(&rule.chain) || names(&rule.text)
        },
        advice: "start it with --nftables-family=inet, which gives it a table of its own",
    },
    Program {
        name: "tailscale",
        is: |rule| {
            let names = |text: &str| text.contains("ts-") || text.contains("tailscale");
            names(&rule.chain) || names(&rule.text)
        },
        advice: "set TS_DEBUG_FIREWALL_MODE=iptables for tailscaled, and restart it",
    },
];

fn describe_table(family: Family, why: &Unprintable, author: Option<&str>) -> String {
    let ours = |rule: &&HiddenRule| rule.chain.starts_with(CHAIN_PREFIX);
    let foreign: Vec<&HiddenRule> = why.rules.iter().filter(|rule| !ours(rule)).collect();
    let (_, tool) = family_and_tool(family);
    let Some(first) = foreign.first() else {
        return format!(
            "{tool}-save cannot print the {family} rules, so they are read chain by chain: {}",
            why.reason
        );
    };
    let mut text = format!("{tool}-save cannot print the {family} rules because of ");
    for (index, rule) in foreign.iter().take(NAMED).enumerate() {
        let and = if index > 0 { " and " } else { "" };
        let _ = write!(text, "{and}this rule in {}: {}", rule.chain, rule.text);
    }
    if let Some(more @ 1..) = foreign.len().checked_sub(NAMED) {
        let _ = write!(text, " and {more} more");
    }
    let known = PROGRAMS
        .iter()
        .find(|program| foreign.iter().any(|rule| (program.is)(rule)));
    match (known, author) {
        (Some(program), _) => {
            let _ = write!(text, " (likely made by {})", program.name);
        }
        (None, Some(author)) => {
            let _ = write!(text, " (made by {author})");
        }
        (None, None) => {}
    }
    text.push_str("; the policy is in force, and is read around it; ");
    match (known, &first.cause) {
        (Some(program), _) => text.push_str(program.advice),
        (None, HiddenCause::NoLibrary(Some(extension))) => {
            let _ = write!(
                text,
                "install the iptables extension {extension} (libxt_{extension}.so), or remove the \
                 rule"
            );
        }
        (None, HiddenCause::NoLibrary(None)) => {
            text.push_str("install the iptables extension that it needs, or remove it");
        }
        (None, HiddenCause::NftOnly) => {
            let (nft, _) = family_and_tool(family);
            let _ = write!(
                text,
                "have its program use a table of its own, such as inet NAME (for rtpengine: \
                 --nftables-family=inet), then see: nft -a list chain {nft} filter {}",
                first.chain
            );
        }
    }
    text
}

/// The words of nft and of iptables for a family.
fn family_and_tool(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("ip", "iptables"),
        Family::V6 => ("ip6", "ip6tables"),
    }
}

fn describe_sets(why: &SetObstacle) -> String {
    let sets = match why.sets.as_slice() {
        [] => String::new(),
        [one] => format!(" because of the foreign set {one}"),
        more => format!(" because of the foreign sets {}", more.join(", ")),
    };
    format!(
        "ipset cannot save all sets{sets}, so Voipfleet's own are read by name; install the ipset \
         that the program of that set needs: {}",
        why.reason
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(chain: &str, text: &str, cause: HiddenCause) -> HiddenRule {
        HiddenRule {
            chain: chain.to_owned(),
            place: 0,
            text: text.to_owned(),
            cause,
        }
    }

    fn described(rules: Vec<HiddenRule>, author: Option<&str>) -> String {
        let reason = "iptables-save exited with status 3: no".to_owned();
        let unprintable = Some(Unprintable { reason, rules });
        let mut obstacles = Obstacles::default();
        obstacles.update(Obstacles {
            tables: BTreeMap::from([(Family::V4, unprintable)]),
            sets: None,
        });
        let lines = obstacles.describe(|_| author.map(str::to_owned));
        assert_eq!(lines.len(), 1, "{lines:?}");
        // It is mended.
        obstacles.update(Obstacles {
            tables: BTreeMap::from([(Family::V4, None)]),
            sets: None,
        });
        assert!(obstacles.describe(|_| None).is_empty());
        lines.concat()
    }

    #[test]
    fn warning_names_the_rule_its_program_and_what_to_do() {
        let vmap = || {
            hidden(
                "INPUT",
                "ct state vmap { new : drop }",
                HiddenCause::NftOnly,
            )
        };
        let library = |name: &str| HiddenCause::NoLibrary(Some(name.to_owned()));
        for (rules, author, words) in [
            (
                vec![vmap()],
                None,
                &["ct state vmap { new : drop }", "ip filter INPUT"][..],
            ),
            (
                vec![vmap()],
                Some("mine (pid 7)"),
                &["made by mine (pid 7)"],
            ),
            (
                vec![vmap(), hidden("rtpengine", "counter", HiddenCause::NftOnly)],
                Some("mine (pid 7)"),
                &["likely made by rtpengine", "--nftables-family=inet"],
            ),
            (
                vec![hidden("media", "xt target", library("RTPENGINE"))],
                None,
                &["likely made by rtpengine"],
            ),
            (
                vec![hidden("ts-input", "meta mark", HiddenCause::NftOnly)],
                None,
                &["likely made by tailscale", "TS_DEBUG_FIREWALL_MODE"],
            ),
            (
                vec![hidden("INPUT", "x", library("geoip"))],
                None,
                &["libxt_geoip.so"],
            ),
            (
                // Ours is drift, and no warning.
                vec![hidden("VF-INPUT", "x", HiddenCause::NftOnly)],
                None,
                &["chain by chain", "exited with status 3: no"],
            ),
        ] {
            let text = described(rules, author);
            for word in words {
                assert!(text.contains(word), "{word} in {text}");
            }
        }
        let many = vec![vmap(), vmap(), vmap(), vmap()];
        assert!(described(many, None).contains(" and 1 more;"));
    }
}
