//! Facts about the machine for the controller: read, never changed.

pub mod node_facts;
pub mod voipnow;

use std::collections::BTreeSet;

use voipfleet_proto::v1 as pb;

use crate::foreign_firewalls;
use crate::host::{Host, Processes};
use crate::kernel::Kernel;
use crate::reconcile::Inventory;

/// Foreign firewalls, VoipNow, and listeners.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Findings {
    /// Other programs that change the firewall.
    pub foreign_firewalls: Vec<pb::Neighbour>,
    /// VoipNow, where it is installed.
    pub voipnow: Option<pb::VoipNow>,
    /// Sockets on ports that a policy opens to the world for media.
    pub listeners: Vec<pb::Listener>,
}

impl Findings {
    /// Reads all of it: some twenty small files, the tables of both families, and one pass over
    /// the processes.
    pub fn read(host: &Host, kernel: &mut dyn Kernel) -> Self {
        let processes = Processes::new(&host.root);
        Self {
            foreign_firewalls: foreign_firewalls::find(host, kernel),
            voipnow: voipnow::read(&host.root, &processes),
            listeners: voipnow::listeners(&host.root, &processes),
        }
    }
}

/// The inventory of one machine.
#[derive(Debug)]
pub struct HostInventory {
    host: Host,
    findings: Findings,
}

impl HostInventory {
    /// Nothing is read yet.
    pub fn new(host: Host) -> Self {
        Self {
            host,
            findings: Findings::default(),
        }
    }
}

impl Inventory for HostInventory {
    fn refresh(&mut self, kernel: &mut dyn Kernel) {
        self.findings = Findings::read(&self.host, kernel);
    }

    fn interfaces(&self) -> Option<BTreeSet<String>> {
        node_facts::interfaces()
    }

    fn facts(&self, kernel: &dyn Kernel) -> pb::NodeFacts {
        let Findings {
            foreign_firewalls,
            voipnow,
            listeners,
        } = self.findings.clone();
        pb::NodeFacts {
            neighbours: foreign_firewalls,
            voipnow,
            listeners,
            warnings: node_facts::warnings(kernel).into_iter().collect(),
            ..node_facts::gather(kernel)
        }
    }
}
