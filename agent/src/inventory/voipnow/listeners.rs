//! Daemons that listen where a policy lets the world in for media.

use voipfleet_policy::Transport;
use voipfleet_policy::catalogue::{Exposure, SERVICES};
use voipfleet_proto::v1::Listener;
use voipfleet_ruleset::ruleset::PortRange;

use crate::host::{Processes, Root};

/// A line of `/proc/net/udp` is 128 bytes: more sockets than any media server has.
const MAX_FILE: u64 = 8 << 20;
/// Listeners that one node reports.
const MAX_LISTENERS: usize = 64;

/// Daemons whose ports in these ranges are media, with the ports of theirs that are not.
const MEDIA: [(&str, &[u16]); 4] = [
    ("asterisk", &[4569]),    // IAX2
    ("rtpengine", &[12_222]), // its control port
    ("rtpproxy", &[]),
    ("mediaproxy", &[]),
];

/// A UDP socket that takes packets from anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Socket {
    port: u16,
    inode: u64,
}

/// The sockets in the catalogue's ranges that are open to the world, but for those of media
/// daemons: each port and command once, ascending.
pub fn listeners(root: &Root, processes: &Processes) -> Vec<Listener> {
    let ranges = world_ranges();
    let mut sockets: Vec<Socket> = ["udp", "udp6"]
        .into_iter()
        .flat_map(|name| {
            // Of this thread: tests have namespaces of their own. Linux has it since 3.17.
            let own = root.text(&format!("/proc/thread-self/net/{name}"), MAX_FILE);
            let text = own.or_else(|| root.text(&format!("/proc/net/{name}"), MAX_FILE));
            let lines: Vec<Socket> = text.unwrap_or_default().lines().filter_map(read).collect();
            lines
        })
        .filter(|socket| ranges.iter().any(|range| range.contains(socket.port)))
        .collect();
    sockets.sort_unstable_by_key(|socket| (socket.port, socket.inode));
    if sockets.is_empty() {
        return Vec::new();
    }
    let inodes: Vec<u64> = sockets.iter().map(|socket| socket.inode).collect();
    let owners = processes.owners(&inodes);
    let mut found: Vec<Listener> = Vec::new();
    for socket in sockets {
        let process = owners.owner(socket.inode);
        let listener = Listener {
            port: socket.port.into(),
            process,
        };
        if !is_media(&listener.process, socket.port) && !found.contains(&listener) {
            found.push(listener);
        }
        if found.len() == MAX_LISTENERS {
            break;
        }
    }
    found
}

/// From here on, a media daemon's ports are media whatever range the site has.
const FIRST_HIGH_PORT: u16 = 10_000;

/// Whether a UDP socket of a media daemon carries media.
pub(in crate::inventory) fn is_media_socket(process: &str, port: u16) -> bool {
    let open = || world_ranges().iter().any(|range| range.contains(port));
    is_media(process, port) && (port >= FIRST_HIGH_PORT || open())
}

fn is_media(process: &str, port: u16) -> bool {
    MEDIA
        .iter()
        .any(|(daemon, others)| *daemon == process && !others.contains(&port))
}

/// UDP ports that the catalogue opens to the world: RTP and T.38.
fn world_ranges() -> Vec<PortRange> {
    SERVICES
        .iter()
        .filter(|service| service.default_from.contains(&Exposure::World))
        .flat_map(|service| service.openings)
        .filter(|opening| opening.transport == Transport::Udp)
        .flat_map(|opening| opening.ports.iter().copied())
        .collect()
}

/// `sl local remote st queues timer retransmits uid timeout inode …`, addresses in the
/// processor's byte order. Connected sockets and those of the loopback take no packets of
/// strangers.
fn read(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, port) = fields.get(1)?.split_once(':')?;
    let (_, remote_port) = fields.get(2)?.split_once(':')?;
    let connected = u16::from_str_radix(remote_port, 16).ok()? != 0;
    if connected || is_loopback(local)? {
        return None;
    }
    Some(Socket {
        port: u16::from_str_radix(port, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

fn is_loopback(address: &str) -> Option<bool> {
    let mut bytes = Vec::with_capacity(16);
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    match bytes.len() {
        4 => Some(bytes.first() == Some(&127)),
        16 => {
            let address = std::net::Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
            let v4 = address.to_ipv4_mapped();
            Some(address.is_loopback() || v4.is_some_and(|v4| v4.is_loopback()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn world_ranges_are_rtp_and_t38() {
        let ranges = world_ranges();
        let open = |port: u16| ranges.iter().any(|range| range.contains(port));
        assert!(
            [4000, 4500, 4569, 5999, 10_000, 11_211, 20_000]
                .into_iter()
                .all(open)
        );
        assert!(![3999, 5050, 5060, 6000, 9999, 20_001].into_iter().any(open));
    }

    #[test]
    fn only_unconnected_non_loopback_sockets_are_read() {
        let line = |local: &str, remote: &str| {
            format!(" 1: {local} {remote} 07 00000000:00000000 00:00000000 00000000 0 0 4711 2 0 0")
        };
        let port = |local: &str, remote: &str| read(&line(local, remote)).map(|socket| socket.port);
        let any = "00000000:0000";
        let any6 = "00000000000000000000000000000000:0000";
        let loopback = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
        assert_eq!(port("00000000:2BCB", any), Some(11_211));
        assert_eq!(port("00000000:2BCB", "0A000001:1000"), None);
        assert_eq!(port(&format!("{loopback}:2BCB"), any), None);
        assert_eq!(
            port("00000000000000000000000000000000:11D9", any6),
            Some(4569)
        );
        let one = format!("{:08X}", u32::from_ne_bytes([0, 0, 0, 1]));
        assert_eq!(
            port(&format!("000000000000000000000000{one}:11D9"), any6),
            None
        );
        assert_eq!(read("  sl  local_address rem_address   st tx_queue"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn media_daemons_are_expected_except_on_their_control_ports() {
        assert!(is_media("asterisk", 12_345));
        assert!(!is_media("asterisk", 4569));
        assert!(!is_media("memcached", 11_211));
        assert!(!is_media("", 4789));
    }
}
