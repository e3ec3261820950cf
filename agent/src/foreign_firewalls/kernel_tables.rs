//! The tables of the kernel through which packets to and from the node pass.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use voipfleet_ruleset::foreign::{Action, ForeignTable, read_iptables, read_nft};
use voipfleet_ruleset::iptables::{Table, parse_save};
use voipfleet_ruleset::ruleset::Family;

use super::nft_presence::NftPresence;
use crate::host::Host;
use crate::kernel::{Backend, Kernel, nft_generation};

/// Tables of iptables beside `filter` in which rules can refuse packets.
const OTHERS: [&str; 2] = ["raw", "mangle"];
/// Tables of `nf_tables` that are read.
const MAX_NFT_TABLES: usize = 16;
/// The tables of iptables-nft.
const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// The tables, as they were read last.
#[derive(Debug, Default)]
pub(super) struct KernelTables {
    /// The number of the last transaction of `nf_tables`.
    generation: Option<u32>,
    /// Of all that the tools printed.
    hash: Option<u64>,
    presence: NftPresence,
    /// `filter` of each family.
    pub(super) filter: Vec<(Family, Table)>,
    /// `raw` and `mangle`.
    pub(super) others: Vec<(Family, &'static str, Table)>,
    /// `filter` of the backend that is not this node's.
    pub(super) other_backend: Vec<(Family, Table)>,
    /// Tables of `nf_tables` that are not of iptables.
    pub(super) native: Vec<ForeignTable>,
    /// What `nft` printed of them.
    pub(super) native_text: Vec<String>,
}

/// What the tools print of one table; none where they cannot.
type Printed = (Family, &'static str, Option<String>);

impl KernelTables {
    /// Reads what may have changed since the last time. Returns whether anything did.
    ///
    /// `nf_tables` has a number that changes with every transaction; tables of legacy iptables have
    /// none, and are printed each time: 2 ms a table.
    /// `all` reads also what no change was announced of.
    pub(super) fn refresh(&mut self, host: &Host, kernel: &mut dyn Kernel, all: bool) -> bool {
        let has_nft = kernel.backend() == Backend::Nft || self.presence.is_there(&host.root);
        let generation = has_nft.then(nft_generation).flatten();
        let nft_changed = has_nft && (generation.is_none() || generation != self.generation);
        if kernel.backend() == Backend::Nft && !nft_changed && !all {
            return false;
        }
        let mut texts = print(host, kernel);
        let hash = {
            let mut hasher = DefaultHasher::new();
            (&texts, generation).hash(&mut hasher);
            hasher.finish()
        };
        self.generation = generation;
        let tells = !has_nft || generation.is_some();
        if self.hash.replace(hash) == Some(hash) && tells && !all {
            return false;
        }
        let mut unprintable = Vec::new();
        self.filter.clear();
        self.others.clear();
        self.other_backend.clear();
        for (family, name, text) in texts.drain(..) {
            let text = text.map(|text| text.replacen(&format!("*{name}\n"), "*filter\n", 1));
            let Some(table) = text.and_then(|text| parse_save(&text).ok()) else {
                // Rules that iptables has no words for: nft shows the others, too.
                unprintable.push((family, name));
                continue;
            };
            if name == "filter" {
                self.filter.push((family, table));
            } else {
                self.others.push((family, name, table));
            }
        }
        for family in spoken(kernel) {
            let saved = kernel.save_other_backend(family);
            let table = saved.and_then(|text| parse_save(&text).ok());
            self.other_backend
                .extend(table.map(|table| (family, table)));
        }
        if has_nft {
            self.native_text = native(host, &unprintable);
        }
        let native = self.native_text.iter().filter_map(|text| read_nft(text));
        self.native = native.flatten().collect();
        true
    }

    /// All of them, in the order in which packets pass. `judged` says what becomes of a packet that the
    /// policy lets in when it comes to our chain.
    pub(super) fn foreign(&self, judged: &Action) -> Vec<ForeignTable> {
        let others = self.others.iter();
        let others =
            others.map(|(family, name, table)| read_iptables(name, *family, table, judged));
        let filter = self.filter.iter();
        let filter = filter.map(|(family, table)| read_iptables("filter", *family, table, judged));
        let beside = self.other_backend.iter().map(|(family, table)| {
            read_iptables("filter of the other backend", *family, table, judged)
        });
        let native = self.native.iter().cloned();
        let native = native.map(|table| table.without_ours(judged));
        others.chain(native).chain(filter).chain(beside).collect()
    }
}

fn spoken(kernel: &dyn Kernel) -> Vec<Family> {
    let both = Family::BOTH.into_iter();
    both.filter(|family| kernel.speaks(*family)).collect()
}

fn print(host: &Host, kernel: &mut dyn Kernel) -> Vec<Printed> {
    let mut texts = Vec::new();
    for family in spoken(kernel) {
        texts.push((family, "filter", kernel.save(family).ok()));
        let program = match family {
            Family::V4 => "iptables-save",
            Family::V6 => "ip6tables-save",
        };
        for name in OTHERS {
            // Asking the legacy tool makes the kernel load and register the table.
            if kernel.backend() == Backend::Legacy && !is_registered(family, name) {
                continue;
            }
            let saved = host.runner.run(program, &["-t", name], "");
            texts.push((family, name, saved.ok().map(|output| output.stdout)));
        }
    }
    for text in texts.iter_mut().filter_map(|(_, _, text)| text.as_mut()) {
        *text = text.lines().filter_map(without_counters).collect();
    }
    texts
}

/// A line without what changes with time and with packets; `None` for one that holds nothing else.
fn without_counters(line: &str) -> Option<String> {
    if line.starts_with('#') && !line.contains("incompatible") {
        return None;
    }
    let end = line.starts_with(':').then(|| line.rfind(" [")).flatten();
    let line = end.and_then(|end| line.get(..end)).unwrap_or(line);
    Some(format!("{line}\n"))
}

/// Whether legacy iptables has that table in the network namespace of the calling thread.
fn is_registered(family: Family, table: &str) -> bool {
    let names = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    let names = std::fs::read_to_string(names).unwrap_or_default();
    names.lines().any(|name| name == table)
}

/// What nft prints of each table that iptables-save does not.
fn native(host: &Host, unprintable: &[(Family, &str)]) -> Vec<String> {
    let Ok(listed) = host.runner.run("nft", &["list", "tables"], "") else {
        return Vec::new(); // not installed, or too old for this kernel
    };
    let tables = listed.stdout.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("table"), Some(family), Some(name)) => Some((family, name)),
            _ => None,
        }
    });
    tables
        .filter(|(family, name)| {
            let of = match *family {
                "ip" => Family::V4,
                "ip6" => Family::V6,
                _ => return true,
            };
            !IPTABLES.contains(name) || unprintable.contains(&(of, *name))
        })
        .take(MAX_NFT_TABLES)
        .filter_map(|(family, name)| {
            let arguments = ["-j", "list", "table", family, name];
            Some(host.runner.run("nft", &arguments, "").ok()?.stdout)
        })
        .collect()
}
