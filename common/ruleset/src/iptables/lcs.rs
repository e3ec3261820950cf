//! Which rules of a chain kept their place, in time that another program cannot make quadratic.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;

/// Pairs of equal rules that are compared, beside one for each rule. Rules of a ruleset are
/// distinct, and have no more pairs than the kernel's chain has rules.
const MAX_SPARE_PAIRS: usize = 1 << 16;
/// Equal rules that are tried as partners of one rule where there are more pairs: the common
/// subsequence may then be shorter than the longest.
const MAX_PARTNERS: usize = 32;

/// A longest common subsequence as pairs of places, both ascending.
///
/// This is the algorithm of Hunt and Szymanski. Rules that only one list has cost one lookup,
/// and lists of distinct rules n log n, in whatever order they are.
pub(crate) fn longest_common_subsequence<T: Eq + Hash>(
    wanted: &[T],
    observed: &[T],
) -> Vec<(usize, usize)> {
    // Nearly everything is equal at both ends, nearly always.
    let (start, end) = common_ends(wanted, observed);
    let middle = start..wanted.len() - end;
    let partners = Partners::of(
        wanted.get(middle.clone()).unwrap_or_default(),
        observed
            .get(start..observed.len() - end)
            .unwrap_or_default(),
    );
    let mut kept: Vec<(usize, usize)> = (0..start).map(|at| (at, at)).collect();
    kept.extend(
        partners
            .longest_ascent()
            .into_iter()
            .map(|(w, o)| (start + w, start + o)),
    );
    kept.extend((middle.end..wanted.len()).zip(observed.len() - end..));
    kept
}

/// How many rules the lists have in common, in whatever order: the longest that a common
/// subsequence can be.
pub(crate) fn common_count<T: Eq + Hash>(wanted: &[T], observed: &[T]) -> usize {
    let mut counts: HashMap<&T, usize> = HashMap::new();
    for rule in wanted {
        *counts.entry(rule).or_default() += 1;
    }
    let mut common = 0;
    for rule in observed {
        if let Some(left) = counts.get_mut(rule).filter(|left| **left > 0) {
            *left -= 1;
            common += 1;
        }
    }
    common
}

/// The lengths of the common start, and of the common end of what is left.
fn common_ends<T: Eq>(wanted: &[T], observed: &[T]) -> (usize, usize) {
    let equal = |(w, o): &(&T, &T)| w == o;
    let start = wanted.iter().zip(observed).take_while(equal).count();
    let rest = wanted.len().min(observed.len()) - start;
    let reversed = wanted.iter().rev().zip(observed.iter().rev());
    let end = reversed.take(rest).take_while(equal).count();
    (start, end)
}

/// For each wanted rule, the places of equal rules in the observed list, ascending.
#[derive(Debug)]
struct Partners {
    of_wanted: Vec<Range<usize>>,
    /// The places, those of equal rules together.
    places: Vec<usize>,
}

impl Partners {
    fn of<T: Eq + Hash>(wanted: &[T], observed: &[T]) -> Self {
        let mut by_rule: HashMap<&T, Vec<usize>> =
            wanted.iter().map(|rule| (rule, Vec::new())).collect();
        for (place, rule) in observed.iter().enumerate() {
            if let Some(places) = by_rule.get_mut(rule) {
                places.push(place);
            }
        }
        let pairs: usize = wanted
            .iter()
            .filter_map(|rule| by_rule.get(rule))
            .map(Vec::len)
            .sum();
        let most = if pairs <= wanted.len() + observed.len() + MAX_SPARE_PAIRS {
            usize::MAX
        } else {
            MAX_PARTNERS
        };
        let mut places = Vec::new();
        let mut ranges: HashMap<&T, Range<usize>> = HashMap::new();
        let of_wanted = wanted.iter().map(|rule| {
            let range = ranges.entry(rule).or_insert_with(|| {
                let first = places.len();
                places.extend(by_rule.get(rule).into_iter().flatten().take(most));
                first..places.len()
            });
            range.clone()
        });
        Self {
            of_wanted: of_wanted.collect(),
            places,
        }
    }

    fn of_rule(&self, wanted: usize) -> &[usize] {
        let range = self.of_wanted.get(wanted).cloned();
        range
            .and_then(|range| self.places.get(range))
            .unwrap_or_default()
    }

    /// The longest list of pairs that ascends on both sides.
    fn longest_ascent(&self) -> Vec<(usize, usize)> {
        // `ends[n]` ends the best list of length n + 1: the one whose last observed place is
        // lowest. `links` holds a pair and the link before it.
        let mut links: Vec<(usize, usize, Option<usize>)> = Vec::new();
        let mut ends: Vec<(usize, usize)> = Vec::new();
        for w in 0..self.of_wanted.len() {
            // Highest first, so that one wanted rule extends a list only once.
            for o in self.of_rule(w).iter().rev() {
                let length = ends.partition_point(|(last, _)| last < o);
                let before = length.checked_sub(1).and_then(|shorter| ends.get(shorter));
                links.push((w, *o, before.map(|(_, link)| *link)));
                let end = (*o, links.len() - 1);
                match ends.get_mut(length) {
                    Some(place) => *place = end,
                    None => ends.push(end),
                }
            }
        }
        let mut ascent = Vec::with_capacity(ends.len());
        let mut next = ends.last().map(|(_, link)| *link);
        while let Some((w, o, before)) = next.and_then(|link| links.get(link)) {
            ascent.push((*w, *o));
            next = *before;
        }
        ascent.reverse();
        ascent
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::hash::Hasher;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_common_subsequence_is_ascending_equal_and_longest(
            wanted in prop::collection::vec("[a-f]", 0..12),
            observed in prop::collection::vec("[a-f]", 0..12),
        ) {
            let kept = longest_common_subsequence(&wanted, &observed);
            for ((w, o), (x, p)) in kept.iter().zip(kept.iter().skip(1)) {
                prop_assert!(w < x && o < p);
            }
            for (w, o) in &kept {
                prop_assert_eq!(&wanted[*w], &observed[*o]);
            }
            prop_assert_eq!(kept.len(), longest(&wanted, &observed));
            let common = common_count(&wanted, &observed);
            prop_assert!(kept.len() <= common);
            let (mut sorted_wanted, mut sorted_observed) = (wanted, observed);
            sorted_wanted.sort();
            sorted_observed.sort();
            prop_assert_eq!(common, longest(&sorted_wanted, &sorted_observed));
        }
    }

    /// The length of the longest common subsequence, the plain way.
    fn longest(a: &[String], b: &[String]) -> usize {
        let mut row = vec![0; b.len() + 1];
        for x in a {
            let before = row.clone();
            for (at, y) in b.iter().enumerate() {
                row[at + 1] = if x == y {
                    before[at] + 1
                } else {
                    before[at + 1].max(row[at])
                };
            }
        }
        row[b.len()]
    }

    /// A rule that counts how often one is compared or hashed.
    #[derive(Debug, Clone)]
    struct Counted<'c>(usize, &'c Cell<usize>);

    impl PartialEq for Counted<'_> {
        fn eq(&self, other: &Self) -> bool {
            self.1.set(self.1.get() + 1);
            self.0 == other.0
        }
    }

    impl Eq for Counted<'_> {}

    impl Hash for Counted<'_> {
        fn hash<H: Hasher>(&self, state: &mut H) {
            self.1.set(self.1.get() + 1);
            self.0.hash(state);
        }
    }

    const RULES: usize = 10_000;

    /// The length of the common subsequence, if neither the rules that were looked at nor the
    /// pairs that were tried are more than a few for each rule.
    fn cheap_length(wanted: &[usize], observed: &[usize]) -> usize {
        let looks = Cell::new(0);
        let counted = |rules: &[usize]| -> Vec<Counted<'_>> {
            rules.iter().map(|rule| Counted(*rule, &looks)).collect()
        };
        let (wanted, observed) = (counted(wanted), counted(observed));
        let length = longest_common_subsequence(&wanted, &observed).len();
        let rules = wanted.len() + observed.len();
        assert!(looks.get() <= 16 * rules, "{} for {rules}", looks.get());
        looks.set(0);
        assert!(common_count(&wanted, &observed) >= length);
        assert!(looks.get() <= 4 * rules, "{} for {rules}", looks.get());
        let partners = Partners::of(&wanted, &observed);
        let pairs: usize = (0..wanted.len()).map(|w| partners.of_rule(w).len()).sum();
        let bound = (rules + MAX_SPARE_PAIRS).max(MAX_PARTNERS * wanted.len());
        assert!(pairs <= bound, "{pairs} pairs for {rules}");
        length
    }

    #[test]
    fn replaced_rules_cost_one_look_each() {
        let wanted: Vec<usize> = (0..RULES).collect();
        let foreign: Vec<usize> = (RULES..2 * RULES).collect();
        assert_eq!(cheap_length(&wanted, &foreign), 0);
        let between: Vec<usize> = (0..2 * RULES)
            .map(|at| if at % 2 == 0 { at / 2 } else { RULES + at })
            .collect();
        assert_eq!(cheap_length(&wanted, &between), RULES);
    }

    #[test]
    fn reversed_rules_have_one_pair_each() {
        let wanted: Vec<usize> = (0..RULES).collect();
        let reversed: Vec<usize> = (0..RULES).rev().collect();
        assert_eq!(cheap_length(&wanted, &reversed), 1);
    }

    #[test]
    fn copies_of_one_rule_are_bounded() {
        let wanted: Vec<usize> = (0..RULES).collect();
        let copies = |rule: usize| -> Vec<usize> {
            let mut observed = wanted.clone();
            let middle = RULES / 2;
            observed.splice(middle..middle, std::iter::repeat_n(rule, 100_000));
            observed
        };
        assert_eq!(cheap_length(&wanted, &copies(RULES)), RULES);
        assert_eq!(cheap_length(&wanted, &copies(7)), RULES);
        // Copies on both sides, which no ruleset has: short of the longest, but bounded.
        let ours = vec![7; RULES];
        let mut theirs = vec![8];
        theirs.extend(vec![7; 100_000]);
        theirs.push(9);
        assert!((1..=RULES).contains(&cheap_length(&ours, &theirs)));
    }
}
