//! Harmless edits: no record, and no write to the kernel.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::DriftClass;
use voipfleet_ruleset::ruleset::Family;

use super::Step::{self, Feed, Lines, Packet, Run, Whole};
use super::{Node, brief, fill};
use crate::intercepted::{Counts, counted};
use crate::reconciler::{LIMIT, OFTEN};
use crate::support::{Place, in_namespace};

type Event = (&'static str, &'static [Step]);

const EVENTS: &[Event] = &[
    ("all counters are zeroed", &[Run("{ipt} -Z")]),
    (
        "counters of a chain of ours are zeroed",
        &[Run("{ipt} -Z VF-INPUT")],
    ),
    (
        "counters of one rule are zeroed",
        &[Run("{ipt} -Z VF-INPUT 2")],
    ),
    (
        "rules are listed, and zeroed",
        &[Run("{ipt} -n -v -L -Z INPUT")],
    ),
    ("rules are listed", &[Run("{ipt} -n -L --line-numbers")]),
    ("rules are printed", &[Run("{ipt} -S")]),
    ("a rule is looked for", &[Run("{ipt} -C INPUT -j VF-INPUT")]),
    ("rules are saved", &[Run("{ipt}-save")]),
    ("rules are saved with counters", &[Run("{ipt}-save -c")]),
    ("the table is restored as it is", &[Whole(str::to_owned)]),
    (
        "the table is restored as it is, without counters",
        &[Whole(|saved| {
            let bare = |line: &str| match line.split_once("] -A ") {
                Some((_, rule)) => format!("-A {rule}\n"),
                None => format!("{line}\n"),
            };
            saved.lines().map(bare).collect()
        })],
    ),
    (
        "the table is restored with other counters",
        &[Whole(|saved| saved.replace(":100] -A", ":123456] -A"))],
    ),
    (
        "a chain of ours is loaded anew as it is",
        &[Lines(
            ":VF-SITE1 - [0:0]\n-A VF-SITE1 -p udp -m multiport --dports 10000:20001 -m comment \
             --comment \"vf:rtp\" -j ACCEPT",
        )],
    ),
    (
        "a rule of ours is replaced by itself",
        &[Run(
            "{ipt} -R VF-INPUT 8 -m comment --comment vf:default -j DROP",
        )],
    ),
    (
        "a rule of ours is deleted and put back at once",
        &[Lines(
            "-D VF-INPUT 8\n-A VF-INPUT -m comment --comment \"vf:default\" -j DROP",
        )],
    ),
    (
        "our jump is deleted and put back at once",
        &[Lines("-D INPUT -j VF-INPUT\n-I INPUT 2 -j VF-INPUT")],
    ),
    ("a restore of nothing", &[Lines("")]),
    ("a chain of others", &[Run("{ipt} -N audit")]),
    (
        "a chain of others is filled",
        &[Run("{ipt} -A audit -s {src} -j ACCEPT")],
    ),
    ("a chain of others is flushed", &[Run("{ipt} -F audit")]),
    ("a chain of others is removed", &[Run("{ipt} -X audit")]),
    ("a ban", &[Run("{ipt} -I f2b-sshd 1 -s {src} -j REJECT")]),
    (
        "another ban",
        &[Run("{ipt} -I f2b-sshd 1 -s {src}7 -j DROP")],
    ),
    (
        "the end of a ban",
        &[Run("{ipt} -D f2b-sshd -s {src} -j REJECT")],
    ),
    (
        "a jail of every port above us",
        &[Lines(
            ":f2b-sip - [0:0]\n-A f2b-sip -j RETURN\n-I INPUT 1 -j f2b-sip",
        )],
    ),
    (
        "a ban in it",
        &[Run("{ipt} -I f2b-sip 1 -s {src} -j REJECT")],
    ),
    (
        "a list of bad sources above us",
        &[Lines(
            ":BADIPS - [0:0]\n-A BADIPS -s {src} -j DROP\n-I INPUT 1 -j BADIPS",
        )],
    ),
    (
        "a DROP above us",
        &[Run("{ipt} -I INPUT 1 -s {src} -j DROP")],
    ),
    (
        "a REJECT above us",
        &[Run("{ipt} -I INPUT 1 -p tcp -m tcp --dport 23 -j REJECT")],
    ),
    ("a LOG above us", &[Run("{ipt} -I INPUT 1 -j LOG")]),
    (
        "a rule that only counts above us",
        &[Run("{ipt} -I INPUT 1 -p tcp")],
    ),
    (
        "an ACCEPT below us",
        &[Run("{ipt} -A INPUT -s {src} -j ACCEPT")],
    ),
    (
        "a chain that accepts below us",
        &[Lines(":late - [0:0]\n-A late -j ACCEPT\n-A INPUT -j late")],
    ),
    (
        "our rules again, in a chain of others",
        &[Lines(
            ":copy - [0:0]\n-A copy -p udp -m multiport --dports 10000:20001 -m comment --comment \
             \"vf:rtp\" -j ACCEPT\n-A copy -m comment --comment \"vf:default\" -j DROP\n-A FORWARD \
             -j copy",
        )],
    ),
    (
        "our rules again, below our jump",
        &[Run(
            "{ipt} -A INPUT -p udp -m multiport --dports 5060 -m comment --comment \
               vf:sip:clients -j ACCEPT",
        )],
    ),
    (
        "a chain of ours is used by others",
        &[Run("{ipt} -A FORWARD -j VF-SITE1")],
    ),
    (
        "the chains of Docker",
        &[Lines(
            ":DOCKER - [0:0]\n:DOCKER-USER - [0:0]\n-A DOCKER-USER -j RETURN\n-A FORWARD -j \
             DOCKER-USER\n-A FORWARD -o docker0 -j DOCKER\n-A DOCKER -p tcp -m tcp --dport 80 -j \
             ACCEPT",
        )],
    ),
    (
        "Docker's addresses",
        &[Run("{ipt} -t nat -A POSTROUTING -o docker0 -j MASQUERADE")],
    ),
    (
        "a port led elsewhere",
        &[Run(
            "{ipt} -t nat -A PREROUTING -p tcp -m tcp --dport 80 -j \
                                      REDIRECT --to-ports 8080",
        )],
    ),
    (
        "a mark",
        &[Run(
            "{ipt} -t mangle -A PREROUTING -p udp -j MARK --set-mark 7",
        )],
    ),
    (
        "an ACCEPT in another table",
        &[Run("{ipt} -t mangle -A INPUT -j ACCEPT")],
    ),
    (
        "no tracking",
        &[Run("{ipt} -t raw -A PREROUTING -p udp -j NOTRACK")],
    ),
    (
        "another table is restored",
        &[Feed(
            "{ipt}-restore",
            "*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n",
        )],
    ),
    ("another table is flushed", &[Run("{ipt} -t mangle -F")]),
    ("a policy of FORWARD", &[Run("{ipt} -P FORWARD DROP")]),
    ("a policy of OUTPUT", &[Run("{ipt} -P OUTPUT DROP")]),
    ("a policy of OUTPUT again", &[Run("{ipt} -P OUTPUT ACCEPT")]),
    (
        "a set of others",
        &[Run(
            "ipset create others-{4} hash:net family {inet} counters",
        )],
    ),
    ("an element of others", &[Run("ipset add others-{4} {src}")]),
    (
        "a set of others is flushed",
        &[Run("ipset flush others-{4}")],
    ),
    (
        "a set with nearly our name",
        &[Run("ipset create vfclients-{4} hash:net family {inet}")],
    ),
    (
        "a set with our name in it",
        &[Run("ipset create x-vf-clients-{4} hash:ip family {inet}")],
    ),
    (
        "sets of others are swapped",
        &[
            Run("ipset create more-{4} hash:net family {inet}"),
            Run("ipset swap more-{4} vfclients-{4}"),
        ],
    ),
    (
        "a set of others is destroyed",
        &[Run("ipset destroy vfclients-{4}")],
    ),
    (
        "an element of ours is added again",
        &[Run("ipset add -exist vf-list-1-{4} {member}")],
    ),
    (
        "an element that is not ours is deleted",
        &[Run("ipset del -exist vf-list-1-{4} {src}7")],
    ),
    ("sets are listed", &[Run("ipset list")]),
    ("sets are saved", &[Run("ipset save")]),
    (
        "an interface",
        &[Run("ip link add vfd{4} type veth peer name vfe{4}")],
    ),
    ("it comes up", &[Run("ip link set vfd{4} up")]),
    ("it goes down", &[Run("ip link set vfd{4} down")]),
    ("it is gone", &[Run("ip link del vfd{4}")]),
    (
        "a packet, and a connection that is tracked",
        &[Run("ip link set lo up"), Packet],
    ),
];

const NFT_EVENTS: &[Event] = &[
    ("nft lists", &[Run("nft list ruleset")]),
    ("nft lists for a program", &[Run("nft -j -a list ruleset")]),
    ("nft checks", &[Feed("nft -c -f -", "flush ruleset\n")]),
    ("nft resets counters", &[Run("nft reset counters")]),
    (
        "a table of all families",
        &[Run("nft add table inet others{4}")],
    ),
    (
        "it filters",
        &[Feed(
            "nft -f -",
            "table inet others{4} {\nset bad { type ipv4_addr ; }\nchain in { type filter hook \
             input priority 5 ; policy drop ; iif lo accept ; }\n}\n",
        )],
    ),
    (
        "its set is filled",
        &[Run("nft add element inet others{4} bad { 192.0.2.9 }")],
    ),
    ("it is gone", &[Run("nft delete table inet others{4}")]),
    (
        "a table of bridges",
        &[Run("nft add table bridge others{4}")],
    ),
    (
        "a table of devices",
        &[Run("nft add table netdev others{4}")],
    ),
    (
        "another table of the family",
        &[Run("nft add table {nft} others")],
    ),
    (
        "a chain of our name in it",
        &[
            Run("nft add chain {nft} others VF-INPUT"),
            Run("nft add rule {nft} others VF-INPUT drop"),
        ],
    ),
    (
        "rules of the other backend",
        &[Run("{ipt}-legacy -A INPUT -s {src} -j DROP")],
    ),
];

/// A real edit, each time another.
fn marker(number: usize, family: Family) -> (String, String) {
    let source = match family {
        Family::V4 => format!("198.51.100.{number}"),
        Family::V6 => format!("2001:db8:bad::{number:x}"),
    };
    let line = format!("{{ipt}} -I VF-SITE1 1 -s {source} -j DROP");
    (fill(&line, family), source)
}

fn nothing_comes_of_them(place: &Place) {
    let node = Node::new(place);
    let (
        agent,
        Counts {
            inspections,
            writes,
        },
    ) = counted(place, OFTEN);
    let more = match place.backend {
        Backend::Nft => NFT_EVENTS,
        Backend::Legacy => &[],
    };
    for (number, (what, steps)) in EVENTS.iter().chain(more).enumerate() {
        for family in Family::BOTH {
            let what = format!("{what} ({family}, {})", place.backend);
            let written = writes.load(Ordering::SeqCst);
            for step in *steps {
                node.make(*step, family);
            }
            // One inspection may be under way; the next begins after the event.
            let enough = inspections.load(Ordering::SeqCst) + 2;
            let deadline = Instant::now() + LIMIT;
            while inspections.load(Ordering::SeqCst) < enough {
                assert!(Instant::now() < deadline, "{what}: no inspection");
                // The events are read meanwhile.
                let records = agent.records_within(OFTEN / 10);
                assert!(records.is_empty(), "{what}: {records:#?}");
            }
            assert_eq!(writes.load(Ordering::SeqCst), written, "{what}: written");
            let (line, source) = marker(number + 1, family);
            place.tool(&line);
            let records = agent.records_until(|records| !records.is_empty());
            let only: Vec<_> = records.iter().map(brief).collect();
            let extra = (
                family,
                DriftClass::Extra,
                "VF-SITE1".to_owned(),
                String::new(),
            );
            assert_eq!(only, [extra], "{what}: {records:#?}");
            assert!(
                records[0].observed.contains(&source),
                "{what}: {records:#?}"
            );
            assert_eq!(writes.load(Ordering::SeqCst), written + 1, "{what}");
        }
    }
}

fn texts(step: &Step) -> Vec<&'static str> {
    match *step {
        Run(line) | Lines(line) => vec![line],
        Feed(line, input) => vec![line, input],
        Step::Handle(chain, rule, command) => vec![chain, rule, command],
        Whole(_) | Packet => Vec::new(),
    }
}

/// Each of these words is in a step of the table.
#[track_caller]
fn covers(events: &[Event], groups: &[(&str, &str)]) {
    let steps = events.iter().flat_map(|(_, steps)| *steps);
    let texts: Vec<&str> = steps.flat_map(texts).collect();
    for (group, word) in groups {
        let covered = texts.iter().any(|text| text.contains(word));
        assert!(covered, "no event of the group: {group}");
    }
}

#[test]
fn harmless_events_cover_every_group() {
    covers(
        EVENTS,
        &[
            ("counters are zeroed", "{ipt} -Z"),
            ("rules are listed", "{ipt} -n -L"),
            ("rules are printed", "{ipt} -S"),
            ("rules are saved", "{ipt}-save"),
            ("our rules are loaded anew", ":VF-SITE1"),
            ("a rule of ours is replaced by itself", "{ipt} -R VF-INPUT"),
            ("our jump is put back at once", "-D INPUT -j VF-INPUT"),
            ("chains of others", "{ipt} -N audit"),
            ("bans", "{ipt} -I f2b-sshd 1"),
            ("jails above us", "-I INPUT 1 -j f2b-sip"),
            ("refusals above us", "{ipt} -I INPUT 1 -s {src} -j DROP"),
            ("logs above us", "{ipt} -I INPUT 1 -j LOG"),
            ("accepts below us", "{ipt} -A INPUT -s {src} -j ACCEPT"),
            ("copies of our rules", ":copy"),
            ("Docker", ":DOCKER"),
            ("table nat", "-t nat"),
            ("table mangle", "-t mangle"),
            ("table raw", "-t raw"),
            ("policies of other chains", "{ipt} -P FORWARD"),
            ("sets of others", "ipset create others"),
            ("sets with nearly our name", "ipset create vfclients"),
            ("elements of ours again", "ipset add -exist vf-list-1"),
            ("sets are listed", "ipset list"),
            ("interfaces", "ip link add"),
        ],
    );
    let has = |of: fn(&Step) -> bool| EVENTS.iter().any(|(_, steps)| steps.iter().any(of));
    assert!(has(|step| matches!(step, Whole(_))), "whole restores");
    assert!(has(|step| matches!(step, Packet)), "packets");
}

#[test]
fn harmless_events_of_nft_cover_every_group() {
    covers(
        NFT_EVENTS,
        &[
            ("rules are listed", "nft list ruleset"),
            ("rules are checked", "nft -c -f -"),
            ("counters are reset", "nft reset counters"),
            ("tables of all families", "nft add table inet"),
            ("sets of nft", "nft add element"),
            ("tables of bridges", "nft add table bridge"),
            ("tables of devices", "nft add table netdev"),
            ("our name in another table", "others VF-INPUT"),
            ("the other backend", "{ipt}-legacy"),
        ],
    );
}

#[test]
fn harmless_events_have_distinct_names() {
    for events in [EVENTS, NFT_EVENTS] {
        let names: BTreeSet<&str> = events.iter().map(|(what, _)| *what).collect();
        assert_eq!(names.len(), events.len());
    }
}

#[test]
fn harmless_edits_are_not_drift_on_nft() {
    in_namespace(Backend::Nft, nothing_comes_of_them);
}

#[test]
fn harmless_edits_are_not_drift_on_legacy() {
    in_namespace(Backend::Legacy, nothing_comes_of_them);
}
