use proptest::prelude::*;

use super::plan::temporary_name;
use super::*;
use crate::drift::compare_sets;
use crate::ruleset::{Expiring, INPUT_CHAIN, Mode, Ruleset, Until};

/// Unix time of every test.
const NOW: u64 = 1_800_000_000;

const SAVED: &str = "\
create vf-clients-4 hash:net family inet hashsize 1024 maxelem 1024 bucketsize 12 initval 0x8451677b
add vf-clients-4 10.0.0.0/8
add vf-clients-4 10.1.1.1
create f2b-sshd hash:ip family inet hashsize 1024 maxelem 65536 timeout 600
add f2b-sshd 192.0.2.1 timeout 599
create vf-clients-6 hash:net family inet6 hashsize 1024 maxelem 1024
add vf-clients-6 ::ffff:1.2.3.4
add vf-clients-6 2001:db8::/32
create vf-odd-4 hash:net family inet hashsize 1024 maxelem 65536 timeout 30 counters comment
add vf-odd-4 10.1.1.1 timeout 29 packets 0 bytes 0 comment \"a b\"
create vf-hole-4 hash:net family inet maxelem 1024
add vf-hole-4 10.1.1.1 nomatch
add vf-hole-4 10.1.1.2 nomatch
create vf-ports-4 hash:ip,port family inet maxelem 1024
add vf-ports-4 10.1.1.1,tcp:80
";

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn name(kernel_name: &str) -> SetName {
    SetName::from_kernel_name(kernel_name).unwrap()
}

fn set(kernel_name: &str, elements: &[&str]) -> AddressSet {
    AddressSet::new(name(kernel_name), nets(elements))
}

fn ruleset(sets: Vec<AddressSet>) -> Ruleset {
    Ruleset {
        site: "site-a".parse().unwrap(),
        node: "sip-1".parse().unwrap(),
        mode: Mode::Enforce,
        admins: nets(&["198.51.100.10/32"]),
        ssh_ports: vec![22],
        sets,
        probes: Vec::new(),
        without_ipv6: false,
        chains: vec![crate::ruleset::Chain {
            name: INPUT_CHAIN.parse().unwrap(),
            rules: Vec::new(),
        }],
    }
}

/// The set as the kernel would hold it.
fn held(set: &AddressSet) -> KernelSet {
    KernelSet {
        name: set.name.clone(),
        header: header(set),
        elements: set.elements.clone(),
        expiring: Vec::new(),
    }
}

#[test]
fn only_our_sets_are_read_with_what_is_worth_comparing() {
    let sets = parse_ipset_save(SAVED).unwrap();
    let headers: Vec<(String, &str)> = sets
        .iter()
        .map(|set| (set.name.kernel_name(), set.header.as_str()))
        .collect();
    assert_eq!(
        headers,
        [
            ("vf-clients-4".into(), "hash:net family inet maxelem 1024"),
            ("vf-clients-6".into(), "hash:net family inet6 maxelem 1024"),
            (
                "vf-odd-4".into(),
                "hash:net family inet maxelem 65536 timeout 30 counters comment"
            ),
            (
                "vf-hole-4".into(),
                "hash:net family inet maxelem 1024 nomatch"
            ),
            ("vf-ports-4".into(), "hash:ip,port family inet maxelem 1024"),
        ]
    );
    let elements = |at: usize| sets[at].elements.clone();
    assert_eq!(elements(0), nets(&["10.0.0.0/8", "10.1.1.1/32"]));
    assert_eq!(elements(1), nets(&["::ffff:1.2.3.4/128", "2001:db8::/32"]));
    assert_eq!(elements(2), []);
    assert_eq!(sets[2].expiring, [(nets(&["10.1.1.1/32"])[0], 29)]);
    assert_eq!(elements(3), [], "an exception matches nothing");
    assert_eq!(parse_ipset_save("").unwrap(), []);
}

#[test]
fn unreliable_output_is_unreadable() {
    for text in [
        "hello",
        "add vf-a-4 10.0.0.1",
        "create vf-a-4",
        "create vf-a-4 hash:net family inet maxelem 9\nadd vf-a-4 nonsense",
        "create vf-a-4 hash:net family inet\ncreate vf-a-4 hash:net family inet",
    ] {
        assert!(parse_ipset_save(text).is_err(), "{text}");
    }
}

#[test]
fn a_set_of_the_same_shape_changes_by_what_differs() {
    let old = set("vf-clients-4", &["10.0.0.0/8", "192.0.2.1/32"]);
    let new = set("vf-clients-4", &["10.0.0.0/8", "192.0.2.2/32"]);
    let plan = set_plan(&ruleset(vec![new.clone()]), &[held(&old)], NOW);
    assert_eq!(plan.before, "add vf-clients-4 192.0.2.2/32 -exist\n");
    assert_eq!(
        plan.after.to_string(),
        "del vf-clients-4 192.0.2.1/32 -exist\n"
    );
    assert_eq!(
        set_plan(&ruleset(vec![new.clone()]), &[held(&new)], NOW),
        SetPlan::default()
    );
}

#[test]
fn another_shape_is_built_beside_and_swapped_in() {
    let wanted = ruleset(vec![set("vf-clients-4", &["10.0.0.0/8"])]);
    let mut old = held(&wanted.sets[0]);
    old.header = "hash:net family inet maxelem 65536 timeout 30".to_owned();
    let temporary = temporary_name(&old.name);
    let built = format!(
        "create {temporary} hash:net family inet maxelem 1024 -exist\n\
         add {temporary} 10.0.0.0/8 -exist\nswap {temporary} vf-clients-4\ndestroy {temporary}\n"
    );
    let plan = set_plan(&wanted, &[old.clone()], NOW);
    assert_eq!(
        (plan.before.as_str(), plan.after.is_empty()),
        (built.as_str(), true)
    );
    // A crash left the temporary set behind.
    let left = KernelSet {
        name: temporary.clone(),
        ..old.clone()
    };
    let plan = set_plan(&wanted, &[old, left.clone()], NOW);
    assert_eq!(plan.before, format!("destroy {temporary}\n{built}"));
    assert!(plan.after.is_empty());
    // And it goes when nothing has to be built.
    let plan = set_plan(&wanted, &[held(&wanted.sets[0]), left], NOW);
    assert_eq!(
        (plan.before.as_str(), plan.after.to_string()),
        ("", format!("destroy {temporary}\n"))
    );
}

#[test]
fn another_type_is_replaced_because_it_cannot_be_swapped() {
    let wanted = ruleset(vec![set("vf-clients-4", &["10.0.0.0/8"])]);
    for header in [
        "hash:ip family inet maxelem 1024",
        "hash:net family inet6 maxelem 1024",
    ] {
        let old = KernelSet {
            name: name("vf-clients-4"),
            header: header.to_owned(),
            elements: Vec::new(),
            expiring: Vec::new(),
        };
        assert_eq!(
            set_plan(&wanted, &[old], NOW).before,
            "destroy vf-clients-4\ncreate vf-clients-4 hash:net family inet maxelem 1024 -exist\n\
             add vf-clients-4 10.0.0.0/8 -exist\n"
        );
    }
}

#[test]
fn elements_that_do_not_fit_together_are_swapped() {
    let wanted = ruleset(vec![AddressSet {
        name: name("vf-clients-4"),
        owner: None,
        max_elements: 2,
        elements: nets(&["10.0.0.1/32", "10.0.0.2/32"]),
        expiring: Vec::new(),
        scheduled: Vec::new(),
        dynamic: Vec::new(),
        within: Vec::new(),
    }]);
    let mut old = held(&wanted.sets[0]);
    old.elements = nets(&["10.0.0.3/32"]);
    assert!(set_plan(&wanted, &[old], NOW).before.contains("swap "));
}

#[test]
fn new_sets_come_before_and_unwanted_ones_go_after() {
    let wanted = ruleset(vec![set("vf-a-4", &["10.0.0.1/32"])]);
    let plan = set_plan(&wanted, &[held(&set("vf-b-6", &["2001:db8::1/128"]))], NOW);
    assert_eq!(
        plan.before,
        "create vf-a-4 hash:net family inet maxelem 1024 -exist\nadd vf-a-4 10.0.0.1/32 -exist\n"
    );
    assert_eq!(plan.after.sets, [name("vf-b-6")]);
    assert_eq!(plan.after.to_string(), "destroy vf-b-6\n");
}

#[test]
fn a_large_set_is_made_with_room() {
    let elements =
        (0..100_000_u32).map(|i| IpNet::from(std::net::IpAddr::from((i << 8).to_be_bytes())));
    let large = AddressSet::new(name("vf-deny-4"), elements);
    let input = set_shapes_input([&large]);
    assert_eq!(
        input,
        "create vf-deny-4 hash:net family inet hashsize 32768 maxelem 262144 -exist\n"
    );
}

/// A set with timers: 10.0.0.1 stays, the others go so many seconds after NOW.
fn timed(elements: &[(&str, u64)]) -> AddressSet {
    let expiring = elements.iter().map(|(net, left)| Expiring {
        net: net.parse().unwrap(),
        until: Until::from_unix(NOW + left).unwrap(),
    });
    set("vf-deny-4", &["10.0.0.1/32"]).with_expiring(expiring)
}

fn held_for(set: &AddressSet, timers: &[(&str, u32)]) -> KernelSet {
    KernelSet {
        expiring: timers
            .iter()
            .map(|(net, left)| (net.parse().unwrap(), *left))
            .collect(),
        ..held(set)
    }
}

#[test]
fn an_element_with_an_end_is_given_what_is_left_of_it() {
    let timed = timed(&[
        ("10.0.0.1/32", 50), // another list holds it for ever
        ("10.0.0.2/32", 600),
        ("10.0.0.3/32", 0),
        ("10.0.0.4/32", 9_000_000),
    ]);
    let made = "create vf-deny-4 hash:net family inet maxelem 1024 timeout 0 -exist\n\
                add vf-deny-4 10.0.0.1/32 -exist\nadd vf-deny-4 10.0.0.2/32 timeout 600 -exist\n\
                add vf-deny-4 10.0.0.4/32 timeout 2147483 -exist\n";
    assert_eq!(set_create_input([&timed], NOW), made);
    let wanted = ruleset(vec![timed.clone()]);
    let plan = set_plan(&wanted, &[], NOW);
    assert_eq!((plan.before.as_str(), plan.after.is_empty()), (made, true));
    // A minute later, the timers have run with the clock.
    let later = held_for(&timed, &[("10.0.0.2/32", 540), ("10.0.0.4/32", 2_147_423)]);
    assert_eq!(
        set_plan(&wanted, std::slice::from_ref(&later), NOW + 60),
        SetPlan::default()
    );
    // Without an end the set has no timers, and is another.
    let without = ruleset(vec![set("vf-deny-4", &["10.0.0.1/32"])]);
    assert!(set_plan(&without, &[later], NOW).before.contains("swap "));
}

#[test]
fn timers_that_others_changed_are_set_again() {
    let timed = timed(&[
        ("10.0.0.2/32", 600),
        ("10.0.0.3/32", 600),
        ("10.0.0.9/32", 0),
    ]);
    let wanted = ruleset(vec![timed.clone()]);
    let mut found = held_for(
        &timed,
        &[
            ("10.0.0.1/32", 99),
            ("10.0.0.2/32", 700),
            ("10.0.0.9/32", 60),
        ],
    );
    found.elements = nets(&["10.0.0.3/32"]);
    let plan = set_plan(&wanted, std::slice::from_ref(&found), NOW);
    assert_eq!(
        plan.before,
        "add vf-deny-4 10.0.0.1/32 timeout 0 -exist\nadd vf-deny-4 10.0.0.2/32 timeout 600 -exist\n\
         add vf-deny-4 10.0.0.3/32 timeout 600 -exist\n"
    );
    assert_eq!(plan.after.elements, "del vf-deny-4 10.0.0.9/32 -exist\n");
    // None of it is the work of time.
    assert_eq!(set_renewal(&wanted, &[found], NOW, false), None);
}

#[test]
fn what_time_puts_wrong_is_put_right_unseen() {
    let timed = timed(&[
        ("10.0.0.2/32", 600),
        ("10.0.0.3/32", 9_000_000),
        ("10.0.0.4/32", 600),
    ]);
    let wanted = ruleset(vec![timed.clone()]);
    // The kernel's clock is six seconds behind, and a day of the longest timer is over.
    let found = held_for(
        &timed,
        &[
            ("10.0.0.2/32", 606),
            ("10.0.0.3/32", 2_147_483 - 90_000),
            ("10.0.0.4/32", 600),
        ],
    );
    assert_eq!(
        set_renewal(&wanted, std::slice::from_ref(&found), NOW, false).unwrap(),
        "add vf-deny-4 10.0.0.2/32 timeout 600 -exist\n\
         add vf-deny-4 10.0.0.3/32 timeout 2147483 -exist\n"
    );
    // The clock goes ten minutes back, and later forward again.
    let found = held_for(&timed, &[("10.0.0.2/32", 5), ("10.0.0.3/32", 2_147_000)]);
    assert_eq!(
        set_renewal(&wanted, std::slice::from_ref(&found), NOW - 600, false),
        None
    );
    assert_eq!(
        set_renewal(&wanted, &[found], NOW - 600, true).unwrap(),
        "add vf-deny-4 10.0.0.2/32 timeout 1200 -exist\n\
         add vf-deny-4 10.0.0.4/32 timeout 1200 -exist\n"
    );
    let found = held_for(
        &timed,
        &[
            ("10.0.0.2/32", 600),
            ("10.0.0.3/32", 2_147_000),
            ("10.0.0.4/32", 2),
        ],
    );
    assert_eq!(
        set_renewal(&wanted, &[found], NOW + 700, true).unwrap(),
        "del vf-deny-4 10.0.0.2/32 -exist\n"
    );
}

#[test]
fn what_lives_is_counted_and_what_is_over_is_not() {
    let timed = timed(&[
        ("10.0.0.2/32", 600),
        ("10.0.0.3/32", 600),
        ("10.0.0.4/32", 0),
        ("10.0.0.5/32", 5),
    ]);
    let other = set("vf-clients-6", &["2001:db8::/32"]);
    let wanted = ruleset(vec![other.clone(), timed.clone()]);
    let count = |timers: &[(&str, u32)]| {
        let mut found = held_for(&timed, timers);
        found.elements.extend(nets(&["192.0.2.1/32"])); // foreign
        count_sets(&wanted, &[found, held(&other)], NOW)
    };
    let whole = count(&[("10.0.0.2/32", 600), ("10.0.0.3/32", 600)]);
    assert_eq!((whole.enforced, whole.wanted, whole.short.len()), (4, 4, 0));
    let about_to_go = count(&[("10.0.0.2/32", 9), ("10.0.0.3/32", 9), ("10.0.0.5/32", 4)]);
    assert_eq!((about_to_go.enforced, about_to_go.wanted), (5, 5));
    let short = count(&[("10.0.0.2/32", 600)]);
    assert_eq!((short.enforced, short.wanted), (3, 4));
    assert_eq!(
        short.short,
        [ShortSet {
            name: timed.name.clone(),
            enforced: 2,
            wanted: 3
        }]
    );
    assert_eq!(count_sets(&wanted, &[], NOW).enforced, 0);
}

/// Elements of a small space, so that both sides meet; ends around [`NOW`].
fn any_set() -> impl Strategy<Value = AddressSet> {
    let net = (0_u8..24).prop_map(|last| format!("10.0.0.{last}/32").parse::<IpNet>().unwrap());
    let end = prop_oneof![0_u64..30, Just(600), Just(5_000_000)];
    let expiring = (net.clone(), end).prop_map(|(net, left)| Expiring {
        net,
        until: Until::from_unix(NOW - 10 + left).unwrap(),
    });
    (
        prop::collection::vec(net, 0..12),
        prop::collection::vec(expiring, 0..12),
    )
        .prop_map(|(elements, expiring)| {
            AddressSet::new(name("vf-deny-4"), elements).with_expiring(expiring)
        })
}

/// What the kernel holds after `input`, given to `ipset restore` at [`NOW`].
fn after(observed: &[KernelSet], input: &str) -> Vec<KernelSet> {
    let mut sets: std::collections::BTreeMap<String, (String, Vec<String>)> = observed
        .iter()
        .map(|set| {
            let lasting = set.elements.iter().map(|net| format!("{net}"));
            let expiring = set
                .expiring
                .iter()
                .map(|(net, left)| format!("{net} timeout {left}"));
            (
                set.name.kernel_name(),
                (set.header.clone(), lasting.chain(expiring).collect()),
            )
        })
        .collect();
    for line in input.lines() {
        let line = line.trim_end_matches(" -exist");
        let mut words = line.split(' ');
        let (verb, name) = (words.next().unwrap(), words.next().unwrap().to_owned());
        let rest = words.collect::<Vec<_>>().join(" ");
        let net = rest.split(' ').next().unwrap().to_owned();
        let is_it = |element: &String| element.split(' ').next() == Some(&net);
        match verb {
            "create" => drop(sets.insert(name, (rest, Vec::new()))),
            "destroy" => drop(sets.remove(&name)),
            "swap" => {
                let (a, b) = (sets.remove(&name).unwrap(), sets.remove(&rest).unwrap());
                sets.insert(name, b);
                sets.insert(rest, a);
            }
            verb => {
                let elements = &mut sets.get_mut(&name).unwrap().1;
                elements.retain(|element| !is_it(element));
                if verb == "add" {
                    elements.push(rest);
                }
            }
        }
    }
    let mut saved = String::new();
    for (name, (header, elements)) in sets {
        let _ = writeln!(saved, "create {name} {header}");
        for element in elements {
            let _ = writeln!(saved, "add {name} {element}");
        }
    }
    parse_ipset_save(&saved).unwrap()
}

proptest! {
    #[test]
    fn every_plan_ends_at_what_is_wanted(old in any_set(), new in any_set()) {
        let observed = after(&[], &set_create_input([&old], NOW));
        let wanted = ruleset(vec![new]);
        let plan = set_plan(&wanted, &observed, NOW);
        let observed = after(&observed, &format!("{}{}", plan.before, plan.after));
        prop_assert_eq!(set_plan(&wanted, &observed, NOW), SetPlan::default());
        let differences = crate::drift::compare_sets(&wanted, &observed, NOW, Slack::DRIFT);
        prop_assert_eq!(differences, []);
        let count = count_sets(&wanted, &observed, NOW);
        prop_assert_eq!(count.enforced, count.wanted);
        prop_assert_eq!(set_renewal(&wanted, &observed, NOW, true), None);
    }

    #[test]
    fn any_text_gets_an_answer(
        lines in prop::collection::vec(
            prop_oneof![
                Just("create vf-a-4 hash:net family inet maxelem 1024".to_owned()),
                "add vf-a-4 [0-9./:]{0,12}( timeout| nomatch| \"){0,2}",
                "(create|add|swap)( [a-z0-9:-]{0,9}){0,4}",
                "\\PC{0,40}",
            ],
            0..8,
        )
    ) {
        let _ = parse_ipset_save(&lines.join("\n"));
    }
}

#[test]
fn a_line_break_in_a_comment_of_others_is_no_line() {
    // As ipset 7.17 prints it.
    let text = "create other hash:ip family inet comment\nadd other 1.1.1.1 comment \"a\n\
                add vf-clients-4 9.9.9.9\n\\\"\ncreate vf-clients-4 hash:net family inet maxelem 1024\n\
                add vf-clients-4 10.0.0.0/8\n";
    let sets = parse_ipset_save(text).unwrap();
    assert_eq!(sets.len(), 1);
    assert_eq!(sets[0].elements, nets(&["10.0.0.0/8"]));
    let cut = text.split("\\\"").next().unwrap();
    assert!(parse_ipset_save(cut).is_err());
}

/// A set with an element that begins at a moment, and one that ends with it.
fn moving(begins: u64) -> Ruleset {
    let moment = |at| crate::ruleset::Until::from_unix(at).unwrap();
    let set = set("vf-media-4", &["192.0.2.1/32"])
        .with_expiring([crate::ruleset::Expiring {
            net: "192.0.2.128/25".parse().unwrap(),
            until: moment(begins),
        }])
        .with_scheduled([crate::ruleset::Scheduled {
            net: "198.18.128.0/18".parse().unwrap(),
            from: moment(begins),
            until: None,
        }]);
    ruleset(vec![set])
}

#[test]
fn an_element_begins_by_itself_and_is_no_drift() {
    let begins = NOW + 1000;
    let wanted = moving(begins);
    let written = |at| vec![KernelSet::written(&wanted.sets[0], at)];
    let before = written(NOW);
    assert_eq!(before[0].elements, nets(&["192.0.2.1/32"]));
    assert_eq!(before[0].expiring.len(), 1);
    assert!(compare_sets(&wanted, &before, NOW, Slack::DRIFT).is_empty());
    assert_eq!(set_renewal(&wanted, &before, NOW, false), None);
    assert_eq!(wanted.next_beginning(NOW).map(Until::unix), Some(begins));

    // The kernel has taken the old one out; the new one is added as a matter of course.
    let at = begins + 1;
    let mut held = written(begins - 1);
    held[0].expiring.clear();
    assert!(compare_sets(&wanted, &held, at, Slack::DRIFT).is_empty());
    let renewal = set_renewal(&wanted, &held, at, false).unwrap();
    assert_eq!(renewal, "add vf-media-4 198.18.128.0/18 timeout 0 -exist\n");
    assert_eq!(wanted.next_beginning(at), None);
    let count = count_sets(&wanted, &held, at);
    assert_eq!((count.enforced, count.wanted), (1, 1));

    // Much later, its absence is somebody's doing.
    let late = begins + 3600;
    assert_eq!(set_renewal(&wanted, &held, late, false), None);
    assert_eq!(compare_sets(&wanted, &held, late, Slack::DRIFT).len(), 1);
    let count = count_sets(&wanted, &held, late);
    assert_eq!((count.enforced, count.wanted), (1, 2));
    assert!(compare_sets(&wanted, &written(late), late, Slack::DRIFT).is_empty());
    // A boot after its time has it from the start.
    assert!(set_create_input(&wanted.sets, late).contains("add vf-media-4 198.18.128.0/18 -exist"));
}

#[test]
fn scheduled_elements_are_part_of_the_digest_and_checked() {
    let mut wanted = moving(NOW + 1000);
    wanted.chains[0].rules = vec![crate::ruleset::Rule {
        source_set: Some("media".parse().unwrap()),
        scope: crate::ruleset::Scope::V4,
        ..crate::ruleset::Rule::new("media".parse().unwrap(), crate::ruleset::Verdict::Accept)
    }];
    let read = Ruleset::decode(&wanted.encode()).unwrap();
    assert_eq!(read, wanted);
    let later = Ruleset {
        sets: moving(NOW + 2000).sets,
        ..wanted.clone()
    };
    assert_ne!(later.digest(), wanted.digest());
    let mut wrong = wanted.clone();
    let from = wrong.sets[0].scheduled[0].from;
    wrong.sets[0].scheduled[0].until = Some(from);
    let error = Ruleset::decode(&wrong.encode()).unwrap_err().to_string();
    assert!(error.contains("after its end"), "{error}");
}
