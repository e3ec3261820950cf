//! The xtables lock, held for both families at once.
//!
//! Each legacy tool takes it for itself: between the restore of one family and that of the
//! other, somebody else's may come in. We hold it over both, and have the tools lock nothing.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

use super::KernelError;

/// What the tools lock while we hold theirs.
pub(super) const NOBODYS: &str = "/dev/null";

/// Held; let go when dropped.
#[derive(Debug)]
pub(super) struct XtablesLock {
    _file: Flock<File>,
}

/// Whether tools of this version can be told to lock another file (`XTABLES_LOCKFILE`).
pub(super) fn can_be_held(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    let mut next = || numbers.next().flatten().unwrap_or_default();
    (next(), next(), next()) >= (1, 8, 8)
}

/// Takes the lock. None where its file cannot be made: no tool can lock it there either.
pub(super) fn take(path: &Path, limit: Duration) -> Result<Option<XtablesLock>, KernelError> {
    let opened = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    let Ok(mut file) = opened else {
        return Ok(None);
    };
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(500);
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => return Ok(Some(XtablesLock { _file: file })),
            Err(_) if Instant::now() >= deadline => {
                return Err(KernelError::Locked { waited: limit });
            }
            // A blocking wait has no limit.
            Err((given_back, _)) => file = given_back,
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_newer_tools_can_be_told_of_another_file() {
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
    fn one_at_a_time_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = take(&path, Duration::ZERO).unwrap();
        assert!(held.is_some());
        let busy = take(&path, Duration::from_millis(5)).unwrap_err();
        assert!(matches!(busy, KernelError::Locked { .. }));
        drop(held);
        assert!(take(&path, Duration::ZERO).unwrap().is_some());
        let nowhere = folder.path().join("missing/lock");
        assert!(take(&nowhere, Duration::ZERO).unwrap().is_none());
    }
}
