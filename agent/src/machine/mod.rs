//! What is found on the machine itself: read, never changed.

mod files;
mod processes;

use std::path::PathBuf;

use voipfleet_proto::v1 as pb;

pub use files::Root;
pub(crate) use processes::comm_text;
pub use processes::{Process, Processes, Sockets};

use crate::kernel::{Kernel, Runner};
use crate::{neighbours, voipnow};

/// Where to look.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The machine's files.
    pub root: Root,
    /// Finds `systemctl` and `nft`.
    pub runner: Runner,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Findings {
    /// Others who work on the firewall.
    pub neighbours: Vec<pb::Neighbour>,
    /// VoipNow, where it is installed.
    pub voipnow: Option<pb::VoipNow>,
    /// Sockets on ports that a policy opens to the world for media.
    pub listeners: Vec<pb::Listener>,
}

impl Machine {
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

    /// Looks at all of it: some twenty small files, the tables of both families, and one
    /// pass over the processes.
    pub fn look(&self, kernel: &mut dyn Kernel) -> Findings {
        let processes = Processes::new(&self.root);
        Findings {
            neighbours: neighbours::find(self, kernel),
            voipnow: voipnow::read(&self.root, &processes),
            listeners: voipnow::listeners(&self.root, &processes),
        }
    }
}

impl Findings {
    /// Puts them into what the controller is told.
    pub fn tell(&self, facts: &mut pb::NodeFacts) {
        facts.neighbours.clone_from(&self.neighbours);
        facts.voipnow.clone_from(&self.voipnow);
        facts.listeners.clone_from(&self.listeners);
    }
}
