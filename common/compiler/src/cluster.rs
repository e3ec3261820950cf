//! The addresses by which the nodes of a site reach each other.

use std::net::IpAddr;

use voipfleet_ruleset::ruleset::Interface;

use super::NodeInput;

impl NodeInput {
    /// Its addresses on the cluster's interface, or, where it has none there, all that others can
    /// reach; each with the interface that it is on.
    pub fn cluster_addresses<'n>(
        &'n self,
        interface: Option<&Interface>,
    ) -> Vec<(&'n str, IpAddr)> {
        let reachable = || {
            self.reachable()
                .map(|address| (address.interface.as_str(), address.net.addr()))
        };
        let wanted = interface.map(Interface::as_str);
        let there: Vec<_> = reachable()
            .filter(|(name, _)| Some(*name) == wanted)
            .collect();
        if there.is_empty() {
            reachable().collect()
        } else {
            there
        }
    }
}
