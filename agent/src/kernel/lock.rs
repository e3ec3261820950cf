//! The xtables lock, held for both families at once.
//!
//! Each legacy tool takes it for itself: between the restores of the two families, another program
//! may change the rules. We hold it over both, and have the tools lock another file.

use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tracing::warn;

use super::{KernelError, LockHolder};

/// Held until it is dropped.
#[derive(Debug)]
pub(super) struct XtablesLock {
    _file: Flock<File>,
    /// The file that the tools lock meanwhile. In memory and without a name, since a process that
    /// can open a file can lock it: with `/dev/null`, any user could block our tools.
    stand_in: File,
}

impl XtablesLock {
    /// Where the tools find what they lock in place of theirs.
    pub(super) fn stand_in(&self) -> String {
        path_of(&self.stand_in)
    }
}

pub(super) fn path_of(file: &File) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// A file for the tools to lock in place of theirs. None before Linux 3.17, and where `/proc` is not that of this process.
pub(super) fn stand_in() -> Option<File> {
    let file = File::from(memfd_create(c"xtables.lock", MFdFlags::MFD_CLOEXEC).ok()?);
    File::open(path_of(&file)).is_ok().then_some(file)
}

/// Whether tools of this version can lock another file (`XTABLES_LOCKFILE`).
pub(super) fn can_be_held(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    let mut next = || numbers.next().flatten().unwrap_or_default();
    (next(), next(), next()) >= (1, 8, 8)
}

/// Takes the lock. None where its file cannot be created, so that no tool can lock it either, and
/// where there is no other file for the tools to lock.
pub(super) fn take(path: &Path, limit: Duration) -> Result<Option<XtablesLock>, KernelError> {
    let opened = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        // As the tools create it: a process that can read it can lock it.
        .mode(0o600)
        .open(path);
    let (Ok(mut file), Some(stand_in)) = (opened, stand_in()) else {
        return Ok(None);
    };
    close_to_others(path);
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(500);
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => {
                return Ok(Some(XtablesLock {
                    _file: file,
                    stand_in,
                }));
            }
            Err(_) if Instant::now() >= deadline => {
                return Err(KernelError::Locked {
                    waited: limit,
                    holder: Box::new(LockHolder::of(path)),
                });
            }
            // A blocking wait has no limit.
            Err((given_back, _)) => file = given_back,
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Takes the lock file away from other users: one that can open it can hold the lock, which keeps
/// every change out.
pub(super) fn close_to_others(path: &Path) {
    let file = std::fs::symlink_metadata(path).ok();
    let Some(file) = file.filter(|file| file.is_file() && file.mode() & 0o077 != 0) else {
        return;
    };
    let mode = format!("{:o}", file.mode() & 0o777);
    let closed = std::fs::set_permissions(path, Permissions::from_mode(0o600));
    match closed {
        Ok(()) => warn!(
            path = %path.display(),
            mode,
            "the lock of iptables was open to other users; its mode is 0600 now"
        ),
        Err(error) => warn!(
            path = %path.display(),
            mode,
            reason = %error,
            "the lock of iptables is open to other users, who can keep every change out"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_file_is_taken_away_from_other_users() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        std::fs::write(&path, "").unwrap();
        for mode in [0o644, 0o666, 0o660, 0o600] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let _held = take(&path, Duration::ZERO).unwrap().unwrap();
            let now = std::fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(now & 0o777, 0o600, "from {mode:o}");
        }
    }

    #[test]
    fn only_iptables_from_1_8_8_on_takes_another_lock_file() {
        for (version, can) in [
            ("1.4.21", false),
            ("1.8.4", false),
            ("1.8.7", false),
            ("1.8.8", true),
            ("1.8.9", true),
            ("1.8.10", true),
            ("1.9", true),
            ("2.0.0", true),
            ("", false),
        ] {
            assert_eq!(can_be_held(version), can, "{version}");
        }
    }

    #[test]
    fn xtables_lock_is_exclusive_and_times_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = take(&path, Duration::ZERO).unwrap().unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "others could lock it");
        let tool = File::open(held.stand_in()).unwrap();
        let locked = Flock::lock(tool, FlockArg::LockExclusiveNonblock);
        assert!(locked.is_ok(), "the tools have one of their own");
        let busy = take(&path, Duration::from_millis(5)).unwrap_err();
        assert!(matches!(busy, KernelError::Locked { .. }));
        drop(held);
        assert!(take(&path, Duration::ZERO).unwrap().is_some());
        let nowhere = folder.path().join("missing/lock");
        assert!(take(&nowhere, Duration::ZERO).unwrap().is_none());
    }
}
