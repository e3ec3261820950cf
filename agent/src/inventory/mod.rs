//! Facts about the machine for the controller: read, never changed.

mod kernel_features;
pub mod node_facts;
mod sockets;
pub mod voipnow;

use std::collections::BTreeSet;

use voipfleet_proto::v1 as pb;
use voipfleet_ruleset::ruleset::Family;

use crate::foreign_firewalls::{ForeignFirewalls, Protected};
use crate::host::{Host, Processes};
use crate::kernel::Kernel;
use crate::reconcile::Inventory;
use kernel_features::KernelFeatures;
use sockets::Sockets;

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
        let mut foreign = ForeignFirewalls::default();
        foreign.refresh(host);
        foreign.check(host, kernel, Protected::NOTHING);
        Self {
            foreign_firewalls: foreign.found(),
            ..Self::of_machine(host)
        }
    }

    /// The same without foreign firewalls.
    fn of_machine(host: &Host) -> Self {
        let processes = Processes::new(&host.root);
        Self {
            foreign_firewalls: Vec::new(),
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
    foreign: ForeignFirewalls,
    sockets: Sockets,
    features: KernelFeatures,
}

impl HostInventory {
    /// Nothing is read yet.
    pub fn new(host: Host) -> Self {
        Self {
            host,
            findings: Findings::default(),
            foreign: ForeignFirewalls::default(),
            sockets: Sockets::default(),
            features: KernelFeatures::default(),
        }
    }
}

impl Inventory for HostInventory {
    fn refresh(&mut self, _kernel: &mut dyn Kernel) {
        self.findings = Findings::of_machine(&self.host);
        self.foreign.refresh(&self.host);
    }

    fn check_foreign(&mut self, kernel: &mut dyn Kernel, protected: Protected<'_>) -> bool {
        self.foreign.check(&self.host, kernel, protected)
    }

    fn interfaces(&self) -> Option<BTreeSet<String>> {
        node_facts::interfaces()
    }

    fn refresh_sockets(&mut self, kernel: &mut dyn Kernel) {
        let processes = Processes::new(&self.host.root);
        self.sockets.refresh(&self.host.root, &processes, kernel);
        self.features.refresh(kernel);
    }

    fn ssh_ports(&self) -> &[u16] {
        self.sockets.ssh_ports()
    }

    fn facts(&self, kernel: &dyn Kernel, families: &[Family]) -> pb::NodeFacts {
        let Findings {
            voipnow, listeners, ..
        } = self.findings.clone();
        pb::NodeFacts {
            neighbours: self.foreign.found(),
            voipnow,
            listeners,
            sockets: self.sockets.found().to_vec(),
            missing_features: self.features.missing().to_vec(),
            warnings: node_facts::warnings(kernel)
                .into_iter()
                .chain(self.features.warnings(families))
                .collect(),
            ..node_facts::gather(kernel)
        }
    }
}
