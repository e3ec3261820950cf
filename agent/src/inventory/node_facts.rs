//! Hostname, backend and addresses of the node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use voipfleet_proto::v1 as pb;
use voipfleet_ruleset::ruleset::Family;

use crate::host::hostname;
use crate::kernel::Kernel;

/// Addresses that the controller accepts from one node.
const MAX_ADDRESSES: usize = 256;

/// Hostname, backend and addresses.
pub fn gather(kernel: &dyn Kernel) -> pb::NodeFacts {
    pb::NodeFacts {
        hostname: hostname(),
        backend: kernel.backend().as_str().to_owned(),
        iptables_version: kernel.version().to_owned(),
        addresses: addresses(),
        ..pb::NodeFacts::default()
    }
}

/// Whether an address identifies the machine: loopback and link-local ones do not.
fn identifies_machine(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}

fn prefix_length(mask: IpAddr) -> u32 {
    match mask {
        IpAddr::V4(mask) => u32::from(mask).leading_ones(),
        IpAddr::V6(mask) => u128::from(mask).leading_ones(),
    }
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The addresses of all interfaces, in a stable order.
fn addresses() -> Vec<pb::InterfaceAddress> {
    let Ok(found) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let ip = |address: &nix::sys::socket::SockaddrStorage| -> Option<IpAddr> {
        if let Some(v4) = address.as_sockaddr_in() {
            return Some(v4.ip().into());
        }
        address.as_sockaddr_in6().map(|v6| v6.ip().into())
    };
    let reported: BTreeSet<(String, IpAddr, u32)> = found
        .filter_map(|interface| {
            let address = interface.address.as_ref().and_then(ip)?;
            let mask = interface.netmask.as_ref().and_then(ip)?;
            identifies_machine(address)
                .then(|| (interface.interface_name, address, prefix_length(mask)))
        })
        .collect();
    reported
        .into_iter()
        .take(MAX_ADDRESSES)
        .map(|(interface, address, prefix_length)| pb::InterfaceAddress {
            interface,
            address: address_bytes(address),
            prefix_length,
        })
        .collect()
}

/// The names of all interfaces, with and without addresses; none where they cannot be read.
pub fn interfaces() -> Option<BTreeSet<String>> {
    let found = nix::ifaddrs::getifaddrs().ok()?;
    Some(found.map(|interface| interface.interface_name).collect())
}

/// A warning about the machine: IPv6 is disabled.
pub fn warnings(kernel: &dyn Kernel) -> Option<String> {
    (!kernel.speaks(Family::V6))
        .then(|| "IPv6 is disabled in this machine's kernel: no IPv6 rules are loaded".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_link_local_addresses_are_left_out() {
        for (text, reported) in [
            ("127.0.0.1", false),
            ("169.254.1.1", false),
            ("::1", false),
            ("fe80::1", false),
            ("10.0.0.1", true),
            ("2001:db8::1", true),
        ] {
            assert_eq!(
                identifies_machine(text.parse().unwrap()),
                reported,
                "{text}"
            );
        }
        assert_eq!(prefix_length("255.255.240.0".parse().unwrap()), 20);
        assert_eq!(prefix_length("ffff:ffff::".parse().unwrap()), 32);
    }
}
