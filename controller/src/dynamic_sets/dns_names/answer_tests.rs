use super::*;

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn heard(texts: &[&str]) -> Heard {
    Heard::Addresses {
        addresses: ips(texts),
        ttl_s: (!texts.is_empty()).then_some(60),
    }
}

fn v4(texts: &[&str]) -> Answer {
    Answer {
        v4: heard(texts),
        v6: heard(&[]),
    }
}

fn failed(error: &str) -> Answer {
    Answer {
        v4: Heard::Failed(error.to_owned()),
        v6: Heard::Failed(error.to_owned()),
    }
}

fn held(record: &ResolvedRecord) -> Vec<IpAddr> {
    record.addresses.keys().copied().collect()
}

#[test]
fn known_addresses_outlive_every_kind_of_failure() {
    let mut record = ResolvedRecord::default();
    let first = take(&mut record, 1000, v4(&["192.0.2.1", "10.0.0.9"]));
    assert_eq!(
        first,
        Some(Event::Changed {
            added: ips(&["10.0.0.9", "192.0.2.1"]),
            removed: vec![]
        })
    );

    let failures = [
        failed("timed out"),
        failed("the name does not exist"),
        v4(&[]),
        v4(&["127.0.0.1"]),
        v4(&["0.0.0.0", "224.0.0.1", "255.255.255.255"]),
    ];
    for (n, answer) in (2..).zip(failures) {
        let event = take(&mut record, n * 10 * GRACE_MS, answer);
        let first = (n == 2).then_some(Event::Failing);
        assert_eq!(event, first, "told once");
        assert_eq!(held(&record), ips(&["10.0.0.9", "192.0.2.1"]));
        assert_eq!(record.failing_since_ms, Some(20 * GRACE_MS));
        assert_eq!(record.resolved_ms, 1000);
        assert!(!record.error.is_empty());
    }
    assert_eq!(record.refused.len(), 3);

    let event = take(&mut record, 99 * GRACE_MS, v4(&["192.0.2.1", "10.0.0.9"]));
    assert_eq!(event, Some(Event::Recovered));
    assert_eq!((record.failing_since_ms, record.error.as_str()), (None, ""));
    assert!(record.refused.is_empty());
}

#[test]
fn missing_addresses_stay_for_a_grace_period() {
    let mut record = ResolvedRecord::default();
    take(&mut record, 0, v4(&["192.0.2.1", "192.0.2.2"]));
    // A rotation: each answer has one of them.
    for turn in 1..10 {
        let one = if turn % 2 == 0 {
            "192.0.2.1"
        } else {
            "192.0.2.2"
        };
        let event = take(&mut record, turn * GRACE_MS / 2, v4(&[one]));
        assert_eq!(event, None, "turn {turn}");
    }
    let at = 5 * GRACE_MS;
    assert_eq!(
        take(&mut record, at, v4(&["192.0.2.3"])).map(|_| ()),
        Some(())
    );
    assert_eq!(held(&record).len(), 3);
    // A failure in between is no answer that leaves it out; the time goes on.
    take(&mut record, at + GRACE_MS, failed("timed out"));
    assert_eq!(held(&record).len(), 3);
    let event = take(&mut record, at + GRACE_MS, v4(&["192.0.2.3"]));
    assert_eq!(
        event,
        Some(Event::Changed {
            added: vec![],
            removed: ips(&["192.0.2.1", "192.0.2.2"])
        })
    );
}

#[test]
fn old_addresses_get_their_grace_after_a_long_failure() {
    let mut record = ResolvedRecord::default();
    take(&mut record, 0, v4(&["192.0.2.1"]));
    take(&mut record, 1, failed("timed out"));
    take(&mut record, 50 * GRACE_MS, v4(&["192.0.2.2"]));
    assert_eq!(held(&record), ips(&["192.0.2.1", "192.0.2.2"]));
    take(&mut record, 51 * GRACE_MS - 1, v4(&["192.0.2.2"]));
    assert_eq!(held(&record).len(), 2);
    take(&mut record, 51 * GRACE_MS, v4(&["192.0.2.2"]));
    assert_eq!(held(&record), ips(&["192.0.2.2"]));
}

#[test]
fn a_failing_family_keeps_its_addresses() {
    let mut record = ResolvedRecord::default();
    let both = Answer {
        v4: heard(&["192.0.2.1"]),
        v6: heard(&["2001:db8::1"]),
    };
    take(&mut record, 0, both);
    let half = Answer {
        v4: heard(&["192.0.2.1"]),
        v6: Heard::Failed("timed out".to_owned()),
    };
    assert_eq!(
        take(&mut record, 9 * GRACE_MS, half.clone()),
        Some(Event::Failing)
    );
    assert_eq!(held(&record), ips(&["192.0.2.1", "2001:db8::1"]));
    assert_eq!(record.error, "no answer for its IPv6 addresses: timed out");

    // Where there never was one, a server that does not answer for IPv6 is no failure.
    let mut record = ResolvedRecord::default();
    take(&mut record, 0, half);
    assert_eq!((record.failing_since_ms, record.resolved_ms), (None, 0));
    assert_eq!(record.error, "no answer for its IPv6 addresses: timed out");
}

#[test]
fn a_name_holds_at_most_64_addresses() {
    let many: Vec<IpAddr> = (0..100u8).map(|n| IpAddr::from([192, 0, 2, n])).collect();
    let answer = |addresses: &[IpAddr]| Answer {
        v4: Heard::Addresses {
            addresses: addresses.to_vec(),
            ttl_s: Some(1),
        },
        v6: heard(&[]),
    };
    let mut record = ResolvedRecord::default();
    take(&mut record, 0, answer(&many[30..90]));
    take(&mut record, 1, answer(&many));
    assert_eq!((record.addresses.len(), record.beyond), (64, 36));
    assert!(
        many[30..90]
            .iter()
            .all(|one| record.addresses.contains_key(one))
    );

    // Those that the answer leaves out give way before their time.
    take(&mut record, 2, answer(&many[95..]));
    assert_eq!((record.addresses.len(), record.beyond), (64, 0));
    assert!(
        many[95..]
            .iter()
            .all(|one| record.addresses.contains_key(one))
    );
}
