//! Files that are whole after a crash, and readable by their owner only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::failpoint::{Step, reach_file};

/// An operation on a file or folder failed.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be {action}", path.display())]
pub struct DiskError {
    /// The operation: `read`, `written`, `removed`.
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The system's reason.
    #[source]
    pub source: std::io::Error,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DiskError {
    move |source| DiskError {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Makes a folder that only its owner may enter, and its parents, durably.
pub fn make_private_dir(path: &Path) -> Result<(), DiskError> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists())
        .collect();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("made", path))?;
    // A file that is synced in a folder that is not there after a power cut is lost.
    missing.into_iter().rev().try_for_each(sync_parent)
}

/// Replaces a file: afterwards, and after a crash at any moment, it is the old one or the
/// new one, whole. Only its owner may read it.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), DiskError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // A leftover of a crash may have any content and mode.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(failed("written", &new)(error));
        }
        _ => {}
    }
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        reach_file(path, Step::Written);
        fs::rename(&new, path)
    };
    if let Err(error) = write() {
        // What is half-written only fills a disk that may be full.
        let _gone = fs::remove_file(&new);
        return Err(failed("written", path)(error));
    }
    reach_file(path, Step::Renamed);
    sync_parent(path)?;
    reach_file(path, Step::Synced);
    Ok(())
}

/// Lets `copy` be what the file at `path` is now, durably, whatever takes the place of that file
/// later; nothing where there is no such file.
pub fn keep_copy(path: &Path, copy: &Path) -> Result<(), DiskError> {
    let mut name = copy.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = copy.with_file_name(name);
    let link = || {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Another name for the same content: files of ours are replaced, never written to.
        fs::hard_link(path, &new)?;
        fs::rename(&new, copy)?;
        // Where both are one file, the rename does nothing.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    };
    match link() {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("written", copy)(error)),
    }
    reach_file(copy, Step::Renamed);
    sync_parent(copy)?;
    reach_file(copy, Step::Synced);
    Ok(())
}

/// Removes a file, durably. One that is not there is fine.
pub fn remove(path: &Path) -> Result<(), DiskError> {
    match fs::remove_file(path) {
        Ok(()) => {
            reach_file(path, Step::Removed);
            sync_parent(path)?;
            reach_file(path, Step::Gone);
            Ok(())
        }
        // An earlier removal may not have become durable.
        Err(error) if error.kind() == ErrorKind::NotFound => match sync_parent(path) {
            Err(error) if error.source.kind() == ErrorKind::NotFound => Ok(()),
            synced => synced,
        },
        Err(error) => Err(failed("removed", path)(error)),
    }
}

/// Makes a rename or removal in the folder of `path` durable.
pub fn sync_parent(path: &Path) -> Result<(), DiskError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("written", folder))
}

/// The content of a file of at most `limit` bytes; none if there is no such file.
pub fn read(path: &Path, limit: usize) -> Result<Option<Vec<u8>>, DiskError> {
    let open = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let mut content = Vec::new();
    let room = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    open.take(room)
        .read_to_end(&mut content)
        .map_err(failed("read", path))?;
    if content.len() > limit {
        let why = format!("longer than {limit} bytes");
        return Err(failed("read", path)(std::io::Error::other(why)));
    }
    Ok(Some(content))
}

/// The text of such a file.
pub fn read_text(path: &Path, limit: usize) -> Result<Option<String>, DiskError> {
    let content = read(path, limit)?;
    content
        .map(|bytes| {
            String::from_utf8(bytes).map_err(|_| {
                let why = std::io::Error::new(ErrorKind::InvalidData, "not UTF-8 text");
                failed("read", path)(why)
            })
        })
        .transpose()
}

/// Renames a file or folder, durably.
pub fn rename(from: &Path, to: &Path) -> Result<(), DiskError> {
    fs::rename(from, to).map_err(failed("renamed", from))?;
    sync_parent(to)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaced_file_is_complete_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        // As a crash in the middle of an earlier write leaves it.
        fs::write(dir.path().join("file.new"), "half").unwrap();
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(read(&path, 3).unwrap().unwrap(), b"two");
        assert!(read(&path, 2).is_err());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(read(&path, 3).unwrap().is_none());
        remove(&dir.path().join("no/such/file")).unwrap();
    }

    #[test]
    fn copy_survives_replacement_of_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copy) = (dir.path().join("file"), dir.path().join("copy"));
        keep_copy(&path, &copy).unwrap();
        assert!(read(&copy, 3).unwrap().is_none());
        replace(&path, b"one").unwrap();
        for _ in 0..2 {
            keep_copy(&path, &copy).unwrap();
        }
        replace(&path, b"two").unwrap();
        assert_eq!(read(&copy, 3).unwrap().unwrap(), b"one");
        keep_copy(&path, &copy).unwrap();
        assert_eq!(read(&copy, 3).unwrap().unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn folders_are_created_private_with_their_parents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c");
        make_private_dir(&path).unwrap();
        make_private_dir(&path).unwrap();
        replace(&path.join("file"), b"one").unwrap();
        for folder in ["a", "a/b", "a/b/c"] {
            let mode = fs::metadata(dir.path().join(folder)).unwrap().permissions();
            assert_eq!(mode.mode() & 0o777, 0o700, "{folder}");
        }
    }
}
