//! A site's dynamic sets at one moment, ready to be sent.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use prost::Message as _;
use voipfleet_proto::v1 as pb;
use voipfleet_ruleset::ruleset::{Digest, DynamicSets};

/// The longest delta that is sent in a notice, bytes: an agent takes messages of up to 512 KiB.
/// A longer one costs no less than fetching the whole.
const MAX_DELTA_BYTES: usize = 128 * 1024;

/// A site's dynamic sets, shared by the sessions of its nodes.
#[derive(Debug)]
pub struct SetsSnapshot {
    /// What they hold.
    pub sets: DynamicSets,
    /// Their digest.
    pub digest: Digest,
    /// Their canonical encoding.
    pub bytes: Arc<[u8]>,
    /// What leads here from older ones.
    deltas: HashMap<Digest, pb::DynamicSetsDelta>,
}

impl SetsSnapshot {
    /// Encodes `sets`, and compares them with older ones. What did not change is shared with
    /// the newest of these.
    pub(super) fn new(mut sets: DynamicSets, before: &VecDeque<Arc<SetsSnapshot>>) -> Self {
        if let Some(newest) = before.front() {
            for (name, value) in &mut sets.sources {
                if let Some(same) = newest.sets.sources.get(name).filter(|old| *old == value) {
                    *value = Arc::clone(same);
                }
            }
        }
        let bytes = sets.encode();
        let digest = Digest::of(&bytes);
        let deltas = before
            .iter()
            .filter_map(|old| {
                let delta = pb::DynamicSetsDelta::from(&sets.delta_from(&old.sets));
                (delta.encoded_len() <= MAX_DELTA_BYTES).then_some((old.digest, delta))
            })
            .collect();
        Self {
            sets,
            digest,
            bytes: bytes.into(),
            deltas,
        }
    }

    /// The notice for a node that holds `from`.
    pub fn notice(&self, from: Option<Digest>) -> pb::DynamicSetsNotice {
        let delta = from.and_then(|from| Some((from, self.deltas.get(&from)?.clone())));
        let (delta_from, delta) = match delta {
            Some((from, delta)) => (from.as_bytes().to_vec(), Some(delta)),
            None => (Vec::new(), None),
        };
        pb::DynamicSetsNotice {
            digest: self.digest.as_bytes().to_vec(),
            size: self.bytes.len() as u64,
            delta,
            delta_from,
            clock_ms: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use voipfleet_ruleset::ruleset::dynamic_sets::DynamicSetsDelta;
    use voipfleet_ruleset::ruleset::{DynamicSet, DynamicSetName};

    use super::*;

    fn sets(blocked: impl IntoIterator<Item = u32>) -> DynamicSets {
        let mut sets = DynamicSets::new("site-a".parse().unwrap());
        let host = |n: u32| ipnet::IpNet::from(std::net::IpAddr::from(n.to_be_bytes()));
        let blocked = blocked.into_iter().map(host);
        sets.insert(DynamicSetName::Block, DynamicSet::new(blocked, []));
        sets.insert(DynamicSetName::Allow, DynamicSet::new([host(7)], []));
        sets
    }

    #[test]
    fn sends_a_delta_from_a_known_older_value() {
        let first = Arc::new(SetsSnapshot::new(sets([1, 2]), &VecDeque::new()));
        let second = SetsSnapshot::new(sets([2, 3]), &VecDeque::from([Arc::clone(&first)]));
        let notice = second.notice(Some(first.digest));
        assert_eq!(notice.digest, second.digest.as_bytes());
        assert_eq!(notice.delta_from, first.digest.as_bytes());
        let delta = DynamicSetsDelta::try_from(&notice.delta.unwrap()).unwrap();
        assert_eq!(first.sets.apply_delta(&delta).unwrap(), second.sets);
        let [old, new] = [&first, &Arc::new(second)]
            .map(|value| Arc::clone(value.sets.sources.get(&DynamicSetName::Allow).unwrap()));
        assert!(Arc::ptr_eq(&old, &new), "what stays is held once");
    }

    #[test]
    fn sends_no_delta_from_unknown_or_too_distant_values() {
        let first = Arc::new(SetsSnapshot::new(sets([1]), &VecDeque::new()));
        let much = SetsSnapshot::new(sets(0..100_000), &VecDeque::from([Arc::clone(&first)]));
        for from in [None, Some(Digest::of(b"another")), Some(first.digest)] {
            let notice = much.notice(from);
            assert_eq!((notice.delta, notice.delta_from), (None, Vec::new()));
            assert_eq!(notice.size, much.bytes.len() as u64);
        }
    }
}
