//! What holds for any documents.

use proptest::prelude::*;
use voipfleet_policy::AddressWord;
use voipfleet_ruleset::ruleset::Digest;

use super::*;
use crate::fixtures::{any_documents, any_nodes};
use crate::plan::Owners;

fn digests(compiled: &Compiled) -> Vec<Digest> {
    compiled.rulesets.values().map(Ruleset::digest).collect()
}

/// The same documents in another order.
fn shuffled(documents: &Documents) -> Documents {
    let mut documents = documents.clone();
    for site in documents.sites.values_mut() {
        site.tenants.reverse();
        site.providers.reverse();
        site.admins.reverse();
        site.deny.reverse();
        let again: Vec<AddressWord> = site.admins.clone();
        site.admins.extend(again);
        for changes in site.services.values_mut() {
            changes.from.iter_mut().for_each(|words| words.reverse());
            changes.ports.iter_mut().for_each(|ports| ports.reverse());
            changes.proto.iter_mut().for_each(|proto| proto.reverse());
        }
        site.rules.iter_mut().for_each(|rule| rule.from.reverse());
    }
    for tenant in documents.tenants.values_mut() {
        tenant.networks.values_mut().for_each(|nets| nets.reverse());
    }
    for provider in documents.providers.values_mut() {
        provider.signalling.reverse();
        provider.media.reverse();
    }
    documents.lists.values_mut().for_each(|list| {
        list.addresses.reverse();
        list.dated.expiring.reverse();
    });
    documents
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_compiles_is_valid_and_the_same_on_any_machine(
        documents in any_documents(),
        (nodes, other_order) in any_nodes().prop_flat_map(|nodes| {
            (Just(nodes.clone()), Just(nodes).prop_shuffle())
        }),
    ) {
        let compiled = emitted(&documents, &nodes);
        prop_assert_eq!(compiled.rulesets.len(), nodes.len());
        for ruleset in compiled.rulesets.values() {
            let decoded = Ruleset::decode(&ruleset.encode());
            prop_assert_eq!(decoded.as_ref(), Ok(ruleset));
        }
        let again = emitted(&shuffled(&documents), &other_order);
        prop_assert_eq!(digests(&compiled), digests(&again));
    }

    #[test]
    fn every_element_has_an_owner_and_is_in_no_other(
        documents in any_documents(),
        nodes in any_nodes(),
    ) {
        let compiled = emitted(&documents, &nodes);
        let owners = Owners::of(documents.sites.values().next().unwrap(), &documents);
        for set in compiled.rulesets.values().flat_map(|ruleset| &ruleset.sets) {
            let owner = set.owner.as_ref().expect("the compiler names an owner");
            for (wide, next) in set.elements.iter().zip(set.elements.iter().skip(1)) {
                prop_assert!(!wide.contains(next), "{} holds {} and {}", set.name, wide, next);
            }
            let ending = set.expiring.iter().map(|one| &one.net);
            for element in set.elements.iter().chain(ending) {
                let found = owners.of_member(owner, element);
                prop_assert!(!found.is_empty(), "{} of {}", element, set.name);
            }
        }
        for ruleset in compiled.rulesets.values() {
            let labels: Vec<String> = labels(ruleset, "VF-INPUT");
            let distinct: BTreeSet<&String> = labels.iter().collect();
            prop_assert_eq!(distinct.len(), labels.len(), "{:?}", labels);
        }
    }

    /// SIP's ports are never opened by the way of media, and what admins need always is.
    #[test]
    fn media_never_opens_sip(documents in any_documents(), nodes in any_nodes(), port in 4000_u16..6000) {
        let compiled = compiled(&enforced(documents), &nodes);
        for ruleset in compiled.rulesets.values() {
            for port in [port, 5050, 5060, 5061] {
                let outcome = send(ruleset, "192.0.2.99", Protocol::Udp, port);
                if [5050, 5060, 5061].contains(&port) {
                    prop_assert!(
                        !outcome.label.starts_with("rtp") && !outcome.label.starts_with("t38"),
                        "{} is open by {}", port, outcome.label
                    );
                }
            }
            let admin = ruleset.admins[0].addr();
            let ssh = simulate(ruleset, &Packet::new(admin, Protocol::Tcp, ruleset.ssh_ports[0]));
            prop_assert_eq!(ssh.decision, Decision::Accept);
        }
    }
}

/// The canonical form must not change unawares: nodes compare digests, and a change would push
/// every site anew.
#[test]
fn the_digests_of_fixed_documents_are_known() {
    let nodes = [
        all_roles(),
        node("sip-2", 2, &[Role::Sip]),
        node("ic-3", 3, &[Role::Ic]),
    ];
    let compiled = emitted(&documents(), &nodes);
    let digests: Vec<String> = digests(&compiled).iter().map(ToString::to_string).collect();
    assert_eq!(
        digests,
        [
            "2799cdf77eb382a22b20ce267829bc50dbd82cd8c27adbaff357139a1fd8b82d",
            "4aa0fd93bb66d0b88d1b3e7152383913c8a9c2538185208d0809d8d393fff380",
            "f1d1a2e45cf8e96110f37e494620c51869fd64823e979603c52348a9565767c0",
        ]
    );
}
