//! Which rules of a chain stayed what and where they were.

use std::collections::HashMap;

/// Equal rules that are tried as partners of one rule. Ours are all distinct; this keeps a
/// chain that somebody filled with one rule many times from costing quadratic time.
const MAX_PARTNERS: usize = 32;

/// A longest common subsequence as pairs of places, both ascending: Hunt and Szymanski's
/// way, which for lists of distinct lines takes n log n.
pub(crate) fn kept(wanted: &[String], observed: &[String]) -> Vec<(usize, usize)> {
    // What is equal at both ends needs no search: nearly everything, nearly always.
    let start = wanted
        .iter()
        .zip(observed)
        .take_while(|(w, o)| w == o)
        .count();
    let rest = wanted.len().min(observed.len()) - start;
    let end = wanted
        .iter()
        .rev()
        .zip(observed.iter().rev())
        .take(rest)
        .take_while(|(w, o)| w == o)
        .count();
    let mut pairs: Vec<(usize, usize)> = (0..start).map(|at| (at, at)).collect();

    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (o, rule) in observed
        .iter()
        .enumerate()
        .take(observed.len() - end)
        .skip(start)
    {
        let list = places.entry(rule).or_default();
        if list.len() < MAX_PARTNERS {
            list.push(o);
        }
    }
    // `ends[n]` ends the best common subsequence of length n + 1: the one whose last place
    // in `observed` is lowest. `links` holds (wanted, observed, what came before).
    let mut links: Vec<(usize, usize, Option<usize>)> = Vec::new();
    let mut ends: Vec<(usize, usize)> = Vec::new();
    for (w, rule) in wanted
        .iter()
        .enumerate()
        .take(wanted.len() - end)
        .skip(start)
    {
        // Highest first, so that one wanted rule extends a subsequence only once.
        for o in places.get(rule.as_str()).into_iter().flatten().rev() {
            let length = ends.partition_point(|(last, _)| last < o);
            let before = length
                .checked_sub(1)
                .and_then(|shorter| ends.get(shorter))
                .map(|(_, link)| *link);
            links.push((w, *o, before));
            let entry = (*o, links.len() - 1);
            match ends.get_mut(length) {
                Some(place) => *place = entry,
                None => ends.push(entry),
            }
        }
    }
    let mut middle = Vec::new();
    let mut next = ends.last().map(|(_, link)| *link);
    while let Some((w, o, before)) = next.and_then(|link| links.get(link)) {
        middle.push((*w, *o));
        next = *before;
    }
    pairs.extend(middle.into_iter().rev());
    pairs.extend(
        (0..end)
            .rev()
            .map(|at| (wanted.len() - 1 - at, observed.len() - 1 - at)),
    );
    pairs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_kept_is_equal_in_order_and_as_much_as_can_be(
            wanted in prop::collection::vec("[a-f]", 0..12),
            observed in prop::collection::vec("[a-f]", 0..12),
        ) {
            let kept = kept(&wanted, &observed);
            for ((w, o), (x, p)) in kept.iter().zip(kept.iter().skip(1)) {
                prop_assert!(w < x && o < p);
            }
            for (w, o) in &kept {
                prop_assert_eq!(&wanted[*w], &observed[*o]);
            }
            prop_assert_eq!(kept.len(), longest(&wanted, &observed));
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
}
