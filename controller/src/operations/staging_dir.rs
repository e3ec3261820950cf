//! An installation is made in a directory beside its place and then renamed: a half-made one
//! never remains under the name.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The directory in which an installation is made: same parent, so that rename works. `what`
/// makes it.
pub(crate) fn beside(data: &Path, what: &str) -> PathBuf {
    let name = data.file_name().unwrap_or_default().to_string_lossy();
    data.with_file_name(format!(".{name}.{what}-{:08x}", rand::random::<u32>()))
}

/// Removes the directory unless it was kept.
#[derive(Debug)]
pub(crate) struct Staged(pub(crate) PathBuf);

impl Staged {
    /// It stays.
    pub(crate) fn keep(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // Nothing more can be done about a directory that will not go.
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Brings a directory's entries to disk.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    fs::File::open(path)?.sync_all()
}
