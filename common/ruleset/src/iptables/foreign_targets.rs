//! What foreign rules of `INPUT` can do with a packet before our chain sees it.

use std::collections::{HashMap, HashSet};

use super::words::{options, split, target};
use super::{SavedChain, Table};
use crate::ruleset::INPUT_CHAIN;

/// Targets that refuse packets, with or without an answer.
const REFUSING: [&str; 6] = ["DROP", "REJECT", "TARPIT", "DELUDE", "CHAOS", "STEAL"];

/// Targets after which a packet goes on to the next rule (iptables-extensions(8), xtables-addons(8)).
const PASSING: [&str; 35] = [
    "ACCOUNT",
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CLUSTERIP",
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "DHCPMAC",
    "DNETMAP",
    "DSCP",
    "ECHO",
    "ECN",
    "HL",
    "HMARK",
    "IDLETIMER",
    "IPMARK",
    "LED",
    "LOG",
    "LOGMARK",
    "MARK",
    "NFACCT",
    "NFLOG",
    "NOTRACK",
    "RATEEST",
    "SECMARK",
    "SET",
    "SYSRQ",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TEE",
    "TOS",
    "TRACE",
    "TTL",
    "ULOG",
];

/// What one target does, apart from chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetEffect {
    /// It drops or answers.
    Refuses,
    /// The next rule is asked.
    Passes,
    /// It accepts, or takes the packet: a program behind a queue may let it in, and so does the queue
    /// itself with `--queue-bypass` while no program listens; a media proxy answers for it.
    Takes,
}

/// What a target does that is no chain.
pub fn target_effect(target: &str) -> TargetEffect {
    if REFUSING.contains(&target) {
        TargetEffect::Refuses
    } else if PASSING.contains(&target) {
        TargetEffect::Passes
    } else {
        TargetEffect::Takes
    }
}

/// Which rules of `INPUT` decide on packets before our chain sees them.
pub(super) struct BeforeUs<'t> {
    table: &'t Table,
    names: HashSet<&'t str>,
    /// The chains from which a packet can be accepted without passing the start of ours.
    accepting: HashSet<String>,
    /// The chains from which a packet can be refused.
    refusing: HashSet<String>,
    /// What leaves `INPUT` for good meets a policy that lets it in.
    leaving_accepts: bool,
}

impl<'t> BeforeUs<'t> {
    pub(super) fn of(table: &'t Table) -> Self {
        let mut callers: HashMap<String, Vec<&str>> = HashMap::new();
        let not_our_start = |chain: &&SavedChain| chain.name != INPUT_CHAIN;
        for chain in table.chains.iter().filter(not_our_start) {
            for target in chain.rules.iter().filter_map(|rule| target(rule)) {
                callers.entry(target).or_default().push(&chain.name);
            }
        }
        let names: HashSet<&str> = table.chains.iter().map(|c| c.name.as_str()).collect();
        let reaching = |wanted: TargetEffect| {
            let is_end = |name: &&String| {
                let name = name.as_str();
                name != "RETURN" && !names.contains(name) && target_effect(name) == wanted
            };
            let mut reaching = HashSet::new();
            let mut open: Vec<&str> = callers.keys().filter(is_end).map(String::as_str).collect();
            while let Some(target) = open.pop() {
                for caller in callers.get(target).into_iter().flatten() {
                    if reaching.insert((*caller).to_owned()) {
                        open.push(caller);
                    }
                }
            }
            reaching
        };
        let policy = table
            .chain("INPUT")
            .and_then(|input| input.policy.as_deref());
        Self {
            accepting: reaching(TargetEffect::Takes),
            refusing: reaching(TargetEffect::Refuses),
            names,
            leaving_accepts: policy != Some("DROP"),
            table,
        }
    }

    /// Whether a rule can let a packet in that we would refuse, or lets none come to us.
    pub(super) fn decides(&self, rule: &str) -> bool {
        let Some(words) = split(rule) else {
            return true;
        };
        let Some(target) = target(rule) else {
            return false;
        };
        // In a chain that is jumped to, RETURN comes back to the next rule; in INPUT, and after
        // the end of a chain that INPUT went to for good, the policy decides.
        let leaves = target == "RETURN" || goes_for_good(&words);
        let refuses = !self.is_chain(&target) && target_effect(&target) == TargetEffect::Refuses;
        let ends = target == "RETURN" || refuses;
        self.takes(&target)
            || (leaves && self.leaving_accepts)
            || (ends && is_unconditional(&words))
    }

    /// Whether a rule can refuse some packets, and accept none.
    pub(super) fn only_drops(&self, rule: &str) -> bool {
        let Some(target) = target(rule) else {
            return false;
        };
        let refuses = if self.is_chain(&target) {
            self.refusing.contains(&target)
        } else {
            target_effect(&target) == TargetEffect::Refuses
        };
        // What leaves for a policy of DROP is refused, too.
        let leaves = target == "RETURN" || split(rule).is_some_and(|words| goes_for_good(&words));
        (refuses || (leaves && !self.leaving_accepts)) && !self.decides(rule)
    }

    /// The rules of a chain that can accept.
    pub(super) fn accepting_rules(&self, chain: &str) -> impl Iterator<Item = &'t str> {
        let chain = self.table.chain(chain);
        chain
            .into_iter()
            .flat_map(|chain| &chain.rules)
            .map(String::as_str)
            .filter(|rule| target(rule).is_some_and(|target| self.takes(&target)))
    }

    fn takes(&self, target: &str) -> bool {
        if self.is_chain(target) {
            self.accepting.contains(target)
        } else {
            target != "RETURN" && target_effect(target) == TargetEffect::Takes
        }
    }

    fn is_chain(&self, target: &str) -> bool {
        self.names.contains(target)
    }
}

/// Whether a rule goes to its chain with `-g`: the end of that chain ends the rule's own.
fn goes_for_good(words: &[String]) -> bool {
    options(words).any(|option| option == "-g")
}

/// Whether a rule is for every packet: nothing but comments before its target.
pub(super) fn is_unconditional(words: &[String]) -> bool {
    let rest = words.get(2..).unwrap_or_default();
    let mut rest = rest.iter().map(String::as_str);
    while let Some(word) = rest.next() {
        match word {
            "-j" | "-g" => return true,
            "-m" if rest.next() == Some("comment") => {}
            "--comment" => drop(rest.next()),
            _ => return false,
        }
    }
    false
}
