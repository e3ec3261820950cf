//! `TRUSTED_NET` of `/etc/voipnow/local.conf`.

use std::net::IpAddr;

use ipnet::IpNet;
use voipfleet_proto::v1::Network;

use crate::host::Root;

const FILE: &str = "/etc/voipnow/local.conf";
const MAX_FILE: u64 = 256 << 10;
/// Networks of one node.
const MAX_NETWORKS: usize = 256;

/// The networks that the vendor's firewall trusts: `TRUSTED_NET NETWORK/MASK NETWORK/MASK …`
/// (the vendor's page "Network Security", whose examples have host bits). Ascending.
pub(super) fn networks(root: &Root) -> Vec<Network> {
    let text = root.text(FILE, MAX_FILE).unwrap_or_default();
    let mut found: Vec<IpNet> = text.lines().flat_map(read).collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(MAX_NETWORKS);
    found.into_iter().map(to_wire).collect()
}

fn read(line: &str) -> Vec<IpNet> {
    let Some(rest) = line.trim().strip_prefix("TRUSTED_NET") else {
        return Vec::new();
    };
    if !rest.starts_with(|c: char| c.is_whitespace() || c == '=' || c == ':') {
        return Vec::new(); // another setting
    }
    // A comment may follow.
    let rest = rest.split('#').next().unwrap_or_default();
    let parted = |c: char| c.is_whitespace() || "=,;\"'".contains(c);
    rest.split(parted).filter_map(network).collect()
}

/// An address, with a prefix length or a dotted mask.
fn network(text: &str) -> Option<IpNet> {
    if let Ok(net) = text.parse::<IpNet>() {
        return Some(net.trunc());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.into());
    }
    let (address, mask) = text.split_once('/')?;
    let net = IpNet::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()?;
    Some(net.trunc())
}

fn to_wire(net: IpNet) -> Network {
    Network {
        address: match net.addr() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        },
        prefix_length: net.prefix_len().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trusted_networks_are_parsed_in_every_vendor_notation() {
        let nets = |line: &str| {
            read(line)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            nets("TRUSTED_NET 10.10.34.12/32 10.10.33.1/24"),
            ["10.10.34.12/32", "10.10.33.0/24"]
        );
        assert_eq!(
            nets(" TRUSTED_NET=172.16.1.9/255.255.0.0, 2001:db8::1 # office"),
            ["172.16.0.0/16", "2001:db8::1/128"]
        );
        for nothing in [
            "# TRUSTED_NET 10.0.0.0/8",
            "TRUSTED_NETWORKS 10.0.0.0/8",
            "TRUSTED_NET NETWORK/MASK",
            "TRUSTED_NET 10.0.0.0/255.0.255.0",
            "TRUSTED_NET",
        ] {
            assert!(read(nothing).is_empty(), "{nothing}");
        }
    }
}
