//! Tells the task that owns the kernel when somebody else may have changed it.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::kernel::{Backend, Events, KernelEvent, LockFile, OwnProcesses};
use crate::machine::{Processes, Root};
use crate::reconcile::Inbox;

/// What announces changes on this machine.
pub enum Watch {
    /// The kernel itself.
    Announcements {
        /// What it says.
        events: Events,
        /// Who it may speak of.
        processes: Processes,
        /// Whom not to tell of.
        own: OwnProcesses,
    },
    /// The lock of legacy iptables.
    Lock(Box<LockFile>),
}

/// Nothing announces changes here.
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
    /// Begins to listen for changes by others than `own`: what changes from now on is not
    /// missed. Needs a running tokio runtime.
    pub fn open(backend: Backend, own: OwnProcesses, lock_file: &Path) -> Result<Self, WatchError> {
        let processes = Processes::new(&Root::new("/"));
        Ok(match backend {
            Backend::Nft => Self::Announcements {
                events: Events::open()?,
                processes,
                own,
            },
            Backend::Legacy => Self::Lock(Box::new(LockFile::watch(lock_file, processes, own)?)),
        })
    }

    /// Hands changes on until there are none to be had any more.
    pub async fn run(mut self, inbox: Arc<Inbox>) {
        loop {
            match self.next().await {
                Ok(event) => inbox.changed(&event, Instant::now()),
                Err(error) => return inbox.deaf(&error),
            }
        }
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
