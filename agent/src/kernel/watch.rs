//! Announces when another program may have changed the rules.

use std::path::Path;

use super::{Backend, Events, KernelEvent, LockFile, Notifier};
use crate::host::exec::OwnProcesses;
use crate::host::{Processes, Root};

/// The source of events on this machine.
pub enum Watch {
    /// The kernel itself.
    Announcements {
        events: Events,
        /// To look up authors.
        processes: Processes,
        /// Whose changes are left out.
        own: OwnProcesses,
    },
    /// The lock of legacy iptables.
    Lock(Box<LockFile>),
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

impl Watch {
    /// Listens from now on for changes by processes other than `own`. Needs a running tokio
    /// runtime.
    pub fn open(backend: Backend, own: OwnProcesses, lock_file: &Path) -> Result<Self, WatchError> {
        let processes = Processes::new(&Root::new("/"));
        Ok(match backend {
            Backend::Nft => Self::Announcements {
                events: Events::open()?,
                processes,
                own,
            },
            Backend::Legacy => Self::Lock(Box::new(LockFile::watch(
                lock_file,
                processes,
                own,
                Notifier::Fanotify,
            )?)),
        })
    }

    /// The next change. Safe to drop while it waits.
    pub async fn next(&mut self) -> Result<KernelEvent, WatchError> {
        match self {
            Watch::Announcements {
                events,
                processes,
                own,
            } => loop {
                let event = events.next().await?;
                if !event.is_by(own) {
                    return Ok(event.looked_up(processes));
                }
            },
            Watch::Lock(lock) => Ok(lock.next().await?),
        }
    }
}
