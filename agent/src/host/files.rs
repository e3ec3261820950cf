//! Bounded reading of files that others wrote.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// The most names that are taken of a folder.
const MAX_NAMES: usize = 4096;

/// The longest file that is searched line by line: the symbols of a kernel are 20 MB.
const MAX_LINES_FILE: u64 = 64 << 20;

/// The folder under which the machine's files are: `/`, but in tests.
#[derive(Debug, Clone)]
pub struct Root(PathBuf);

impl Root {
    /// Files under `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// The place of an absolute path.
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.0.join(absolute.trim_start_matches('/'))
    }

    /// Whether something has this name, be it a link to nowhere.
    pub fn exists(&self, absolute: &str) -> bool {
        self.path(absolute).symlink_metadata().is_ok()
    }

    /// The first `limit` bytes of a regular file as text; none if there is no such file, or
    /// it cannot be read.
    pub fn text(&self, absolute: &str, limit: u64) -> Option<String> {
        let mut content = Vec::new();
        open(&self.path(absolute))?
            .take(limit)
            .read_to_end(&mut content)
            .ok()?;
        Some(String::from_utf8(content).unwrap_or_else(|other| {
            // A cut in the middle of a letter, or a file of another time.
            String::from_utf8_lossy(other.as_bytes()).into_owned()
        }))
    }

    /// Whether a line of a regular file is wanted. It is read line by line, up to its end.
    pub fn any_line(&self, absolute: &str, wanted: impl Fn(&str) -> bool) -> bool {
        let Some(file) = open(&self.path(absolute)) else {
            return false;
        };
        let lines = BufReader::new(file.take(MAX_LINES_FILE)).lines();
        lines.map_while(Result::ok).any(|line| wanted(&line))
    }

    /// The names in a folder, sorted; none if there is no such folder.
    pub fn names(&self, absolute: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path(absolute)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .take(MAX_NAMES)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names
    }
}

/// Opens a regular file. A pipe or a device of its name would keep us waiting.
fn open(path: &Path) -> Option<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
        .ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read_up_to_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        std::fs::create_dir(root.path("/etc")).unwrap();
        std::fs::write(root.path("/etc/file"), "abc\u{e9}").unwrap();
        nix::unistd::mkfifo(&root.path("/etc/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(root.text("/etc/file", 3).as_deref(), Some("abc"));
        assert_eq!(root.text("/etc/file", 4).as_deref(), Some("abc\u{fffd}"));
        assert_eq!(root.text("/etc/pipe", 3), None);
        assert_eq!(root.text("/etc", 3), None);
        assert_eq!(root.text("/etc/none", 3), None);
        assert_eq!(root.names("/etc"), ["file", "pipe"]);
        assert!(root.names("/none").is_empty());
    }
}
