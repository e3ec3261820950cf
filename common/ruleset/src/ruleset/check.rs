//! What single values cannot check: references, order, bounds.

use std::collections::{BTreeMap, BTreeSet};

use super::outline::Bounds;
use super::{
    Chain, ChainName, FAILSAFE_CHAIN, Family, INPUT_CHAIN, MAX_PROBES, Protocol, Rate, RateUnit,
    Rule, Ruleset, Scope, SetName, Verdict,
};

const MAX_ADMINS: usize = 256;
const MAX_SSH_PORTS: usize = 15;
const MAX_SETS: usize = 4096;
/// Names of dynamic sets in all sets together.
const MAX_DYNAMIC_SET_NAMES: usize = 1 << 16;
const MAX_CHAINS: usize = 256;
const MAX_RULES: usize = 50_000;
/// Of all sets together.
const MAX_ALL_ELEMENTS: usize = 1 << 22;
/// The longest encoded rule: every match at once is below 1 KiB.
const MAX_RULE_BYTES: usize = 4096;
/// The longest encoded probe: its name and its host are below 400 bytes.
const MAX_PROBE_BYTES: usize = 512;

/// What may be read at all.
pub(super) const BOUNDS: Bounds = Bounds {
    admins: MAX_ADMINS,
    ssh_ports: MAX_SSH_PORTS * 3, // bytes of a port above 16383
    sets: MAX_SETS,
    elements: MAX_ALL_ELEMENTS,
    dynamic_names: MAX_DYNAMIC_SET_NAMES,
    chains: MAX_CHAINS,
    rules: MAX_RULES,
    rule: MAX_RULE_BYTES,
    probes: MAX_PROBES,
    probe: MAX_PROBE_BYTES,
};

/// Bytes that are no ruleset that we would run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a valid ruleset: {0}")]
pub struct InvalidRuleset(String);

impl InvalidRuleset {
    /// What is wrong, for a message of another kind.
    pub(super) fn into_reason(self) -> String {
        self.0
    }
}

pub(super) fn invalid(why: impl Into<String>) -> InvalidRuleset {
    InvalidRuleset(why.into())
}

impl Ruleset {
    /// Checks what no single value can: references, order, bounds.
    pub fn check(&self) -> Result<(), InvalidRuleset> {
        let first = self
            .chains
            .first()
            .ok_or_else(|| invalid("it has no chain"))?;
        if first.name.as_str() != INPUT_CHAIN || first.rules.is_empty() {
            return Err(invalid(format!(
                "its first chain must be {INPUT_CHAIN}, with rules"
            )));
        }
        if self.admins.is_empty() || self.admins.len() > MAX_ADMINS {
            return Err(invalid(format!("it needs 1 to {MAX_ADMINS} admins")));
        }
        if !self.admins.is_sorted_by(|a, b| a < b) || !self.ssh_ports.is_sorted_by(|a, b| a < b) {
            return Err(invalid("admins and SSH ports must ascend"));
        }
        if self.ssh_ports.is_empty()
            || self.ssh_ports.len() > MAX_SSH_PORTS
            || self.ssh_ports.contains(&0)
        {
            return Err(invalid(format!("it needs 1 to {MAX_SSH_PORTS} SSH ports")));
        }
        if self.sets.len() > MAX_SETS || !self.sets.is_sorted_by(|a, b| a.name < b.name) {
            return Err(invalid(format!("sets must ascend, at most {MAX_SETS}")));
        }
        self.check_dynamic_names()?;
        if self.chains.len() > MAX_CHAINS || self.rule_count() > MAX_RULES {
            return Err(invalid(format!(
                "more than {MAX_CHAINS} chains or {MAX_RULES} rules"
            )));
        }
        if self.probes.len() > MAX_PROBES {
            return Err(invalid(format!("more than {MAX_PROBES} probes")));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.probes.iter().find(|p| !names.insert(&p.name)) {
            return Err(invalid(format!("probe {} is given twice", twice.name)));
        }
        self.check_chains()
    }

    /// Both families of a set belong to the same owner and dynamic sets.
    fn check_dynamic_names(&self) -> Result<(), InvalidRuleset> {
        let names: usize = self.sets.iter().map(|set| set.dynamic.len()).sum();
        if names > MAX_DYNAMIC_SET_NAMES {
            return Err(invalid(format!(
                "sets name more than {MAX_DYNAMIC_SET_NAMES} dynamic sets"
            )));
        }
        if let Some(set) = self
            .sets
            .iter()
            .find(|set| !set.dynamic.is_sorted_by(|a, b| a < b))
        {
            return Err(invalid(format!(
                "the dynamic sets of set {} do not ascend",
                set.name
            )));
        }
        let mut sets = self.sets.iter().zip(self.sets.iter().skip(1));
        match sets.find(|(a, b)| {
            a.name.stem == b.name.stem
                && (a.dynamic != b.dynamic || a.owner != b.owner || a.within != b.within)
        }) {
            Some((set, other)) => Err(invalid(format!(
                "sets {} and {} differ in their dynamic sets or owner",
                set.name, other.name
            ))),
            None => Ok(()),
        }
    }

    fn check_chains(&self) -> Result<(), InvalidRuleset> {
        let mut chains: BTreeMap<&ChainName, &Chain> = BTreeMap::new();
        for chain in &self.chains {
            if chain.name.as_str() == FAILSAFE_CHAIN {
                return Err(invalid(format!("{FAILSAFE_CHAIN} is the agent's own")));
            }
            if chains.insert(&chain.name, chain).is_some() {
                return Err(invalid(format!("chain {} is given twice", chain.name)));
            }
        }
        let sets: BTreeSet<&SetName> = self.sets.iter().map(|set| &set.name).collect();
        let mut used: BTreeSet<SetName> = BTreeSet::new();
        for chain in &self.chains {
            for rule in &chain.rules {
                rule.check()
                    .map_err(|why| invalid(format!("rule {}: {why}", rule.label)))?;
                if let Verdict::Jump(target) = &rule.verdict
                    && !chains.contains_key(target)
                {
                    return Err(invalid(format!("rule {} jumps to no chain", rule.label)));
                }
                let Some(stem) = &rule.source_set else {
                    continue;
                };
                for family in Family::BOTH.into_iter().filter(|f| rule.scope.covers(*f)) {
                    let name = SetName {
                        stem: stem.clone(),
                        family,
                    };
                    if !sets.contains(&name) {
                        return Err(invalid(format!("rule {} names no set {name}", rule.label)));
                    }
                    used.insert(name);
                }
            }
        }
        if let Some(set) = self.sets.iter().find(|set| !used.contains(&set.name)) {
            return Err(invalid(format!("no rule uses set {}", set.name)));
        }
        // The kernel refuses loops with "Too many levels of symbolic links"; so do we, sooner.
        let mut settled: BTreeSet<&ChainName> = BTreeSet::new();
        loop {
            let before = settled.len();
            for chain in &self.chains {
                let leads_out = chain.rules.iter().all(|rule| match &rule.verdict {
                    Verdict::Jump(target) => settled.contains(target),
                    _ => true,
                });
                if leads_out {
                    settled.insert(&chain.name);
                }
            }
            if settled.len() == chains.len() {
                return Ok(());
            }
            if settled.len() == before {
                return Err(invalid("its chains jump in a circle"));
            }
        }
    }
}

impl Rule {
    /// Why this rule cannot be rendered, if it cannot.
    fn check(&self) -> Result<(), &'static str> {
        let has_ports = !self.destination_ports.is_any() || !self.source_ports.is_any();
        if has_ports && !matches!(self.protocol, Some(Protocol::Tcp | Protocol::Udp)) {
            return Err("ports need tcp or udp");
        }
        if let Some(source) = &self.source
            && self.scope != Scope::from(Family::of(source))
        {
            return Err("its source is of another family");
        }
        match self.protocol {
            Some(Protocol::Icmp) if self.scope != Scope::V4 => return Err("icmp is IPv4 only"),
            Some(Protocol::Icmpv6) if self.scope != Scope::V6 => return Err("icmpv6 is IPv6 only"),
            Some(Protocol::Icmp | Protocol::Icmpv6) => {}
            Some(Protocol::Other(other)) if other.is_v4_only() && self.scope != Scope::V4 => {
                return Err("IPv6 has no packets of this protocol");
            }
            _ if self.icmp_type.is_some() => return Err("an ICMP type needs icmp or icmpv6"),
            _ => {}
        }
        if self.icmp_type == Some(255) {
            return Err("ICMP type 255 is reserved, and means any type to iptables");
        }
        let overflows = |rate: &Rate| {
            let unit = match rate.unit {
                RateUnit::Second => 1,
                RateUnit::Minute => 60,
                RateUnit::Hour => 3600,
            };
            let period = unit * 10_000 / u64::from(rate.count);
            period * u64::from(rate.burst) > u64::from(u32::MAX)
        };
        if self.limit.as_ref().is_some_and(overflows) {
            return Err("its limit's burst takes longer to refill than the kernel counts");
        }
        Ok(())
    }
}
