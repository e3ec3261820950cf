//! Probes against real sockets, and pushes that depend on them on the real kernel.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, UdpSocket};
use voipfleet_agent::kernel::Backend;
use voipfleet_agent::mailbox::Offered;
use voipfleet_agent::probe;
use voipfleet_proto::v1::NodeState;
use voipfleet_protocol::session::Attempt;
use voipfleet_ruleset::ruleset::{Family, Probe, ProbeCheck, Ruleset};

use crate::peer::{self, Peer, answer, dns_answer, sip_answer};
use crate::reconciler::{Agent, NEVER, offer};
use crate::support::{Place, confirmed, in_namespace, is_back, on_both_backends, same, sample};

/// For a probe that must fail for want of an answer: two questions and a little more.
const BRIEF: Duration = Duration::from_millis(800);

fn probe(name: &str, kind: &str, target: &str) -> Probe {
    let check = match kind {
        "tcp" => ProbeCheck::Tcp(target.parse().unwrap()),
        "udp-sip" => ProbeCheck::UdpSip(target.parse().unwrap()),
        "dns" => ProbeCheck::Dns(target.parse().unwrap()),
        "icmp" => ProbeCheck::Icmp(target.parse().unwrap()),
        other => panic!("{other}"),
    };
    Probe {
        name: name.parse().unwrap(),
        check,
    }
}

/// What fails of one probe.
async fn failure(kind: &str, target: impl ToString, limit: Duration) -> Option<String> {
    let target = target.to_string();
    let failed = probe::run(vec![probe("p", kind, &target)], limit).await;
    let text = failed.first()?.to_string();
    let head = format!("probe \"p\" ({kind} {target}) failed: ");
    Some(text.strip_prefix(&head).expect(&text).to_owned())
}

/// Runs `test` in a namespace with nothing but loopback.
fn on_loopback(test: impl AsyncFnOnce(&Place) + Send + 'static) {
    in_namespace(Backend::Nft, |place| {
        place.tool("ip link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(place));
    });
}

async fn udp(address: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(address).await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// Polls `responder` while `asking` goes on.
async fn beside<T>(responder: impl Future<Output = ()>, asking: impl Future<Output = T>) -> T {
    tokio::select! {
        end = asking => end,
        () = responder => panic!("the responder ended"),
    }
}

#[test]
fn tcp_probe_connects_or_reports_the_error() {
    on_loopback(async |_| {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).await.unwrap();
            let to = listener.local_addr().unwrap();
            assert_eq!(failure("tcp", to, probe::LIMIT).await, None);
            drop(listener);
            let refused = failure("tcp", to, probe::LIMIT).await;
            assert_eq!(refused.as_deref(), Some("connection refused"));
        }
        let unreachable = failure("tcp", "192.0.2.1:1", probe::LIMIT).await;
        assert_eq!(unreachable.as_deref(), Some("network unreachable"));
    });
}

#[test]
fn probe_succeeds_with_one_address_of_a_name() {
    on_loopback(async |_| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let to = format!("localhost:{port}");
        assert_eq!(failure("tcp", to, probe::LIMIT).await, None);
        let unknown = failure("tcp", "nothing.invalid:1", BRIEF).await.unwrap();
        assert!(
            unknown.starts_with("the name cannot be resolved on this node: ")
                || unknown == "the name was not resolved on this node within 0.8 s",
            "{unknown}"
        );
    });
}

#[test]
fn sip_probe_retransmits_and_matches_its_response() {
    on_loopback(async |_| {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (socket, to) = udp(address).await;
            let late = async {
                let mut buffer = [0; 2048];
                let mut asked = Vec::new();
                loop {
                    let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                    asked.push(buffer[..length].to_vec());
                    let answer = sip_answer(&buffer[..length]);
                    let strange = String::from_utf8(answer.clone()).unwrap();
                    let strange = strange.replace("branch=", "branch=x");
                    socket.send_to(strange.as_bytes(), from).await.unwrap();
                    if asked.len() > 1 {
                        // The same again: the same transaction.
                        assert_eq!(asked[0], asked[1]);
                        socket.send_to(&answer, from).await.unwrap();
                    }
                }
            };
            let end = beside(late, failure("udp-sip", to, probe::LIMIT)).await;
            assert_eq!(end, None);
            let strange = |request: &[u8]| [b"x", &sip_answer(request)[..]].concat();
            let end = beside(answer(&socket, strange), failure("udp-sip", to, BRIEF)).await;
            assert_eq!(end.as_deref(), Some("no answer within 0.8 s"));
            drop(socket);
            let refused = failure("udp-sip", to, probe::LIMIT).await;
            assert_eq!(refused.as_deref(), Some("connection refused"));
        }
    });
}

#[test]
fn dns_probe_accepts_any_answer_but_servfail() {
    on_loopback(async |_| {
        let refused = |query: &[u8]| {
            let mut answer = dns_answer(query);
            answer[3] = 5;
            answer
        };
        let failing = |query: &[u8]| {
            let mut answer = dns_answer(query);
            answer[3] = 2;
            answer
        };
        let strange = |query: &[u8]| {
            let mut answer = dns_answer(query);
            answer[1] ^= 1;
            answer
        };
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (socket, to) = udp(address).await;
            for good in [dns_answer, refused] {
                let end = beside(answer(&socket, good), failure("dns", to, probe::LIMIT)).await;
                assert_eq!(end, None);
            }
            let end = beside(answer(&socket, failing), failure("dns", to, probe::LIMIT)).await;
            let words = "the server answered SERVFAIL";
            assert_eq!(end.as_deref(), Some(words));
            let end = beside(answer(&socket, strange), failure("dns", to, BRIEF)).await;
            assert_eq!(end.as_deref(), Some("no answer within 0.8 s"));
            drop(socket);
            let refused = failure("dns", to, probe::LIMIT).await;
            assert_eq!(refused.as_deref(), Some("connection refused"));
        }
    });
}

#[test]
fn icmp_probe_needs_an_echo_reply() {
    on_loopback(async |place| {
        for to in ["127.0.0.1", "::1"] {
            assert_eq!(failure("icmp", to, probe::LIMIT).await, None);
        }
        place.tool("iptables -A INPUT -p icmp -m icmp --icmp-type 8 -j DROP");
        place.tool("ip6tables -A INPUT -p icmpv6 -m icmp6 --icmpv6-type 128 -j DROP");
        for to in ["127.0.0.1", "::1"] {
            let end = failure("icmp", to, BRIEF).await;
            assert_eq!(end.as_deref(), Some("no answer within 0.8 s"));
        }
        for (to, words) in [
            ("192.0.2.1", "network unreachable"),
            ("2001:db8::1", "network unreachable"),
        ] {
            assert_eq!(failure("icmp", to, BRIEF).await.as_deref(), Some(words));
        }
    });
}

#[test]
fn probes_run_in_parallel_and_fail_in_document_order() {
    on_loopback(async |place| {
        place.tool("iptables -A INPUT -p tcp -m tcp --dport 7 -j DROP");
        let mut probes: Vec<Probe> = (0..15)
            .map(|index| probe(&format!("silent-{index}"), "tcp", "127.0.0.1:7"))
            .collect();
        probes.insert(7, probe("refused", "tcp", "127.0.0.1:8"));
        let names: Vec<_> = probes.iter().map(|probe| probe.name.clone()).collect();
        let limit = Duration::from_secs(2);
        // One after the other they would take fifteen times as long.
        let failed = tokio::time::timeout(5 * limit, probe::run(probes, limit)).await;
        let failed: Vec<_> = failed.unwrap().into_iter().map(|f| f.probe.name).collect();
        assert_eq!(failed, names);
    });
}

/// A node with a peer, which has confirmed generation 1, and all that the kernel holds then.
fn with_first(place: &Place) -> (Peer, Agent, String) {
    let peer = Peer::start(place);
    place.add_foreign_rules();
    let agent = Agent::start(place, NEVER);
    let status = agent.answer_to(offer(1, 1, &sample(1)));
    assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
    (peer, agent, place.everything())
}

fn with_probes(variant: u16, probes: Vec<Probe>) -> Ruleset {
    Ruleset {
        probes,
        ..sample(variant)
    }
}

/// Denies these addresses, whatever came before.
fn denying(mut ruleset: Ruleset, addresses: &[&str]) -> Ruleset {
    for address in addresses {
        let net: ipnet::IpNet = address.parse::<IpAddr>().unwrap().into();
        let denied = |set: &&mut voipfleet_ruleset::ruleset::AddressSet| {
            set.name.stem.as_str().starts_with("list-") && set.name.family == Family::of(&net)
        };
        let set = ruleset.sets.iter_mut().find(denied).unwrap();
        set.elements.push(net);
        set.elements.sort_unstable();
    }
    ruleset
}

/// One probe of each kind to each address.
fn every_kind(addresses: &[&str]) -> Vec<Probe> {
    let mut probes = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let address: IpAddr = address.parse().unwrap();
        let at = |port| SocketAddr::new(address, port).to_string();
        for (kind, target) in [
            ("tcp", at(peer::TCP)),
            ("udp-sip", at(peer::SIP)),
            ("dns", at(peer::DNS)),
            ("icmp", address.to_string()),
        ] {
            probes.push(probe(&format!("{kind}-{index}"), kind, &target));
        }
    }
    probes
}

/// Puts it on trial and confirms it, as the controller does; its probes run then.
fn confirm(agent: &Agent, offered: Offered) -> Attempt {
    let attempt = agent.try_out(offered);
    agent.inbox.confirm(attempt);
    attempt
}

#[test]
fn push_is_confirmed_once_its_probes_succeed() {
    on_both_backends(|place| {
        let (_peer, agent, before) = with_first(place);
        let ruleset = with_probes(2, every_kind(&peer::ADDRESSES));
        let attempt = confirm(&agent, offer(2, 2, &ruleset));
        let status = agent.status_of(attempt, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        assert_eq!(confirmed(place), Some(2));
        assert!(place.ledger().journal().unwrap().is_none());
        assert_ne!(place.everything(), before);
    });
}

#[test]
fn failed_probe_restores_the_rules_byte_for_byte() {
    on_both_backends(|place| {
        let (_peer, agent, before) = with_first(place);
        // It answers through the old rules, and over a connection that is open meanwhile.
        let [cut_4, _, cut_6, _] = peer::ADDRESSES;
        let _open = std::net::TcpStream::connect((cut_4, peer::TCP)).unwrap();
        for cut in [cut_4, cut_6] {
            let ruleset = with_probes(2, every_kind(&peer::ADDRESSES));
            let ruleset = denying(ruleset, &[cut]);
            let nonce = confirmed(place).unwrap() + u64::from(cut == cut_6) + 1;
            let attempt = confirm(&agent, offer(nonce, nonce, &ruleset));
            let status = agent.status_of(attempt, |state| state != NodeState::Trial);
            assert_eq!(status.state(), NodeState::RolledBack, "{}", status.error);
            let failed: Vec<String> = every_kind(&peer::ADDRESSES)
                .iter()
                .filter(|probe| probe.check.target().contains(cut))
                .map(|probe| format!("{probe} failed: no answer within 3 s"))
                .collect();
            assert_eq!(failed.len(), 4);
            assert_eq!(status.error, failed.join("; "));
            assert_eq!((status.generation, status.confirmed_generation), (nonce, 1));
            is_back(place, &before);
        }
        // Once: what comes after it is none the worse.
        let ruleset = with_probes(3, every_kind(&peer::ADDRESSES));
        let status = agent.answer_to(offer(9, 9, &ruleset));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
    });
}

#[test]
fn failed_probe_of_a_first_push_leaves_no_rules() {
    on_both_backends(|place| {
        let _peer = Peer::start(place);
        place.add_foreign_rules();
        let before = place.everything();
        let agent = Agent::start(place, NEVER);
        let probes = vec![probe("web", "tcp", "192.0.2.77:81")];
        let attempt = confirm(&agent, offer(1, 1, &with_probes(1, probes)));
        let status = agent.status_of(attempt, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::RolledBack);
        assert_eq!(
            status.error,
            "probe \"web\" (tcp 192.0.2.77:81) failed: connection refused"
        );
        same(&before, &place.everything());
        assert_eq!(confirmed(place), None);
        assert!(place.ledger().journal().unwrap().is_none());
    });
}

/// A ruleset whose probe goes without an answer for as long as it may.
fn hanging(variant: u16) -> Ruleset {
    let probes = vec![probe("slow", "tcp", "192.0.2.77:9000")];
    denying(with_probes(variant, probes), &["192.0.2.77"])
}

#[test]
fn drift_is_repaired_while_probes_run() {
    on_both_backends(|place| {
        let (_peer, agent, _) = with_first(place);
        let first = confirm(&agent, offer(2, 2, &hanging(2)));
        // Answered after the confirmation was handled.
        let status = agent.answer_to(offer(3, 1, &sample(1)));
        assert_eq!(status.state(), NodeState::Rejected);
        assert!(status.error.contains("on trial"), "{}", status.error);
        assert_eq!(agent.outbox.last_status().state(), NodeState::Trial);
        assert_eq!(confirmed(place), Some(1));

        // A newer offer replaces it, and its probes end too late.
        let ruleset = with_probes(3, every_kind(&peer::ADDRESSES));
        let newer = agent.try_out(offer(4, 3, &ruleset));
        agent.inbox.probed(first, Vec::new());
        let status = agent.answer_to(offer(5, 1, &sample(1)));
        assert_eq!(status.state(), NodeState::Rejected);
        assert_eq!(agent.outbox.last_status().nonce, newer.nonce);
        // Nor do probes count that were not started yet.
        agent.inbox.probed(newer, Vec::new());
        let status = agent.answer_to(offer(6, 1, &sample(1)));
        assert_eq!(status.state(), NodeState::Rejected);
        assert_eq!(confirmed(place), Some(1));
        agent.inbox.confirm(newer);
        let status = agent.status_of(newer, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        // Said twice, it is no news.
        agent.inbox.confirm(newer);
        agent.inbox.probed(newer, Vec::new());
        let status = agent.answer_to(offer(7, 3, &ruleset));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        assert_eq!(confirmed(place), Some(3));
    });
}

#[test]
fn probes_time_out_before_the_trial_and_are_named() {
    on_both_backends(|place| {
        let (_peer, agent, before) = with_first(place);
        let offered = Offered {
            confirm_within: Duration::from_secs(1),
            ..offer(2, 2, &hanging(2))
        };
        let attempt = confirm(&agent, offered);
        let status = agent.status_of(attempt, |state| state != NodeState::Trial);
        assert_eq!(status.state(), NodeState::RolledBack);
        let named = "probe \"slow\" (tcp 192.0.2.77:9000) failed: no answer within 0.";
        assert!(status.error.starts_with(named), "{}", status.error);
        is_back(place, &before);
    });
}

#[test]
fn stop_during_probes_rolls_back() {
    on_both_backends(|place| {
        let (_peer, agent, before) = with_first(place);
        confirm(&agent, offer(2, 2, &hanging(2)));
        let status = agent.answer_to(offer(3, 1, &sample(1)));
        assert_eq!(status.state(), NodeState::Rejected);
        assert_ne!(place.everything(), before);
        drop(agent);
        is_back(place, &before);
    });
}
