//! Which rules of a chain stayed what and where they were.

use similar::{Algorithm, DiffOp, capture_diff_slices};

/// A longest common subsequence as pairs of places, both ascending.
///
/// Myers' algorithm gives the shortest edit, which leaves the longest common subsequence. Its time
/// grows with the length of the lists and the number of edits, of which a chain has few.
pub(crate) fn longest_common_subsequence(
    wanted: &[String],
    observed: &[String],
) -> Vec<(usize, usize)> {
    let edits = capture_diff_slices(Algorithm::Myers, wanted, observed);
    let kept = edits.into_iter().filter_map(|edit| match edit {
        DiffOp::Equal {
            old_index,
            new_index,
            len,
        } => Some((old_index..old_index + len).zip(new_index..)),
        _ => None,
    });
    kept.flatten().collect()
}

#[cfg(test)]
mod tests {
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
