//! One node's chains, in the order that the design gives.

use voipfleet_policy::catalogue::Group;
use voipfleet_policy::{DefaultVerdict, NodeCluster};
use voipfleet_ruleset::ruleset::{
    Chain, ConnectionState, ConnectionStates, Family, INPUT_CHAIN, Mode, Rate, RateUnit, Rule,
    RuleSubject, Scope, Verdict,
};

use super::CompileError;
use super::cluster::Members;
use super::deny::DENY_CHAIN;
use super::openings::{LIMIT_CHAIN, Limit, Opening, SIP_LIMIT_CHAIN};
use super::set_names::{label, rule};

/// Lines in the kernel log about what was refused: enough to see who knocks, and not a way to
/// fill a disk.
const LOG_LIMIT: Rate = Rate {
    count: 10,
    unit: RateUnit::Minute,
    burst: 20,
};
/// The chain that logs sources above their limit, where nothing is dropped.
pub(crate) const OBSERVED_CHAIN: &str = "VF-OBSERVED";

/// What all nodes of a site have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) members: Members,
    /// Addresses that operators block for a while although the site serves them.
    pub(super) forced: Vec<Rule>,
    /// Those that they block.
    pub(super) block: Vec<Rule>,
    /// Those that they open.
    pub(super) open: Vec<Rule>,
    /// The chain of what is denied; empty where nothing is.
    pub(super) deny: Vec<Rule>,
    /// The sources that skip limits.
    pub(super) exempt: Vec<Rule>,
    /// Those that skip the limits of media besides.
    pub(super) media_exempt: Vec<Rule>,
    pub(super) default: DefaultVerdict,
    pub(super) mode: Mode,
}

/// The chains of a node with these openings, as they enforce the policy.
pub(super) fn chains(
    common: &Common,
    openings: &[&Opening],
    cluster: &NodeCluster<'_>,
) -> Result<Vec<Chain>, CompileError> {
    let of = |group: Group| {
        openings
            .iter()
            .filter(move |opening| opening.group == group)
    };
    let mut input: Vec<Rule> = Vec::new();
    input.extend(common.forced.iter().cloned());
    let members = common.members.rules(cluster)?;
    // What a node claims never outranks a block, unless the document names its network.
    let (before, after) = if common.members.by_interface_alone {
        (Vec::new(), members)
    } else {
        (members, Vec::new())
    };
    input.extend(before);
    input.extend(common.block.iter().cloned());
    input.extend(after);
    input.extend(common.open.iter().cloned());
    if !common.deny.is_empty() {
        let jump = Verdict::Jump(DENY_CHAIN.parse()?);
        input.push(rule(RuleSubject::Deny, &[], jump)?);
    }
    input.push(with_states(
        rule(RuleSubject::Established, &[], Verdict::Accept)?,
        [ConnectionState::Established, ConnectionState::Related],
    ));
    input.push(with_states(
        rule(RuleSubject::Invalid, &[], Verdict::Drop)?,
        [ConnectionState::Invalid],
    ));
    limited(of(Group::Rtp), &mut input);
    for limit in of(Group::Sip).filter_map(|opening| opening.limit.as_ref()) {
        input.extend(limit.jumps.iter().cloned());
    }
    for opening in of(Group::Sip) {
        input.extend(opening.accepts.iter().cloned());
    }
    limited(of(Group::T38), &mut input);
    limited(of(Group::Other), &mut input);
    input.push(log(RuleSubject::Log, common.mode)?);
    let default = match common.default {
        DefaultVerdict::Drop => Verdict::Drop,
        DefaultVerdict::Reject => Verdict::Reject,
    };
    input.push(rule(RuleSubject::Default, &[], default)?);

    let mut chains = vec![chain(INPUT_CHAIN, input)?];
    if !common.deny.is_empty() {
        chains.push(chain(DENY_CHAIN, common.deny.clone())?);
    }
    let sip = of(Group::Sip).filter_map(|opening| opening.limit.as_ref());
    let sip: Vec<Rule> = sip.flat_map(|limit| limit.drops.iter().cloned()).collect();
    if !sip.is_empty() {
        let rules = common.exempt.iter().cloned().chain(sip).collect();
        chains.push(chain(SIP_LIMIT_CHAIN, rules)?);
    }
    let others = openings
        .iter()
        .filter(|opening| opening.group != Group::Sip);
    let others: Vec<&Limit> = others
        .filter_map(|opening| opening.limit.as_ref())
        .collect();
    if !others.is_empty() {
        let mut rules = common.exempt.clone();
        if others.iter().any(|limit| limit.media) {
            rules.extend(common.media_exempt.iter().cloned());
        }
        rules.extend(others.iter().flat_map(|limit| limit.drops.iter().cloned()));
        chains.push(chain(LIMIT_CHAIN, rules)?);
    }
    Ok(chains)
}

/// The openings' rules, the limits of each before it.
fn limited<'a>(openings: impl Iterator<Item = &'a &'a Opening>, input: &mut Vec<Rule>) {
    for opening in openings {
        if let Some(limit) = &opening.limit {
            input.extend(limit.jumps.iter().cloned());
        }
        input.extend(opening.accepts.iter().cloned());
    }
}

/// The same chains with nothing decided: what would be dropped is logged, and every packet goes
/// back to the rest of `INPUT`, so that what another firewall closes stays closed.
pub(super) fn observe(chains: Vec<Chain>) -> Result<Vec<Chain>, CompileError> {
    let mut observed = Vec::with_capacity(chains.len() + 1);
    let mut logs_limits = false;
    for Chain { name, rules } in chains {
        let mut kept = Vec::with_capacity(rules.len() + 4);
        for mut rule in rules {
            if !matches!(rule.verdict, Verdict::Drop | Verdict::Reject) {
                if rule.verdict == Verdict::Accept {
                    rule.verdict = Verdict::Return;
                }
                kept.push(rule);
            } else if rule.source_limit.is_some() {
                // A second rule on the same hashlimit table would count every packet twice.
                logs_limits = true;
                rule.verdict = Verdict::Jump(OBSERVED_CHAIN.parse()?);
                kept.push(rule);
            } else {
                // The default verdict has its log rule already.
                if rule.subject != Some(RuleSubject::Default) {
                    kept.push(Rule {
                        label: label(&format!("{}:log", rule.label))?,
                        subject: Some(RuleSubject::WouldDrop),
                        limit: Some(LOG_LIMIT),
                        verdict: Verdict::Log(prefix(Mode::Observe).parse()?),
                        ..rule.clone()
                    });
                }
                rule.verdict = Verdict::Return;
                kept.push(rule);
            }
        }
        observed.push(Chain { name, rules: kept });
    }
    if logs_limits {
        observed.push(chain(
            OBSERVED_CHAIN,
            vec![log(RuleSubject::OverLimit, Mode::Observe)?],
        )?);
    }
    Ok(observed)
}

/// Leaves the rules of IPv6 out.
pub(super) fn only_ipv4(chains: &mut [Chain]) {
    for chain in chains {
        chain.rules.retain(|rule| rule.scope.covers(Family::V4));
        for rule in &mut chain.rules {
            rule.scope = Scope::V4;
        }
    }
}

fn log(subject: RuleSubject, mode: Mode) -> Result<Rule, CompileError> {
    let mut rule = rule(subject, &[], Verdict::Log(prefix(mode).parse()?))?;
    rule.limit = Some(LOG_LIMIT);
    Ok(rule)
}

fn prefix(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "vf-drop: ",
        Mode::Observe => "vf-would-drop: ",
    }
}

fn chain(name: &str, rules: Vec<Rule>) -> Result<Chain, CompileError> {
    Ok(Chain {
        name: name.parse()?,
        rules,
    })
}

fn with_states(mut rule: Rule, states: impl IntoIterator<Item = ConnectionState>) -> Rule {
    rule.states = ConnectionStates::new(states);
    rule
}
