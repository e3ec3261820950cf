//! Sockets that take packets from other machines, and who uses them now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use voipfleet_proto::v1 as pb;
use voipfleet_ruleset::flows::Opener;
use voipfleet_ruleset::ruleset::Protocol;

use super::voipnow::is_media_socket;
use crate::host::{Processes, Root};
use crate::kernel::Kernel;

/// A line is 128 bytes: more sockets than any media server has.
const MAX_FILE: u64 = 8 << 20;
/// Sockets that one node reports.
const MAX_SOCKETS: usize = 128;
/// Users of one socket that are reported; the others are counted.
const MAX_USERS: usize = 32;
/// Users of one socket that are told apart.
const MAX_COUNTED: usize = 4096;
/// How often users are looked for while the sockets stay the same: they change with every call.
const USERS_EVERY: Duration = Duration::from_secs(30);
/// Listing connections may take this part of the time at most.
const FLOWS_SHARE: u32 = 200;
/// The most ports of SSH that are kept open besides those of the ruleset.
const MAX_SSH_PORTS: usize = 8;
/// Commands that are a server of SSH.
const SSH_SERVERS: [&str; 2] = ["sshd", "dropbear"];
/// Both ends of DHCP's client, which the agent keeps open itself.
const DHCP_CLIENTS: [u16; 2] = [68, 546];

/// States of `/proc/net/tcp` (`include/net/tcp_states.h`).
const LISTEN: u8 = 0x0a;
const SYN_RECEIVED: u8 = 0x03;

/// One line of `/proc/net/tcp` or `/proc/net/udp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    uid: u32,
    inode: u64,
}

/// A socket that takes packets from anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Open {
    protocol: Protocol,
    port: u16,
    inode: u64,
    uid: u32,
}

/// Protocol and port, with the command.
type Key = (Protocol, u16, String);

/// The users of a port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Users {
    addresses: BTreeSet<IpAddr>,
}

/// What is known of the machine's sockets.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// As they are reported.
    found: Vec<pb::ListeningSocket>,
    /// Where servers of SSH listen, ascending.
    ssh_ports: Vec<u16>,
    /// The commands of sockets, by inode.
    owners: BTreeMap<u64, String>,
    /// UDP sockets of the last reading: what is there twice is no question of a resolver.
    before: BTreeSet<u64>,
    users: BTreeMap<(Protocol, u16), Users>,
    users_at: Option<Instant>,
    /// Peers of UDP, by port, as connection tracking knew them.
    tracked: BTreeMap<(Protocol, u16), Users>,
    /// Whether connections are tracked at all.
    is_tracking: bool,
    flows_due: Option<Instant>,
}

impl Sockets {
    /// The sockets that were found last.
    pub(super) fn found(&self) -> &[pb::ListeningSocket] {
        &self.found
    }

    /// Where servers of SSH really listen.
    pub(super) fn ssh_ports(&self) -> &[u16] {
        &self.ssh_ports
    }

    /// Reads `/proc`, and the tracked connections where that is not too much work.
    pub(super) fn refresh(&mut self, root: &Root, processes: &Processes, kernel: &mut dyn Kernel) {
        let tcp = read(root, &["tcp", "tcp6"]);
        let udp = read(root, &["udp", "udp6"]);
        let mut open = listening(&tcp);
        let ephemeral = ephemeral_ports(root);
        let unconnected = unconnected(&udp);
        let passing =
            |one: &Open| ephemeral.contains(&one.port) && !self.before.contains(&one.inode);
        open.extend(unconnected.iter().filter(|one| !passing(one)));
        self.before = unconnected.iter().map(|one| one.inode).collect();
        self.find_owners(&open, processes);

        let own = own_addresses();
        let mut by_key: BTreeMap<Key, bool> = BTreeMap::new();
        let mut ssh = BTreeSet::new();
        for one in &open {
            let process = self.owners.get(&one.inode).cloned().unwrap_or_default();
            if is_expected(one, &process) {
                continue;
            }
            // Any user may run a program of that name; only root's is the machine's.
            let is_ssh = one.protocol == Protocol::Tcp
                && one.uid == 0
                && SSH_SERVERS.contains(&process.as_str());
            if is_ssh {
                ssh.insert(one.port);
            }
            let found = by_key.entry((one.protocol, one.port, process)).or_default();
            *found |= is_ssh;
        }
        // While it restarts, a server listens nowhere.
        if !ssh.is_empty() {
            self.ssh_ports = ssh.into_iter().take(MAX_SSH_PORTS).collect();
        }
        let same =
            self.found.len() == by_key.len().min(MAX_SOCKETS)
                && self.found.iter().zip(by_key.keys()).all(
                    |(found, (protocol, port, process))| {
                        found.protocol() == wire(*protocol)
                            && found.port == u32::from(*port)
                            && found.process == *process
                    },
                );
        let now = Instant::now();
        let fresh = self
            .users_at
            .is_some_and(|at| now.duration_since(at) < USERS_EVERY);
        if !same || !fresh {
            self.users_at = Some(now);
            self.find_users(&tcp, &by_key, &own, kernel);
        }
        let all = by_key.into_iter().take(MAX_SOCKETS);
        self.found = all.map(|(key, is_ssh)| self.report(key, is_ssh)).collect();
    }
}

impl Sockets {
    /// Looks up the commands of sockets that are new.
    fn find_owners(&mut self, open: &[Open], processes: &Processes) {
        let inodes: Vec<u64> = open.iter().map(|one| one.inode).collect();
        // The kernel's own sockets have none.
        let is_new = |inode: &&u64| **inode != 0 && !self.owners.contains_key(*inode);
        let new: Vec<u64> = inodes.iter().filter(is_new).copied().collect();
        let there: BTreeSet<u64> = inodes.into_iter().collect();
        self.owners.retain(|inode, _| there.contains(inode));
        if new.is_empty() {
            return;
        }
        let found = processes.owners(&new);
        self.owners
            .extend(new.into_iter().map(|inode| (inode, found.owner(inode))));
    }

    /// Finds out who uses the ports of `open` now.
    fn find_users(
        &mut self,
        tcp: &[Line],
        open: &BTreeMap<Key, bool>,
        own: &BTreeSet<IpAddr>,
        kernel: &mut dyn Kernel,
    ) {
        let ports: BTreeSet<(Protocol, u16)> = open
            .keys()
            .map(|(protocol, port, _)| (*protocol, *port))
            .collect();
        self.read_flows(&ports, kernel);
        self.users = self.tracked.clone();
        self.users.retain(|port, _| ports.contains(port));
        for line in tcp {
            let port = (Protocol::Tcp, line.local.port());
            let peer = line.remote.ip().to_canonical();
            let is_use = line.state != LISTEN
                && line.state != SYN_RECEIVED
                && line.remote.port() != 0
                && ports.contains(&port);
            if is_use && !peer.is_loopback() && !own.contains(&peer) {
                self.users.entry(port).or_default().add(peer);
            }
        }
    }

    /// Reads the tracked connections; not where that takes long and was done lately: a flood makes
    /// millions of them.
    fn read_flows(&mut self, ports: &BTreeSet<(Protocol, u16)>, kernel: &mut dyn Kernel) {
        let begun = Instant::now();
        if ports.is_empty() || self.flows_due.is_some_and(|due| begun < due) {
            return;
        }
        let mut tracked: BTreeMap<(Protocol, u16), Users> = BTreeMap::new();
        let mut any = false;
        let listed = kernel.list_flows(&mut |flow| {
            any = true;
            let port = (flow.protocol, flow.local_port);
            if flow.opener == Opener::Peer && ports.contains(&port) {
                tracked
                    .entry(port)
                    .or_default()
                    .add(flow.peer.ip().to_canonical());
            }
        });
        self.flows_due = Some(begun + begun.elapsed() * FLOWS_SHARE);
        // Without a rule that asks for it, the kernel tracks nothing; the agent's own connection
        // would be among the tracked ones.
        self.is_tracking = listed.is_ok() && any;
        self.tracked = tracked;
    }

    fn report(&self, (protocol, port, process): Key, is_ssh: bool) -> pb::ListeningSocket {
        let users = self.users.get(&(protocol, port));
        let all = users.map_or(0, |users| users.addresses.len());
        let first = users
            .into_iter()
            .flat_map(|users| &users.addresses)
            .take(MAX_USERS);
        pb::ListeningSocket {
            protocol: wire(protocol).into(),
            port: port.into(),
            process,
            users: first.map(address_bytes).collect(),
            more_users: u32::try_from(all.saturating_sub(MAX_USERS)).unwrap_or(u32::MAX),
            users_known: protocol == Protocol::Tcp || self.is_tracking,
            is_ssh,
        }
    }
}

impl Users {
    fn add(&mut self, address: IpAddr) {
        if self.addresses.len() < MAX_COUNTED {
            self.addresses.insert(address);
        }
    }
}

fn wire(protocol: Protocol) -> pb::Protocol {
    match protocol {
        Protocol::Tcp => pb::Protocol::Tcp,
        Protocol::Udp => pb::Protocol::Udp,
        Protocol::Icmp => pb::Protocol::Icmp,
        Protocol::Icmpv6 => pb::Protocol::Icmpv6,
        // Sockets are of the four above.
        Protocol::Other(_) => pb::Protocol::Unspecified,
    }
}

fn address_bytes(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Whether nothing needs to be said of a socket: media of media servers, and clients of DHCP, which
/// the agent's own rules keep open.
fn is_expected(one: &Open, process: &str) -> bool {
    one.protocol == Protocol::Udp
        && (DHCP_CLIENTS.contains(&one.port) || is_media_socket(process, one.port))
}

fn listening(tcp: &[Line]) -> Vec<Open> {
    let listening = tcp.iter().filter(|line| line.state == LISTEN);
    listening
        .filter_map(|line| line.open(Protocol::Tcp))
        .collect()
}

/// Connected sockets take no packets of strangers.
fn unconnected(udp: &[Line]) -> Vec<Open> {
    let unconnected = udp.iter().filter(|line| line.remote.port() == 0);
    unconnected
        .filter_map(|line| line.open(Protocol::Udp))
        .collect()
}

impl Line {
    /// None: no other machine reaches it.
    fn open(&self, protocol: Protocol) -> Option<Open> {
        (!self.local.ip().to_canonical().is_loopback()).then(|| Open {
            protocol,
            port: self.local.port(),
            inode: self.inode,
            uid: self.uid,
        })
    }
}

/// The lines of these files of `/proc/net`, in the namespace of this thread: tests have namespaces
/// of their own. Linux has it since 3.17.
fn read(root: &Root, names: &[&str]) -> Vec<Line> {
    let mut lines = Vec::new();
    for name in names {
        let own = root.text(&format!("/proc/thread-self/net/{name}"), MAX_FILE);
        let text = own.or_else(|| root.text(&format!("/proc/net/{name}"), MAX_FILE));
        lines.extend(text.unwrap_or_default().lines().filter_map(line));
    }
    lines
}

/// `sl local remote st queues timer retransmits uid timeout inode …`
fn line(text: &str) -> Option<Line> {
    let mut fields = text.split_ascii_whitespace().skip(1);
    let local = socket_address(fields.next()?)?;
    let remote = socket_address(fields.next()?)?;
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let uid = fields.nth(3)?.parse().ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Line {
        local,
        remote,
        state,
        uid,
        inode,
    })
}

/// `0100007F:0016`: words of the address in the processor's byte order.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let mut bytes = Vec::with_capacity(16);
    for word in address.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let address: IpAddr = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
        _ => <[u8; 16]>::try_from(bytes).ok()?.into(),
    };
    Some(SocketAddr::new(
        address,
        u16::from_str_radix(port, 16).ok()?,
    ))
}

/// Ports that the kernel gives to whoever asks for none.
fn ephemeral_ports(root: &Root) -> std::ops::RangeInclusive<u16> {
    let text = root.text("/proc/sys/net/ipv4/ip_local_port_range", 64);
    let mut ports = text.iter().flat_map(|text| text.split_ascii_whitespace());
    let mut next = || ports.next()?.parse().ok();
    match (next(), next()) {
        (Some(first), Some(last)) => first..=last,
        _ => 32_768..=60_999,
    }
}

/// What comes from these addresses comes by loopback.
fn own_addresses() -> BTreeSet<IpAddr> {
    let found = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = found.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(address: IpAddr) -> String {
        let bytes = address_bytes(&address);
        let words = bytes.chunks(4).map(|word| {
            let word = <[u8; 4]>::try_from(word).unwrap();
            format!("{:08X}", u32::from_ne_bytes(word))
        });
        words.collect()
    }

    fn written(local: &str, port: u16, remote: &str, remote_port: u16, state: u8) -> String {
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        format!(
            " 1: {}:{port:04X} {}:{remote_port:04X} {state:02X} 00000000:00000000 00:00000000 \
             00000000     7        0 4711 2 0 0",
            hex(local),
            hex(remote)
        )
    }

    #[test]
    fn lines_of_both_families_are_read() {
        let read = line(&written("198.18.0.11", 22, "203.0.113.9", 50_000, 1)).unwrap();
        assert_eq!(read.local, "198.18.0.11:22".parse().unwrap());
        assert_eq!(read.remote, "203.0.113.9:50000".parse().unwrap());
        assert_eq!((read.state, read.uid, read.inode), (1, 7, 4711));
        let read = line(&written("2001:db8::1", 22, "::", 0, LISTEN)).unwrap();
        assert_eq!(read.local, "[2001:db8::1]:22".parse().unwrap());
        assert_eq!(line("  sl  local_address rem_address   st tx_queue"), None);
        assert_eq!(line(""), None);
    }

    #[test]
    fn only_what_other_machines_reach_is_open() {
        let lines = |texts: &[String]| -> Vec<Line> {
            texts.iter().map(|text| line(text).unwrap()).collect()
        };
        let tcp = lines(&[
            written("0.0.0.0", 22, "0.0.0.0", 0, LISTEN),
            written("::", 80, "::", 0, LISTEN),
            written("127.0.0.1", 25, "0.0.0.0", 0, LISTEN),
            written("::1", 25, "::", 0, LISTEN),
            written("::ffff:127.0.0.1", 26, "::", 0, LISTEN),
            written("198.18.0.11", 22, "203.0.113.9", 50_000, 1),
        ]);
        let ports = |open: Vec<Open>| open.iter().map(|one| one.port).collect::<Vec<_>>();
        assert_eq!(ports(listening(&tcp)), [22, 80]);
        let udp = lines(&[
            written("0.0.0.0", 5060, "0.0.0.0", 0, 7),
            written("0.0.0.0", 40_000, "192.0.2.53", 53, 1),
            written("127.0.0.1", 323, "0.0.0.0", 0, 7),
        ]);
        assert_eq!(ports(unconnected(&udp)), [5060]);
    }

    #[test]
    fn media_and_dhcp_clients_are_expected() {
        let udp = |port| Open {
            protocol: Protocol::Udp,
            port,
            inode: 1,
            uid: 0,
        };
        assert!(is_expected(&udp(68), "dhclient") && is_expected(&udp(546), ""));
        assert!(is_expected(&udp(12_345), "asterisk"));
        assert!(!is_expected(&udp(5060), "asterisk"));
        assert!(!is_expected(&udp(11_211), "memcached"));
        let tcp = Open {
            protocol: Protocol::Tcp,
            ..udp(12_345)
        };
        assert!(!is_expected(&tcp, "asterisk"));
    }
}
