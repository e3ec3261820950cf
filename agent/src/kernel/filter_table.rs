//! The filter table, also where iptables-save does not print it.
//!
//! One rule that iptables has no words for (made by nft, or with an extension whose library is
//! missing) keeps iptables-save from printing the table. `iptables -S` still prints chains without
//! such a rule, and nft prints all of them.

use voipfleet_ruleset::iptables::{
    HiddenCause, HiddenRule, SavedChain, Table, Unprintable, listed_chains, parse_listing,
    parse_save,
};
use voipfleet_ruleset::ruleset::{CHAIN_PREFIX, Family};

use super::nft_listing::{NftChain, NftTable};
use super::{Backend, Kernel, KernelError};

/// How often a table is read anew because another program changed it meanwhile.
const ATTEMPTS: usize = 3;
/// Foreign chains that iptables is asked for, each by a run of the tool: 2 ms. The others are taken
/// from nft.
const MAX_LISTED: usize = 64;
/// Rules of one chain that iptables is asked for one by one.
const MAX_RULES: usize = 256;
/// iptables refuses all rules of a chain where only nft has words for one of them: after so many
/// refusals the rest is taken from nft.
const MAX_REFUSED: usize = 8;

/// Reads the filter table of one family.
pub fn read_table(kernel: &mut dyn Kernel, family: Family) -> Result<Table, KernelError> {
    let saved = kernel.save(family);
    table_from(kernel, family, saved)
}

/// The filter table in the output of iptables-save; by other means where that does not print it.
pub fn table_from(
    kernel: &mut dyn Kernel,
    family: Family,
    saved: Result<String, KernelError>,
) -> Result<Table, KernelError> {
    let parsed = saved
        .and_then(|text| parse_save(&text).map_err(|source| KernelError::Rules { family, source }));
    let error = match parsed {
        Ok(table) => return Ok(table),
        Err(error) if error.is_unprintable() => error,
        Err(error) => return Err(error),
    };
    for _ in 0..ATTEMPTS {
        if let Some((chains, rules)) = read_chains(kernel, family) {
            let reason = error.to_string();
            return Ok(Table {
                chains,
                unprintable: Some(Unprintable { reason, rules }),
            });
        }
    }
    Err(error)
}

/// The chains one by one, and the rules that iptables does not print. None where that is not
/// possible, or a chain went away meanwhile.
fn read_chains(
    kernel: &mut dyn Kernel,
    family: Family,
) -> Option<(Vec<SavedChain>, Vec<HiddenRule>)> {
    let whole = kernel.list(family, None, None).ok()?;
    if whole.refused.is_none() {
        return Some((parse_listing(&whole.text).ok()?.chains, Vec::new()));
    }
    let nft = match kernel.backend() {
        Backend::Nft => NftTable::read(|form| kernel.nft_list(family, form).ok()),
        Backend::Legacy => None,
    };
    let declared = match &nft {
        Some(nft) => nft.declared(),
        None => listed_chains(&whole.text),
    };
    if declared.is_empty() {
        return None;
    }
    let (mut chains, mut hidden) = (Vec::new(), Vec::new());
    let mut foreign = 0;
    for chain in declared {
        let in_nft = nft.as_ref().and_then(|nft| nft.chain(&chain.name));
        let matters = chain.name == "INPUT" || chain.name.starts_with(CHAIN_PREFIX);
        foreign += usize::from(!matters);
        let read = match in_nft {
            Some(in_nft) if foreign > MAX_LISTED && !matters => in_words_of_nft(in_nft),
            _ => read_chain(kernel, family, &chain.name, in_nft)?,
        };
        chains.push(SavedChain {
            rules: read.rules,
            ..chain
        });
        hidden.extend(read.hidden);
    }
    Some((chains, hidden))
}

#[derive(Default)]
struct ChainRules {
    rules: Vec<String>,
    hidden: Vec<HiddenRule>,
}

fn read_chain(
    kernel: &mut dyn Kernel,
    family: Family,
    name: &str,
    in_nft: Option<&NftChain>,
) -> Option<ChainRules> {
    let listing = kernel.list(family, Some(name), None).ok()?;
    if listing.refused.is_none() {
        let table = parse_listing(&listing.text).ok()?;
        return Some(ChainRules {
            rules: table.chain(name)?.rules.clone(),
            hidden: Vec::new(),
        });
    }
    let mut read = ChainRules::default();
    let most = in_nft.map_or(MAX_RULES, |chain| chain.rules.len());
    if most > MAX_RULES {
        return in_nft.map(in_words_of_nft);
    }
    for place in 0..most {
        let listing = kernel.list(family, Some(name), Some(place + 1)).ok()?;
        let Some(refused) = listing.refused else {
            let rule = listing.text.trim_end();
            if rule.is_empty() {
                break;
            }
            read.rules.push(rule.to_owned());
            continue;
        };
        let rule = in_nft.and_then(|chain| chain.rules.get(place));
        let extension = rule
            .and_then(|rule| rule.extension.clone())
            .or_else(|| quoted(&refused.to_string()));
        let (line, text) = match rule {
            Some(rule) => (rule.line(name), rule.text.clone()),
            None => partly_printed(name, &listing.text, extension.as_deref()),
        };
        read.rules.push(line);
        read.hidden.push(HiddenRule {
            chain: name.to_owned(),
            place,
            text,
            cause: HiddenCause::NoLibrary(extension),
        });
        if let Some(in_nft) = in_nft
            && read.hidden.len() == read.rules.len()
            && (read.rules.len() == MAX_REFUSED || read.rules.len() == most)
        {
            return Some(in_words_of_nft(in_nft));
        }
    }
    // Only at the end of the chain is everything known.
    (in_nft.is_some() || read.rules.len() < most).then_some(read)
}

/// The chain where iptables refuses all of its rules.
fn in_words_of_nft(chain: &NftChain) -> ChainRules {
    let name = &chain.name;
    let rules = || chain.rules.iter().enumerate();
    let hidden = |(place, rule): (usize, &super::nft_listing::NftRule)| HiddenRule {
        chain: name.clone(),
        place,
        text: rule.text.clone(),
        cause: match &rule.extension {
            Some(extension) if !rule.is_nft_only => HiddenCause::NoLibrary(Some(extension.clone())),
            _ => HiddenCause::NftOnly,
        },
    };
    let mut found: Vec<HiddenRule> = rules()
        .filter(|(_, rule)| rule.is_nft_only)
        .map(hidden)
        .collect();
    if found.is_empty() {
        found = rules()
            .filter(|(_, rule)| rule.extension.is_some())
            .map(hidden)
            .collect();
    }
    if found.is_empty() {
        found = rules().map(hidden).collect();
    }
    ChainRules {
        rules: chain.rules.iter().map(|rule| rule.line(name)).collect(),
        hidden: found,
    }
}

/// A rule of which iptables printed the start only: as a line, and for people. What it does with a
/// packet is not known, so it counts as one that may accept it.
fn partly_printed(chain: &str, printed: &str, extension: Option<&str>) -> (String, String) {
    let printed = printed.trim_end();
    let start = format!("-A {chain}");
    let printed = if printed.starts_with(&start) {
        printed.to_owned()
    } else {
        start
    };
    let matches = extension
        .map(|name| format!(" -m {name}"))
        .unwrap_or_default();
    (
        format!("{printed}{matches} -j ACCEPT"),
        format!("{printed} …"),
    )
}

/// The name in ``Can't find library for match `string'``.
fn quoted(words: &str) -> Option<String> {
    let (_, rest) = words.split_once('`')?;
    let (name, _) = rest.split_once('\'')?;
    (!name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
        .then(|| name.to_owned())
}
