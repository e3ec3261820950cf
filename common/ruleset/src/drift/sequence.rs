//! What happened to a list of rules: kept, moved, altered, gone, added.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::iptables::longest_common_subsequence;
use crate::iptables::words::comment;

/// One change, with places in the wanted and in the observed list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RuleChange {
    /// The wanted rule is gone.
    Missing(usize),
    /// The observed rule is not wanted.
    Extra(usize),
    /// The wanted rule exists, but in another place.
    Moved(usize, usize),
    /// The wanted rule became the observed one.
    Altered(usize, usize),
}

/// The changes from `wanted` to `observed`, in the order of the wanted list, the extra ones
/// last.
///
/// The rules that were kept are a longest common subsequence. Of the rest, equal rules were
/// moved. Then a rule of the same label was altered, wherever it is now, and so was what
/// replaced a rule in the same gap between two kept ones.
pub(super) fn changes(wanted: &[String], observed: &[String]) -> Vec<RuleChange> {
    let kept = longest_common_subsequence(wanted, observed);
    let kept_wanted: HashSet<usize> = kept.iter().map(|(w, _)| *w).collect();
    let kept_observed: HashSet<usize> = kept.iter().map(|(_, o)| *o).collect();
    let mut gone: Vec<usize> = (0..wanted.len())
        .filter(|w| !kept_wanted.contains(w))
        .collect();
    let mut new: Vec<usize> = (0..observed.len())
        .filter(|o| !kept_observed.contains(o))
        .collect();
    let mut changes = Vec::new();

    let text = |list: &[String], at: usize| list.get(at).cloned();
    for (w, o) in pair(
        &mut gone,
        &mut new,
        |w| text(wanted, w),
        |o| text(observed, o),
    ) {
        changes.push(RuleChange::Moved(w, o));
    }
    let label = |list: &[String], at: usize| list.get(at).and_then(|rule| comment(rule));
    for (w, o) in pair(
        &mut gone,
        &mut new,
        |w| label(wanted, w),
        |o| label(observed, o),
    ) {
        changes.push(RuleChange::Altered(w, o));
    }
    let gap_of_wanted = |at: usize| Some(kept.partition_point(|(w, _)| *w < at));
    let gap_of_observed = |at: usize| Some(kept.partition_point(|(_, o)| *o < at));
    for (w, o) in pair(&mut gone, &mut new, gap_of_wanted, gap_of_observed) {
        changes.push(RuleChange::Altered(w, o));
    }
    changes.extend(gone.into_iter().map(RuleChange::Missing));
    changes.extend(new.into_iter().map(RuleChange::Extra));
    changes.sort_by_key(|change| match change {
        RuleChange::Missing(w) | RuleChange::Moved(w, _) | RuleChange::Altered(w, _) => (0, *w),
        RuleChange::Extra(o) => (1, *o),
    });
    changes
}

/// Pairs what has the same key, first with first, and takes both out of the lists.
fn pair<K: std::hash::Hash + Eq>(
    gone: &mut Vec<usize>,
    new: &mut Vec<usize>,
    key_of_gone: impl Fn(usize) -> Option<K>,
    key_of_new: impl Fn(usize) -> Option<K>,
) -> Vec<(usize, usize)> {
    if gone.is_empty() || new.is_empty() {
        return Vec::new();
    }
    let mut waiting: HashMap<K, VecDeque<usize>> = HashMap::new();
    for place in new.iter().copied() {
        if let Some(key) = key_of_new(place) {
            waiting.entry(key).or_default().push_back(place);
        }
    }
    let mut pairs = Vec::new();
    gone.retain(|w| {
        let partner = key_of_gone(*w)
            .and_then(|key| waiting.get_mut(&key))
            .and_then(VecDeque::pop_front);
        pairs.extend(partner.map(|o| (*w, o)));
        partner.is_none()
    });
    let paired: HashSet<usize> = pairs.iter().map(|(_, o)| *o).collect();
    new.retain(|o| !paired.contains(o));
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(text: &str) -> Vec<String> {
        text.chars().map(String::from).collect()
    }

    #[test]
    fn each_edit_is_one_change() {
        for (wanted, observed, changed) in [
            ("abcd", "abcd", vec![]),
            ("abcd", "xabcd", vec![RuleChange::Extra(0)]),
            ("abcd", "abxcd", vec![RuleChange::Extra(2)]),
            ("abcd", "abd", vec![RuleChange::Missing(2)]),
            ("abcd", "abxd", vec![RuleChange::Altered(2, 2)]),
            ("abcd", "bcda", vec![RuleChange::Moved(0, 3)]),
            ("abcd", "dabc", vec![RuleChange::Moved(3, 0)]),
            ("abcd", "aabcd", vec![RuleChange::Extra(1)]),
            ("abcd", "cabcd", vec![RuleChange::Extra(0)]),
            (
                "ab",
                "",
                vec![RuleChange::Missing(0), RuleChange::Missing(1)],
            ),
            ("", "ab", vec![RuleChange::Extra(0), RuleChange::Extra(1)]),
            (
                "abcd",
                "axyd",
                vec![RuleChange::Altered(1, 1), RuleChange::Altered(2, 2)],
            ),
            (
                "abcd",
                "axyzbcd",
                vec![
                    RuleChange::Extra(1),
                    RuleChange::Extra(2),
                    RuleChange::Extra(3),
                ],
            ),
        ] {
            assert_eq!(
                changes(&rules(wanted), &rules(observed)),
                changed,
                "{wanted} {observed}"
            );
        }
    }

    #[test]
    fn a_rule_that_kept_its_label_was_altered_even_elsewhere() {
        let rule =
            |label: &str, rest: &str| format!("-A VF-X -m comment --comment \"vf:{label}\" {rest}");
        let wanted = [
            rule("a", "-j DROP"),
            rule("b", "-j DROP"),
            rule("c", "-j DROP"),
        ];
        let observed = [
            rule("b", "-j DROP"),
            rule("c", "-j DROP"),
            rule("a", "-j ACCEPT"),
        ];
        assert_eq!(changes(&wanted, &observed), [RuleChange::Altered(0, 2)]);
    }

    proptest! {
        #[test]
        fn changes_account_for_every_rule(
            wanted in prop::collection::vec("[a-f]", 0..12),
            observed in prop::collection::vec("[a-f]", 0..12),
        ) {
            let kept = longest_common_subsequence(&wanted, &observed);
            let changes = changes(&wanted, &observed);
            let gone = changes.iter().filter(|c| !matches!(c, RuleChange::Extra(_))).count();
            let new = changes.iter().filter(|c| !matches!(c, RuleChange::Missing(_))).count();
            prop_assert_eq!(kept.len() + gone, wanted.len());
            prop_assert_eq!(kept.len() + new, observed.len());
        }
    }
}
