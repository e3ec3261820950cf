//! A node that cannot run its confirmed ruleset is closed but for its management rules: it
//! lets in whoever can mend it, and nobody else.
//!
//! Rules of ours that stand in the kernel stay: they protect better. So this is for a boot,
//! and for whoever emptied the kernel.

use tracing::{error, warn};
use voipfleet_ruleset::iptables::{Failsafe, filter_section, jump_edit};
use voipfleet_ruleset::ruleset::{Family, INPUT_CHAIN, InvalidToken, Mode, Ruleset};

use super::repair_plan::How;
use super::write::{self, Effort, EnforceError, Target};
use super::{kernel_state, read_back};
use crate::failpoint::{Work, during};
use crate::host::clock;
use crate::host::errors::chain;
use crate::kernel::{Kernel, Parts};
use crate::ledger::{Confirmed, Ledger, Management, Note};

/// In the comment of every rule that only [`Ruleset::management`] has.
const MARK: &str = "vf:management:";
/// What SSH listens on where nobody can say.
const SSH_PORT: u16 = 22;

/// What runs in place of the confirmed ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// Since when, and why.
    pub note: Note,
    /// What it is.
    pub running: Running,
}

/// What protects a node that does not run its confirmed ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Running {
    /// The management rules, read back.
    Management,
    /// The same with SSH from anywhere: who the admins are is lost too.
    ManagementFromAnywhere,
    /// Nothing: the site only observes, and what observes must not close.
    Nothing,
    /// Nothing, or not all of it: the kernel refuses even the management rules.
    Refused(String),
}

impl Fallback {
    /// In words, for the log, the operator and the controller.
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
        match &self.running {
            Running::Management => {
                format!("this node runs only its management rules{since}: {reason}")
            }
            Running::ManagementFromAnywhere => format!(
                "this node runs only its management rules{since}, with SSH from anywhere, for \
                 the list of its admins is lost too: {reason}"
            ),
            Running::Nothing => {
                format!("this node observes nothing{since}, and nothing is dropped: {reason}")
            }
            Running::Refused(why) => format!(
                "this node is not protected{since}: even its management rules are refused \
                 ({why}): {reason}"
            ),
        }
    }
}

/// What stands in the kernel of one family.
enum Standing {
    Nothing,
    Management,
    Ours,
}

/// Rules of ours that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// They were confirmed once: they stay.
    Stay,
    /// They may be part of something that failed: management rules take their place.
    Go,
}

/// Closes what no rules of ours protect. None where all of it is protected by more than
/// management rules.
pub fn fall_back(
    kernel: &mut dyn Kernel,
    ledger: &Ledger,
    confirmed: Option<&Confirmed>,
    reason: &str,
    found: Found,
) -> Option<Fallback> {
    let _work = during(Work::Close);
    let (running, management) = match ledger.management() {
        Ok(Some(management)) => (Running::Management, Some(management)),
        // Of an agent that kept none yet, or damaged while the ruleset is whole.
        Ok(None) | Err(_) if confirmed.is_some() => {
            (Running::Management, confirmed.map(Management::from))
        }
        Ok(None) => (Running::ManagementFromAnywhere, None),
        Err(error) => {
            error!(reason = chain(&error), "the list of admins is lost");
            (Running::ManagementFromAnywhere, None)
        }
    };
    let enforces = management
        .as_ref()
        .is_none_or(|management| management.mode == Mode::Enforce);
    if !enforces && found == Found::Go {
        let cleared = write::clear(kernel);
        if let Err(error) = cleared {
            error!(reason = chain(&error), "what failed is not cleared");
        }
    }
    let protected = match rules_of(management) {
        Ok((ruleset, failsafe)) => {
            let target = Target {
                ruleset: &ruleset,
                failsafe: &failsafe,
                canonical: None,
                now: clock::unix(clock::now()),
                how: How::WHOLE,
            };
            let protected = Family::BOTH.map(|family| {
                protect(kernel, target, family, found, enforces).map_err(|error| chain(&error))
            });
            if found == Found::Go && enforces {
                release_sets(kernel, target);
            }
            protected
        }
        Err(error) => [Err(chain(&error)), Err(chain(&error))],
    };
    let running = match &protected {
        [Ok(Standing::Ours), Ok(Standing::Ours)] => return None,
        [Err(why), _] | [_, Err(why)] => Running::Refused(why.clone()),
        [Ok(Standing::Management), _] | [_, Ok(Standing::Management)] => running,
        _ => Running::Nothing,
    };
    let note = ledger.fallback().unwrap_or_else(|| {
        let note = Note {
            since: clock::now(),
            reason: reason.to_owned(),
        };
        if let Err(error) = ledger.note_fallback(&note) {
            warn!(
                reason = chain(&error),
                "the time of the fallback is not kept"
            );
        }
        note
    });
    Some(Fallback { note, running })
}

/// The management rules; where it is lost who the admins are, SSH from anywhere. SSH asks
/// for a key or password of its own: a node that nobody can reach is the greater harm.
fn rules_of(management: Option<Management>) -> Result<(Ruleset, Failsafe), InvalidToken> {
    let management = management.map_or_else(anybody, Ok)?;
    let Management {
        site,
        node,
        admins,
        ssh_ports,
        failsafe,
        mode: _,
    } = management;
    Ruleset::management(site, node, admins, ssh_ports).map(|ruleset| (ruleset, failsafe))
}

fn anybody() -> Result<Management, InvalidToken> {
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
    })
}

fn protect(
    kernel: &mut dyn Kernel,
    target: Target<'_>,
    family: Family,
    found: Found,
    enforces: bool,
) -> Result<Standing, EnforceError> {
    if !kernel.speaks(family) {
        return Ok(Standing::Ours); // no packet of it comes in
    }
    let table = kernel_state::rules(kernel, family)?;
    let rules = table.chain(INPUT_CHAIN).map(|chain| chain.rules.as_slice());
    let rules = rules.unwrap_or_default();
    let is_management = rules.iter().any(|rule| rule.contains(MARK));
    if !rules.is_empty() && !is_management && found == Found::Stay {
        // Rules that packets do not come to protect nothing.
        if let Some(lines) = jump_edit(&table) {
            kernel.restore(family, &filter_section(&lines))?;
        }
        return Ok(Standing::Ours);
    }
    if !enforces {
        return Ok(Standing::Nothing);
    }
    if read_back::says_the_same(target, family, &table).is_err() {
        write::enforce_rules(kernel, target, family)?;
    }
    Ok(Standing::Management)
}

/// Sets of what failed, which no rule names any more. They harm nobody, should one stay.
fn release_sets(kernel: &mut dyn Kernel, target: Target<'_>) {
    let only_sets = Parts {
        v4: false,
        v6: false,
        sets: true,
    };
    let effort = Effort::UntilRefused;
    if let Err(error) = write::write(kernel, target, only_sets, effort) {
        warn!(reason = chain(&error), "sets of what failed are left");
    }
}

/// What a look at a ledger of another process says, without touching the kernel.
pub fn describe_note(note: &Note) -> String {
    Fallback {
        note: note.clone(),
        running: Running::Management,
    }
    .describe()
}

/// The node runs what is confirmed again.
pub fn end(ledger: &Ledger, fallback: &mut Option<Fallback>) {
    let _work = during(Work::Reopen);
    let ended = fallback.take();
    if (ended.is_some() || ledger.fallback().is_some())
        && let Err(error) = ledger.end_fallback()
    {
        warn!(
            reason = chain(&error),
            "the note of the fallback stays behind"
        );
    }
}
