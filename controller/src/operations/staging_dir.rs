//! An installation is made in a directory beside its place, which is then renamed: the final name never
//! holds half of one.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::settings::Files;

/// Why a directory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StagingError {
    #[error("{path} is not empty; choose another directory, or move this one away")]
    Exists { path: String },
    #[error("{path} cannot be written")]
    Io {
        path: String,
        #[source]
        source: io::Error,
    },
}

pub(super) fn io_error(path: &Path) -> impl FnOnce(io::Error) -> StagingError {
    let path = path.display().to_string();
    |source| StagingError::Io { path, source }
}

fn exists(path: &Path) -> StagingError {
    StagingError::Exists {
        path: path.display().to_string(),
    }
}

/// A staging directory; removed when dropped, unless it was published.
#[derive(Debug)]
pub(super) struct StagingDir {
    path: PathBuf,
    target: PathBuf,
    published: bool,
}

impl StagingDir {
    /// Makes the directories of an installation that will be `target`, which must be absent or empty.
    /// `what` makes it.
    pub(super) fn create(target: &Path, what: &str) -> Result<Self, StagingError> {
        refuse_existing(target)?;
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        // The same parent, so that rename works.
        let path = target.with_file_name(format!(".{name}.{what}-{:08x}", rand::random::<u32>()));
        let staging = Self {
            path,
            target: target.to_owned(),
            published: false,
        };
        if let Some(parent) = staging.parent() {
            fs::create_dir_all(parent).map_err(io_error(parent))?;
        }
        for dir in ["", "ca", "server"] {
            let dir = staging.path.join(dir);
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&dir)
                .map_err(io_error(&dir))?;
        }
        Ok(staging)
    }

    pub(super) fn files(&self) -> Files {
        Files::new(&self.path)
    }

    /// None: the working directory.
    fn parent(&self) -> Option<&Path> {
        self.path.parent().filter(|p| !p.as_os_str().is_empty())
    }

    /// Brings everything to disk and gives it its final name.
    pub(super) fn publish(mut self) -> Result<Files, StagingError> {
        for dir in ["ca", "server", ""] {
            let dir = self.path.join(dir);
            sync_dir(&dir).map_err(io_error(&dir))?;
        }
        // rename replaces an empty directory, and refuses any other.
        let renamed = fs::rename(&self.path, &self.target)
            .and_then(|()| sync_dir(self.parent().unwrap_or(Path::new("."))));
        renamed.map_err(|source| match source.kind() {
            io::ErrorKind::DirectoryNotEmpty => exists(&self.target),
            _ => io_error(&self.target)(source),
        })?;
        self.published = true;
        Ok(Files::new(&self.target))
    }
}

impl Drop for StagingDir {
    fn drop(&mut self) {
        if !self.published {
            // Nothing more can be done about a directory that cannot be removed.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

fn refuse_existing(target: &Path) -> Result<(), StagingError> {
    match fs::read_dir(target) {
        Ok(mut entries) => match entries.next() {
            Some(_) => Err(exists(target)),
            None => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(io_error(target)(source)),
    }
}

/// Brings a directory's entries to disk.
fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}
