use super::*;
use crate::iptables::parse_save;
use crate::ruleset::{Chain, Mode, RateUnit, Scope};

fn rule(label: &str, verdict: Verdict) -> Rule {
    Rule::new(label.parse().unwrap(), verdict)
}

fn ruleset() -> Ruleset {
    let mut sip = rule("sip", Verdict::Jump("VF-SIP".parse().unwrap()));
    sip.protocol = Some(Protocol::Udp);
    sip.source_set = Some("clients".parse().unwrap());
    sip.destination_ports = Ports::single(5060);
    let mut flood = rule("sip/limit", Verdict::Drop);
    flood.source_limit = Some(SourceLimit {
        name: "sip".parse().unwrap(),
        above: Rate::new(20, RateUnit::Second, 60).unwrap(),
    });
    let mut only_v6 = rule("v6", Verdict::Reject);
    only_v6.scope = Scope::V6;
    Ruleset {
        site: "site-a".parse().unwrap(),
        node: "sip-1".parse().unwrap(),
        mode: Mode::Enforce,
        admins: vec![
            "198.51.100.10/32".parse().unwrap(),
            "2001:db8:ad::/64".parse().unwrap(),
        ],
        ssh_ports: vec![22, 2222],
        sets: Vec::new(),
        probes: Vec::new(),
        without_ipv6: false,
        chains: vec![
            Chain {
                name: "VF-INPUT".parse().unwrap(),
                rules: vec![sip, rule("end", Verdict::Drop)],
            },
            Chain {
                name: "VF-SIP".parse().unwrap(),
                rules: vec![flood, only_v6],
            },
        ],
    }
}

fn failsafe() -> Failsafe {
    Failsafe {
        controllers: vec![
            "[2001:db8::7]:7443".parse().unwrap(),
            "[::ffff:192.0.2.7]:7443".parse().unwrap(),
            "192.0.2.7:7443".parse().unwrap(),
        ],
        ssh_ports: Vec::new(),
    }
}

#[test]
fn the_failsafe_chain_comes_first_and_each_family_has_its_own() {
    assert_eq!(
        restore_input(&ruleset(), &failsafe(), Family::V4),
        r#"*filter
:VF-FAILSAFE - [0:0]
:VF-INPUT - [0:0]
:VF-SIP - [0:0]
-A VF-FAILSAFE -i lo -m comment --comment "vf:failsafe:loopback" -j ACCEPT
-A VF-FAILSAFE -s 192.0.2.7/32 -p tcp -m multiport --sports 7443 -m conntrack --ctstate ESTABLISHED -m comment --comment "vf:failsafe:controller" -j ACCEPT
-A VF-FAILSAFE -s 198.51.100.10/32 -p tcp -m multiport --dports 22,2222 -m comment --comment "vf:failsafe:admin-ssh" -j ACCEPT
-A VF-FAILSAFE -p udp -m multiport --dports 68 -m multiport --sports 67 -m comment --comment "vf:failsafe:dhcp" -j ACCEPT
-A VF-INPUT -m comment --comment "vf:failsafe" -j VF-FAILSAFE
-A VF-INPUT -p udp -m set --match-set vf-clients-4 src -m multiport --dports 5060 -m comment --comment "vf:sip" -j VF-SIP
-A VF-INPUT -m comment --comment "vf:end" -j DROP
-A VF-SIP -m hashlimit --hashlimit-above 20/sec --hashlimit-burst 60 --hashlimit-mode srcip --hashlimit-name vf-sip --hashlimit-htable-expire 3000 -m comment --comment "vf:sip/limit" -j DROP
COMMIT
"#
    );
    let v6 = restore_input(&ruleset(), &failsafe(), Family::V6);
    for line in [
        "-A VF-FAILSAFE -s 2001:db8::7/128 -p tcp -m multiport --sports 7443 -m conntrack --ctstate ESTABLISHED -m comment --comment \"vf:failsafe:controller\" -j ACCEPT",
        // A node whose address comes by DHCPv6 keeps it, also where a relay with a global address
        // answers.
        "-A VF-FAILSAFE -p udp -m multiport --dports 546 -m comment --comment \"vf:failsafe:dhcpv6\" -j ACCEPT",
        "-A VF-FAILSAFE -s 2001:db8:ad::/64 -p tcp -m multiport --dports 22,2222 -m comment --comment \"vf:failsafe:admin-ssh\" -j ACCEPT",
        "-A VF-FAILSAFE -p ipv6-icmp -m icmp6 --icmpv6-type 135 -m comment --comment \"vf:failsafe:neighbour-discovery\" -j ACCEPT",
        "-A VF-SIP -m comment --comment \"vf:v6\" -j REJECT --reject-with icmp6-port-unreachable",
    ] {
        assert!(v6.contains(&format!("\n{line}\n")), "{v6}");
    }
    assert!(!v6.contains("192.0.2.7"), "{v6}");
}

#[test]
fn one_restore_also_mends_the_jump_and_drops_old_chains() {
    let observed = parse_save(
        "*filter\n:INPUT DROP [0:0]\n:VF-INPUT - [0:0]\n:VF-OLD - [0:0]\n:other - [0:0]\n\
         -A INPUT -j ACCEPT\n-A INPUT -j VF-OLD\n-A VF-INPUT -j VF-OLD\n-A other -j VF-OLD\nCOMMIT\n",
    )
    .unwrap();
    let input = apply_input(&ruleset(), &failsafe(), Family::V4, &observed);
    assert!(input.starts_with(
        "*filter\n:VF-FAILSAFE - [0:0]\n:VF-INPUT - [0:0]\n:VF-SIP - [0:0]\n:VF-OLD - [0:0]\n"
    ));
    assert!(input.ends_with(
        "-j DROP\n-D INPUT -j VF-OLD\n-I INPUT 1 -j VF-INPUT\n-D other -j VF-OLD\n-X VF-OLD\nCOMMIT\n"
    ));
}

#[test]
fn admins_of_everywhere_need_no_source() {
    let mut ruleset = ruleset();
    ruleset.admins = vec!["0.0.0.0/0".parse().unwrap()];
    let input = restore_input(&ruleset, &Failsafe::default(), Family::V4);
    assert!(
        input.contains("-A VF-FAILSAFE -p tcp -m multiport --dports 22,2222 "),
        "{input}"
    );
}

#[test]
fn admins_reach_ssh_on_the_ports_where_it_listens() {
    let listening = |ports: &[u16]| Failsafe {
        ssh_ports: ports.to_vec(),
        ..failsafe()
    };
    let rules = |ports: &[u16]| -> Vec<String> {
        let input = restore_input(&ruleset(), &listening(ports), Family::V4);
        let rules = input
            .lines()
            .filter(|line| line.contains("failsafe:admin-ssh"));
        let ports = |line: &str| line.split(' ').nth(9).unwrap_or_default().to_owned();
        rules.map(ports).collect()
    };
    assert_eq!(rules(&[]), ["22,2222"]);
    assert_eq!(rules(&[42_422, 22]), ["22,2222,42422"]);
    // A multiport match takes 15 ports.
    let many: Vec<u16> = (1..=14).collect();
    let all = rules(&many);
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!(all[1], "2222");
}
