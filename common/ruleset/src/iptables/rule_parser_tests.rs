use proptest::prelude::*;

use super::*;

fn read(line: &str) -> Result<Rule, UnreadableRule> {
    read_rule(line, Family::V4).map(|(_, rule)| rule)
}

#[test]
fn a_rule_with_every_match_is_read() {
    let (chain, rule) = read_rule(
        "-A VF-SIP -s 10.0.0.0/8 -i eth0 -p tcp -m set --match-set vf-clients-4 src -m multiport \
         --dports 22,80:90 -m multiport --sports 1:1000 -m conntrack --ctstate NEW,ESTABLISHED \
         -m hashlimit --hashlimit-above 20/sec --hashlimit-burst 60 --hashlimit-mode srcip \
         --hashlimit-name vf-sip --hashlimit-htable-expire 3000 -m limit --limit 7/min \
         -m comment --comment \"vf:site/sip\" -j LOG --log-prefix \"vf drop: \"",
        Family::V4,
    )
    .unwrap();
    assert_eq!(chain.as_str(), "VF-SIP");
    let mut wanted = Rule::new(
        "site/sip".parse().unwrap(),
        Verdict::Log("vf drop: ".parse().unwrap()),
    );
    wanted.scope = Scope::V4;
    wanted.source = Some("10.0.0.0/8".parse().unwrap());
    wanted.in_interface = Some("eth0".parse().unwrap());
    wanted.protocol = Some(Protocol::Tcp);
    wanted.source_set = Some("clients".parse().unwrap());
    wanted.destination_ports =
        Ports::exact(vec![PortRange::single(22), PortRange::new(80, 90).unwrap()]).unwrap();
    wanted.source_ports = Ports::exact(vec![PortRange::new(1, 1000).unwrap()]).unwrap();
    wanted.states = ConnectionStates::new([ConnectionState::New, ConnectionState::Established]);
    wanted.limit = Rate::new(7, RateUnit::Minute, 5);
    wanted.source_limit = Some(SourceLimit {
        name: "sip".parse().unwrap(),
        above: Rate::new(20, RateUnit::Second, 60).unwrap(),
    });
    assert_eq!(rule, wanted);
}

#[test]
fn both_spellings_mean_the_same() {
    let line = |middle: &str| format!("-A VF-X {middle} -m comment --comment vf:x -j REJECT");
    for (one, other) in [
        ("-s 192.0.2.1/32", "-s 192.0.2.1"),
        (
            "-p tcp -m tcp --dport 22",
            "-p tcp -m multiport --dports 22",
        ),
        (
            "-p udp -m udp --sport 1:9",
            "-p 17 -m multiport --sports 1:9",
        ),
        ("-m state --state NEW", "-m conntrack --ctstate NEW"),
        (
            "-m limit --limit 7/minute --limit-burst 5",
            "-m limit --limit 7/min",
        ),
    ] {
        assert_eq!(
            read(&line(one)).unwrap(),
            read(&line(other)).unwrap(),
            "{one}"
        );
    }
    let answer = line("") + " --reject-with icmp-port-unreachable";
    assert_eq!(read(&answer).unwrap(), read(&line("")).unwrap());
}

#[test]
fn foreign_rules_are_refused() {
    for (line, why) in [
        ("-A INPUT -m comment --comment vf:x -j ACCEPT", "\"INPUT\""),
        ("-A VF-X -j ACCEPT", "no comment"),
        ("-A VF-X -m comment --comment x -j ACCEPT", "no comment"),
        ("-A VF-X -m comment --comment vf:x", "no target"),
        (
            "-A VF-X ! -s 10.0.0.0/8 -m comment --comment vf:x -j ACCEPT",
            "\"!\"",
        ),
        (
            "-A VF-X -s 2001:db8::/32 -m comment --comment vf:x -j ACCEPT",
            "2001:db8",
        ),
        (
            "-A VF-X -d 10.0.0.0/8 -m comment --comment vf:x -j ACCEPT",
            "\"-d\"",
        ),
        (
            "-A VF-X -m string --string x -m comment --comment vf:x -j ACCEPT",
            "match \"string\"",
        ),
        ("-A VF-X -m comment --comment vf:x -j f2b", "f2b"),
        ("-A VF-X -m comment --comment vf:x -j LOG", "no prefix"),
        (
            "-A VF-X -m comment --comment vf:x -j REJECT --reject-with tcp-reset",
            "tcp-reset",
        ),
        (
            "-A VF-X -m set --match-set vf-a-4 dst -m comment --comment vf:x -j DROP",
            "source",
        ),
        (
            "-A VF-X -m set --match-set vf-a-6 src -m comment --comment vf:x -j DROP",
            "vf-a-6",
        ),
        (
            "-A VF-X -p icmp -m icmp --icmp-type any -m comment --comment vf:x -j DROP",
            "any",
        ),
        (
            "-A VF-X -m comment --comment vf:x -m comment --comment vf:y -j DROP",
            "twice",
        ),
        ("-A VF-X -m comment --comment \"vf:x -j DROP", "quote"),
        (
            "-A VF-X -m hashlimit --hashlimit-above 20/sec --hashlimit-burst 60 --hashlimit-mode \
             srcip --hashlimit-name vf-a-4 -m comment --comment vf:x -j DROP",
            "not ours",
        ),
    ] {
        let error = read(line).unwrap_err().to_string();
        assert!(error.contains(why), "{line}: {error}");
    }
}

proptest! {
    #[test]
    fn any_line_gets_an_answer(
        start in prop_oneof![Just("-A VF-X"), Just("-A"), Just("")],
        words in prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    "-s", "-i", "-p", "-m", "-j", "tcp", "--dports", "--match-set", "vf-a-4", "src",
                    "--limit", "1/sec", "0/sec", "--hashlimit-above", "--hashlimit-name", "vf-",
                    "vf-é", "--comment", "vf:x", "ACCEPT", "::/0", "0.0.0.0/0", "\"", "\\",
                ])
                .prop_map(str::to_owned),
                "\\PC{0,12}",
            ],
            0..14,
        )
    ) {
        let line = format!("{start} {}", words.join(" "));
        for family in Family::BOTH {
            let _ = read_rule(&line, family);
        }
    }
}
