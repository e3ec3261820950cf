use super::super::{Action, read_iptables, read_nft};
use super::*;
use crate::iptables::parse_save;
use crate::ruleset::{AddressSet, Chain, Mode, Ports as OpenPorts, Rule, SetName};

/// acme is a tenant, trunkco a provider; both reach SIP, acme the web too; 192.0.2.77 is blocked.
fn ruleset() -> Ruleset {
    let set = |stem: &str, family, owner: SetOwner, nets: &[&str]| {
        let name = SetName {
            stem: stem.parse().unwrap(),
            family,
        };
        AddressSet::new(name, nets.iter().map(|net| net.parse().unwrap())).with_owner(owner)
    };
    let rule = |stem: &str, protocol, ports: &[(u16, u16)]| Rule {
        source_set: (!stem.is_empty()).then(|| stem.parse().unwrap()),
        protocol: Some(protocol),
        destination_ports: OpenPorts::exact(
            ports
                .iter()
                .map(|(first, last)| PortRange::new(*first, *last).unwrap())
                .collect(),
        )
        .unwrap(),
        ..Rule::new("x".parse().unwrap(), Verdict::Accept)
    };
    let clients = SetOwner::Clients(crate::ruleset::ProviderPart::Signalling);
    let acme = SetOwner::Tenant("acme".parse().unwrap());
    let mut sets = vec![
        set("acme", Family::V4, acme, &["203.0.113.0/28"]),
        set("block", Family::V4, SetOwner::Block, &["192.0.2.77/32"]),
        set(
            "clients",
            Family::V4,
            clients.clone(),
            &["203.0.113.0/24", "192.0.2.5/32"],
        ),
        set("clients", Family::V6, clients, &["2001:db8:10::/48"]),
        set("cluster", Family::V4, SetOwner::Cluster, &["10.20.0.11/32"]),
    ];
    sets.sort_by(|a, b| a.name.cmp(&b.name));
    Ruleset {
        without_ipv6: false,
        site: "site-a".parse().unwrap(),
        node: "pbx1".parse().unwrap(),
        mode: Mode::Enforce,
        admins: vec!["198.51.100.10/32".parse().unwrap()],
        ssh_ports: vec![22],
        sets,
        chains: vec![Chain {
            name: "VF-INPUT".parse().unwrap(),
            rules: vec![
                Rule {
                    source_set: Some("block".parse().unwrap()),
                    ..Rule::new("block".parse().unwrap(), Verdict::Drop)
                },
                rule("cluster", Protocol::Udp, &[(5050, 5050)]),
                rule("clients", Protocol::Udp, &[(5060, 5060)]),
                rule("", Protocol::Udp, &[(10_000, 20_000)]),
                rule("acme", Protocol::Tcp, &[(443, 443)]),
                Rule::new("default".parse().unwrap(), Verdict::Drop),
            ],
        }],
        probes: Vec::new(),
    }
}

fn sets(sets: &[(&str, &[&str])]) -> Sets {
    sets.iter()
        .map(|(name, nets)| {
            let nets = nets.iter().map(|net| net.parse::<IpNet>().unwrap());
            ((*name).to_owned(), nets.collect())
        })
        .collect()
}

/// What is refused, as `table chain set: who net ports`.
fn lines(tables: &[ForeignTable], ipsets: &Sets) -> Vec<String> {
    let ruleset = ruleset();
    let controllers = ["198.51.100.7:7443".parse().unwrap()];
    let policy = Policy {
        ruleset: Some(&ruleset),
        controllers: &controllers,
        now: 0,
    };
    let join = |ports: &[Ports]| {
        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
        ports.join(", ")
    };
    let mut lines = Vec::new();
    for refusal in refusals(tables, ipsets, &policy) {
        let set = refusal.set.unwrap_or_default();
        let place = [refusal.table, refusal.chain, set].join(" ");
        let place = place.trim_end();
        for Whom { who, net, ports } in &refusal.whom {
            let who = match who {
                Who::Owner(owner) => owner.to_string(),
                who => format!("{who:?}").to_lowercase(),
            };
            lines.push(format!("{place}: {who} {net} {}", join(ports)));
        }
        if !refusal.everyone.is_empty() {
            lines.push(format!("{place}: everyone {}", join(&refusal.everyone)));
        }
    }
    lines
}

fn table(name: &str, family: Family, rules: &str) -> ForeignTable {
    let saved = parse_save(&format!("*filter\n{rules}COMMIT\n")).unwrap();
    read_iptables(name, family, &saved, &Action::Accept)
}

fn filter(rules: &str, ipsets: &Sets) -> Vec<String> {
    let rules = format!(":INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{rules}");
    lines(&[table("filter", Family::V4, &rules)], ipsets)
}

#[test]
fn a_ban_names_whom_it_hits_and_on_which_ports() {
    let banned = sets(&[("sipban", &["198.51.100.10/32", "198.51.100.66/32"])]);
    // An admin, by a set, on every port.
    assert_eq!(
        filter(
            ":sipban - [0:0]\n-A INPUT -i eth0 -j sipban\n-A INPUT -j VF-INPUT\n\
             -A sipban -m set --match-set sipban src -j DROP\n",
            &banned
        ),
        ["filter sipban sipban: admins 198.51.100.10/32 tcp 22, udp 10000-20000"]
    );
    // A cluster member and a provider, on the ports of the jump.
    assert_eq!(
        filter(
            ":f2b-freeswitch - [0:0]\n\
             -A INPUT -p udp -m multiport --dports 5050,5060 -j f2b-freeswitch\n\
             -A INPUT -j VF-INPUT\n\
             -A f2b-freeswitch -s 10.20.0.11/32 -j REJECT --reject-with icmp-port-unreachable\n\
             -A f2b-freeswitch -s 192.0.2.5/32 -j REJECT\n-A f2b-freeswitch -j RETURN\n",
            &Sets::new()
        ),
        [
            "filter f2b-freeswitch: cluster 10.20.0.11/32 udp 5050",
            "filter f2b-freeswitch: clients 192.0.2.5/32 udp 5060",
        ]
    );
    // A tenant rather than one of the clients.
    assert_eq!(
        filter(
            "-A INPUT -s 203.0.113.9/32 -p tcp -j DROP\n-A INPUT -j VF-INPUT\n",
            &Sets::new()
        ),
        ["filter INPUT: tenant:acme 203.0.113.9/32 tcp 443"]
    );
    // A network that holds some of ours.
    assert_eq!(
        filter(
            "-A INPUT -s 203.0.0.0/16 -p udp -m udp --dport 5060 -j DROP\n",
            &Sets::new()
        ),
        [
            "filter INPUT: tenant:acme 203.0.113.0/28 udp 5060",
            "filter INPUT: clients 203.0.113.0/24 udp 5060",
        ]
    );
}

#[test]
fn what_harms_nobody_known_is_not_told() {
    let banned = sets(&[("bad", &["203.0.113.9/32"])]);
    for rules in [
        // Strangers, and what the policy blocks itself.
        "-A INPUT -s 198.51.100.66/32 -j DROP\n-A INPUT -s 192.0.2.77/32 -j DROP\n",
        // A port that is not opened to him.
        "-A INPUT -s 203.0.113.9/32 -p tcp -m tcp --dport 22 -j DROP\n",
        // Below our jump.
        "-A INPUT -j VF-INPUT\n-A INPUT -s 203.0.113.9/32 -j DROP\n",
        // Below a guard that has judged it.
        "-A INPUT -p udp -m comment --comment \"vf:guard\" -j VF-INPUT\n\
         -A INPUT -s 203.0.113.20/32 -p udp -j DROP\n-A INPUT -j VF-INPUT\n",
        // A rule before it may accept.
        "-A INPUT -p udp -m hashlimit --hashlimit-upto 9/sec --hashlimit-name a -j ACCEPT\n\
         -A INPUT -s 203.0.113.20/32 -p udp -j DROP\n",
        // Only some packets, or not for certain.
        "-A INPUT -p udp -m udp --dport 5060 -m string --string scanner --algo bm -j DROP\n",
        "-A INPUT -m set ! --match-set bad src -m limit --limit 5/sec -j DROP\n",
        "-A INPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m state --state NEW -j DROP\n",
        "-A INPUT -i docker0 -j DROP\n-A INPUT -m conntrack --ctstate INVALID -j DROP\n",
        // Let out again before.
        ":f2b-a - [0:0]\n-A INPUT -j f2b-a\n-A f2b-a -s 203.0.113.0/24 -j RETURN\n\
         -A f2b-a -s 203.0.113.9/32 -j DROP\n",
        // Not read here.
        "-A INPUT -m set --match-set unknown src -j DROP\n-A INPUT -j MARK --set-xmark 0x1/0x1\n",
    ] {
        let (chains, rest): (Vec<&str>, Vec<&str>) = rules
            .split_inclusive('\n')
            .partition(|line| line.starts_with(':'));
        let rules = chains.concat() + &rest.concat();
        assert_eq!(filter(&rules, &banned), [""; 0], "{rules}");
    }
}

#[test]
fn what_is_closed_to_everyone_is_told_by_ports() {
    let mine = r#"{"nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "inet", "name": "mine", "handle": 1}},
        {"chain": {"family": "inet", "table": "mine", "name": "input", "handle": 1,
                   "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
        {"rule": {"family": "inet", "table": "mine", "chain": "input", "handle": 2, "expr": [
            {"match": {"op": "==", "left": {"meta": {"key": "iif"}}, "right": "lo"}}, {"accept": null}]}},
        {"rule": {"family": "inet", "table": "mine", "chain": "input", "handle": 3, "expr": [
            {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}},
            {"accept": null}]}},
        {"rule": {"family": "inet", "table": "mine", "chain": "input", "handle": 4, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 22}},
            {"accept": null}]}}]}"#;
    assert_eq!(
        lines(&read_nft(mine).unwrap(), &Sets::new()),
        ["inet mine input: everyone tcp 443, udp 5050, udp 5060, udp 10000-20000"]
    );
    assert_eq!(read_nft("table inet mine {"), None);
}

#[test]
fn maps_of_verdicts_are_read() {
    let mapped = r#"{"nftables": [
        {"chain": {"family": "inet", "table": "mine", "name": "input", "handle": 1,
                   "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
        {"rule": {"family": "inet", "table": "mine", "chain": "input", "handle": 2, "expr": [
            {"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [
                ["established", {"accept": null}], ["invalid", {"drop": null}]]}}}]}},
        {"rule": {"family": "inet", "table": "mine", "chain": "input", "handle": 3, "expr": [
            {"vmap": {"key": {"payload": {"protocol": "udp", "field": "dport"}}, "data": {"set": [
                [5060, {"accept": null}], [{"range": [10000, 20000]}, {"accept": null}]]}}}]}}
        ]}"#;
    let closed = "inet mine input: everyone tcp 22, tcp 443, udp 5050";
    assert_eq!(lines(&read_nft(mapped).unwrap(), &Sets::new()), [closed]);
    // A named map may accept anything.
    let named = mapped.replace(
        r#"{"set": [
                [5060, {"accept": null}], [{"range": [10000, 20000]}, {"accept": null}]]}"#,
        r#""@ports""#,
    );
    assert_ne!(named, mapped);
    assert_eq!(lines(&read_nft(&named).unwrap(), &Sets::new()), [""; 0]);
}

#[test]
fn members_of_a_trusted_cluster_are_named_by_the_ports_of_the_ban() {
    let mut trusted = ruleset();
    let cluster = &mut trusted.chains[0].rules[1];
    cluster.protocol = None;
    cluster.destination_ports = OpenPorts::ANY;
    cluster.in_interface = Some("eth1".parse().unwrap());
    let rules =
        ":INPUT ACCEPT [0:0]\n-A INPUT -s 10.20.0.11/32 -p udp -m udp --dport 5050 -j DROP\n";
    let tables = [table("filter", Family::V4, rules)];
    let policy = Policy {
        ruleset: Some(&trusted),
        controllers: &[],
        now: 0,
    };
    let found = refusals(&tables, &Sets::new(), &policy);
    assert_eq!(found[0].whom[0].who, Who::Cluster, "{found:?}");
}

#[test]
fn sets_of_nf_tables_are_looked_into() {
    let crowdsec = r#"{"nftables": [
        {"table": {"family": "ip", "name": "crowdsec", "handle": 5}},
        {"set": {"family": "ip", "name": "blacklists", "table": "crowdsec", "type": "ipv4_addr",
                 "handle": 2, "flags": ["timeout"], "elem": [
                 {"elem": {"val": "203.0.113.9", "timeout": 14400, "expires": 14000}},
                 {"prefix": {"addr": "198.51.100.0", "len": 28}}]}},
        {"chain": {"family": "ip", "table": "crowdsec", "name": "chain", "handle": 1,
                   "type": "filter", "hook": "input", "prio": -10, "policy": "accept"}},
        {"rule": {"family": "ip", "table": "crowdsec", "chain": "chain", "handle": 3, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}},
                       "right": "@blacklists"}}, {"drop": null}]}}]}"#;
    assert_eq!(
        lines(&read_nft(crowdsec).unwrap(), &Sets::new()),
        [
            "ip crowdsec chain blacklists: controller 198.51.100.7/32 tcp 7443",
            "ip crowdsec chain blacklists: admins 198.51.100.10/32 tcp 22, udp 10000-20000",
            "ip crowdsec chain blacklists: tenant:acme 203.0.113.9/32 tcp 443, udp 5060, udp 10000-20000",
        ]
    );
}

#[test]
fn raw_and_mangle_and_both_families_are_searched() {
    let mangle = ":PREROUTING ACCEPT [0:0]\n\
                  -A PREROUTING -s 203.0.113.9/32 -p udp -m udp --dport 5060 -j DROP\n";
    let raw = ":PREROUTING ACCEPT [0:0]\n-A PREROUTING -m rpfilter --invert -j DROP\n\
               -A PREROUTING -s 2001:db8:10::9/128 -j DROP\n";
    let tables = [
        table("mangle", Family::V4, mangle),
        table("raw", Family::V6, raw),
    ];
    assert_eq!(
        lines(&tables, &Sets::new()),
        [
            "mangle PREROUTING: tenant:acme 203.0.113.9/32 udp 5060",
            "raw PREROUTING: clients 2001:db8:10::9/128 udp 5060, udp 10000-20000",
        ]
    );
}

#[test]
fn what_cuts_off_the_controller_is_found_in_both_directions() {
    let bad = sets(&[("bad", &["198.51.100.0/28"])]);
    for (rules, by) in [
        (
            "-A INPUT -m set --match-set bad src -j DROP\n",
            "filter INPUT bad",
        ),
        (
            "-A OUTPUT -m set --match-set bad dst -j DROP\n",
            "filter OUTPUT",
        ),
        ("-A OUTPUT -d 198.51.100.7/32 -j REJECT\n", "filter OUTPUT"),
        (
            "-A OUTPUT -p tcp -m tcp --dport 7443 -j DROP\n",
            "filter OUTPUT",
        ),
    ] {
        let found = filter(rules, &bad);
        let line = format!("{by}: controller 198.51.100.7/32 tcp 7443");
        assert!(found.contains(&line), "{rules}{found:?}");
    }
}
