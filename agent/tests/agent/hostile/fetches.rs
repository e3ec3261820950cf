//! Content that does not come as it was announced.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use voipfleet_proto::v1::Offer;
use voipfleet_proto::v1::controller_message::Kind as Down;
use voipfleet_ruleset::ruleset::{Digest, MAX_RULESET_BYTES};

use super::Victim;
use voipfleet_testkit::controller::Served;

use crate::node::run;
use crate::support::{on_both_backends, sample};

const CHUNK: usize = 256 << 10;
/// The agent, and twice the longest ruleset.
const MEMORY: u64 = 192 << 20;

fn content() -> Vec<u8> {
    sample(3).encode()
}

impl Victim<'_> {
    /// An offer of `size` bytes of which other things come.
    fn offer_served(&mut self, size: usize, served: Served) -> Offer {
        let digest = Digest::of(&content()).as_bytes().to_vec();
        self.node.controller.serve_as(&digest, served);
        let nonce = self.next();
        Offer {
            nonce,
            generation: nonce,
            digest,
            size: size as u64,
            confirm_within_ms: 0,
            ..Offer::default()
        }
    }
}

#[test]
fn content_other_than_announced_is_refused() {
    on_both_backends(|place| {
        run(async {
            let mut victim = Victim::start(place).await;
            let (whole, size) = (content(), content().len());
            let cut = |at: usize| whole[..at].to_vec();
            let mut changed = whole.clone();
            *changed.last_mut().unwrap() ^= 1;
            for (name, size, served, words) in [
                (
                    "other content",
                    size,
                    Served::Chunks(vec![sample(4).encode()]),
                    "",
                ),
                (
                    "one bit changed",
                    size,
                    Served::Chunks(vec![changed]),
                    "does not match the offer",
                ),
                (
                    "cut short",
                    size,
                    Served::Chunks(vec![cut(size - 1)]),
                    "does not match the offer",
                ),
                (
                    "nothing",
                    size,
                    Served::Chunks(vec![]),
                    "does not match the offer",
                ),
                (
                    "longer than announced",
                    size - 1,
                    Served::Chunks(vec![whole.clone()]),
                    "longer than the",
                ),
                (
                    "announced as nothing",
                    0,
                    Served::Chunks(vec![whole.clone()]),
                    "longer than the 0 bytes",
                ),
                (
                    "more than anybody takes",
                    MAX_RULESET_BYTES + 1,
                    Served::Chunks(vec![whole.clone()]),
                    "the limit is",
                ),
                (
                    "1 GB announced",
                    1 << 30,
                    Served::Chunks(vec![whole.clone()]),
                    "the ruleset is offered with 1073741824 bytes",
                ),
                (
                    "all that can be announced",
                    usize::MAX,
                    Served::Chunks(vec![whole.clone()]),
                    "the limit is",
                ),
                (
                    "a chunk above 256 KiB",
                    MAX_RULESET_BYTES,
                    Served::Chunks(vec![vec![7; CHUNK + 1]]),
                    "a chunk of 262145 bytes",
                ),
                (
                    "a chunk above every message",
                    MAX_RULESET_BYTES,
                    Served::Chunks(vec![vec![7; 2 << 20]]),
                    "the ruleset was refused by the controller: ",
                ),
                (
                    "an error in the middle",
                    size,
                    Served::Broken(vec![cut(size / 2)]),
                    "broken on purpose",
                ),
            ] {
                let offer = victim.offer_served(size, served);
                victim.refuses(name, offer, words).await;
            }
            victim.ends_well().await;
        });
    });
}

#[test]
fn flood_of_content_is_cut_off_in_bounded_memory() {
    on_both_backends(|place| {
        run(async {
            let mut victim = Victim::start(place).await;
            for (name, chunk, times, size, most, words) in [
                (
                    "1 GB is streamed",
                    vec![7; CHUNK],
                    4096,
                    MAX_RULESET_BYTES,
                    MAX_RULESET_BYTES + (8 << 20),
                    "longer than the 67108864 bytes",
                ),
                (
                    "single bytes",
                    vec![7; 1],
                    usize::MAX,
                    MAX_RULESET_BYTES,
                    1 << 20,
                    "in more than 16400 chunks",
                ),
                (
                    "chunks of nothing",
                    vec![],
                    usize::MAX,
                    1 << 20,
                    0,
                    "in more than 272 chunks",
                ),
            ] {
                let taken = Arc::new(AtomicU64::new(0));
                let flood = Served::Flood {
                    chunk,
                    times,
                    taken: Arc::clone(&taken),
                };
                let offer = victim.offer_served(size, flood);
                let offered = victim.refuses(name, offer, words).await;
                let taken = taken.load(Ordering::Relaxed);
                let most = (most * offered) as u64;
                assert!(taken <= most, "{name}: {taken} bytes were taken");
            }
            // A whole ruleset's worth of bytes that were a hundred times as much in memory.
            let bomb = [7 << 3 | 2, 0].repeat(MAX_RULESET_BYTES / 2);
            let offer = victim.offer_of(&bomb);
            victim
                .refuses("a bomb", offer, "more than 256 chains")
                .await;
            let peak = victim.node.peak_memory();
            assert!(peak < MEMORY, "the agent took {} MiB", peak >> 20);
            victim.ends_well().await;
        });
    });
}

#[test]
fn hanging_fetch_gives_way_to_a_newer_offer() {
    on_both_backends(|place| {
        run(async {
            let mut victim = Victim::start(place).await;
            for served in [
                Served::Silent(vec![]),
                Served::Silent(vec![content()[..10].to_vec()]),
            ] {
                let offer = victim.offer_served(content().len(), served);
                victim.say(Down::Offer(offer)).await;
                victim.is_unchanged("while it hangs");
                victim = victim.takes(&sample(5)).await.takes(&sample(1)).await;
            }
        });
    });
}
