//! The machine below everything else: its files and processes, its clock, the programs that the
//! agent runs on it.

pub mod clock;
pub mod disk;
pub mod exec;
mod files;
pub mod pid_namespace;
mod processes;
pub mod state_dir;
pub mod systemd;

use std::path::PathBuf;

use exec::Runner;

pub use files::Root;
pub(crate) use processes::comm_text;
pub use processes::{Process, Processes, Sockets};

/// A machine: where its files are, and what runs its programs.
#[derive(Debug, Clone)]
pub struct Host {
    /// The machine's files.
    pub root: Root,
    /// Runs `systemctl` and `nft`.
    pub runner: Runner,
}

impl Host {
    /// This machine.
    pub fn new(runner: Runner) -> Self {
        Self::at("/", runner)
    }

    /// A machine whose files are under `root`.
    pub fn at(root: impl Into<PathBuf>, runner: Runner) -> Self {
        Self {
            root: Root::new(root),
            runner,
        }
    }
}

/// The machine's name for itself.
pub fn hostname() -> String {
    nix::unistd::gethostname()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Identifies this boot of the machine.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}
