//! The order of our jump among foreign rules, on the real kernel and with real packets.

use std::net::UdpSocket;
use std::time::Duration;

use voipfleet_proto::v1::{DriftClass, DriftRecord};

use crate::reconciler::{Agent, NEVER};
use crate::support::{Place, install, on_both_backends, sample};

/// Long enough for a packet on loopback, and the answer where none comes.
const PATIENCE: Duration = Duration::from_millis(300);

/// Whether a datagram from `source` comes in, by IPv4 or IPv6 on loopback.
fn comes_in(source: &str) -> bool {
    let here = if source.contains(':') {
        "[::1]:0"
    } else {
        "127.0.0.1:0"
    };
    let receiver = UdpSocket::bind(here).unwrap();
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let source = if source.contains(':') {
        format!("[{source}]:0")
    } else {
        format!("{source}:0")
    };
    let sender = UdpSocket::bind(source).unwrap();
    sender
        .send_to(b"x", receiver.local_addr().unwrap())
        .unwrap();
    receiver.recv(&mut [0; 2]).is_ok()
}

fn input(place: &Place, program: &str) -> Vec<String> {
    let listed = place.tool(&format!("{program} -S INPUT"));
    let rules = listed.lines().filter(|line| line.starts_with("-A INPUT "));
    rules
        .map(|rule| {
            rule.trim_start_matches("-A INPUT ")
                .replace("--comment \"vf:guard\"", "--comment vf:guard")
        })
        .collect()
}

/// Waits until `number` records in INPUT are repaired; returns them.
fn repaired(agent: &Agent, number: usize) -> Vec<DriftRecord> {
    agent.records_until(|records| {
        let done = records
            .iter()
            .filter(|record| record.repaired_after_ms.is_some());
        done.count() >= number
    })
}

/// A node on which fail2ban has banned one address of loopback, and one of the addresses beside it.
fn banned(place: &Place) {
    place.tool("ip link set lo up");
    place.tool("ip address add 2001:db8::9/128 dev lo");
    for line in [
        "iptables -N f2b-asterisk",
        "iptables -A f2b-asterisk -s 127.0.0.9 -j DROP",
        "iptables -A f2b-asterisk -j RETURN",
        "iptables -I INPUT -p udp -j f2b-asterisk",
        "ip6tables -N f2b-asterisk",
        "ip6tables -A f2b-asterisk -s 2001:db8::9 -j DROP",
        "ip6tables -A f2b-asterisk -j RETURN",
        "ip6tables -I INPUT -p udp -j f2b-asterisk",
    ] {
        place.tool(line);
    }
    let (mut system, ledger) = (place.system(), place.ledger());
    install(&mut system, &ledger, 1, sample(1));
}

#[test]
fn one_foreign_accept_does_not_put_bans_out_of_force() {
    on_both_backends(|place| {
        banned(place);
        let families = [
            ("iptables", "127.0.0.9", "127.0.0.1", "198.51.100.66/32"),
            ("ip6tables", "2001:db8::9", "::1", "2001:db8:66::66/128"),
        ];
        for (program, banned, other, office) in families {
            let agent = Agent::start(place, NEVER);
            let before = input(place, program);
            assert_eq!(before, ["-p udp -j f2b-asterisk", "-j VF-INPUT"]);
            assert!(!comes_in(banned) && comes_in(other));
            let accept = format!("-s {office} -p tcp -m tcp --dport 22");
            place.tool(&format!("{program} -I INPUT {accept} -j ACCEPT"));
            let records = repaired(&agent, 1);
            assert_eq!(records[0].class(), DriftClass::Bypass, "{records:?}");
            let guarded = [
                format!("{accept} -m comment --comment vf:guard -j VF-INPUT"),
                format!("{accept} -j ACCEPT"),
                "-p udp -j f2b-asterisk".to_owned(),
                "-j VF-INPUT".to_owned(),
            ];
            assert_eq!(input(place, program), guarded);
            assert!(!comes_in(banned) && comes_in(other));
            // A restart leaves it so.
            drop(agent);
            let agent = Agent::start(place, NEVER);
            assert_eq!(input(place, program), guarded);
            // With its cause, the guard goes.
            place.tool(&format!("{program} -D INPUT {accept} -j ACCEPT"));
            let records = repaired(&agent, 1);
            assert_eq!(records[0].class(), DriftClass::Order, "{records:?}");
            assert_eq!(input(place, program), before);
            assert!(!comes_in(banned) && comes_in(other));
        }
    });
}

#[test]
fn bans_that_are_set_up_anew_and_taken_away_are_no_drift() {
    on_both_backends(|place| {
        banned(place);
        let agent = Agent::start(place, NEVER);
        for _ in 0..5 {
            for line in [
                "iptables -D INPUT -p udp -j f2b-asterisk",
                "iptables -F f2b-asterisk",
                "iptables -X f2b-asterisk",
                "iptables -N f2b-asterisk",
                "iptables -A f2b-asterisk -s 127.0.0.9 -j DROP",
                "iptables -I INPUT -p udp -j f2b-asterisk",
            ] {
                place.tool(line);
            }
        }
        // The last event of them is behind us when this one is repaired.
        place.tool("iptables -A VF-INPUT -j ACCEPT");
        let records = repaired(&agent, 1);
        assert!(
            records.iter().all(|record| record.chain == "VF-INPUT"),
            "{records:?}"
        );
        assert!(!comes_in("127.0.0.9"));
    });
}

#[test]
fn chain_of_a_media_proxy_above_us_is_a_bypass() {
    on_both_backends(|place| {
        banned(place);
        let agent = Agent::start(place, NEVER);
        for line in [
            "iptables -N rtpengine",
            // Its own target needs its module; a queue takes packets just as well.
            "iptables -A rtpengine -j NFQUEUE --queue-num 7",
            "iptables -I INPUT -p udp -j rtpengine",
        ] {
            place.tool(line);
        }
        let records = repaired(&agent, 1);
        assert_eq!(records[0].class(), DriftClass::Bypass, "{records:?}");
        assert_eq!(
            input(place, "iptables")[..2],
            [
                "-p udp -m comment --comment vf:guard -j VF-INPUT",
                "-p udp -j rtpengine"
            ]
        );
    });
}

#[test]
fn marks_above_us_stay() {
    on_both_backends(|place| {
        banned(place);
        place.tool("iptables -I INPUT -p udp -j MARK --set-mark 1");
        let agent = Agent::start(place, NEVER);
        place.tool("iptables -A VF-INPUT -j ACCEPT");
        let records = repaired(&agent, 1);
        assert!(
            records.iter().all(|record| record.chain == "VF-INPUT"),
            "{records:?}"
        );
    });
}
