//! Notices of dynamic sets that no controller of ours sends.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prost::Message as _;
use voipfleet_proto::v1 as pb;
use voipfleet_proto::v1::agent_message::Kind as Up;
use voipfleet_proto::v1::controller_message::Kind as Down;
use voipfleet_proto::v1::{DynamicSetsNotice, NodeState, NodeStatus};
use voipfleet_ruleset::ruleset::dynamic_sets::MAX_DYNAMIC_SETS_BYTES;
use voipfleet_ruleset::ruleset::{Digest, DynamicSets};

use super::Victim;
use voipfleet_testkit::controller::Served;

use crate::dynamic_sets::{first, naming, with};
use crate::node::{hear, run, until_live};
use crate::reconciler::LIMIT;
use crate::support::{on_both_backends, same};

/// The agent, and a few times the longest dynamic sets.
const MEMORY: u64 = 384 << 20;

impl Victim<'_> {
    async fn announces(&mut self, dynamic: &DynamicSets) {
        self.node.notice(&self.session, dynamic, None).await;
        until_live(&mut self.session, dynamic).await;
    }

    /// The node refuses that announcement with these words, keeps what it held, and takes the next
    /// good one.
    async fn takes_not(&mut self, name: &str, notice: DynamicSetsNotice, words: &str) {
        self.say(Down::DynamicSets(notice)).await;
        let status = self.until_error(name, words).await;
        assert_eq!(status.dynamic_digest, first().digest().as_bytes(), "{name}");
        assert_eq!(status.state(), NodeState::Applied, "{name}");
        self.is_unchanged(name);
        let good = with(&first(), "block", &["203.0.113.9/32"]);
        self.announces(&good).await;
        self.announces(&first()).await;
        same(&self.before, &self.node.place.everything());
    }

    async fn until_error(&mut self, name: &str, words: &str) -> NodeStatus {
        let mut last = String::new();
        let error = async {
            loop {
                match hear(&mut self.session).await {
                    Some(Up::Status(status)) if status.dynamic_error.contains(words) => {
                        return status;
                    }
                    Some(Up::Status(status)) => last = status.dynamic_error,
                    Some(_) => {}
                    None => panic!("{name}: the session ended"),
                }
            }
        };
        let error = tokio::time::timeout(LIMIT, error).await;
        error.unwrap_or_else(|_| panic!("{name}: not {words:?} but {last:?}"))
    }
}

fn encoded(change: impl FnOnce(&mut pb::DynamicSets)) -> Vec<u8> {
    let mut message = pb::DynamicSets::decode(first().encode().as_slice()).unwrap();
    change(&mut message);
    message.encode_to_vec()
}

fn net(address: &[u8], prefix_length: u32) -> pb::Network {
    pb::Network {
        address: address.to_vec(),
        prefix_length,
    }
}

type Change = fn(&mut pb::DynamicSets);

const CONTENTS: &[(&str, Change, &str)] = &[
    (
        "another site",
        |l| l.site = "site-b".to_owned(),
        "those of site site-b",
    ),
    (
        "a site's name",
        |l| l.site = "../x".to_owned(),
        "not valid dynamic sets",
    ),
    (
        "a shell's words",
        |l| l.sources[0].name = "$(reboot)".to_owned(),
        "not a dynamic set",
    ),
    (
        "a line",
        |l| l.sources[0].name = "name:a.b\nflush".to_owned(),
        "not a",
    ),
    (
        "sources in disorder",
        |l| l.sources.reverse(),
        "do not ascend",
    ),
    (
        "a source twice",
        |l| l.sources.insert(0, l.sources[0].clone()),
        "do not ascend",
    ),
    (
        "every address",
        |l| l.sources[1].elements = vec![net(&[0; 4], 0)],
        "length 0",
    ),
    (
        "host bits",
        |l| l.sources[1].elements = vec![net(&[10, 0, 0, 1], 8)],
        "host bits",
    ),
    (
        "three bytes",
        |l| l.sources[1].elements = vec![net(&[10, 0, 0], 8)],
        "4 nor 16",
    ),
    (
        "an element twice",
        |l| l.sources[1].elements = vec![net(&[10, 0, 0, 1], 32); 2],
        "do not ascend",
    ),
    (
        "an end that is no time",
        |l| {
            l.sources[1].expiring = vec![pb::ExpiringNetwork {
                network: Some(net(&[10, 0, 0, 1], 32)),
                until: u64::MAX,
            }];
        },
        "an end is no time",
    ),
];

#[test]
fn malformed_dynamic_sets_are_refused() {
    on_both_backends(|place| {
        run(async {
            let mut victim = Victim::start(place).await;
            victim.announces(&first()).await;
            let mut victim = victim.takes(&naming(1)).await;
            for (name, change, words) in CONTENTS {
                let content = encoded(change);
                let digest = Digest::of(&content).as_bytes().to_vec();
                victim.node.controller.serve(&digest, vec![content.clone()]);
                let notice = DynamicSetsNotice {
                    digest,
                    size: content.len() as u64,
                    ..DynamicSetsNotice::default()
                };
                victim.takes_not(name, notice, words).await;
            }
            let whole = with(&first(), "block", &["203.0.113.66/32"]).encode();
            let digest = Digest::of(&whole).as_bytes().to_vec();
            let (size, most) = (whole.len() as u64, MAX_DYNAMIC_SETS_BYTES as u64);
            for (name, digest, size, served, words) in [
                (
                    "no digest",
                    vec![],
                    size,
                    Served::Chunks(vec![]),
                    "has no digest",
                ),
                (
                    "a short one",
                    vec![7; 31],
                    size,
                    Served::Chunks(vec![]),
                    "has no digest",
                ),
                (
                    "nothing",
                    digest.clone(),
                    size,
                    Served::Chunks(vec![]),
                    "does not match the offer",
                ),
                (
                    "other content",
                    digest.clone(),
                    size,
                    Served::Chunks(vec![first().encode()]),
                    "does not match the offer",
                ),
                (
                    "longer than noticed",
                    digest.clone(),
                    size - 1,
                    Served::Chunks(vec![whole.clone()]),
                    "is longer than",
                ),
                (
                    "longer than any",
                    digest.clone(),
                    most + 1,
                    Served::Chunks(vec![]),
                    "the limit is 67108864",
                ),
                (
                    "1 GB is streamed",
                    digest.clone(),
                    most,
                    Served::Flood {
                        chunk: vec![7; 256 << 10],
                        times: 4096,
                        taken: Arc::new(AtomicU64::new(0)),
                    },
                    "is longer than",
                ),
            ] {
                victim.node.controller.serve_as(&digest, served);
                let notice = DynamicSetsNotice {
                    digest,
                    size,
                    ..DynamicSetsNotice::default()
                };
                victim.takes_not(name, notice, words).await;
            }
            let peak = victim.node.peak_memory();
            assert!(peak < MEMORY, "{peak} bytes");
        });
    });
}

#[test]
fn wrong_delta_falls_back_to_a_full_fetch() {
    on_both_backends(|place| {
        run(async {
            let mut victim = Victim::start(place).await;
            victim.announces(&first()).await;
            let mut victim = victim.takes(&naming(1)).await;
            let wanted = with(&first(), "block", &["203.0.113.66/32"]);
            let delta_of = |delta: pb::DynamicSetsDelta| DynamicSetsNotice {
                digest: wanted.digest().as_bytes().to_vec(),
                size: wanted.encode().len() as u64,
                delta: Some(delta),
                delta_from: first().digest().as_bytes().to_vec(),
                ..DynamicSetsNotice::default()
            };
            let change = |name: &str, change: fn(&mut pb::DynamicSetChange)| {
                let mut one = pb::DynamicSetChange {
                    name: name.to_owned(),
                    ..pb::DynamicSetChange::default()
                };
                change(&mut one);
                one
            };
            let other = with(&first(), "block", &["198.51.100.10/32"]);
            for (name, delta) in [
                ("to another digest", (&other.delta_from(&first())).into()),
                ("nothing", pb::DynamicSetsDelta::default()),
                (
                    "an unknown source is gone",
                    pb::DynamicSetsDelta {
                        changes: vec![change("name:a.example.net", |c| c.gone = true)],
                    },
                ),
                (
                    "no source",
                    pb::DynamicSetsDelta {
                        changes: vec![change("", |c| c.gone = true)],
                    },
                ),
                (
                    "every source is gone",
                    pb::DynamicSetsDelta {
                        changes: ["allow", "block", "cluster", "deny-feed:bad"]
                            .map(|name| change(name, |c| c.gone = true))
                            .to_vec(),
                    },
                ),
                (
                    "one that is there is added",
                    pb::DynamicSetsDelta {
                        changes: vec![change("cluster", |c| {
                            c.add = vec![net(&[10, 20, 0, 11], 32)];
                        })],
                    },
                ),
            ] {
                victim.takes_not(name, delta_of(delta), "was refused").await;
            }
        });
    });
}

#[test]
fn flood_of_announcements_ends_with_the_newest_sets() {
    on_both_backends(|place| {
        run(async {
            let mut victim = Victim::start(place).await;
            victim.announces(&first()).await;
            let mut victim = victim.takes(&naming(1)).await;
            // Most of them have no base, and their content is not served.
            let nowhere = with(&first(), "block", &["203.0.113.67/32"]);
            for number in 0..2000_u32 {
                let noise = number.to_be_bytes().repeat(8);
                let notice = DynamicSetsNotice {
                    digest: noise.clone(),
                    size: 64 << 20,
                    delta: Some((&nowhere.delta_from(&first())).into()),
                    delta_from: noise,
                    ..DynamicSetsNotice::default()
                };
                victim.say(Down::DynamicSets(notice)).await;
            }
            let last = with(&first(), "block", &["203.0.113.66/32"]);
            victim.announces(&last).await;
            assert!(victim.node.place.everything().contains("203.0.113.66"));
            let peak = victim.node.peak_memory();
            assert!(peak < MEMORY, "{peak} bytes");
        });
    });
}
