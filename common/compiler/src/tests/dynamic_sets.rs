//! Dynamic sets beside the rulesets that name them, as the compiler makes them.

use std::collections::BTreeSet;

use ipnet::IpNet;
use proptest::prelude::*;
use prost::Message as _;
use voipfleet_proto::v1 as pb;
use voipfleet_ruleset::identifiers::SiteName;
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::dynamic_sets::*;
use voipfleet_ruleset::ruleset::{AddressSet, Expiring, Ruleset, Until};

use crate::fixtures::{any_net, documents, effective, node};

fn site() -> SiteName {
    "site-a".parse().unwrap()
}

fn any_value() -> impl Strategy<Value = DynamicSet> {
    let expiring = (any_net(), 1_u64..4).prop_map(|(net, until)| Expiring {
        net,
        until: Until::from_unix(until).unwrap(),
    });
    (
        prop::collection::vec(any_net(), 0..8),
        prop::collection::vec(expiring, 0..8),
    )
        .prop_map(|(elements, expiring)| DynamicSet::new(elements, expiring))
}

const NAMES: [&str; 9] = [
    "allow",
    "block",
    "cluster",
    "cluster:eth1",
    "cluster:eth1.7",
    "deny-feed:voipbl",
    "feed:voipbl",
    "name:sip.example.net",
    "open",
];

fn any_dynamic() -> impl Strategy<Value = DynamicSets> {
    let name = prop::sample::select(NAMES.to_vec());
    prop::collection::btree_map(name, any_value(), 0..NAMES.len()).prop_map(|sources| {
        let mut dynamic = DynamicSets::new(site());
        for (name, value) in sources {
            dynamic.insert(name.parse().unwrap(), value);
        }
        dynamic
    })
}

#[test]
fn names_come_back_and_sort_as_their_texts_do() {
    let read: Vec<DynamicSetName> = NAMES.iter().map(|name| name.parse().unwrap()).collect();
    assert!(read.is_sorted_by(|a, b| a < b), "{read:?}");
    for (name, text) in read.iter().zip(NAMES) {
        assert_eq!(name.to_string(), text);
        assert_eq!(
            serde_json::to_string(name).unwrap(),
            format!("{text:?}"),
            "its form in records"
        );
    }
    for bad in [
        "",
        "Block",
        "block:x",
        "cluster:",
        "cluster:a b",
        "name:",
        "name:a",
        "name:A.example",
        "name:a.example.",
        "name:10.0.0.1",
        "name:10.0.0.xy",
        "name:a.b",
        "name:a..b",
        "feed:",
        "feed:a/b",
        "deny-feed",
        "other",
    ] {
        assert!(bad.parse::<DynamicSetName>().is_err(), "{bad:?}");
    }
    let written = DnsName::written("SIP.Example.NET.").unwrap();
    assert_eq!(written.as_str(), "sip.example.net");
}

proptest! {
    #[test]
    fn what_is_encoded_comes_back(dynamic in any_dynamic()) {
        let bytes = dynamic.encode();
        prop_assert_eq!(DynamicSets::decode(&bytes).unwrap(), dynamic.clone());
        prop_assert_eq!(pb::DynamicSets::decode(&bytes[..]).unwrap().encode_to_vec(), bytes.clone());
        prop_assert_eq!(dynamic.digest(), voipfleet_ruleset::ruleset::Digest::of(&bytes));
    }

    #[test]
    fn a_delta_leads_from_old_to_new(old in any_dynamic(), new in any_dynamic()) {
        let delta = new.delta_from(&old);
        prop_assert_eq!(delta.is_empty(), old == new);
        let message = pb::DynamicSetsDelta::from(&delta);
        let read = DynamicSetsDelta::try_from(&message).unwrap();
        prop_assert_eq!(&read, &delta);
        let reached = old.apply_delta(&read).unwrap();
        prop_assert_eq!(reached.digest(), new.digest());
        prop_assert_eq!(reached, new);
    }

    /// Any delta gives sound dynamic sets or an error.
    #[test]
    fn a_delta_of_others_makes_nothing_unsound(
        held in any_dynamic(), old in any_dynamic(), new in any_dynamic(),
    ) {
        if let Ok(reached) = held.apply_delta(&new.delta_from(&old)) {
            prop_assert_eq!(DynamicSets::decode(&reached.encode()).unwrap(), reached);
        }
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(dynamic) = DynamicSets::decode(&bytes) {
            prop_assert_eq!(dynamic.encode(), bytes);
        }
    }

    #[test]
    fn changed_bytes(dynamic in any_dynamic(), changes in prop::collection::vec(
        (any::<prop::sample::Index>(), 0_usize..4, prop::collection::vec(any::<u8>(), 0..4)),
        1..4,
    )) {
        let mut bytes = dynamic.encode();
        for (at, gone, new) in changes {
            let at = at.index(bytes.len());
            let end = (at + gone).min(bytes.len());
            bytes.splice(at..end, new);
        }
        if let Ok(dynamic) = DynamicSets::decode(&bytes) {
            prop_assert_eq!(dynamic.encode(), bytes);
        }
    }

    /// The effective ruleset holds exactly what is in either part, for as long.
    #[test]
    fn effective_is_both(own in any_value(), dynamic in any_dynamic()) {
        let names: Vec<DynamicSetName> = dynamic.sources.keys().cloned().collect();
        let ruleset = with_sources(&own, &names);
        prop_assert_eq!(ruleset.dynamic_names(), dynamic.sources.keys().cloned().collect());
        prop_assert_eq!(&Ruleset::decode(&ruleset.encode()).unwrap(), &ruleset);
        let effective = ruleset.with_dynamic(&dynamic).unwrap();
        prop_assert!(effective.dynamic_names().is_empty());
        prop_assert_eq!(&Ruleset::decode(&effective.encode()).unwrap(), &effective);
        let values = || dynamic.sources.values().map(AsRef::as_ref).chain([&own]);
        let until = |set: &[AddressSet], net: &IpNet| -> Option<u64> {
            let all = set.iter().filter(|set| set.name.stem.as_str() == "clients");
            all.filter_map(|set| end_in(&set.elements, &set.expiring, net)).max()
        };
        let nets = values().flat_map(|v| {
            v.elements.iter().copied().chain(v.expiring.iter().map(|one| one.net))
        });
        let mut count = BTreeSet::new();
        for net in nets {
            let wanted = values().filter_map(|v| end_in(&v.elements, &v.expiring, &net)).max();
            prop_assert_eq!(until(&effective.sets, &net), wanted);
            count.insert(net);
        }
        let held = effective.sets.iter().filter(|set| set.name.stem.as_str() == "clients");
        prop_assert_eq!(held.map(AddressSet::len).sum::<usize>(), count.len());
    }

    #[test]
    fn live_values_change_no_digest(a in any_dynamic(), b in any_dynamic()) {
        let ruleset = with_sources(&DynamicSet::default(), &[DynamicSetName::Block]);
        let digest = ruleset.digest();
        for mut dynamic in [a, b] {
            dynamic.sources.entry(DynamicSetName::Block).or_default();
            ruleset.with_dynamic(&dynamic).unwrap();
            prop_assert_eq!(ruleset.digest(), digest);
        }
    }
}

/// When a prefix leaves; `u64::MAX`: never.
fn end_in(elements: &[IpNet], expiring: &[Expiring], net: &IpNet) -> Option<u64> {
    let ending = expiring.iter().filter(|one| one.net == *net);
    let ending = ending.map(|one| one.until.unix());
    elements.contains(net).then_some(u64::MAX).or(ending.max())
}

/// A ruleset whose set `clients` holds `own` in both families, and names these sources.
fn with_sources(own: &DynamicSet, names: &[DynamicSetName]) -> Ruleset {
    let nodes = [node("sip1", 1, &[Role::Sip])];
    let compiled = effective(&documents(), &nodes).unwrap();
    let mut ruleset = compiled.rulesets.into_values().next().unwrap();
    for set in &mut ruleset.sets {
        if set.name.stem.as_str() == "clients" {
            *set = AddressSet::new(set.name.clone(), own.elements.iter().copied())
                .with_expiring(own.expiring.iter().copied())
                .with_dynamic_names(names.iter().cloned());
        }
    }
    ruleset
}

#[test]
fn a_source_that_is_not_known_is_not_empty() {
    let ruleset = with_sources(
        &DynamicSet::default(),
        &[DynamicSetName::Open, DynamicSetName::Block],
    );
    let mut dynamic = DynamicSets::new(site());
    dynamic.insert(DynamicSetName::Block, DynamicSet::default());
    let missing = ruleset.with_dynamic(&dynamic).unwrap_err();
    assert_eq!(missing, Missing(DynamicSetName::Open));
    assert_eq!(
        missing.to_string(),
        "nothing is known of the dynamic set open"
    );
    let known = dynamic.only(&ruleset.dynamic_names());
    assert!(ruleset.with_dynamic(&known).is_ok());
}

#[test]
fn the_whole_internet_is_two_halves() {
    let value = DynamicSet::new(["0.0.0.0/0".parse().unwrap()], []);
    let held: Vec<String> = value.elements.iter().map(IpNet::to_string).collect();
    assert_eq!(held, ["0.0.0.0/1", "128.0.0.0/1"]);
}

#[test]
fn rulesets_with_bad_names_of_sources_are_refused() {
    let sound = with_sources(&DynamicSet::default(), &[DynamicSetName::Block]);
    let clients = |message: &mut pb::Ruleset, family: usize, dynamic: &[&str]| {
        let mut sets = message.sets.iter_mut().filter(|s| s.stem == "clients");
        sets.nth(family).unwrap().dynamic = dynamic.iter().map(|name| (*name).to_owned()).collect();
    };
    for (dynamic, words) in [
        (&["blok"][..], "is not a dynamic set"),
        (&["name:EXAMPLE.net"], "is not a DNS name"),
        (&["block", "allow"], "do not ascend"),
        (&["block", "block"], "do not ascend"),
        (&["allow", "block"], "differ in their dynamic sets or owner"),
    ] {
        let mut message = pb::Ruleset::from(&sound);
        clients(&mut message, 0, dynamic);
        let error = Ruleset::decode(&message.encode_to_vec()).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn what_would_fill_the_memory_is_refused_by_its_outline() {
    let field = |tag: u8, content: &[u8]| {
        let mut bytes = vec![tag << 3 | 2];
        prost::encoding::encode_varint(content.len() as u64, &mut bytes);
        bytes.extend(content);
        bytes
    };
    let half = MAX_DYNAMIC_SETS_BYTES / 2;
    for (bytes, words) in [
        (field(2, &[]).repeat(half), "more than 4096 sources"),
        (
            field(2, &field(2, &[]).repeat(half - 9)),
            "more than 2097152 addresses",
        ),
        (
            field(2, &field(3, &[]).repeat(half - 9)),
            "more than 2097152 addresses",
        ),
        (vec![0; MAX_DYNAMIC_SETS_BYTES + 1], "is above"),
    ] {
        let error = DynamicSets::decode(&bytes).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
