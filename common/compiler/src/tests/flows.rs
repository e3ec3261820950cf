//! Which flows an apply cuts, over compiled policies.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use voipfleet_policy::{AddressWord, Documents, ServiceOverride, Site, Trust};
use voipfleet_ruleset::flows::{Denials, Flow, Opener};
use voipfleet_ruleset::iptables::Failsafe;
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{
    AddressSet, ConnectionState, Expiring, Interface, Mode, Protocol, Ruleset, Until,
};
use voipfleet_ruleset::simulate::{Decision, Packet, simulate};

use crate::fixtures::{any_documents, documents, effective, net, nets, node, word};

const PHONE: &str = "203.0.113.9:5062";
const PHONE_V6: &str = "[2001:db8:10::9]:5062";
const CARRIER: &str = "192.0.2.5:5060";

/// Unix time, before every end.
const AT: u64 = 0;

fn ruleset(documents: &Documents) -> Ruleset {
    // The policy's own tests would not let a tenant go.
    let mut documents = documents.clone();
    for site in documents.sites.values_mut() {
        site.tests.clear();
    }
    let nodes = [node("all-1", 1, &Role::ALL), node("all-3", 3, &Role::ALL)];
    let compiled = effective(&documents, &nodes).unwrap();
    compiled.rulesets.into_values().next().unwrap()
}

fn changed(change: impl FnOnce(&mut Site)) -> Ruleset {
    let mut documents = documents();
    change(documents.sites.values_mut().next().unwrap());
    ruleset(&documents)
}

fn interface(name: &str) -> Interface {
    name.parse().unwrap()
}

/// Whether `denials` cut a flow of `peer` to or from `port` of this node.
fn cut(denials: &Denials<'_>, opener: Opener, protocol: Protocol, peer: &str, port: u16) -> bool {
    denials.cuts(&Flow {
        protocol,
        peer: peer.parse().unwrap(),
        local_port: port,
        opener,
        interfaces: &[interface("eth0")],
    })
}

fn failsafe() -> Failsafe {
    Failsafe {
        controllers: vec!["192.0.2.9:7443".parse().unwrap()],
        ssh_ports: vec![42_422],
    }
}

#[test]
fn only_a_removed_tenant_is_cut() {
    let (before, failsafe) = (ruleset(&documents()), failsafe());
    let now = changed(|site| site.tenants.retain(|tenant| tenant.as_str() != "acme"));
    let denials = Denials::of_apply(Some(&before), &now, &failsafe, AT).unwrap();
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    for opener in [Opener::Peer, Opener::Node] {
        for phone in [PHONE, PHONE_V6] {
            assert!(
                cut(&denials, opener, udp, phone, 5060),
                "{opener:?} {phone}"
            );
            // Media is open to the world, before and after.
            assert!(!cut(&denials, opener, udp, phone, 10_000));
            // Closed to it before as well.
            assert!(!cut(&denials, opener, udp, phone, 3306));
        }
        // The other tenant has a network inside that one; the carrier has its own.
        for other in ["203.0.113.200:5062", CARRIER, "192.0.2.66:5060"] {
            assert!(
                !cut(&denials, opener, udp, other, 5060),
                "{opener:?} {other}"
            );
        }
    }
    assert!(cut(&denials, Opener::Peer, tcp, "203.0.113.9:40000", 443));
    assert!(!cut(
        &denials,
        Opener::Peer,
        tcp,
        "203.0.113.200:40000",
        443
    ));
}

#[test]
fn what_the_node_began_in_its_own_interest_goes_on() {
    let failsafe = failsafe();
    let now = changed(|site| {
        site.tenants.clear();
        site.providers.clear();
    });
    for before in [None, Some(ruleset(&documents()))] {
        let denials = Denials::of_apply(before.as_ref(), &now, &failsafe, AT).unwrap();
        for (protocol, peer, port) in [
            (Protocol::Tcp, "203.0.113.9:3306", 45_678), // a database
            (Protocol::Tcp, "203.0.113.9:443", 5060),    // by chance from SIP's port
            (Protocol::Udp, "203.0.113.9:53", 12_345),   // DNS, from a port of media
            (Protocol::Udp, "203.0.113.9:53", 5060),     // DNS, from SIP's
            (Protocol::Udp, "203.0.113.9:8125", 45_678), // no service of the node
            (Protocol::Tcp, "192.0.2.9:7443", 45_678),   // the controller
        ] {
            assert!(
                !cut(&denials, Opener::Node, protocol, peer, port),
                "{peer} {port}"
            );
        }
        assert!(cut(&denials, Opener::Node, Protocol::Udp, PHONE, 5060));
    }
}

#[test]
fn a_denied_address_is_cut_in_both_directions() {
    let (before, failsafe) = (ruleset(&documents()), failsafe());
    let now = changed(|site| {
        site.deny.extend([
            word("203.0.113.9"),
            word("2001:db8:10::9"),
            word("192.0.2.9"),
        ]);
    });
    let denials = Denials::of_apply(Some(&before), &now, &failsafe, AT).unwrap();
    for opener in [Opener::Peer, Opener::Node] {
        for phone in [PHONE, PHONE_V6] {
            for port in [5060, 10_000, 45_678] {
                // A port that was closed to its packets as new ones was open to its answers.
                assert!(cut(&denials, opener, Protocol::Udp, phone, port));
            }
        }
        assert!(!cut(
            &denials,
            opener,
            Protocol::Udp,
            "203.0.113.10:5062",
            5060
        ));
        // It was denied before: by a list.
        assert!(!cut(
            &denials,
            opener,
            Protocol::Udp,
            "198.51.100.66:5060",
            5060
        ));
    }
    // Replies of the controller are above every deny set.
    assert!(!cut(
        &denials,
        Opener::Node,
        Protocol::Tcp,
        "192.0.2.9:7443",
        45_678
    ));
    assert!(cut(
        &denials,
        Opener::Node,
        Protocol::Tcp,
        "192.0.2.9:7444",
        45_678
    ));
}

#[test]
fn a_block_with_an_end_cuts_until_then_and_again_when_it_is_renewed() {
    let failsafe = failsafe();
    let until = |seconds: u64| {
        let mut denying = changed(|site| site.deny.push(word("192.0.2.77")));
        let of_deny = |set: &&mut AddressSet| set.name.kernel_name() == "vf-deny-4";
        let set = denying.sets.iter_mut().find(of_deny).unwrap();
        let block = Expiring {
            net: net("203.0.113.9"),
            until: Until::from_unix(seconds).unwrap(),
        };
        *set = set.clone().with_expiring([block]);
        denying
    };
    let (before, short, long) = (ruleset(&documents()), until(100), until(200));
    for (before, now, at, is_cut) in [
        (&before, &short, 99, true),
        (&before, &short, 100, false), // over before it was confirmed
        (&short, &long, 99, false),    // denied all the time
        (&short, &long, 150, true),    // let in from 100 on
        (&long, &short, 150, false),
    ] {
        let denials = Denials::of_apply(Some(before), now, &failsafe, at);
        let found =
            denials.is_some_and(|denials| cut(&denials, Opener::Peer, Protocol::Udp, PHONE, 5060));
        assert_eq!(found, is_cut, "{at}");
    }
}

#[test]
fn a_narrowed_network_and_a_closed_service() {
    let (before, failsafe) = (ruleset(&documents()), failsafe());
    let mut narrower = documents();
    let networks = &mut narrower
        .tenants
        .get_mut(&"acme".parse().unwrap())
        .unwrap()
        .networks;
    networks.insert(
        "offices".to_owned(),
        nets(&["203.0.113.0/28", "2001:db8:10::/64"]),
    );
    let now = ruleset(&narrower);
    let denials = Denials::of_apply(Some(&before), &now, &failsafe, AT).unwrap();
    for (peer, is_cut) in [
        ("203.0.113.15:5060", false),
        ("203.0.113.16:5060", true),
        ("203.0.113.200:5060", false), // the other tenant's
        ("[2001:db8:10::9]:5060", false),
        ("[2001:db8:10:1::9]:5060", true),
    ] {
        assert_eq!(
            cut(&denials, Opener::Peer, Protocol::Udp, peer, 5060),
            is_cut,
            "{peer}"
        );
    }

    let now = changed(|site| {
        let from = Some(vec![AddressWord::Providers]);
        let providers_only = ServiceOverride {
            from,
            ..ServiceOverride::default()
        };
        site.services.insert("rtp".to_owned(), providers_only);
    });
    let denials = Denials::of_apply(Some(&before), &now, &failsafe, AT).unwrap();
    let rtp = |opener, peer| cut(&denials, opener, Protocol::Udp, peer, 10_000);
    for opener in [Opener::Peer, Opener::Node] {
        assert!(rtp(opener, PHONE) && rtp(opener, "198.51.100.99:4000"));
        assert!(!rtp(opener, "192.0.2.130:4000"), "a carrier's media");
        assert!(!cut(&denials, opener, Protocol::Udp, PHONE, 5060));
    }
}

#[test]
fn members_of_the_cluster_and_admins_stay() {
    let failsafe = failsafe();
    let now = ruleset(&documents());
    let denials = Denials::of_apply(None, &now, &failsafe, AT).unwrap();
    let from_member = |names: &[&str]| {
        let interfaces: Vec<Interface> = names.iter().map(|name| interface(name)).collect();
        denials.cuts(&Flow {
            protocol: Protocol::Tcp,
            peer: "10.0.0.3:40000".parse().unwrap(),
            local_port: 3306,
            opener: Opener::Peer,
            interfaces: &interfaces,
        })
    };
    assert!(!from_member(&["eth1"]));
    assert!(from_member(&["eth0"]));
    assert!(from_member(&[]));
    assert!(
        !from_member(&["eth0", "eth1"]),
        "it may have come by either"
    );
    assert!(!from_member(&["lo"]));
    for (peer, is_cut) in [
        ("198.51.100.10:50000", false),
        ("[2001:db8:ad::10]:50000", false),
        ("198.51.100.11:50000", true),
    ] {
        assert_eq!(
            cut(&denials, Opener::Peer, Protocol::Tcp, peer, 22),
            is_cut,
            "{peer}"
        );
    }

    let mut strict = documents();
    strict.sites.values_mut().next().unwrap().cluster.trust = Trust::Strict;
    let strict = ruleset(&strict);
    let denials = Denials::of_apply(Some(&now), &strict, &failsafe, AT).unwrap();
    let member = |port| {
        denials.cuts(&Flow {
            protocol: Protocol::Tcp,
            peer: "10.0.0.3:40000".parse().unwrap(),
            local_port: port,
            opener: Opener::Peer,
            interfaces: &[interface("eth1")],
        })
    };
    assert!(member(9999) && !member(3306));
}

#[test]
fn observe_cuts_nothing_and_what_it_let_pass_is_cut_later() {
    let failsafe = failsafe();
    let observed = changed(|site| site.mode = Mode::Observe);
    let enforced = ruleset(&documents());
    assert!(Denials::of_apply(None, &observed, &failsafe, AT).is_none());
    assert!(Denials::of_apply(Some(&enforced), &observed, &failsafe, AT).is_none());
    assert!(Denials::of_gap(&observed, &failsafe, AT).is_none());
    let denials = Denials::of_apply(Some(&observed), &enforced, &failsafe, AT).unwrap();
    assert!(cut(
        &denials,
        Opener::Peer,
        Protocol::Udp,
        "198.51.100.99:5060",
        5060
    ));
    assert!(!cut(&denials, Opener::Peer, Protocol::Udp, PHONE, 5060));
}

#[test]
fn what_slipped_in_is_cut_but_never_what_the_node_began() {
    let (now, failsafe) = (ruleset(&documents()), failsafe());
    let denials = Denials::of_gap(&now, &failsafe, AT).unwrap();
    for (peer, port, is_cut) in [
        ("198.51.100.99:5060", 5060, true),
        ("198.51.100.66:4000", 10_000, true), // on the deny list
        ("198.51.100.99:4000", 10_000, false),
        (PHONE, 5060, false),
    ] {
        assert_eq!(
            cut(&denials, Opener::Peer, Protocol::Udp, peer, port),
            is_cut,
            "{peer}"
        );
        assert!(
            !cut(&denials, Opener::Node, Protocol::Udp, peer, port),
            "{peer}"
        );
    }
}

#[test]
fn a_push_that_only_opens_needs_no_walk() {
    let failsafe = failsafe();
    let mut wider = documents();
    let mut narrower = documents();
    let networks = &mut wider
        .tenants
        .get_mut(&"acme".parse().unwrap())
        .unwrap()
        .networks;
    let more = nets(&["198.18.99.0/24", "2001:db8:21::/48"]);
    networks.insert("more".to_owned(), more);
    let list = narrower.lists.get_mut(&"voipbl".parse().unwrap()).unwrap();
    list.addresses.push(net("198.51.100.70"));
    let (narrower, wider) = (ruleset(&narrower), ruleset(&wider));
    assert_eq!(narrower.chains, wider.chains);
    assert!(Denials::of_apply(Some(&wider), &wider, &failsafe, AT).is_none());
    assert!(Denials::of_apply(Some(&narrower), &wider, &failsafe, AT).is_none());
    assert!(Denials::of_apply(Some(&wider), &narrower, &failsafe, AT).is_some());
}

fn addresses(before: &Ruleset, now: &Ruleset) -> Vec<IpAddr> {
    let sets = before.sets.iter().chain(&now.sets);
    let mut addresses: Vec<IpAddr> = sets
        .flat_map(|set| &set.elements)
        .flat_map(|net| [net.network(), net.broadcast()])
        .collect();
    addresses.extend([
        "198.51.100.99".parse::<IpAddr>().unwrap(),
        "2001:db8:99::9".parse().unwrap(),
    ]);
    addresses
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// For any two policies: cut is exactly what the rules let in before and drop now; and where
    /// no walk is made, that is nothing.
    #[test]
    fn cut_is_exactly_what_is_newly_denied(
        before in any_documents(),
        now in any_documents(),
        same in any::<bool>(),
        packets in prop::collection::vec(
            (any::<prop::sample::Index>(), prop::sample::select(vec![22_u16, 443, 5060, 9999, 15_000]),
             any::<bool>(), any::<bool>()),
            1..40,
        ),
    ) {
        let before = ruleset(&before);
        // Two random policies have nothing in common; the same with other sets often has.
        let now = if same {
            let mut now = before.clone();
            for set in &mut now.sets {
                set.elements.truncate(1);
            }
            now
        } else {
            ruleset(&now)
        };
        let failsafe = Failsafe::default();
        let denials = Denials::of_apply(Some(&before), &now, &failsafe, AT);
        let addresses = addresses(&before, &now);
        for (source, port, tcp, by_cluster) in packets {
            let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
            let by = interface(if by_cluster { "eth1" } else { "eth0" });
            let source = *source.get(&addresses);
            let newly = |state| {
                let packet = Packet {
                    in_interface: Some(by.clone()),
                    source_port: Some(40_000),
                    state: Some(state),
                    ..Packet::new(source, protocol, port)
                };
                let dropped = |ruleset| {
                    matches!(simulate(ruleset, &packet).decision, Decision::Drop | Decision::Reject)
                };
                !dropped(&before) && dropped(&now)
            };
            let flow = Flow {
                protocol,
                peer: SocketAddr::new(source, 40_000),
                local_port: port,
                opener: Opener::Peer,
                interfaces: std::slice::from_ref(&by),
            };
            let is_cut = denials.as_ref().is_some_and(|denials| denials.cuts(&flow));
            let wanted = newly(ConnectionState::New) || newly(ConnectionState::Established);
            prop_assert_eq!(is_cut, wanted, "{:?}", flow);
        }
    }
}
