//! Every failpoint there is.

use voipfleet_common::ruleset::Family;

use super::{File, Step, Work};

/// All places, in the order in which a work comes to them.
pub const ALL: &[(Work, &[Step])] = &[
    (
        Work::Apply,
        &[
            Step::Offered,
            Step::Fetched,
            Step::Checked,
            Step::Staged,
            Step::Written(File::Journal),
            Step::Renamed(File::Journal),
            Step::Synced(File::Journal),
            Step::SetsFilled,
            Step::Rules(Family::V4),
            Step::Rules(Family::V6),
            Step::SetsReleased,
            Step::ReadRules(Family::V4),
            Step::ReadRules(Family::V6),
            Step::ReadSets,
            Step::Begun,
            Step::Dialled,
            Step::Welcomed,
            Step::Confirmed,
            Step::Accepted,
            Step::Probed,
            Step::Written(File::Management),
            Step::Renamed(File::Management),
            Step::Synced(File::Management),
            Step::Written(File::Confirmed),
            Step::Renamed(File::Confirmed),
            Step::Synced(File::Confirmed),
            Step::Removed(File::Journal),
            Step::Gone(File::Journal),
            Step::Told,
        ],
    ),
    (Work::Undo, BACK),
    (Work::Return, BACK_AT_START),
    (Work::Restore, WAY),
    (Work::Settle, SETTLED),
    (
        Work::Renumber,
        &[
            Step::Written(File::Confirmed),
            Step::Renamed(File::Confirmed),
            Step::Synced(File::Confirmed),
        ],
    ),
    (
        Work::Repair,
        &[
            Step::Found,
            Step::SetsFilled,
            Step::Rules(Family::V4),
            Step::Rules(Family::V6),
            Step::SetsReleased,
        ],
    ),
    (
        Work::Refresh,
        &[
            Step::Staged,
            Step::SetsFilled,
            Step::Rules(Family::V4),
            Step::Rules(Family::V6),
            Step::SetsReleased,
            Step::ReadRules(Family::V4),
            Step::ReadRules(Family::V6),
            Step::ReadSets,
            Step::Written(File::Management),
            Step::Renamed(File::Management),
            Step::Synced(File::Management),
            Step::Written(File::Confirmed),
            Step::Renamed(File::Confirmed),
            Step::Synced(File::Confirmed),
        ],
    ),
    (
        Work::Close,
        &[
            Step::PutAside,
            Step::Rules(Family::V4),
            Step::ReadRules(Family::V4),
            Step::Rules(Family::V6),
            Step::ReadRules(Family::V6),
            Step::Written(File::Fallback),
            Step::Renamed(File::Fallback),
            Step::Synced(File::Fallback),
        ],
    ),
    (
        Work::Reopen,
        &[Step::Removed(File::Fallback), Step::Gone(File::Fallback)],
    ),
    (
        Work::Teardown,
        &[
            Step::Removed(File::Confirmed),
            Step::Gone(File::Confirmed),
            Step::Removed(File::Management),
            Step::Gone(File::Management),
            Step::Rules(Family::V4),
            Step::Rules(Family::V6),
            Step::SetsReleased,
            Step::ReadRules(Family::V4),
            Step::ReadRules(Family::V6),
            Step::ReadSets,
        ],
    ),
];

const WAY: &[Step] = &[
    Step::Noted,
    Step::SetsFilled,
    Step::Rules(Family::V4),
    Step::Rules(Family::V6),
    Step::SetsReleased,
    Step::ReadRules(Family::V4),
    Step::ReadRules(Family::V6),
    Step::ReadSets,
];

const BACK: &[Step] = &[
    Step::SetsFilled,
    Step::Rules(Family::V4),
    Step::Rules(Family::V6),
    Step::SetsReleased,
    Step::ReadRules(Family::V4),
    Step::ReadRules(Family::V6),
    Step::ReadSets,
    Step::Removed(File::Journal),
    Step::Gone(File::Journal),
    Step::Told,
];

const BACK_AT_START: &[Step] = &[
    Step::Noted,
    Step::SetsFilled,
    Step::Rules(Family::V4),
    Step::Rules(Family::V6),
    Step::SetsReleased,
    Step::ReadRules(Family::V4),
    Step::ReadRules(Family::V6),
    Step::ReadSets,
    Step::Removed(File::Journal),
    Step::Gone(File::Journal),
];

const SETTLED: &[Step] = &[
    Step::Noted,
    Step::Removed(File::Journal),
    Step::Gone(File::Journal),
    Step::SetsFilled,
    Step::Rules(Family::V4),
    Step::Rules(Family::V6),
    Step::SetsReleased,
    Step::ReadRules(Family::V4),
    Step::ReadRules(Family::V6),
    Step::ReadSets,
];
