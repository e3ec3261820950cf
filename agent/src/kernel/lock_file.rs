//! The xtables lock, which legacy iptables takes for every command: when it is released, the rules
//! may have changed. The kernel itself announces nothing there.
//!
//! Where fanotify may be used (Linux 2.6.37 with `CONFIG_FANOTIFY`, and `CAP_SYS_ADMIN`), it also
//! names the process. inotify, which every kernel has, serves where it may not. Both work on
//! whatever `/run` is: tmpfs, or the disk.
//!
//! Quick looks cover tools that take no lock, or another one, and so do audit records where the
//! kernel makes them: iptables before 1.4.20 and iptables-restore before 1.6.2, a tool with
//! `XTABLES_LOCKFILE`, and one in a container that has a `/run` of its own.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyEvent, InitFlags as FanInit, MarkFlags, MaskFlags,
};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Author, KernelEvent, Reach, Transaction, lock};
use crate::host::Processes;
use crate::host::exec::OwnProcesses;

/// Where iptables since 1.4.20 has its lock (`XT_LOCK_NAME` of `iptables/xshared.h`; in the
/// releases since 1.8.8 `XTABLES_LOCKFILE` moves it).
pub const LOCK_FILE: &str = "/run/xtables.lock";

/// Processes that hold the lock or wait for it.
const MAX_HOLDERS: usize = 64;

/// The lock cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be watched", path.display())]
pub struct LockFileError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The source of events about the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notifier {
    /// Names the process, too. Inotify serves where the kernel does not allow it.
    Fanotify,
    /// Changes have no author, and our own cannot be distinguished.
    Inotify,
}

/// Watches the lock.
pub struct LockFile {
    path: PathBuf,
    /// The folder, for a lock that is created later; and the file, where fanotify is not allowed.
    inotify: AsyncFd<Handle<Inotify>>,
    file: Option<WatchDescriptor>,
    fanotify: Option<AsyncFd<Handle<Fanotify>>>,
    processes: Processes,
    own: OwnProcesses,
    /// Looked up when they opened the lock: when they release it they are about to end.
    holders: VecDeque<Author>,
    seen: VecDeque<KernelEvent>,
}

/// A file descriptor as tokio wants it.
struct Handle<T>(T);

impl<T: AsFd> AsRawFd for Handle<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl LockFile {
    /// Watches the lock at `path`, which need not be there yet, for others than `own`. Needs a
    /// running tokio runtime.
    pub fn watch(
        path: &Path,
        processes: Processes,
        own: OwnProcesses,
        notifier: Notifier,
    ) -> Result<Self, LockFileError> {
        let failed = |source: std::io::Error| LockFileError {
            path: path.to_owned(),
            source,
        };
        let open = || -> std::io::Result<_> {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            let folder = path.parent().unwrap_or(Path::new("/"));
            let made = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
            inotify.add_watch(folder, made)?;
            register(inotify)
        };
        let inotify = open().map_err(failed)?;
        let mut lock = Self {
            path: path.to_owned(),
            inotify,
            file: None,
            fanotify: match notifier {
                Notifier::Fanotify => fanotify(),
                Notifier::Inotify => None,
            },
            processes,
            own,
            holders: VecDeque::new(),
            seen: VecDeque::new(),
        };
        lock.watch_file();
        Ok(lock)
    }

    /// Watches the file itself; one that is not there is waited for.
    fn watch_file(&mut self) {
        // Each time that another user opens it would look like a change.
        lock::close_to_others(&self.path);
        let events = MaskFlags::FAN_OPEN | MaskFlags::FAN_CLOSE;
        let marked = self.fanotify.as_ref().is_some_and(|fanotify| {
            let group = &fanotify.get_ref().0;
            let path = Some(self.path.as_path());
            group
                .mark(MarkFlags::FAN_MARK_ADD, events, AT_FDCWD, path)
                .is_ok()
        });
        if !marked {
            let close = AddWatchFlags::IN_CLOSE;
            self.file = self.inotify.get_ref().0.add_watch(&self.path, close).ok();
        }
    }

    /// Whether the author of a change has opened the lock, and not let it go yet.
    pub(super) fn is_held_by(&self, change: &Transaction) -> bool {
        let author = change.author.as_ref();
        author.is_some_and(|author| {
            let pid = author.process.pid;
            self.holders.iter().any(|holder| holder.process.pid == pid)
        })
    }

    /// The next release of the lock. Safe to drop while it waits.
    pub async fn next(&mut self) -> Result<KernelEvent, LockFileError> {
        loop {
            if let Some(event) = self.seen.pop_front() {
                return Ok(event);
            }
            let ready = tokio::select! {
                events = read(&self.inotify, Inotify::read_events) => events.map(Ready::Inotify),
                events = read_if(self.fanotify.as_ref()) => events.map(Ready::Fanotify),
            };
            match ready {
                Ok(Ready::Inotify(events)) => self.take_inotify(&events),
                Ok(Ready::Fanotify(events)) => self.take_fanotify(&events),
                Err(source) => {
                    return Err(LockFileError {
                        path: self.path.clone(),
                        source,
                    });
                }
            }
        }
    }

    fn take_inotify(&mut self, events: &[InotifyEvent]) {
        let lost = |event: &InotifyEvent| event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW);
        let made = |event: &InotifyEvent| {
            event.name.is_some() && event.name.as_deref() == self.path.file_name()
        };
        let closed = |event: &InotifyEvent| {
            Some(event.wd) == self.file && event.mask.intersects(AddWatchFlags::IN_CLOSE)
        };
        if events.iter().any(|event| made(event) || lost(event)) {
            // Its creator may have released it before it is watched.
            self.watch_file();
            self.seen.push_back(KernelEvent::Lost);
        } else if events.iter().any(closed) {
            self.seen.push_back(let_go(None));
        }
    }

    fn take_fanotify(&mut self, events: &[FanotifyEvent]) {
        for event in events {
            if event.mask().contains(MaskFlags::FAN_Q_OVERFLOW) {
                self.holders.clear();
                self.seen.push_back(KernelEvent::Lost);
                continue;
            }
            // 0: of another PID namespace.
            let pid = u32::try_from(event.pid()).unwrap_or_default();
            if self.own.contains(pid) {
                continue;
            }
            let known = self.holders.iter().position(|h| h.process.pid == pid);
            if event.mask().contains(MaskFlags::FAN_OPEN) && pid != 0 && known.is_none() {
                if self.holders.len() == MAX_HOLDERS {
                    self.holders.pop_front();
                }
                self.holders.extend(self.look_up(pid));
            }
            if event.mask().intersects(MaskFlags::FAN_CLOSE) {
                let place = self.holders.iter().position(|h| h.process.pid == pid);
                let author = place.and_then(|place| self.holders.remove(place));
                self.seen.push_back(let_go(author));
            }
        }
    }

    fn look_up(&self, pid: u32) -> Option<Author> {
        let (_, comm) = self.processes.parent_and_comm(pid)?;
        Some(Author::named(pid, comm).looked_up(&self.processes))
    }
}

/// The change under the lock is not known, and the lock is one for both families.
fn let_go(author: Option<Author>) -> KernelEvent {
    KernelEvent::Changed(Transaction {
        author: author.map(Box::new),
        v4: Reach::Ours,
        v6: Reach::Ours,
    })
}

enum Ready {
    Inotify(Vec<InotifyEvent>),
    Fanotify(Vec<FanotifyEvent>),
}

/// None where it is not allowed, or not built into the kernel.
fn fanotify() -> Option<AsyncFd<Handle<Fanotify>>> {
    let flags = FanInit::FAN_CLOEXEC | FanInit::FAN_NONBLOCK | FanInit::FAN_CLASS_NOTIF;
    let opened = EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC;
    let group = Fanotify::init(flags, opened).ok()?;
    register(group).ok()
}

/// Lets tokio wait for a descriptor.
fn register<T: AsFd>(inner: T) -> std::io::Result<AsyncFd<Handle<T>>> {
    // The replacement is an unsafe function, which wants the descriptor to be owned
    // and not to change: `Handle` gives the one that its content owns.
    #[allow(deprecated)]
    AsyncFd::with_interest(Handle(inner), Interest::READABLE)
}

async fn read<T: AsFd, E>(
    from: &AsyncFd<Handle<T>>,
    events: impl Fn(&T) -> nix::Result<Vec<E>>,
) -> std::io::Result<Vec<E>> {
    loop {
        let mut ready = from.readable().await?;
        match ready.try_io(|handle| events(&handle.get_ref().0).map_err(Into::into)) {
            Ok(events) => return events,
            Err(_not_ready) => {}
        }
    }
}

async fn read_if(
    fanotify: Option<&AsyncFd<Handle<Fanotify>>>,
) -> std::io::Result<Vec<FanotifyEvent>> {
    match fanotify {
        Some(fanotify) => read(fanotify, Fanotify::read_events).await,
        None => std::future::pending().await,
    }
}
