//! Rulesets that no compiler of ours makes, under the digests that they have.

use prost::Message as _;
use voipfleet_proto::v1 as pb;

use super::Victim;
use super::changes::{CHAINS, SETS};
use super::rule_changes::RULES;
use crate::node::run;
use crate::support::{on_both_backends, sample};

#[test]
fn malformed_ruleset_is_refused_with_its_reason() {
    on_both_backends(|place| {
        run(async {
            let mut victim = Victim::start(place).await;
            let sound = pb::Ruleset::from(&sample(2));
            for (name, change, words) in CHAINS.iter().chain(SETS).chain(RULES) {
                let mut ruleset = sound.clone();
                change(&mut ruleset);
                assert_ne!(ruleset, sound, "{name}");
                let offer = victim.offer_of(&ruleset.encode_to_vec());
                victim.refuses(name, offer, words).await;
            }
            victim.ends_well().await;
        });
    });
}

#[test]
fn undecodable_ruleset_is_refused() {
    on_both_backends(|place| {
        run(async {
            let mut victim = Victim::start(place).await;
            let sound = sample(2).encode();
            let with = |more: &[u8]| [&sound, more].concat();
            for (name, bytes) in [
                ("nothing", vec![]),
                ("zeros", vec![0; 1000]),
                ("ones", vec![255; 1000]),
                ("text", b"-A INPUT -j ACCEPT\n".repeat(50)),
                ("cut in the middle", sound[..sound.len() / 2].to_vec()),
                ("an unknown field", with(&[15 << 3, 1])),
                ("a field twice", with(&[3 << 3, 1])),
                ("a group that does not end", with(&[8 << 3 | 3])),
                ("a length beyond the end", with(&[7 << 3 | 2, 100])),
                ("a number that does not end", with(&[255; 12])),
            ] {
                let offer = victim.offer_of(&bytes);
                victim.refuses(name, offer, "not a valid ruleset").await;
            }
            victim.ends_well().await;
        });
    });
}
