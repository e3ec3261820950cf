//! Address sets: deltas, full ones, elements that end, and what is counted of them.

use std::time::{Duration, Instant};

use ipnet::IpNet;
use voipfleet_agent::enforcement::inspect::inspect;
use voipfleet_agent::enforcement::recovery;
use voipfleet_agent::host::clock;
use voipfleet_agent::kernel::{Backend, Kernel as _};
use voipfleet_proto::v1::{DriftClass, DriftRecord, DriftState, NodeStatus, SetCount};
use voipfleet_ruleset::iptables::{parse_ipset_save, set_plan};
use voipfleet_ruleset::ruleset::{AddressSet, Expiring, Ruleset, SetName, Until};

use crate::intercepted::recorded;
use crate::reconciler::{Agent, LIMIT, NEVER, OFTEN, offer};
use crate::support::{Place, in_namespace, install, on_both_backends, prepare, put_back, sample};

const NAME: &str = "vf-clients-4";

/// Hosts of 10/8.
fn hosts(numbers: std::ops::Range<u32>) -> impl Iterator<Item = IpNet> {
    numbers.map(|i| IpNet::from(std::net::IpAddr::from((0x0a00_0000 + i).to_be_bytes())))
}

fn now() -> u64 {
    clock::unix(clock::now())
}

/// [`sample`] with this set in place of its own of the same name.
fn with(set: AddressSet) -> Ruleset {
    let mut ruleset = sample(1);
    ruleset.sets.retain(|old| old.name != set.name);
    ruleset.sets.push(set);
    ruleset.sets.sort_by(|a, b| a.name.cmp(&b.name));
    ruleset
}

/// One line of `ipset restore` for each of `nets`.
fn each(verb: &str, nets: impl Iterator<Item = IpNet>) -> String {
    let lines: Vec<String> = nets
        .map(|net| format!("{verb} {NAME} {net} -exist\n"))
        .collect();
    lines.concat()
}

fn set(elements: impl IntoIterator<Item = IpNet>) -> AddressSet {
    AddressSet::new(SetName::from_kernel_name(NAME).unwrap(), elements)
}

/// What ends so many seconds from now.
fn ending(elements: impl IntoIterator<Item = IpNet>, left: u64) -> Vec<Expiring> {
    let until = Until::from_unix(now() + left).unwrap();
    let one = |net| Expiring { net, until };
    elements.into_iter().map(one).collect()
}

fn created(place: &Place) -> String {
    let saved = place.tool(&format!("ipset save {NAME}"));
    saved.lines().next().unwrap().to_owned()
}

#[test]
fn change_of_100_of_100_000_elements_writes_100_lines() {
    in_namespace(Backend::Nft, |place| {
        let (mut kernel, given) = recorded(place, None);
        let ledger = place.ledger();
        install(&mut kernel, &ledger, 1, with(set(hosts(0..100_000))));
        let made = created(place);
        given.lock().unwrap().clear();
        install(&mut kernel, &ledger, 2, with(set(hosts(50..100_050))));
        let given = given.lock().unwrap();
        assert_eq!(given.lines().count(), 100, "{given:.500}");
        let changes = |verb: &str| given.lines().filter(|line| line.starts_with(verb)).count();
        assert_eq!((changes("add "), changes("del ")), (50, 50));
        assert_eq!(
            created(place),
            made,
            "the very set, with the seed of its hash"
        );
    });
}

#[test]
fn full_set_is_reported_with_its_size() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let mut confirmed = install(&mut system, &ledger, 1, sample(1));
        let before = place.everything();
        // The compiler does not produce it: the kernel must refuse it.
        let narrow = AddressSet {
            max_elements: 2,
            ..set(hosts(0..5))
        };
        let prepared = prepare(&mut system, 2, with(narrow)).unwrap();
        let error = prepared.enforce(&mut system).unwrap_err().to_string();
        assert!(
            error.contains("filling the sets: set vf-clients-4 is full: it should hold 5 elements")
                && error.contains("holds 2 of at most 2"),
            "{error}"
        );
        put_back(&mut system, &ledger, Some(&mut confirmed));
        crate::support::same(&before, &place.everything());
    });
}

/// Takes all the room that a set of the sample has.
fn crowd() -> String {
    each("add", hosts(5000..6022))
}

#[test]
fn set_filled_by_another_program_is_replaced() {
    on_both_backends(|place| {
        let ledger = place.ledger();
        install(&mut place.system(), &ledger, 1, sample(1));
        let (mut kernel, given) = recorded(place, Some(crowd()));
        let confirmed = install(&mut kernel, &ledger, 2, with(set(hosts(0..9))));
        assert!(given.lock().unwrap().contains("\nswap "));
        assert!(inspect(&mut kernel, &confirmed).is_clean());
    });
}

#[test]
fn foreign_elements_of_our_sets_are_drift() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        let agent = Agent::start(place, OFTEN);
        // All at once: a look may come between two elements of a restore.
        let own = place.tool(&format!("ipset save {NAME}"));
        let crowd = (own + &crowd()).replace(NAME, "mine");
        system.ipset_restore(&crowd).unwrap();
        let swap = format!("swap mine {NAME}\n");
        let deadline = Instant::now() + LIMIT;
        // The kernel refuses it while the agent reads one of the two.
        while let Err(error) = system.ipset_restore(&swap) {
            assert!(Instant::now() < deadline, "{error}");
        }
        let records = agent.records_until(|records| {
            records
                .iter()
                .any(|r| r.repaired_after_ms.is_some() && r.observed == "922 more elements")
        });
        assert!(
            records
                .iter()
                .all(|r| r.class() == DriftClass::Set && r.chain == NAME)
        );
        assert!(inspect(&mut system, &confirmed).is_clean());
    });
}

#[test]
fn interrupted_set_build_is_finished_at_the_next_start() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, with(set(hosts(0..20))));
        let wanted = with(set(hosts(10..3000)).with_expiring(ending(hosts(0..5), 3600)));
        let sets = parse_ipset_save(&system.ipset_save().unwrap()).unwrap();
        let plan = set_plan(&wanted, &sets, now()).before;
        let lines: Vec<&str> = plan.lines().collect();
        for stop in [1, 2, 1000, lines.len() - 1] {
            let part = lines[..stop].join("\n") + "\n";
            system.ipset_restore(&part).unwrap();
            assert!(place.tool("ipset list -n").contains("vf-new-"));
            let recovered = recovery::recover(&mut system, &ledger);
            assert!(recovered.failed.is_none(), "{:?}", recovered.failed);
            let confirmed = recovered.confirmed.unwrap();
            assert!(inspect(&mut system, &confirmed).is_clean(), "{stop} lines");
            assert!(!place.tool("ipset list -n").contains("vf-new-"));
        }
    });
}

fn holds(place: &Place, element: &str) -> bool {
    let saved = place.tool(&format!("ipset save {NAME}"));
    let line = format!("add {NAME} {element} ");
    saved
        .lines()
        .any(|saved| format!("{saved} ").starts_with(&line))
}

fn await_gone(place: &Place, element: &str) {
    let deadline = Instant::now() + LIMIT;
    while holds(place, element) {
        assert!(Instant::now() < deadline, "{element} stays");
        // The kernel announces no end of a set's element.
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn numbers(count: &SetCount) -> (u64, u64) {
    (count.enforced, count.wanted)
}

#[test]
fn expired_element_is_neither_drift_nor_counted() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let mut expiring = ending(hosts(1..2), 2);
        expiring.extend(ending(hosts(2..3), 9_000_000));
        let ruleset = with(set(hosts(0..1)).with_expiring(expiring));
        let confirmed = install(&mut system, &ledger, 1, ruleset);
        let agent = Agent::start(place, OFTEN);
        let start = agent.outbox.last_status().sets.unwrap();
        assert_eq!(start.enforced, start.wanted);
        await_gone(place, "10.0.0.1");
        // It may have gone before the agent counted.
        let left = 5;
        let records = agent.records_until(|records| {
            assert!(records.is_empty(), "{records:?}");
            numbers(&agent.outbox.last_status().sets.unwrap()) == (left, left)
        });
        assert!(records.is_empty());
        // Everything that came of it: the new count, and nothing else.
        agent.outbox.record(voipfleet_proto::v1::DriftRecord {
            id: "last".to_owned(),
            ..Default::default()
        });
        let records = agent.records_until(|records| !records.is_empty());
        assert_eq!(records.len(), 1, "{records:?}");
        assert!(inspect(&mut system, &confirmed).is_clean());

        // What goes before its end is missed, and so is its timer.
        for (edit, wanted, observed) in [
            ("ipset del vf-clients-4 10.0.0.2", "10.0.0.2/32", ""),
            (
                "ipset add vf-clients-4 10.0.0.2 timeout 60 -exist",
                "10.0.0.2/32 until ",
                "10.0.0.2/32 for a shorter time",
            ),
            (
                "ipset add vf-clients-4 10.0.0.2 timeout 0 -exist",
                "10.0.0.2/32 until ",
                "10.0.0.2/32 for ever",
            ),
        ] {
            place.tool(edit);
            let records = agent
                .records_until(|records| records.iter().any(|r| r.repaired_after_ms.is_some()));
            let record = &records[0];
            assert!(record.wanted.starts_with(wanted), "{edit}: {record:?}");
            assert_eq!(record.observed, observed, "{edit}");
            assert!(inspect(&mut system, &confirmed).is_clean());
        }
    });
}

/// Waits until the clock of the agent, which counts seconds, has advanced.
fn await_next_second() {
    let begun = now();
    while now() <= begun {
        // The system's clock may be set meanwhile, and announces no second.
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn boot_restores_only_unexpired_elements() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let mut expiring = ending(hosts(1..2), 1);
        expiring.extend(ending(hosts(2..3), 600));
        let confirmed = install(
            &mut system,
            &ledger,
            1,
            with(set(hosts(0..1)).with_expiring(expiring)),
        );
        await_gone(place, "10.0.0.1");
        // Its last second is over, by the clock of the agent, too.
        await_next_second();
        recovery::teardown(&mut system, &ledger, false).unwrap();
        assert!(!place.has_ours());
        let recovered = recovery::recover(&mut system, &ledger);
        assert!(recovered.failed.is_none(), "{:?}", recovered.failed);
        assert!(holds(place, "10.0.0.0") && holds(place, "10.0.0.2"));
        assert!(!holds(place, "10.0.0.1"));
        assert!(inspect(&mut system, &confirmed).is_clean());
    });
}

#[test]
fn missing_elements_are_counted_and_named() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, with(set(hosts(0..1000))));
        let agent = Agent::start(place, OFTEN);
        let whole = agent.outbox.last_status().sets.unwrap();
        assert_eq!(numbers(&whole), (1003, 1003));
        // As a bouncer whose timers run out: gone after each repair, until repairs wait.
        let loss = each("del", hosts(0..9));
        let mut short = SetCount::default();
        agent.reports_until(|| {
            system.ipset_restore(&loss).unwrap();
            let status = agent.outbox.last_status();
            short = status.sets.clone().unwrap();
            short.enforced < short.wanted && status.drift() == DriftState::Contended
        });
        assert_eq!(numbers(&short), (994, 1003));
        assert_eq!(short.short.len(), 1);
        let named = &short.short[0];
        assert_eq!(
            (named.set.as_str(), named.enforced, named.wanted),
            (NAME, 991, 1000)
        );
        // Left alone, it comes back, and is reported, too.
        let back = |status: &voipfleet_proto::v1::NodeStatus| status.sets.as_ref() == Some(&whole);
        agent.statuses_until(back);
    });
}

#[test]
fn element_count_follows_the_ruleset() {
    in_namespace(Backend::Nft, |place| {
        let agent = Agent::start(place, NEVER);
        assert_eq!(agent.outbox.last_status().sets, None);
        let answer = agent.answer_to(offer(1, 1, &with(set(hosts(0..7)))));
        assert_eq!(numbers(&answer.sets.unwrap()), (10, 10));
        let other = offer(2, 2, &with(set(hosts(0..9))));
        let attempt = agent.try_out(voipfleet_agent::mailbox::Offered {
            confirm_within: OFTEN,
            ..other
        });
        let ended = agent.status_of(attempt, |state| {
            state == voipfleet_proto::v1::NodeState::RolledBack
        });
        assert_eq!(numbers(&ended.sets.unwrap()), (10, 10));
    });
}

#[test]
fn set_in_foreign_use_is_reported_and_delays_no_other_repair() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        place.tool("ipset create vf-mine-4 hash:net");
        place.tool("iptables -A FORWARD -m set --match-set vf-mine-4 src -j DROP");
        let agent = Agent::start(place, OFTEN);
        let words = "not repaired: removing old elements and sets: set vf-mine-4 cannot be removed; \
                     if a foreign rule or list uses it";
        if !agent.outbox.last_status().drift_detail.contains(words) {
            agent.statuses_until(|status| status.drift_detail.contains(words));
        }
        let repaired = |records: &[DriftRecord], chain| {
            let is = |r: &DriftRecord| r.chain == chain && r.repaired_after_ms.is_some();
            records.iter().any(is)
        };
        place.tool("iptables -D VF-SIP 1");
        agent.records_until(|records| repaired(records, "VF-SIP"));
        place.tool("iptables -D FORWARD 1");
        agent.records_until(|records| repaired(records, "vf-mine-4"));
        let repaired = |status: &NodeStatus| !status.drift_detail.contains("not repaired");
        if !repaired(&agent.outbox.last_status()) {
            agent.statuses_until(repaired);
        }
    });
}
