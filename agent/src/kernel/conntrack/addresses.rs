//! Which flows are this node's own, and by which interface their packets come in.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use voipfleet_ruleset::flows::{Flow, Opener};
use voipfleet_ruleset::ruleset::Interface;

use super::entry::Entry;

/// The addresses of this machine, with the interfaces that have them.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    of: BTreeMap<IpAddr, Vec<Interface>>,
    /// Every interface but loopback.
    outward: Vec<Interface>,
}

impl Addresses {
    pub(super) fn read() -> std::io::Result<Self> {
        let mut addresses = Self::default();
        for interface in nix::ifaddrs::getifaddrs()? {
            let address = interface.address.as_ref().and_then(|address| {
                let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
            });
            addresses.add(&interface.interface_name, address);
        }
        Ok(addresses)
    }

    /// An address on `lo` is met by packets of any other interface. A name that no rule can
    /// hold is matched by no rule either.
    fn add(&mut self, name: &str, address: Option<IpAddr>) {
        let interface = name.parse::<Interface>().ok().filter(|_| name != "lo");
        if let Some(interface) = &interface
            && !self.outward.contains(interface)
        {
            self.outward.push(interface.clone());
        }
        if let Some(address) = address {
            self.of.entry(address).or_default().extend(interface);
        }
    }

    fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.of.contains_key(&address)
    }

    /// The flow of an entry, as the rules of `INPUT` see its packets; none: those rules never
    /// see them, or loopback's lets them pass.
    ///
    /// Destinations are translated before `INPUT` and sources after it: who spoke first is
    /// seen under its own address, and who answers under the one that it answers from.
    pub(super) fn flow(&self, entry: &Entry) -> Option<Flow<'_>> {
        let (first, answering) = (entry.original.source, entry.reply.source);
        let (opener, peer, local): (_, SocketAddr, SocketAddr) =
            match (self.is_local(first.ip()), self.is_local(answering.ip())) {
                (false, true) => (Opener::Peer, first, answering),
                (true, false) => (Opener::Node, answering, first),
                // Forwarded, or to itself.
                (false, false) | (true, true) => return None,
            };
        let interfaces = self.of.get(&local.ip()).filter(|found| !found.is_empty());
        Some(Flow {
            protocol: entry.protocol,
            peer,
            local_port: local.port(),
            opener,
            interfaces: interfaces.unwrap_or(&self.outward),
        })
    }
}

#[cfg(test)]
mod tests {
    use voipfleet_ruleset::ruleset::Protocol;

    use super::*;
    use crate::kernel::conntrack::entry::Ends;

    fn addresses() -> Addresses {
        let mut addresses = Addresses::default();
        for (name, address) in [
            ("lo", Some("127.0.0.1")),
            ("lo", Some("198.18.9.9")),
            ("eth0", Some("198.18.0.11")),
            ("eth1", Some("10.20.0.11")),
            ("eth0", Some("fe80::1")),
            ("eth1", Some("fe80::1")),
            ("docker0", Some("172.17.0.1")),
            ("wg0", None),
        ] {
            addresses.add(name, address.map(|address| address.parse().unwrap()));
        }
        addresses
    }

    fn entry(original: (&str, &str), reply: (&str, &str)) -> Entry {
        let ends = |(source, destination): (&str, &str)| Ends {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        Entry::new(Protocol::Udp, ends(original), ends(reply))
    }

    #[test]
    fn flow_has_the_addresses_that_input_rules_match() {
        let (phone, node) = ("203.0.113.9:5062", "198.18.0.11:5060");
        for (original, reply, seen) in [
            (
                (phone, node),
                (node, phone),
                Some((Opener::Peer, phone, 5060, "eth0")),
            ),
            (
                (node, phone),
                (phone, node),
                Some((Opener::Node, phone, 5060, "eth0")),
            ),
            // Redirected to another port of the node.
            (
                (phone, "198.18.0.11:15060"),
                (node, phone),
                Some((Opener::Peer, phone, 5060, "eth0")),
            ),
            // Sent by the node under another address.
            (
                ("10.20.0.11:5060", phone),
                (phone, node),
                Some((Opener::Node, phone, 5060, "eth1")),
            ),
            // Docker's: a published port, and a container that goes out.
            ((phone, node), ("172.17.0.2:5060", phone), None),
            (
                ("172.17.0.2:5060", phone),
                (phone, "198.18.0.11:61000"),
                None,
            ),
            // To itself, by one address or two.
            ((node, node), (node, node), None),
            (("10.20.0.11:9", node), (node, "10.20.0.11:9"), None),
            (
                ("127.0.0.1:9", "127.0.0.1:5060"),
                ("127.0.0.1:5060", "127.0.0.1:9"),
                None,
            ),
            // A broadcast.
            (
                ("203.0.113.9:68", "255.255.255.255:67"),
                ("255.255.255.255:67", "203.0.113.9:68"),
                None,
            ),
        ] {
            let addresses = addresses();
            let entry = entry(original, reply);
            let flow = addresses.flow(&entry);
            let found = flow.as_ref().map(|flow| {
                let [interface] = flow.interfaces else {
                    panic!("{flow:?}")
                };
                (flow.opener, flow.peer, flow.local_port, interface.as_str())
            });
            let wanted = seen.map(|(opener, peer, port, interface)| {
                (opener, peer.parse::<SocketAddr>().unwrap(), port, interface)
            });
            assert_eq!(found, wanted, "{entry:?}");
        }
    }

    #[test]
    fn address_on_several_interfaces_yields_all_of_them() {
        let names = |local: &str| {
            let (addresses, phone) = (addresses(), "[2001:db8::9]:5062");
            let flow = addresses.flow(&entry((phone, local), (local, phone)));
            let interfaces = flow.unwrap().interfaces.iter();
            interfaces.map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names("[fe80::1]:5060"), ["eth0", "eth1"]);
        assert_eq!(names("198.18.9.9:5060"), ["eth0", "eth1", "docker0", "wg0"]);
    }
}
