//! Files of firewall rules that the distribution loads at boot.

use std::ffi::OsStr;

use voipfleet_ruleset::ruleset::{CHAIN_PREFIX, SET_PREFIX};

use super::{ForeignFirewall, ForeignFirewallKind, foreign_firewall};
use crate::host::Host;
use crate::host::exec::{ExecError, Runner};
use crate::kernel::in_empty_namespace;

/// The longest file that is looked into.
const MAX_FILE: u64 = 4 << 20;
/// The longest words of a tool that are repeated.
const MAX_WORDS: usize = 200;

/// A file that nobody else locks for the tables' sake.
const NO_LOCK: &str = "/dev/null";

/// With `--test`, iptables-nft would not miss a chain that is not there.
const NO_ARGUMENTS: [&str; 0] = [];

/// What loads a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loader {
    Iptables,
    Ip6tables,
    Nft,
}

/// Where Debian, Red Hat, SUSE, Gentoo and Alpine keep them.
const FILES: [(Loader, &str); 14] = [
    (Loader::Nft, "/etc/nftables.conf"),
    (Loader::Nft, "/etc/sysconfig/nftables.conf"),
    (Loader::Nft, "/etc/nftables.nft"),
    (Loader::Nft, "/var/lib/nftables/rules-save"),
    (Loader::Iptables, "/etc/iptables/rules.v4"),
    (Loader::Ip6tables, "/etc/iptables/rules.v6"),
    (Loader::Iptables, "/etc/sysconfig/iptables"),
    (Loader::Ip6tables, "/etc/sysconfig/ip6tables"),
    (Loader::Iptables, "/etc/iptables.rules"),
    (Loader::Iptables, "/etc/iptables.up.rules"),
    (Loader::Iptables, "/etc/iptables/iptables.rules"),
    (Loader::Ip6tables, "/etc/iptables/ip6tables.rules"),
    (Loader::Iptables, "/var/lib/iptables/rules-save"),
    (Loader::Ip6tables, "/var/lib/ip6tables/rules-save"),
];

/// Where sets are kept that are there before the rules.
const SETS: [&str; 4] = [
    "/etc/ipset.conf",
    "/etc/sysconfig/ipset",
    "/etc/iptables/ipsets",
    "/etc/ipset/ipset.conf",
];

/// Files that hold our chains, or that will not load.
pub(super) fn find(host: &Host) -> Vec<ForeignFirewall> {
    FILES
        .into_iter()
        .filter_map(|(loader, path)| {
            let text = host.root.text(path, MAX_FILE)?;
            check(host, loader, path, &text)
        })
        .collect()
}

fn check(host: &Host, loader: Loader, path: &str, text: &str) -> Option<ForeignFirewall> {
    let is_rule = |line: &&str| !line.trim_start().starts_with('#');
    let ours = |line: &str| line.contains(CHAIN_PREFIX) || line.contains(SET_PREFIX);
    let holds_ours = text.lines().filter(is_rule).any(ours);
    let refusal = refusal(host, loader, path, text);
    let why = refusal.as_deref().map(|words| {
        let program = match loader {
            Loader::Iptables => "iptables-restore",
            Loader::Ip6tables => "ip6tables-restore",
            Loader::Nft => "nft",
        };
        format!("it will not load at boot, and nothing of it will be in force ({program}: {words})")
    });
    let holds = holds_ours.then(|| "it holds an old copy of our rules".to_owned());
    let words: Vec<String> = holds.into_iter().chain(why).collect();
    if words.is_empty() {
        return None;
    }
    let advice = if holds_ours {
        "take everything of VF-* and vf-* out of it, and check it with the tool that loads it: \
         voipfleet-agent loads the policy at boot by itself"
    } else {
        "mend it, or have what it names loaded before it: the policy is in force all the same"
    };
    Some(foreign_firewall(
        ForeignFirewallKind::SavedRules,
        format!("{path}: {}", words.join("; ")),
        advice,
    ))
}

/// Why the file does not load where nothing but saved sets are there, as at boot; `None` where it
/// loads, or that cannot be tried.
fn refusal(host: &Host, loader: Loader, path: &str, text: &str) -> Option<String> {
    // The tools lock even there: neither do they wait for others then, nor others for them.
    let runner = host.runner.clone().with_lock_file(NO_LOCK.to_owned());
    let sets = saved_sets(host);
    let tried = in_empty_namespace(|| {
        for set in &sets {
            let _known = runner.run("ipset", &["restore", "-exist"], set);
        }
        try_out(&runner, loader, path, text, host)
    });
    match tried {
        // Before 1.8.6 the tools know only one lock, and another program may hold it.
        Ok(Err(ExecError::Refused { words, .. })) if !words.contains("xtables lock") => {
            Some(words.chars().take(MAX_WORDS).collect())
        }
        _ => None,
    }
}

fn try_out(
    runner: &Runner,
    loader: Loader,
    path: &str,
    text: &str,
    host: &Host,
) -> Result<(), ExecError> {
    match loader {
        // It includes other files by their place.
        Loader::Nft => {
            let path = host.root.path(path);
            let arguments = [OsStr::new("-c"), OsStr::new("-f"), path.as_os_str()];
            runner.run("nft", &arguments, "")
        }
        Loader::Iptables => runner.run("iptables-restore", &NO_ARGUMENTS, text),
        Loader::Ip6tables => runner.run("ip6tables-restore", &NO_ARGUMENTS, text),
    }
    .map(drop)
}

/// The lines that make the sets that are saved, without their elements.
fn saved_sets(host: &Host) -> Vec<String> {
    let texts = SETS
        .iter()
        .filter_map(|path| host.root.text(path, MAX_FILE));
    texts
        .flat_map(|text| {
            let made = text.lines().filter(|line| line.starts_with("create "));
            made.map(|line| format!("{line}\n")).collect::<Vec<_>>()
        })
        .collect()
}
