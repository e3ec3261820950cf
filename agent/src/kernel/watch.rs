//! Announces when another program may have changed the rules.

use std::path::Path;

use super::audit_records::AuditRecords;
use super::{Backend, Events, KernelEvent, LockFile, Notifier, Transaction};
use crate::host::exec::OwnProcesses;
use crate::host::{Processes, Root, pid_namespace};

/// The source of events on this machine.
pub enum Watch {
    /// The kernel itself.
    Announcements {
        events: Events,
        /// Whose changes.
        authors: Authors,
    },
    /// The lock of legacy iptables.
    Lock {
        lock: Box<LockFile>,
        /// Changes under another lock; none where the kernel does not record them.
        audit: Option<AuditRecords>,
        authors: Authors,
    },
}

/// Who changed the rules, by the ids of processes that the kernel names.
pub struct Authors {
    processes: Processes,
    /// Whose changes are left out.
    own: OwnProcesses,
    /// The ids mean nothing here.
    foreign_ids: bool,
}

/// Nothing announces changes.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// On nft.
    #[error(transparent)]
    Events(#[from] crate::kernel::EventsError),
    /// On legacy.
    #[error(transparent)]
    Lock(#[from] crate::kernel::LockFileError),
}

impl Authors {
    /// The event with what is known of its author; none: it is ours.
    fn look_up(&self, event: KernelEvent) -> Option<KernelEvent> {
        if self.foreign_ids {
            return Some(event.without_ids());
        }
        (!event.is_by(&self.own)).then(|| event.looked_up(&self.processes))
    }
}

impl Watch {
    /// Listens from now on for changes by processes other than `own`. Needs a running tokio
    /// runtime.
    pub fn open(backend: Backend, own: OwnProcesses, lock_file: &Path) -> Result<Self, WatchError> {
        let root = Root::new("/");
        let processes = Processes::new(&root);
        let authors = Authors {
            processes: processes.clone(),
            own: own.clone(),
            foreign_ids: pid_namespace::has_own_ids(&root),
        };
        Ok(match backend {
            Backend::Nft => Self::Announcements {
                events: Events::open()?,
                authors,
            },
            Backend::Legacy => {
                let notifier = Notifier::Fanotify;
                let lock = LockFile::watch(lock_file, processes, own, notifier)?;
                Self::Lock {
                    lock: Box::new(lock),
                    audit: AuditRecords::open(),
                    authors,
                }
            }
        })
    }

    /// The next change. Safe to drop while it waits.
    pub async fn next(&mut self) -> Result<KernelEvent, WatchError> {
        match self {
            Watch::Announcements { events, authors } => loop {
                if let Some(event) = authors.look_up(events.next().await?) {
                    return Ok(event);
                }
            },
            Watch::Lock {
                lock,
                audit,
                authors,
            } => loop {
                let recorded = tokio::select! {
                    event = lock.next() => return Ok(event?),
                    recorded = next_of(audit.as_mut()) => recorded,
                };
                match recorded {
                    Ok(change) if lock.is_held_by(&change) => {} // announced when it lets go
                    Ok(change) => {
                        if let Some(event) = authors.look_up(KernelEvent::Changed(change)) {
                            return Ok(event);
                        }
                    }
                    // The lock is still watched.
                    Err(_ended) => *audit = None,
                }
            },
        }
    }
}

async fn next_of(audit: Option<&mut AuditRecords>) -> Result<Transaction, std::io::Error> {
    match audit {
        Some(audit) => audit.next().await,
        None => std::future::pending().await,
    }
}
