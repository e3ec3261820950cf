//! Hostile bytes: only sound rulesets are decoded.

use proptest::prelude::*;
use prost::Message as _;
use voipfleet_proto::v1 as pb;
use voipfleet_ruleset::iptables::{Failsafe, restore_input, set_create_input};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{
    AddressSet, Digest, Expiring, Family, MAX_RULESET_BYTES, Probe, ProbeCheck, ProviderPart,
    Ruleset, SetOwner, Until,
};

use crate::fixtures::{any_net, documents, effective, node};

/// A ruleset with all that the catalogue has.
fn sound() -> pb::Ruleset {
    let nodes = [node("all-1", 1, &Role::ALL)];
    let compiled = effective(&documents(), &nodes).unwrap();
    let mut ruleset = compiled.rulesets.into_values().next().unwrap();
    ruleset.probes = ["192.0.2.1:1", "[2001:db8::1]:5060", "a.example:65535"]
        .iter()
        .enumerate()
        .map(|(index, target)| Probe {
            name: format!("p{index}").parse().unwrap(),
            check: ProbeCheck::UdpSip(target.parse().unwrap()),
        })
        .collect();
    pb::Ruleset::from(&ruleset)
}

/// Every text in it.
fn texts(ruleset: &mut pb::Ruleset) -> Vec<&mut String> {
    let mut texts = vec![&mut ruleset.site, &mut ruleset.node];
    for set in &mut ruleset.sets {
        texts.push(&mut set.stem);
        texts.extend(set.owner.iter_mut().map(|owner| &mut owner.name));
    }
    for probe in &mut ruleset.probes {
        texts.push(&mut probe.name);
        if let Some(pb::probe::Check::UdpSip(to)) = &mut probe.check {
            texts.push(&mut to.host);
        }
    }
    for chain in &mut ruleset.chains {
        texts.push(&mut chain.name);
        for rule in &mut chain.rules {
            texts.extend([
                &mut rule.label,
                &mut rule.in_interface,
                &mut rule.source_set,
            ]);
            texts.extend(rule.subject.iter_mut().map(|subject| &mut subject.owner));
            texts.extend(rule.source_limit.iter_mut().map(|limit| &mut limit.name));
            if let Some(pb::verdict::Kind::Jump(text) | pb::verdict::Kind::Log(text)) = rule
                .verdict
                .as_mut()
                .and_then(|verdict| verdict.kind.as_mut())
            {
                texts.push(text);
            }
        }
    }
    texts
}

/// What is accepted is what its digest names, and becomes nothing but lines of ours.
fn is_harmless(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(ruleset) = Ruleset::decode(bytes) else {
        return Ok(());
    };
    prop_assert_eq!(ruleset.digest(), Digest::of(bytes));
    for family in Family::BOTH {
        let input = restore_input(&ruleset, &Failsafe::default(), family);
        for line in input.lines() {
            let ours = line == "*filter"
                || line == "COMMIT"
                || line.starts_with(":VF-")
                || line.starts_with("-F VF-")
                || line.starts_with("-A VF-")
                || line.ends_with("INPUT -j VF-INPUT");
            prop_assert!(ours, "{:?}", line);
            prop_assert_eq!(line.matches('"').count() % 2, 0, "{:?}", line);
            prop_assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        }
    }
    for probe in &ruleset.probes {
        let target = probe.check.target();
        let tame = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
        prop_assert!(probe.name.as_str().bytes().all(tame));
        prop_assert!(target.bytes().all(tame), "{:?}", target);
    }
    for line in set_create_input(&ruleset.sets, 0).lines() {
        let mut words = line.split(' ');
        let verb = words.next().unwrap_or_default();
        prop_assert!(matches!(verb, "create" | "add"), "{:?}", line);
        prop_assert!(words.next().is_some_and(|name| name.starts_with("vf-")));
    }
    Ok(())
}

/// Texts that mean something to a shell, a path, iptables or ipset.
fn nasty() -> impl Strategy<Value = String> {
    let words = [
        "",
        " ",
        "-",
        "-exist",
        "../x",
        "/etc/passwd",
        "$(reboot)",
        "`id`",
        "a b",
        "a\nflush",
        "a\n-A INPUT -j ACCEPT",
        "\"",
        "'",
        "\\",
        "a\0b",
        "INPUT",
        "VF-INPUT",
        "VF-FAILSAFE",
        "VF-",
        "f2b-sshd",
        "eth0 -j ACCEPT",
        "eth+",
        "ä",
        "a;b",
        "a|b",
        "#",
        "%s",
        "COMMIT",
    ];
    prop_oneof![
        prop::sample::select(words.to_vec()).prop_map(str::to_owned),
        "[a-zA-Z0-9._:/-]{0,90}",
        ".{0,40}",
    ]
}

#[test]
fn the_sound_one_is_read() {
    let bytes = sound().encode_to_vec();
    assert_eq!(Ruleset::decode(&bytes).unwrap().encode(), bytes);
    is_harmless(&bytes).unwrap();
}

/// One of each kind, but for those of one document in both parts.
fn set_owners() -> Vec<SetOwner> {
    let part = |part| {
        [
            SetOwner::Clients(part),
            SetOwner::Providers(part),
            SetOwner::Provider("trunkco".parse().unwrap(), part),
        ]
    };
    let mut owners: Vec<SetOwner> = ProviderPart::BOTH.into_iter().flat_map(part).collect();
    owners.extend([
        SetOwner::Tenants,
        SetOwner::Admins,
        SetOwner::Cluster,
        SetOwner::Tenant("acme".parse().unwrap()),
        SetOwner::List("voipbl".parse().unwrap()),
        SetOwner::Service("sip".to_owned()),
        SetOwner::Custom("monitoring".to_owned()),
        SetOwner::Deny,
        SetOwner::DenyList("voipbl".parse().unwrap()),
        SetOwner::Block,
        SetOwner::Open,
    ]);
    owners
}

proptest! {
    /// What is written straight is what the messages encode to.
    #[test]
    fn long_lists_are_written_as_messages_are(
        nets in prop::collection::vec(any_net(), 0..30),
        ending in prop::collection::vec((any_net(), 1_u64..=1 << 34), 0..30),
        dynamic in prop::sample::subsequence(vec!["allow", "block", "cluster:eth1"], 0..=3),
        owner in prop::option::of(prop::sample::select(set_owners())),
    ) {
        let mut ruleset = Ruleset::decode(&sound().encode_to_vec()).unwrap();
        for set in &mut ruleset.sets {
            let ending = ending.iter().map(|(net, until)| Expiring {
                net: *net,
                until: Until::from_unix(*until).unwrap(),
            });
            *set = AddressSet::new(set.name.clone(), nets.iter().copied())
                .with_expiring(ending)
                .with_dynamic_names(dynamic.iter().map(|name| name.parse().unwrap()));
            set.owner.clone_from(&owner);
        }
        let bytes = ruleset.encode();
        prop_assert_eq!(&bytes, &pb::Ruleset::from(&ruleset).encode_to_vec());
        prop_assert_eq!(Ruleset::decode(&bytes).unwrap(), ruleset);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        is_harmless(&bytes)?;
    }

    #[test]
    fn a_sound_one_with_changed_bytes(changes in prop::collection::vec(
        (any::<prop::sample::Index>(), 0_usize..4, prop::collection::vec(any::<u8>(), 0..4)),
        1..4,
    )) {
        let mut bytes = sound().encode_to_vec();
        for (at, gone, new) in changes {
            let at = at.index(bytes.len());
            let end = (at + gone).min(bytes.len());
            bytes.splice(at..end, new);
        }
        is_harmless(&bytes)?;
    }

    #[test]
    fn a_sound_one_with_other_texts(changes in prop::collection::vec(
        (any::<prop::sample::Index>(), nasty()),
        1..3,
    )) {
        let mut ruleset = sound();
        for (at, text) in changes {
            let mut texts = texts(&mut ruleset);
            let at = at.index(texts.len());
            *texts[at] = text;
        }
        is_harmless(&ruleset.encode_to_vec())?;
    }
}

/// A field that is repeated until it fills all that may be sent.
fn bomb(inside: &[u8], tag: u8) -> Vec<u8> {
    let mut field = vec![tag << 3 | 2, u8::try_from(inside.len()).unwrap()];
    field.extend(inside);
    field.repeat(MAX_RULESET_BYTES / field.len())
}

#[test]
fn what_would_fill_the_memory_is_refused_by_its_outline() {
    for (tag, words) in [
        (4, "more than 256 admins"),
        (6, "more than 4096 sets"),
        (7, "more than 256 chains"),
        (8, "more than 16 probes"),
    ] {
        let error = Ruleset::decode(&bomb(&[], tag)).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let within = |tag: u8, content: Vec<u8>| {
        let mut bytes = vec![tag << 3 | 2];
        prost::encoding::encode_varint(content.len() as u64, &mut bytes);
        bytes.extend(content);
        bytes
    };
    let half = MAX_RULESET_BYTES / 2;
    for (bytes, words) in [
        (
            within(6, [4 << 3 | 2, 0].repeat(half - 9)),
            "elements of sets",
        ),
        (
            within(6, [5 << 3 | 2, 0].repeat(half - 9)),
            "elements of sets",
        ),
        (
            within(7, [2 << 3 | 2, 0].repeat(half - 9)),
            "more than 50000 rules",
        ),
        (
            within(7, within(2, [7 << 3 | 2, 0].repeat(half - 9))),
            "a rule of more than 4096 bytes",
        ),
        (
            within(8, vec![0; MAX_RULESET_BYTES - 9]),
            "a probe of more than 512 bytes",
        ),
        (
            within(5, vec![22; MAX_RULESET_BYTES - 9]),
            "too many SSH ports",
        ),
    ] {
        assert!(bytes.len() <= MAX_RULESET_BYTES);
        let error = Ruleset::decode(&bytes).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
    let error = Ruleset::decode(&vec![0; MAX_RULESET_BYTES + 1]).unwrap_err();
    assert!(error.to_string().contains("is above"), "{error}");
}
