//! Live flows on real sockets: what a push newly denies ends, and nothing else does.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};
use voipfleet_agent::host::exec::{DEFAULT_TOOL_PATH, Runner};
use voipfleet_agent::kernel::{Backend, Kernel};
use voipfleet_agent::mailbox::Offered;
use voipfleet_proto::v1::NodeState;
use voipfleet_ruleset::flows::{Denials, Flow};
use voipfleet_ruleset::iptables::Failsafe;
use voipfleet_ruleset::ruleset::{AddressSet, Family, Ruleset, SetName};
use voipfleet_testkit::kernel::Call;

use crate::intercepted::{announcing, await_call, intercepted};
use crate::reconciler::{Agent, LIMIT, NEVER, offer};
use crate::support::{Place, in_namespace, on_both_backends, sample};

pub(crate) const NODE: &str = "198.18.0.11";
pub(crate) const NODE_V6: &str = "2001:db8:1::11";
pub(crate) const PHONE: &str = "203.0.113.9";
pub(crate) const PHONE_V6: &str = "2001:db8:10::9";
pub(crate) const NEIGHBOUR: &str = "203.0.113.200";
pub(crate) const NEIGHBOUR_V6: &str = "2001:db8:10:8000::9";
pub(crate) const STRANGER: &str = "198.51.100.66";
/// The mark of entries that were made while [`Wire::mark`] was on.
const MARK: &str = "mark=7 ";

/// A host on the other end of the node's `eth0`, with the addresses of all peers.
pub(crate) struct Wire {
    ask: std::sync::mpsc::SyncSender<Job>,
}

type Job = Box<dyn FnOnce() + Send>;

fn tool(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let runner = Runner::new(DEFAULT_TOOL_PATH);
    if let Err(error) = runner.run(words[0], &words[1..], "") {
        panic!("{line}: {error}");
    }
}

impl Wire {
    /// Between the namespace of this thread and another.
    pub(crate) fn new() -> Self {
        let (ask, jobs) = sync_channel::<Job>(0);
        let (ready, is_ready) = sync_channel(0);
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            ready.send(nix::unistd::gettid()).unwrap();
            while let Ok(job) = jobs.recv() {
                job();
            }
        });
        let outside = is_ready.recv().unwrap();
        tool("ip link set lo up");
        tool(&format!(
            "ip link add eth0 type veth peer name eth0 netns {outside}"
        ));
        let wire = Self { ask };
        let ends: [&[&str]; 2] = [
            &[NODE, NODE_V6],
            &[PHONE, PHONE_V6, NEIGHBOUR, NEIGHBOUR_V6, STRANGER],
        ];
        for (here, addresses) in [true, false].into_iter().zip(ends) {
            let set_up = move || {
                tool("ip link set eth0 up");
                for address in addresses {
                    let (bits, nodad) = if address.contains(':') {
                        (128, "nodad")
                    } else {
                        (32, "")
                    };
                    tool(&format!("ip addr add {address}/{bits} dev eth0 {nodad}"));
                }
                tool("ip route add default dev eth0");
                tool("ip -6 route add default dev eth0");
            };
            if here {
                set_up();
            } else {
                wire.outside(set_up);
            }
        }
        wire
    }

    /// Does `job` on the other end.
    pub(crate) fn outside<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, wait) = sync_channel(1);
        self.ask
            .send(Box::new(move || done.send(job()).unwrap()))
            .unwrap();
        wait.recv().unwrap()
    }

    /// A connection of the first peer to a port of the node.
    pub(crate) fn connect(&self, port: u16) -> TcpStream {
        self.outside(move || TcpStream::connect((NODE, port)).unwrap())
    }

    /// A UDP socket of a peer.
    pub(crate) fn peer(&self, address: &str, port: u16) -> Peer {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        Peer(self.outside(move || {
            // Duplicate address detection is off, but a new IPv6 address takes a moment.
            let deadline = Instant::now() + LIMIT;
            loop {
                match UdpSocket::bind(address) {
                    Ok(socket) => {
                        socket.set_read_timeout(Some(LIMIT)).unwrap();
                        return socket;
                    }
                    Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
                }
            }
        }))
    }

    /// New connections get a mark from now on, which says later that an entry was never made
    /// anew.
    fn mark(on: bool) {
        let verb = if on { "-A" } else { "-D" };
        for (tables, chain) in [
            ("iptables", "PREROUTING"),
            ("iptables", "OUTPUT"),
            ("ip6tables", "PREROUTING"),
            ("ip6tables", "OUTPUT"),
        ] {
            tool(&format!(
                "{tables} -w -t mangle {verb} {chain} -m conntrack --ctstate NEW -j CONNMARK --set-mark 7"
            ));
        }
    }
}

/// A host outside.
pub(crate) struct Peer(UdpSocket);

impl Peer {
    fn node(&self) -> IpAddr {
        let node = if self.0.local_addr().unwrap().is_ipv4() {
            NODE
        } else {
            NODE_V6
        };
        node.parse().unwrap()
    }

    pub(crate) fn send(&self, port: u16, words: &str) {
        let to = (self.node(), port);
        self.0.send_to(words.as_bytes(), to).unwrap();
    }
}

/// A UDP service of the node.
pub(crate) struct Service {
    socket: UdpSocket,
    port: u16,
}

impl Service {
    pub(crate) fn new(port: u16) -> Self {
        let socket = UdpSocket::bind(("::", port)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Self { socket, port }
    }

    pub(crate) fn receive(&self) -> (String, SocketAddr) {
        let mut buffer = [0; 64];
        let (length, from) = self.socket.recv_from(&mut buffer).expect("a datagram");
        (
            String::from_utf8_lossy(&buffer[..length]).into_owned(),
            from,
        )
    }

    /// A word of the peer, and the node's answer.
    pub(crate) fn exchange(&self, peer: &Peer) {
        peer.send(self.port, "hello");
        let (words, from) = self.receive();
        assert_eq!(words, "hello", "{from}");
        self.socket.send_to(b"answer", from).unwrap();
        let mut buffer = [0; 64];
        peer.0.recv_from(&mut buffer).expect("an answer");
    }

    /// The node speaks first, and the peer answers.
    pub(crate) fn call(&self, peer: &Peer) {
        self.say(peer);
        let mut buffer = [0; 64];
        peer.0.recv_from(&mut buffer).expect("a call");
        peer.send(self.port, "yes");
        assert_eq!(self.receive().0, "yes");
    }

    fn say(&self, peer: &Peer) {
        let to = match peer.0.local_addr().unwrap() {
            SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            v6 @ SocketAddr::V6(_) => v6,
        };
        self.socket.send_to(b"call", to).unwrap();
    }

    /// No packet of `denied` gets through: a later one of `witness` arrives first.
    pub(crate) fn is_deaf_to(&self, denied: &[&Peer], witness: &Peer) {
        for peer in denied {
            peer.send(self.port, "denied");
        }
        witness.send(self.port, "witness");
        assert_eq!(self.receive().0, "witness");
    }
}

/// Lines of connection tracking that hold all of `words`.
fn entries(words: &[&str]) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
    let lines = all
        .lines()
        .filter(|line| words.iter().all(|word| line.contains(word)));
    lines.map(str::to_owned).collect()
}

/// As /proc prints an address.
fn printed(address: &str) -> String {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => format!("src={v4} "),
        IpAddr::V6(v6) => {
            let groups = v6.segments().map(|group| format!("{group:04x}"));
            format!("src={} ", groups.join(":"))
        }
    }
}

pub(crate) fn of(address: &str, port: &str) -> Vec<String> {
    entries(&[&printed(address), port])
}

/// An agent, and a message after each time that it cut flows.
fn announcing_cuts(place: &Place) -> (Agent, Receiver<()>) {
    let kernel = intercepted(place);
    let (kernel, cuts) = announcing(kernel, |call| *call == Call::CutFlows);
    let own = kernel.kernel.own_processes();
    let agent = Agent::start_with(place, NEVER, Box::new(kernel), own);
    (agent, cuts)
}

/// Waits until no flow to SIP is left of that source.
fn await_end_of(source: &str, cuts: &Receiver<()>) {
    await_call(cuts, || of(source, "port=5060 ").is_empty());
}

/// The sample with other elements in some sets.
fn changed(sets: &[(&str, Family, &[&str])]) -> Ruleset {
    let mut ruleset = sample(1);
    for (stem, family, elements) in sets {
        let name = SetName {
            stem: stem.parse().unwrap(),
            family: *family,
        };
        let set = ruleset
            .sets
            .iter_mut()
            .find(|set| set.name == name)
            .unwrap();
        let elements = elements
            .iter()
            .map(|element| match element.parse::<IpAddr>() {
                Ok(address) => IpNet::from(address),
                Err(_) => element.parse().unwrap(),
            });
        *set = AddressSet::new(name, elements);
    }
    ruleset
}

/// Only the half of the clients' networks in which the neighbours are.
fn narrowed() -> Ruleset {
    changed(&[
        ("clients", Family::V4, &["203.0.113.128/25"]),
        ("clients", Family::V6, &["2001:db8:10:8000::/49"]),
    ])
}

fn with_first(place: &Place) -> Agent {
    announcing_cuts_with_first(place).0
}

fn announcing_cuts_with_first(place: &Place) -> (Agent, Receiver<()>) {
    let (agent, cuts) = announcing_cuts(place);
    let status = agent.answer_to(offer(1, 1, &sample(1)));
    assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
    (agent, cuts)
}

#[test]
fn narrowed_network_cuts_only_flows_that_lost_access() {
    on_both_backends(|place| {
        let wire = Wire::new();
        let agent = with_first(place);
        Wire::mark(true);
        let (sip, rtp) = (Service::new(5060), Service::new(10_000));
        let peers = |port| {
            [PHONE, PHONE_V6, NEIGHBOUR, NEIGHBOUR_V6].map(|address| wire.peer(address, port))
        };
        let ([phone, phone6, neighbour, neighbour6], called) = (peers(5062), peers(5072));
        let second = wire.peer(PHONE, 5063);
        for peer in [&phone, &phone6, &neighbour, &neighbour6, &second] {
            sip.exchange(peer);
        }
        for peer in [&phone, &phone6, &neighbour, &neighbour6] {
            rtp.exchange(peer);
        }
        // Where the node spoke first, from its port of SIP.
        for peer in &called {
            sip.call(peer);
        }
        // Of its own interest: a query over UDP, a database over TCP.
        let (query, asked) = (Service::new(45_678), wire.peer(PHONE, 9999));
        query.call(&asked);
        let database = wire.outside(|| TcpListener::bind((PHONE, 3306)).unwrap());
        let client = TcpStream::connect((PHONE, 3306)).unwrap();
        Wire::mark(false);

        let status = agent.answer_to(offer(2, 2, &narrowed()));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        // 5062 and 5063 of the phone, 5062 over IPv6, and both that were called.
        assert_eq!(status.flows_cut, 5);
        for gone in [PHONE, PHONE_V6] {
            assert_eq!(of(gone, "port=5060 "), Vec::<String>::new());
            assert_eq!(
                of(gone, "port=10000 ").len(),
                1,
                "media is open to the world"
            );
        }
        sip.is_deaf_to(
            &[&phone, &phone6, &second, &called[0], &called[1]],
            &neighbour,
        );
        for peer in [&neighbour, &neighbour6] {
            sip.exchange(peer);
        }
        for peer in [&phone, &phone6, &neighbour, &neighbour6] {
            rtp.exchange(peer);
        }
        query.call(&asked);
        // No flow that went on was created again.
        let unmarked: Vec<String> = entries(&["src="])
            .into_iter()
            .filter(|line| !line.contains(MARK) && line.contains("udp"))
            .collect();
        assert_eq!(unmarked, Vec::<String>::new());
        assert_eq!(entries(&["port=3306 ", MARK]).len(), 1);
        drop((client, database));
    });
}

#[test]
fn denied_address_loses_its_flows_and_its_neighbour_keeps_them() {
    on_both_backends(|place| {
        let wire = Wire::new();
        let agent = with_first(place);
        let (sip, rtp) = (Service::new(5060), Service::new(10_000));
        let [phone, phone6, neighbour, neighbour6] =
            [PHONE, PHONE_V6, NEIGHBOUR, NEIGHBOUR_V6].map(|address| wire.peer(address, 5062));
        for peer in [&phone, &phone6, &neighbour, &neighbour6] {
            sip.exchange(peer);
            rtp.exchange(peer);
        }
        let (query, asked) = (Service::new(45_678), wire.peer(PHONE, 9999));
        query.call(&asked);
        let denying = changed(&[
            ("list-1", Family::V4, &["192.0.2.0/28", PHONE]),
            ("list-1", Family::V6, &["2001:db8:66::/64", PHONE_V6]),
        ]);
        let status = agent.answer_to(offer(2, 2, &denying));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        assert_eq!(status.flows_cut, 5);
        for gone in [PHONE, PHONE_V6] {
            assert_eq!(of(gone, ""), Vec::<String>::new());
        }
        for service in [&sip, &rtp] {
            service.is_deaf_to(&[&phone, &phone6], &neighbour);
            service.exchange(&neighbour6);
        }
        // To let it in again ends nothing.
        let status = agent.answer_to(offer(3, 3, &sample(1)));
        assert_eq!((status.state(), status.flows_cut), (NodeState::Applied, 0));
        sip.exchange(&phone);
    });
}

#[test]
fn late_reply_does_not_revive_a_cut_flow() {
    in_namespace(Backend::Nft, |place| {
        let wire = Wire::new();
        let (agent, cuts) = announcing_cuts_with_first(place);
        let sip = Service::new(5060);
        let (phone, neighbour) = (wire.peer(PHONE, 5062), wire.peer(NEIGHBOUR, 5062));
        sip.exchange(&phone);
        sip.exchange(&neighbour);
        let status = agent.answer_to(offer(2, 2, &narrowed()));
        assert_eq!(status.flows_cut, 1);
        // As a proxy does that still handles a request of the phone.
        sip.call(&phone);
        await_end_of(PHONE, &cuts);
        assert_eq!(
            agent.outbox.last_status().flows_cut,
            1,
            "it is the same flow"
        );
        sip.is_deaf_to(&[&phone], &neighbour);
    });
}

#[test]
fn rolled_back_push_cuts_no_flow() {
    in_namespace(Backend::Nft, |place| {
        let wire = Wire::new();
        let agent = with_first(place);
        let (sip, phone) = (Service::new(5060), wire.peer(PHONE, 5062));
        Wire::mark(true);
        sip.exchange(&phone);
        Wire::mark(false);
        let brief = Offered {
            confirm_within: Duration::from_millis(300),
            ..offer(2, 2, &narrowed())
        };
        let attempt = agent.try_out(brief);
        sip.exchange(&phone); // established, until it is confirmed
        let status = agent.status_of(attempt, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::RolledBack);
        assert_eq!(status.flows_cut, 0);
        sip.exchange(&phone);
        assert_eq!(entries(&[&printed(PHONE), "port=5060 ", MARK]).len(), 1);
    });
}

#[test]
fn flow_that_began_while_the_rules_were_gone_is_cut() {
    on_both_backends(|place| {
        let wire = Wire::new();
        let agent = with_first(place);
        let sip = Service::new(5060);
        let (phone, stranger) = (wire.peer(PHONE, 5062), wire.peer(STRANGER, 5062));
        sip.exchange(&phone);
        sip.is_deaf_to(&[&stranger], &phone);
        drop(agent);
        place.tool("iptables -w -F INPUT");
        place.tool("ip6tables -w -F INPUT");
        sip.exchange(&stranger);
        sip.exchange(&stranger);
        assert_eq!(of(STRANGER, "port=5060 ").len(), 1);
        let (agent, cuts) = announcing_cuts(place);
        await_end_of(STRANGER, &cuts);
        sip.is_deaf_to(&[&stranger], &phone);
        assert_eq!(agent.outbox.last_status().flows_cut, 0, "no push did that");
    });
}

#[test]
fn push_without_conntrack_netlink_succeeds_with_a_warning() {
    in_namespace(Backend::Nft, |place| {
        let mut kernel = intercepted(place);
        kernel.without_conntrack = true;
        let own = kernel.kernel.own_processes();
        let agent = Agent::start_with(place, NEVER, Box::new(kernel), own);
        let status = agent.answer_to(offer(1, 1, &sample(1)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        let warning = agent.warning_until("were not cut");
        assert!(warning.contains("nf_conntrack_netlink"), "{warning}");
    });
}

#[test]
fn each_of_thousands_of_denied_flows_is_cut_once() {
    in_namespace(Backend::Nft, |place| {
        let wire = Wire::new();
        tool("iptables -A INPUT -m conntrack --ctstate NEW -p udp --dport 5060 -j ACCEPT");
        let _sip = Service::new(5060);
        for address in [PHONE, NEIGHBOUR] {
            wire.outside(move || {
                for port in 5000_u16..10_000 {
                    let socket = UdpSocket::bind((address, port)).unwrap();
                    socket.send_to(b"x", (NODE, 5060)).unwrap();
                }
            });
        }
        let address = |number: u32| std::net::Ipv4Addr::from(0x6440_0000 + number * 3).to_string();
        let elements: Vec<String> = (0..10_000).map(address).collect();
        let with = |more: &[&str]| {
            let elements: Vec<&str> = elements.iter().map(String::as_str).collect();
            changed(&[("list-1", Family::V4, &[&elements, more].concat())])
        };
        let (before, now, failsafe) = (with(&[]), with(&[PHONE]), Failsafe::default());
        let denials = Denials::of_apply(Some(&before), &now, &failsafe, 0).unwrap();
        let mut system = place.system();
        for (walked, expected) in [(10_000, 5_000), (5_000, 0)] {
            let seen = std::cell::Cell::new(0);
            let picks = |flow: &Flow<'_>| {
                seen.set(seen.get() + 1);
                denials.cuts(flow)
            };
            assert_eq!(system.cut_flows(&picks).unwrap().flows, expected);
            assert!(seen.get() >= walked, "{} flows", seen.get());
        }
    });
}
