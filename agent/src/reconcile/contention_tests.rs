use super::*;

fn difference(family: Family, chain: &str, observed: &str) -> Difference {
    Difference {
        class: Class::Extra,
        family,
        table: "filter",
        chain: chain.to_owned(),
        rule: String::new(),
        wanted: String::new(),
        observed: observed.to_owned(),
    }
}

fn nobody(_: Family) -> Option<Author> {
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
        if !contention.drifted(now, &found, nobody).is_empty() {
            let until = contention.deadline().unwrap();
            waits.push(until - now);
            now = until;
            assert!(contention.drifted(now, &found, nobody).is_empty());
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
fn the_intervals_of_a_fight_grow_to_a_limit() {
    let mut contention = Contention::default();
    let (waits, _, _) = fight(&mut contention, Instant::now(), 40, same);
    assert!(contention.is_contended());
    assert!(waits.is_sorted());
    assert_eq!(waits.first(), Some(&FIRST));
    assert_eq!(waits.last(), Some(&LONGEST));
}

#[test]
fn edits_in_turns_are_a_fight_and_ever_different_ones_become_one() {
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
fn names_that_are_thought_of_anew_are_one_fight() {
    let mut contention = Contention::default();
    let (waits, ..) = fight(&mut contention, Instant::now(), 300, |round| {
        difference(
            Family::V6,
            &format!("VF-X{round}"),
            &format!(":VF-X{round} -"),
        )
    });
    assert!(!waits.is_empty());
    assert_eq!(contention.0.len(), 1);
    assert!(contention.describe().join("\n").contains("any VF-*"));
}

#[test]
fn what_is_not_fought_over_is_repaired_meanwhile() {
    let mut contention = Contention::default();
    let (_, now, _) = fight(&mut contention, Instant::now(), 12, same);
    let others = [
        same(0),
        difference(Family::V6, "VF-SIP", "x"),
        difference(Family::V4, "VF-INPUT", "x"),
    ];
    let waiting = contention.drifted(now, &others, nobody);
    let waiting: Vec<String> = waiting.iter().map(ToString::to_string).collect();
    assert_eq!(waiting, ["VF-SIP (IPv4)"]);
    assert!(contention.is_waiting(now, |subject| subject.family == Family::V4));
    assert!(!contention.is_waiting(now, |subject| subject.family == Family::V6));
}

#[test]
fn a_fight_is_over_when_a_repair_stands() {
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
fn what_cannot_be_read_is_no_fight() {
    let mut contention = Contention::default();
    let (waits, ..) = fight(&mut contention, Instant::now(), 50, |_| Difference {
        class: Class::Unreadable,
        ..same(0)
    });
    assert!(waits.is_empty());
}

#[test]
fn who_does_it_is_named() {
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
