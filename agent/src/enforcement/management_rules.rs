//! A node that cannot run its confirmed ruleset runs its management rules: only admins and
//! controllers get in.
//!
//! Rules of ours that are in the kernel stay, since they protect better. So this is for a boot, and
//! for a kernel that another program flushed.

use tracing::{error, warn};
use voipfleet_protocol::errors::chain;
use voipfleet_ruleset::iptables::{Failsafe, filter_section, jump_edit, parse_listing, read_rule};
use voipfleet_ruleset::ruleset::{Family, INPUT_CHAIN, InvalidToken, Mode, RuleSubject, Ruleset};

use super::target::{EnforceError, RepairScope, Target};
use super::write::{self, Effort};
use super::{kernel_state, read_back};
use crate::failpoint::{Work, during};
use crate::host::clock;
use crate::kernel::{Kernel, Parts};
use crate::ledger::{Confirmed, Ledger, Management, Note};

/// Where SSH listens if no ruleset tells.
const SSH_PORT: u16 = 22;

/// The confirmed ruleset does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// Since when, and why.
    pub note: Note,
    /// Its protection meanwhile.
    pub protection: Protection,
}

/// The protection of a node that does not run its confirmed ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protection {
    /// The management rules, read back.
    Management,
    /// The same with SSH from anywhere: the list of admins is lost too.
    ManagementFromAnywhere,
    /// Nothing: the site only observes, and must not close the node.
    Nothing,
    /// Nothing, or only one family: the kernel refuses even the management rules.
    Refused(String),
}

impl Fallback {
    /// Whether nothing protects the node that should.
    pub fn is_open(&self) -> bool {
        matches!(self.protection, Protection::Refused(_))
    }

    /// For the log, the operator and the controller.
    pub fn describe(&self) -> String {
        let since = i64::try_from(clock::unix_ms(self.note.since))
            .ok()
            .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
            .map(|time| jiff::fmt::strtime::format("%Y-%m-%d %H:%M:%SZ", time));
        let since = match since {
            Some(Ok(time)) => format!(" since {time}"),
            _ => String::new(),
        };
        let reason = &self.note.reason;
        match &self.protection {
            Protection::Management => {
                format!("this node runs only its management rules{since}: {reason}")
            }
            Protection::ManagementFromAnywhere => format!(
                "this node runs only its management rules{since}, with SSH open to everyone \
                 because its list of admins is lost too: {reason}"
            ),
            Protection::Nothing => {
                format!("this node runs no rules{since}, because its site only observes: {reason}")
            }
            Protection::Refused(why) => format!(
                "this node is not protected{since}: the kernel refuses even its management \
                 rules ({why}): {reason}"
            ),
        }
    }
}

/// The rules in force in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InForce {
    Nothing,
    Management,
    Ruleset,
}

/// The treatment of rules of ours that are in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExistingRules {
    /// They were confirmed once, and stay.
    Keep,
    /// They may be part of a failed change: management rules replace them.
    Replace,
}

/// Loads the management rules where no rules of ours protect the node. None where a ruleset
/// protects both families.
pub fn enter_fallback(
    kernel: &mut dyn Kernel,
    ledger: &Ledger,
    confirmed: Option<&Confirmed>,
    reason: &str,
    existing: ExistingRules,
) -> Option<Fallback> {
    let _work = during(Work::EnterFallback);
    let (management, loaded) = known_management(ledger, confirmed);
    let mode = management
        .as_ref()
        .map_or(Mode::Enforce, |management| management.mode);
    if mode == Mode::Observe
        && existing == ExistingRules::Replace
        && let Err(error) = write::clear(kernel)
    {
        error!(
            reason = chain(&error),
            "rules of the failed change not removed"
        );
    }
    let in_force = load(kernel, management, mode, existing);
    let protection = match in_force {
        Ok([InForce::Ruleset, InForce::Ruleset]) => return None,
        Ok(families) if families.contains(&InForce::Management) => loaded,
        Ok(_) => Protection::Nothing,
        Err(why) => Protection::Refused(why),
    };
    let note = keep_note(ledger, reason);
    Some(Fallback { note, protection })
}

/// The input of the management rules, and the protection that they give.
fn known_management(
    ledger: &Ledger,
    confirmed: Option<&Confirmed>,
) -> (Option<Management>, Protection) {
    match (ledger.management(), confirmed) {
        (Ok(Some(management)), _) => (Some(management), Protection::Management),
        // Its file is missing or damaged, but the ruleset is there.
        (Ok(None) | Err(_), Some(confirmed)) => {
            (Some(Management::from(confirmed)), Protection::Management)
        }
        (Ok(None), None) => (None, Protection::ManagementFromAnywhere),
        (Err(error), None) => {
            error!(reason = chain(&error), "list of admins lost");
            (None, Protection::ManagementFromAnywhere)
        }
    }
}

/// Loads the management rules into both families. Returns what is in force then, or why one family
/// is not protected.
fn load(
    kernel: &mut dyn Kernel,
    management: Option<Management>,
    mode: Mode,
    existing: ExistingRules,
) -> Result<[InForce; 2], String> {
    let (ruleset, failsafe) = rules_of(management).map_err(|error| chain(&error))?;
    let target = Target {
        ruleset: &ruleset,
        failsafe: &failsafe,
        canonical: None,
        now: kernel.now(),
        scope: RepairScope::WHOLE,
    };
    // A refusal of one family must not leave the other one open.
    let families = Family::BOTH.map(|family| protect(kernel, target, family, existing, mode));
    if existing == ExistingRules::Replace && mode == Mode::Enforce {
        release_sets(kernel, target);
    }
    let [v4, v6] = families.map(|protected| protected.map_err(|error| chain(&error)));
    Ok([v4?, v6?])
}

/// The note of the fallback: the first one stays, with its time.
fn keep_note(ledger: &Ledger, reason: &str) -> Note {
    ledger.fallback().unwrap_or_else(|| {
        let note = Note {
            since: clock::now(),
            reason: reason.to_owned(),
        };
        if let Err(error) = ledger.note_fallback(&note) {
            warn!(reason = chain(&error), "fallback not recorded on disk");
        }
        note
    })
}

/// The management rules; SSH from anywhere where the list of admins is lost. SSH asks for a key or
/// password of its own, and a node that no admin can reach is the greater harm.
fn rules_of(management: Option<Management>) -> Result<(Ruleset, Failsafe), InvalidToken> {
    let management = management.map_or_else(admins_anywhere, Ok)?;
    let Management {
        site,
        node,
        admins,
        ssh_ports,
        failsafe,
        mode: _,
        without_ipv6,
    } = management;
    let ruleset = Ruleset::management(site, node, admins, ssh_ports)?;
    let ruleset = Ruleset {
        without_ipv6,
        ..ruleset
    };
    Ok((ruleset, failsafe))
}

fn admins_anywhere() -> Result<Management, InvalidToken> {
    let unknown = |error: voipfleet_ruleset::identifiers::InvalidName| InvalidToken {
        what: "name",
        text: error.text,
    };
    Ok(Management {
        // Names are not part of any rule.
        site: "unknown".parse().map_err(unknown)?,
        node: "unknown".parse().map_err(unknown)?,
        mode: Mode::Enforce,
        admins: vec![
            std::net::Ipv4Addr::UNSPECIFIED.into(),
            std::net::Ipv6Addr::UNSPECIFIED.into(),
        ]
        .into_iter()
        .filter_map(|address: std::net::IpAddr| ipnet::IpNet::new(address, 0).ok())
        .collect(),
        ssh_ports: vec![SSH_PORT],
        failsafe: Failsafe::default(),
        without_ipv6: false,
    })
}

fn protect(
    kernel: &mut dyn Kernel,
    target: Target<'_>,
    family: Family,
    existing: ExistingRules,
    mode: Mode,
) -> Result<InForce, EnforceError> {
    if !kernel.speaks(family) || !target.ruleset.filters(family) {
        return Ok(InForce::Ruleset); // none of its packets come in
    }
    let table = match kernel_state::read_rules(kernel, family) {
        Ok(table) => table,
        // Whatever else the table holds.
        Err(error)
            if existing == ExistingRules::Keep
                && error.is_unprintable()
                && has_ruleset(kernel, family) =>
        {
            return Ok(InForce::Ruleset);
        }
        Err(error) => return Err(error.into()),
    };
    let rules = table.chain(INPUT_CHAIN).map(|chain| chain.rules.as_slice());
    let rules = rules.unwrap_or_default();
    let is_management = rules.iter().any(|rule| is_management_rule(rule, family));
    if !rules.is_empty() && !is_management && existing == ExistingRules::Keep {
        // Rules protect nothing without the jump.
        if let Some(lines) = jump_edit(&table) {
            kernel.restore(family, &filter_section(&lines))?;
        }
        return Ok(InForce::Ruleset);
    }
    if mode == Mode::Observe {
        return Ok(InForce::Nothing);
    }
    if read_back::matches_ruleset(target, family, &table).is_err() {
        write::enforce_rules(kernel, target, family)?;
    }
    Ok(InForce::Management)
}

/// Whether the rules of a ruleset are there, in a table that cannot be read as a whole.
fn has_ruleset(kernel: &mut dyn Kernel, family: Family) -> bool {
    let listing = kernel.list(family, Some(INPUT_CHAIN), None).ok();
    let listing = listing.filter(|listing| listing.refused.is_none());
    let table = listing.and_then(|listing| parse_listing(&listing.text).ok());
    let chain = table.as_ref().and_then(|table| table.chain(INPUT_CHAIN));
    chain.is_some_and(|chain| {
        let management = chain
            .rules
            .iter()
            .any(|rule| is_management_rule(rule, family));
        !chain.rules.is_empty() && !management
    })
}

/// Whether this line of iptables-save is a rule that only [`Ruleset::management`] has. The kernel
/// holds no more of a rule's subject than the first word of its label.
fn is_management_rule(line: &str, family: Family) -> bool {
    let subject = RuleSubject::Management.to_string();
    read_rule(line, family).is_ok_and(|(_, rule)| {
        let (first, _part) = rule.label.as_str().split_once(':').unwrap_or_default();
        first == subject
    })
}

/// Removes sets of a failed change, which no rule names any more. One that stays does no harm.
fn release_sets(kernel: &mut dyn Kernel, target: Target<'_>) {
    let effort = Effort::UntilRefused;
    if let Err(error) = write::write(kernel, target, Parts::SETS, effort) {
        warn!(
            reason = chain(&error),
            "sets of the failed change not removed"
        );
    }
}

/// Describes the note of another process, without reading the kernel.
pub fn describe_note(note: &Note) -> String {
    Fallback {
        note: note.clone(),
        protection: Protection::Management,
    }
    .describe()
}

/// The confirmed ruleset runs again.
pub fn leave_fallback(ledger: &Ledger, fallback: &mut Option<Fallback>) {
    let _work = during(Work::LeaveFallback);
    let ended = fallback.take();
    if (ended.is_some() || ledger.fallback().is_some())
        && let Err(error) = ledger.end_fallback()
    {
        warn!(reason = chain(&error), "record of the fallback not removed");
    }
}

#[cfg(test)]
mod tests {
    use voipfleet_ruleset::iptables::restore_input;

    use super::*;

    #[test]
    fn only_a_parsed_label_makes_a_management_rule() {
        let (ruleset, failsafe) = rules_of(None).unwrap();
        for family in Family::BOTH {
            let input = restore_input(&ruleset, &failsafe, family);
            let rules: Vec<&str> = input
                .lines()
                .filter(|line| line.starts_with("-A VF-INPUT ") && line.contains("vf:management:"))
                .collect();
            assert!(!rules.is_empty());
            for rule in rules {
                assert!(is_management_rule(rule, family), "{rule}");
            }
        }
        for other in [
            "-A VF-INPUT -m comment --comment \"not vf:management:default\" -j DROP",
            "-A VF-INPUT -m comment --comment \"vf:sip\" -j LOG --log-prefix \"vf:management:default\"",
            "-A VF-INPUT -m comment --comment \"vf:management\" -j DROP",
            "-A VF-INPUT -m comment --comment \"vf:managements:default\" -j DROP",
            "-A VF-INPUT -m comment --comment \"vf:default\" -j DROP",
            "vf:management:default",
        ] {
            assert!(!is_management_rule(other, Family::V4), "{other}");
        }
    }
}
