//! Sets of others that foreign rules name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use voipfleet_ruleset::foreign::{NetSet, Sets};

use crate::host::exec::Runner;

/// Sets that are read.
const MAX_SETS: usize = 32;
/// Sets that are read at a time, each by a run of the tool: 2 ms. The others wait for their turn.
const READS: usize = 8;
/// Elements of a set that is read at every turn; no event announces them.
const FEW: usize = 4096;
/// A larger one is read when the number of its elements changes, and every so many times: one entry may
/// have replaced another.
const LARGE_EVERY: u32 = 20;

/// The sets, as they were read last.
#[derive(Debug, Default)]
pub(super) struct ForeignSets {
    pub(super) sets: Sets,
    /// Elements of each.
    sizes: BTreeMap<String, usize>,
    count: u32,
    /// The last name that had its turn.
    last: String,
}

impl ForeignSets {
    /// Reads the sets of these names as far as they may have changed. Returns whether they did.
    pub(super) fn refresh<'n>(
        &mut self,
        runner: &Runner,
        names: impl Iterator<Item = &'n str>,
    ) -> bool {
        self.count = self.count.wrapping_add(1);
        let names: BTreeSet<&str> = names.take(MAX_SETS).collect();
        let before = self.sets.len();
        self.sets.retain(|name, _| names.contains(name.as_str()));
        self.sizes.retain(|name, _| names.contains(name.as_str()));
        let mut changed = self.sets.len() != before;
        // Those that were never read come first, then those after the last turn.
        let (known, new): (Vec<&str>, Vec<&str>) = names
            .into_iter()
            .partition(|name| self.sizes.contains_key(*name));
        let after = known.iter().filter(|name| **name > self.last.as_str());
        let again = known.iter().filter(|name| **name <= self.last.as_str());
        let turns: Vec<String> = new
            .iter()
            .chain(after)
            .chain(again)
            .take(READS.max(new.len()))
            .map(|name| (*name).to_owned())
            .collect();
        for name in turns {
            changed |= self.read(runner, &name);
            self.last = name;
        }
        changed
    }

    fn read(&mut self, runner: &Runner, name: &str) -> bool {
        let large = self.sizes.get(name).copied().filter(|size| *size > FEW);
        if large.is_some_and(|before| size(runner, name) == Some(before))
            && !self.count.is_multiple_of(LARGE_EVERY)
        {
            return false;
        }
        // Not there, or of a kind that this ipset does not know: it matches nothing that is known.
        let (nets, count) = addresses(runner, name, true).unwrap_or_default();
        self.sizes.insert(name.to_owned(), count);
        self.sets.insert(name.to_owned(), nets.clone()) != Some(nets)
    }
}

/// The number of a set's elements; before 6.31 ipset does not tell.
fn size(runner: &Runner, name: &str) -> Option<usize> {
    let listed = runner.run("ipset", &["list", "-t", name], "").ok()?;
    let mut lines = listed.stdout.lines();
    let size = lines.find_map(|line| line.strip_prefix("Number of entries: "));
    size.and_then(|size| size.trim().parse().ok())
}

/// The addresses of a set with the number of its elements; those of the sets in a list of sets, too.
fn addresses(runner: &Runner, name: &str, follow: bool) -> Option<(NetSet, usize)> {
    let saved = runner.run("ipset", &["save", name], "").ok()?;
    let mut nets = Vec::new();
    let mut members = Vec::new();
    let mut count = 0;
    let mut is_list = false;
    for line in saved.stdout.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(verb), Some(_), Some(element)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        if verb == "create" {
            is_list = element == "list:set";
            continue;
        }
        count += 1;
        if words.any(|word| word == "nomatch") {
            continue;
        }
        let address = element.parse::<IpAddr>().map(IpNet::from);
        match element.parse::<IpNet>().or(address) {
            Ok(net) => nets.push(net.trunc()),
            Err(_) if is_list && follow => members.push(element),
            Err(_) => {} // with a port or an interface
        }
    }
    let mut all: NetSet = nets.into_iter().collect();
    for member in members.into_iter().take(MAX_SETS) {
        if let Some((nets, _)) = addresses(runner, member, false) {
            all.extend(&nets);
        }
    }
    Some((all, count))
}
