//! The process that holds the xtables lock, for the message of who waits for it in vain.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Author;
use crate::host::{Processes, Root};

/// The longest `/proc/locks` that is read.
const MAX_LOCKS: u64 = 1 << 20;

/// The process that holds a lock; none where it cannot be found: it may be in another PID
/// namespace, or have released the lock in this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LockHolder(Option<Author>);

impl LockHolder {
    /// The holder of the file's lock.
    pub(super) fn of(path: &Path) -> Self {
        let root = Root::new("/");
        let processes = Processes::new(&root);
        let read = |pid: u32| {
            let (_, comm) = processes.parent_and_comm(pid)?;
            (pid != std::process::id()).then(|| Author::named(pid, comm).looked_up(&processes))
        };
        let locked = || {
            let file = std::fs::metadata(path).ok()?;
            let locks = root.text("/proc/locks", MAX_LOCKS)?;
            let file = place(file.dev(), file.ino());
            holders(&locks, &file).into_iter().find_map(read)
        };
        // The process that took it may have ended, and left it to one that inherited it.
        let opened = || processes.with_file(path).into_iter().find_map(read);
        Self(locked().or_else(opened))
    }
}

impl fmt::Display for LockHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(author) = &self.0 else {
            return f.write_str("it could not be found (see `fuser -v` on that file)");
        };
        let process = &author.process;
        write!(f, "{} (pid {})", process.comm, process.pid)?;
        match &author.started_by {
            Some(_) => write!(f, ", started by {}", author.describe()),
            None => Ok(()),
        }
    }
}

/// A file as `/proc/locks` writes it: the numbers of its device, and its inode, which another file
/// system may have too.
fn place(device: u64, inode: u64) -> String {
    // As glibc's major() and minor() take a device apart.
    let major = ((device >> 32) & 0xffff_f000) | ((device >> 8) & 0xfff);
    let minor = ((device >> 12) & 0xffff_ff00) | (device & 0xff);
    format!("{major:02x}:{minor:02x}:{inode}")
}

/// The processes in `/proc/locks` that hold that file. A line is `7: FLOCK  ADVISORY  WRITE 4711
/// 00:17:1053 0 EOF`, and has an arrow where the process waits.
fn holders(locks: &str, place: &str) -> Vec<u32> {
    let holder = |line: &str| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK" | "POSIX" | "OFDLCK", _, _, pid, file, ..] = words[..] else {
            return None;
        };
        (file == place).then(|| pid.parse().ok()).flatten()
    };
    locks.lines().filter_map(holder).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_of_a_file_are_found_and_those_who_wait_are_not() {
        let locks = "1: FLOCK  ADVISORY  WRITE 4711 00:17:1053 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 4712 00:17:1053 0 EOF\n\
                     2: POSIX  ADVISORY  READ 4713 fe:01:1054 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE -1 00:17:1053 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 4714 00:18:1053 0 EOF\nnonsense\n";
        assert_eq!(holders(locks, &place(0x17, 1053)), [4711]);
        assert_eq!(holders(locks, &place(0xfe01, 1054)), [4713]);
        assert!(holders(locks, &place(0x17, 1)).is_empty());
    }

    #[test]
    fn holder_is_named_also_where_only_its_child_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        std::fs::write(&path, "").unwrap();
        assert!(LockHolder::of(&path).to_string().contains("fuser"));
        let script = format!(
            "exec 9>{0}; flock 9; echo locked; read word",
            path.display()
        );
        #[allow(clippy::disallowed_methods)] // a stand-in for another program
        let mut child = std::process::Command::new("bash")
            .args(["-c", &script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut locked = [0; 7];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut locked).unwrap();
        let holder = LockHolder::of(&path).to_string();
        let words = format!("bash (pid {})", child.id());
        assert!(holder.starts_with(&words), "{holder}");
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
