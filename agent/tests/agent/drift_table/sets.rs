//! Edits of sets. The kernel announces none of them: a poll finds them.

use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::DriftClass::Set;

use super::Step::Run;
use super::{Edit, Others, Record, edit, table};
use crate::reconciler::OFTEN;

const LIST: Record = (Set, "vf-list-1-{4}", "");

/// A set is swapped with one that stays whose it is.
const fn swap(
    what: &'static str,
    before: &'static [super::Step],
    records: &'static [Record],
) -> Edit {
    Edit {
        before,
        others: Others::More(&["create beside-{4}", "add beside-{4}"]),
        after: &[Run("ipset destroy beside-{4}")],
        ..edit(what, &[Run("ipset swap beside-{4} vf-list-1-{4}")], records)
    }
}

pub(super) const EDITS: &[Edit] = &[
    edit(
        "an element is added",
        &[Run("ipset add vf-list-1-{4} {src}5")],
        &[LIST],
    ),
    edit(
        "an element is deleted",
        &[Run("ipset del vf-list-1-{4} {member}")],
        &[LIST],
    ),
    edit(
        "a set is flushed",
        &[Run("ipset flush vf-list-1-{4}")],
        &[LIST],
    ),
    edit(
        "a set that looks like ours",
        &[Run("ipset create vf-mine-{4} hash:net family {inet}")],
        &[(Set, "vf-mine-{4}", "")],
    ),
    edit(
        "a set of another type that looks like ours",
        &[Run(
            "ipset create vf-mine-{4} hash:ip family {inet} timeout 60",
        )],
        &[(Set, "vf-mine-{4}", "")],
    ),
    swap(
        "a set is swapped with an empty one",
        &[Run(
            "ipset create beside-{4} hash:net family {inet} maxelem 1024",
        )],
        &[LIST],
    ),
    swap(
        "a set is swapped with a smaller one",
        &[Run(
            "ipset create beside-{4} hash:net family {inet} maxelem 7",
        )],
        &[LIST, LIST],
    ),
    swap(
        "a set is swapped with one whose elements expire",
        &[Run(
            "ipset create beside-{4} hash:net family {inet} maxelem 1024 timeout 600",
        )],
        &[LIST, LIST],
    ),
    swap(
        "a set is swapped with one that counts",
        &[Run(
            "ipset create beside-{4} hash:net family {inet} maxelem 1024 counters",
        )],
        &[LIST, LIST],
    ),
];

#[test]
fn edits_of_sets_are_repaired_on_nft() {
    table(Backend::Nft, OFTEN, EDITS);
}

#[test]
fn edits_of_sets_are_repaired_on_legacy() {
    table(Backend::Legacy, OFTEN, EDITS);
}
