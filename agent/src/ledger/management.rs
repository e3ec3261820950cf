//! The part of the ledger for a node that cannot run its confirmed ruleset.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::iptables::Failsafe;
use voipfleet_ruleset::ruleset::Mode;

use super::format::{self, FallbackFile, Kind, ManagementFile};
use super::{Confirmed, Corrupt, Ledger, LedgerError, content, ports};
use crate::host::{clock, disk};

pub(super) const MANAGEMENT: &str = "management";
pub(super) const FALLBACK: &str = "fallback";
/// Thousands of admins, or a long reason.
const MAX_FILE: usize = 1 << 20;

/// The input of the management rules. In a file of its own, so that it survives a corrupt
/// ruleset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Management {
    pub site: SiteName,
    pub node: NodeName,
    /// Where the site only observes, nothing is closed.
    pub mode: Mode,
    /// Networks that reach SSH.
    pub admins: Vec<IpNet>,
    /// Where SSH listens.
    pub ssh_ports: Vec<u16>,
    /// The controllers that the agent dials, and where SSH really listens.
    pub failsafe: Failsafe,
    /// Only IPv4 is filtered.
    pub without_ipv6: bool,
}

/// Since when, and why, the node does not run what is confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Since when.
    pub since: SystemTime,
    /// Why, for people.
    pub reason: String,
}

impl From<&Confirmed> for Management {
    fn from(confirmed: &Confirmed) -> Self {
        let ruleset = &confirmed.ruleset;
        Self {
            site: ruleset.site.clone(),
            node: ruleset.node.clone(),
            mode: ruleset.mode,
            admins: ruleset.admins.clone(),
            ssh_ports: ruleset.ssh_ports.clone(),
            failsafe: confirmed.failsafe.clone(),
            without_ipv6: ruleset.without_ipv6,
        }
    }
}

impl Ledger {
    /// The input of the management rules; none if nothing was ever confirmed.
    pub fn management(&self) -> Result<Option<Management>, LedgerError> {
        let Some(bytes) = disk::read(&self.file(MANAGEMENT), MAX_FILE)? else {
            return Ok(None);
        };
        format::decode::<ManagementFile>(Kind::Management, &bytes)
            .and_then(Management::try_from)
            .map(Some)
            .or_else(|reason| self.rename_corrupt(MANAGEMENT, reason))
    }

    /// Whether [`Self::management`] can be read.
    pub fn knows_admins(&self) -> bool {
        self.management()
            .is_ok_and(|management| management.is_some())
    }

    /// Keeps the part of `confirmed` that the management rules need. Durable on return; nothing is
    /// written where it is kept already.
    pub fn keep_management(&self, confirmed: &Confirmed) -> Result<(), LedgerError> {
        let management = ManagementFile::from(&Management::from(confirmed));
        let file = format::encode(Kind::Management, &management);
        let path = self.file(MANAGEMENT);
        if disk::read(&path, MAX_FILE).is_ok_and(|kept| kept.as_ref() == Some(&file)) {
            return Ok(());
        }
        Ok(disk::replace(&path, &file)?)
    }

    /// The note that the node does not run what is confirmed. A note that cannot be read counts.
    pub fn fallback(&self) -> Option<Note> {
        let bytes = disk::read(&self.file(FALLBACK), MAX_FILE).ok()??;
        let note = format::decode::<FallbackFile>(Kind::Fallback, &bytes).unwrap_or_default();
        Some(Note {
            since: SystemTime::UNIX_EPOCH + Duration::from_millis(note.since_ms),
            reason: note.reason,
        })
    }

    /// Notes that the node does not run what is confirmed.
    pub fn note_fallback(&self, note: &Note) -> Result<(), LedgerError> {
        let message = FallbackFile {
            since_ms: clock::unix_ms(note.since),
            reason: note.reason.clone(),
        };
        let file = format::encode(Kind::Fallback, &message);
        Ok(disk::replace(&self.file(FALLBACK), &file)?)
    }

    /// Notes that it does again.
    pub fn end_fallback(&self) -> Result<(), LedgerError> {
        Ok(disk::remove(&self.file(FALLBACK))?)
    }
}

pub(super) fn numbers(ports: &[u16]) -> Vec<u32> {
    ports.iter().map(|port| u32::from(*port)).collect()
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn values<T: std::str::FromStr<Err: ToString>>(texts: &[String]) -> Result<Vec<T>, Corrupt> {
    let value = |text: &String| text.parse().map_err(|why: T::Err| content(&why));
    texts.iter().map(value).collect()
}

impl From<&Management> for ManagementFile {
    fn from(management: &Management) -> Self {
        let mut controllers = management.failsafe.controllers.clone();
        controllers.sort_unstable();
        Self {
            site: management.site.to_string(),
            node: management.node.to_string(),
            observe: management.mode == Mode::Observe,
            admins: texts(&management.admins),
            ssh_ports: numbers(&management.ssh_ports),
            controllers: texts(&controllers),
            listening_ssh_ports: numbers(&management.failsafe.ssh_ports),
            without_ipv6: management.without_ipv6,
        }
    }
}

impl TryFrom<ManagementFile> for Management {
    type Error = Corrupt;

    fn try_from(file: ManagementFile) -> Result<Self, Corrupt> {
        let ssh_ports = ports(&file.ssh_ports)?;
        let admins: Vec<IpNet> = values(&file.admins)?;
        if admins.is_empty() || ssh_ports.is_empty() {
            return Err(content("it names no admins or no SSH port"));
        }
        Ok(Self {
            site: file.site.parse().map_err(|why| content(&why))?,
            node: file.node.parse().map_err(|why| content(&why))?,
            mode: if file.observe {
                Mode::Observe
            } else {
                Mode::Enforce
            },
            admins,
            ssh_ports,
            failsafe: Failsafe {
                controllers: values::<SocketAddr>(&file.controllers)?,
                ssh_ports: ports(&file.listening_ssh_ports)?,
            },
            without_ipv6: file.without_ipv6,
        })
    }
}
