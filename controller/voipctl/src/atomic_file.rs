//! Files that are replaced as a whole: written beside their place, synced, then renamed.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::failure::Failure;

/// Who may read a file.
#[derive(Debug, Clone, Copy)]
pub enum Access {
    /// Its owner.
    Private,
    /// Everyone whom the umask allows.
    Shared,
}

/// A file that is being written. Dropped before [`AtomicFile::replace`] or [`AtomicFile::create`]
/// it leaves nothing behind.
pub struct AtomicFile {
    draft: NamedTempFile,
    path: PathBuf,
}

impl AtomicFile {
    /// Starts a file that will be at `path`; missing folders are made.
    pub fn new(path: &Path, access: Access) -> Result<Self, Failure> {
        let failed = |error| cannot_write(path, error);
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(failed)?;
        let mode = match access {
            Access::Private => 0o600,
            Access::Shared => 0o666,
        };
        let draft = tempfile::Builder::new()
            .prefix(".voipctl-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(folder)
            .map_err(failed)?;
        Ok(Self {
            draft,
            path: path.to_owned(),
        })
    }

    /// Adds to its content.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.draft
            .write_all(bytes)
            .map_err(|error| cannot_write(&self.path, error))
    }

    /// Puts it at its path, and replaces an existing file.
    pub fn replace(self) -> Result<(), Failure> {
        let Self { draft, path } = self;
        draft
            .as_file()
            .sync_all()
            .and_then(|()| draft.persist(&path).map_err(|error| error.error))
            .map(drop)
            .map_err(|error| cannot_write(&path, error))
    }

    /// Puts it at its path, where no file may be yet.
    pub fn create(self) -> Result<(), Failure> {
        let Self { draft, path } = self;
        draft
            .as_file()
            .sync_all()
            .and_then(|()| draft.persist_noclobber(&path).map_err(|error| error.error))
            .map(drop)
            .map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => already_exists(&path),
                _ => cannot_write(&path, error),
            })
    }
}

/// Replaces the file at `path` by `bytes`.
pub fn write(path: &Path, bytes: &[u8], access: Access) -> Result<(), Failure> {
    let mut file = AtomicFile::new(path, access)?;
    file.write(bytes)?;
    file.replace()
}

/// Fails if there is a file at `path` already.
pub fn must_be_new(path: &Path) -> Result<(), Failure> {
    if path.exists() {
        return Err(already_exists(path));
    }
    Ok(())
}

fn already_exists(path: &Path) -> Failure {
    Failure::input(format!("{} already exists", path.display()))
        .hint("choose another file name, or move the existing file away")
}

fn cannot_write(path: &Path, error: io::Error) -> Failure {
    Failure::input(format!("cannot write {}", path.display())).because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn replace_overwrites_and_create_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inner/context.yaml");
        write(&path, b"one", Access::Private).unwrap();
        write(&path, b"two", Access::Private).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(mode(&path), 0o600);
        let file = AtomicFile::new(&path, Access::Private).unwrap();
        let failure = file.create().unwrap_err();
        assert!(failure.message.ends_with("already exists"), "{failure}");
        assert_eq!(fs::read(&path).unwrap(), b"two");
    }

    #[test]
    fn an_abandoned_file_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = AtomicFile::new(&folder.path().join("new"), Access::Shared).unwrap();
        file.write(b"half").unwrap();
        drop(file);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
