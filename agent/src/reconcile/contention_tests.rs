use super::*;

fn difference(family: Family, chain: &str, observed: &str) -> Difference {
    Difference {
        observed: Some(observed.to_owned()),
        ..Difference::new(
            DriftClass::Extra,
            family,
            DriftTable::Filter,
            chain.to_owned(),
        )
    }
}

fn no_author(_: Family) -> Option<Author> {
    None
}

/// Something that undoes every repair at once, a millisecond later, with what `edit` makes.
fn fight(
    contention: &mut Contention,
    mut now: Instant,
    rounds: usize,
    edit: impl Fn(usize) -> Difference,
) -> (Vec<Duration>, Instant, usize) {
    let (mut waits, mut repairs) = (Vec::new(), 0);
    for round in 0..rounds {
        let found = [edit(round)];
        if !contention.drifted(now, &found, no_author).is_empty() {
            let until = contention.deadline().unwrap();
            waits.push(until - now);
            now = until;
            assert!(contention.drifted(now, &found, no_author).is_empty());
        }
        contention.repaired(now, &found);
        repairs += 1;
        now += Duration::from_millis(1);
    }
    (waits, now, repairs)
}

fn same(_: usize) -> Difference {
    difference(Family::V4, "VF-SIP", "-A VF-SIP -j ACCEPT")
}

#[test]
fn contention_intervals_grow_to_a_limit() {
    let mut contention = Contention::default();
    let (waits, _, _) = fight(&mut contention, Instant::now(), 40, same);
    assert!(contention.is_contended());
    assert!(waits.is_sorted());
    assert_eq!(waits.first(), Some(&FIRST));
    assert_eq!(waits.last(), Some(&LONGEST));
}

#[test]
fn what_closes_the_node_is_repaired_again_within_seconds() {
    for chain in ["INPUT", "VF-INPUT"] {
        let mut contention = Contention::default();
        let jump = |_| difference(Family::V4, chain, "-A INPUT -j ACCEPT");
        let (waits, _, _) = fight(&mut contention, Instant::now(), 40, jump);
        assert!(contention.is_contended());
        assert_eq!(waits.last(), Some(&LONGEST_OPEN), "{chain}");
    }
}

#[test]
fn alternating_edits_are_contention_and_varying_edits_become_it() {
    let start = Instant::now();
    let numbered = |number: usize| {
        difference(
            Family::V4,
            "VF-SIP",
            &format!("-A VF-SIP -i eth{number} -j ACCEPT"),
        )
    };
    let mut turns = Contention::default();
    fight(&mut turns, start, 20, |round| numbered(round % 4));
    assert!(turns.is_contended());

    let mut others = Contention::default();
    let (waits, now, _) = fight(&mut others, start, 200, numbered);
    assert!(waits.is_empty() && !others.is_contended());
    let (waits, ..) = fight(&mut others, now, 70, |round| numbered(200 + round));
    assert_eq!(waits.first(), Some(&FIRST));
    assert!(waits.len() > 10 && waits.is_sorted(), "{waits:?}");
}

#[test]
fn ever_new_chain_names_are_one_contention() {
    let mut contention = Contention::default();
    let (waits, ..) = fight(&mut contention, Instant::now(), 300, |round| {
        let name = format!("VF-X{round}");
        Difference {
            is_unwanted: true,
            ..difference(Family::V6, &name, &format!(":{name} -"))
        }
    });
    assert!(!waits.is_empty());
    assert_eq!(contention.0.len(), 1);
    assert!(
        contention
            .describe()
            .join("\n")
            .contains("any unwanted VF-*")
    );
}

#[test]
fn other_subjects_are_repaired_during_contention() {
    let mut contention = Contention::default();
    let (_, now, _) = fight(&mut contention, Instant::now(), 12, same);
    let others = [
        same(0),
        difference(Family::V6, "VF-SIP", "x"),
        difference(Family::V4, "VF-INPUT", "x"),
    ];
    let waiting = contention.drifted(now, &others, no_author);
    let waiting: Vec<String> = waiting.iter().map(ToString::to_string).collect();
    assert_eq!(waiting, ["VF-SIP (IPv4)"]);
    assert!(contention.is_waiting(now, |subject| subject.family == Family::V4));
    assert!(!contention.is_waiting(now, |subject| subject.family == Family::V6));
}

#[test]
fn contention_ends_when_a_repair_lasts() {
    let mut contention = Contention::default();
    let (_, now, _) = fight(&mut contention, Instant::now(), 11, same);
    let over = contention.deadline().unwrap();
    assert!(over >= now + Duration::from_secs(9));
    let before = over.checked_sub(Duration::from_millis(1)).unwrap();
    contention.checked(before, &[], |_| true);
    assert!(contention.is_contended(), "too early to say");
    contention.checked(over, &[], |subject| subject.family == Family::V6);
    assert!(contention.is_contended(), "it was not looked at");
    contention.checked(over, &[], |_| true);
    assert!(!contention.is_contended());
    assert_eq!(contention.deadline(), None);
    assert_eq!(contention.describe().join("\n"), "");
}

#[test]
fn unreadable_tables_are_not_contention() {
    let mut contention = Contention::default();
    let (waits, ..) = fight(&mut contention, Instant::now(), 50, |_| Difference {
        class: DriftClass::Unreadable,
        ..same(0)
    });
    assert!(waits.is_empty());
}

#[test]
fn contention_names_its_author() {
    let mut contention = Contention::default();
    let (_, now, _) = fight(&mut contention, Instant::now(), 12, same);
    let author = Author::named(4711, "firewalld".to_owned());
    contention.drifted(now, &[same(0)], |_| Some(author.clone()));
    let said = contention.describe().join("\n");
    assert!(
        said.contains("VF-SIP (IPv4) by firewalld (pid 4711)"),
        "{said}"
    );
}
