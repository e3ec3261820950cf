use proptest::prelude::*;

use super::*;
use crate::ruleset::{INPUT_CHAIN, Mode};

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
        elements: set.elements.iter().copied().collect(),
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
    let elements = |at: usize| sets[at].elements.iter().copied().collect::<Vec<_>>();
    assert_eq!(elements(0), nets(&["10.0.0.0/8", "10.1.1.1/32"]));
    assert_eq!(elements(1), nets(&["::ffff:1.2.3.4/128", "2001:db8::/32"]));
    assert_eq!(elements(2), nets(&["10.1.1.1/32"]));
    assert_eq!(parse_ipset_save("").unwrap(), []);
}

#[test]
fn what_says_nothing_certain_is_unreadable() {
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
    let plan = set_plan(&ruleset(vec![new.clone()]), &[held(&old)]);
    assert_eq!(plan.before, "add vf-clients-4 192.0.2.2/32 -exist\n");
    assert_eq!(plan.after, "del vf-clients-4 192.0.2.1/32 -exist\n");
    assert_eq!(
        set_plan(&ruleset(vec![new.clone()]), &[held(&new)]),
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
    let plan = set_plan(&wanted, &[old.clone()]);
    assert_eq!(
        (plan.before.as_str(), plan.after.as_str()),
        (built.as_str(), "")
    );
    // A crash left the temporary set behind.
    let left = KernelSet {
        name: temporary.clone(),
        ..old.clone()
    };
    let plan = set_plan(&wanted, &[old, left.clone()]);
    assert_eq!(plan.before, format!("destroy {temporary}\n{built}"));
    assert_eq!(plan.after, "");
    // And it goes when nothing has to be built.
    let plan = set_plan(&wanted, &[held(&wanted.sets[0]), left]);
    assert_eq!(
        (plan.before, plan.after),
        (String::new(), format!("destroy {temporary}\n"))
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
            elements: BTreeSet::new(),
        };
        assert_eq!(
            set_plan(&wanted, &[old]).before,
            "destroy vf-clients-4\ncreate vf-clients-4 hash:net family inet maxelem 1024 -exist\n\
             add vf-clients-4 10.0.0.0/8 -exist\n"
        );
    }
}

#[test]
fn elements_that_do_not_fit_together_are_swapped() {
    let wanted = ruleset(vec![AddressSet {
        name: name("vf-clients-4"),
        max_elements: 2,
        elements: nets(&["10.0.0.1/32", "10.0.0.2/32"]),
    }]);
    let mut old = held(&wanted.sets[0]);
    old.elements = nets(&["10.0.0.3/32"]).into_iter().collect();
    assert!(set_plan(&wanted, &[old]).before.contains("swap "));
}

#[test]
fn new_sets_come_before_and_unwanted_ones_go_after() {
    let wanted = ruleset(vec![set("vf-a-4", &["10.0.0.1/32"])]);
    let plan = set_plan(&wanted, &[held(&set("vf-b-6", &["2001:db8::1/128"]))]);
    assert_eq!(
        plan.before,
        "create vf-a-4 hash:net family inet maxelem 1024 -exist\nadd vf-a-4 10.0.0.1/32 -exist\n"
    );
    assert_eq!(plan.after, "destroy vf-b-6\n");
}

#[test]
fn a_large_set_is_made_with_room() {
    let elements =
        (0..100_000_u32).map(|i| IpNet::from(std::net::IpAddr::from((i << 8).to_be_bytes())));
    let large = AddressSet::new(name("vf-deny-4"), elements);
    let input = set_create_input([&large], false);
    assert_eq!(
        input,
        "create vf-deny-4 hash:net family inet hashsize 32768 maxelem 262144 -exist\n"
    );
}

proptest! {
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
