//! Members of the cluster in the kernel: by protocol, by interface, and what becomes of them when
//! an interface gets another name.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::Instant;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto,
    socket,
};
use voipfleet_proto::v1::NodeState;
use voipfleet_ruleset::ruleset::{
    AddressSet, Chain, Family, Protocol, Rule, RuleSubject, Ruleset, SetName, SetOwner, Verdict,
};

use crate::flows::{NEIGHBOUR, NEIGHBOUR_V6, NODE, NODE_V6, PHONE, PHONE_V6, Wire};
use crate::reconciler::{Agent, LIMIT, NEVER, offer};
use crate::support::{Place, install, on_both_backends, sample};

const VRRP: u8 = 112;
const ESP: u8 = 50;

fn rule(label: &str, verdict: Verdict) -> Rule {
    Rule::new(label.parse().unwrap(), verdict)
}

fn of_members(label: &str) -> Rule {
    Rule {
        source_set: Some("cluster".parse().unwrap()),
        ..rule(label, Verdict::Accept)
    }
    .about(RuleSubject::Cluster)
}

fn protocol(number: u8) -> Protocol {
    Protocol::Other(number.to_string().parse().unwrap())
}

/// Members may send VRRP by any interface and everything by `interface`; anybody ESP by `eth0`.
fn ruleset(interface: &str) -> Ruleset {
    let set = |family, member: &str| {
        let name = SetName {
            stem: "cluster".parse().unwrap(),
            family,
        };
        AddressSet::new(name, [member.parse::<std::net::IpAddr>().unwrap().into()])
            .with_owner(SetOwner::Cluster)
    };
    let rules = vec![
        Rule {
            in_interface: Some(interface.parse().unwrap()),
            ..of_members("cluster")
        },
        Rule {
            protocol: Some(protocol(VRRP)),
            ..of_members("cluster:vrrp")
        },
        Rule {
            protocol: Some(protocol(ESP)),
            in_interface: Some("eth0".parse().unwrap()),
            ..rule("rule:vpn", Verdict::Accept)
        }
        .about(RuleSubject::Custom("vpn".to_owned())),
        Rule {
            in_interface: Some("tailscale0".parse().unwrap()),
            ..rule("rule:tailscale", Verdict::Accept)
        }
        .about(RuleSubject::Custom("tailscale".to_owned())),
        rule("default", Verdict::Drop),
    ];
    let ruleset = Ruleset {
        sets: vec![set(Family::V4, NEIGHBOUR), set(Family::V6, NEIGHBOUR_V6)],
        chains: vec![Chain {
            name: "VF-INPUT".parse().unwrap(),
            rules,
        }],
        ..sample(0)
    };
    Ruleset::decode(&ruleset.encode()).expect("a sound ruleset")
}

/// An IP header of its own, which a raw socket of `IPPROTO_RAW` sends as it is.
fn packet(from: &str, to: &str, protocol: u8) -> Vec<u8> {
    const PAYLOAD: [u8; 8] = [0x21, 51, 100, 1, 0, 1, 0, 0];
    let mut bytes;
    if let (Ok(from), Ok(to)) = (from.parse::<Ipv4Addr>(), to.parse::<Ipv4Addr>()) {
        bytes = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 255, protocol, 0, 0];
        bytes.extend(from.octets());
        bytes.extend(to.octets());
    } else {
        bytes = vec![0x60, 0, 0, 0, 0, 8, protocol, 255];
        bytes.extend(from.parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend(to.parse::<Ipv6Addr>().unwrap().octets());
    }
    bytes.extend(PAYLOAD);
    bytes
}

/// Sends a packet of a protocol from the other end.
fn send(wire: &Wire, from: &'static str, to: &'static str, protocol: u8) {
    wire.outside(move || {
        let bytes = packet(from, to, protocol);
        let flags = SockFlag::SOCK_CLOEXEC;
        let raw = Some(SockProtocol::Raw);
        let sent = match SocketAddr::new(to.parse().unwrap(), 0) {
            SocketAddr::V4(to) => {
                let out = socket(AddressFamily::Inet, SockType::Raw, flags, raw).unwrap();
                let to = SockaddrIn::from(to);
                sendto(out.as_raw_fd(), &bytes, &to, MsgFlags::empty())
            }
            SocketAddr::V6(to) => {
                let out = socket(AddressFamily::Inet6, SockType::Raw, flags, raw).unwrap();
                let to = SockaddrIn6::from(to);
                sendto(out.as_raw_fd(), &bytes, &to, MsgFlags::empty())
            }
        };
        assert_eq!(sent, Ok(bytes.len()), "{protocol} from {from}");
    });
}

/// How many packets a rule of either family took.
fn taken(place: &Place, label: &str) -> u64 {
    let comment = format!("\"vf:{label}\"");
    let count = |line: &str| {
        let found = line.contains(&comment) || line.contains(&format!("--comment vf:{label} "));
        let (packets, _) = line.strip_prefix('[')?.split_once(':')?;
        found.then(|| packets.parse::<u64>().ok())?
    };
    ["iptables-save -c", "ip6tables-save -c"]
        .iter()
        .flat_map(|save| {
            place
                .tool(save)
                .lines()
                .filter_map(count)
                .collect::<Vec<_>>()
        })
        .sum()
}

/// Waits until a rule took so many packets. The kernel announces no packets.
fn until_taken(place: &Place, label: &str, packets: u64) {
    let deadline = Instant::now() + LIMIT;
    while taken(place, label) != packets {
        let now = place.tool("iptables-save -c");
        assert!(Instant::now() < deadline, "{label} is not {packets}: {now}");
        std::thread::yield_now();
    }
}

#[test]
fn protocols_of_members_come_through_and_others_do_not() {
    on_both_backends(|place| {
        let wire = Wire::new();
        let mut kernel = place.system();
        install(&mut kernel, &place.ledger(), 1, ruleset("eth1"));
        let sent = [
            (NEIGHBOUR, NODE, VRRP, "cluster:vrrp"),
            (NEIGHBOUR_V6, NODE_V6, VRRP, "cluster:vrrp"),
            (PHONE, NODE, VRRP, "default"),
            (PHONE_V6, NODE_V6, VRRP, "default"),
            // Of the cluster's interface, and not of this one.
            (NEIGHBOUR, NODE, 47, "default"),
            (PHONE, NODE, ESP, "rule:vpn"),
            (PHONE_V6, NODE_V6, ESP, "rule:vpn"),
        ];
        for (from, to, protocol, label) in sent {
            let before = taken(place, label);
            send(&wire, from, to, protocol);
            until_taken(place, label, before + 1);
        }
    });
}

#[test]
fn a_renamed_interface_is_reported_at_once() {
    on_both_backends(|place| {
        place.tool("ip link add eth1 type veth peer name peer1");
        place.tool("ip link set eth1 up");
        let agent = Agent::start(place, NEVER);
        agent.follow_addresses();
        let status = agent.answer_to(offer(1, 1, &ruleset("eth1")));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        assert!(status.missing_interfaces.is_empty(), "{status:?}");

        place.tool("ip link set eth1 down");
        place.tool("ip link set eth1 name ens224");
        let missing = |wanted: &[&str]| {
            let statuses = agent.statuses_until(|status| status.missing_interfaces == wanted);
            statuses.last().cloned().unwrap()
        };
        let renamed = missing(&["eth1"]);
        assert_eq!(
            renamed.state(),
            NodeState::Applied,
            "what it runs is the same"
        );
        place.tool("ip link set ens224 name eth1");
        missing(&[]);
        // A tunnel may come and go.
        agent.warning_until("there is no interface tailscale0");
    });
}

#[test]
fn a_new_address_is_reported_at_once() {
    on_both_backends(|place| {
        place.tool("ip link add eth1 type veth peer name peer1");
        place.tool("ip link set eth1 up");
        let agent = Agent::start(place, NEVER);
        agent.follow_addresses();
        for (change, floating) in [("add", true), ("del", false)] {
            place.tool(&format!("ip addr {change} 10.20.0.200/24 dev eth1"));
            agent.facts_until(|facts| {
                let mut addresses = facts.addresses.iter();
                addresses.any(|one| one.address == [10, 20, 0, 200]) == floating
            });
        }
    });
}
