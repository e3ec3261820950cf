//! Drift as JSON and YAML: a record for each difference.

use serde::Serialize;
use voipfleet_proto::v1;

use crate::format::{Moment, or_null};
use crate::labels;

/// The names are a contract.
#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "a name of the contract")]
pub(super) struct Records {
    records: Vec<Record>,
    /// There are older ones.
    more: bool,
    /// Of sites of which the caller sees its tenants only.
    sums: Vec<Sum>,
}

/// Drift of a node, counted.
#[derive(Serialize)]
struct Sum {
    site: String,
    node: String,
    records: u32,
    unrepaired: u32,
    newest: Moment,
}

#[derive(Serialize)]
struct Record {
    site: String,
    node: String,
    at: Moment,
    class: &'static str,
    family: Option<&'static str>,
    table: Option<String>,
    chain: Option<String>,
    rule: Option<String>,
    wanted: Option<String>,
    observed: Option<String>,
    by: Option<Author>,
    repaired_after_ms: Option<u64>,
    /// Differences of one act have the same.
    act: String,
    /// Differences of the act that are not here.
    act_left_out: u32,
    /// When the controller received it.
    received: Moment,
    /// Nothing announced it: it stood at most so long.
    unannounced: bool,
}

#[derive(Serialize)]
struct Author {
    #[serde(flatten)]
    process: Process,
    /// The first ancestor that is neither a firewall tool nor a shell.
    started_by: Option<Process>,
}

/// What could be read about a process before it ended.
#[derive(Serialize)]
struct Process {
    pid: u32,
    comm: String,
    exe: Option<String>,
    unit: Option<String>,
    user: Option<String>,
}

impl Records {
    pub(super) fn of(answer: &v1::DriftResponse) -> Self {
        Self {
            records: answer.records.iter().flat_map(each).collect(),
            more: answer.more,
            sums: answer.sums.iter().map(Sum::from).collect(),
        }
    }
}

impl From<&v1::DriftSum> for Sum {
    fn from(sum: &v1::DriftSum) -> Self {
        Self {
            site: sum.site.clone(),
            node: sum.node.clone(),
            records: sum.records,
            unrepaired: sum.unrepaired,
            newest: Moment::of(sum.newest_ms),
        }
    }
}

/// A record for each difference of an act.
fn each(found: &v1::NodeDrift) -> Vec<Record> {
    let Some(record) = &found.record else {
        return Vec::new();
    };
    let one = |difference: v1::DriftDifference| Record {
        site: found.site.clone(),
        node: found.node.clone(),
        at: Moment::of(record.at_ms),
        class: labels::class(difference.class),
        family: labels::family(difference.family),
        table: or_null(difference.table),
        chain: or_null(difference.chain),
        rule: or_null(difference.rule),
        wanted: or_null(difference.wanted),
        observed: or_null(difference.observed),
        by: record.by.clone().map(Author::from),
        repaired_after_ms: difference.repaired_after_ms,
        act: record.id.clone(),
        act_left_out: record.left_out,
        received: Moment::of(record.received_ms),
        unannounced: record.unannounced,
    };
    record.differences().map(one).collect()
}

impl From<v1::Author> for Author {
    fn from(author: v1::Author) -> Self {
        Self {
            process: Process {
                pid: author.pid,
                comm: author.comm,
                exe: or_null(author.executable),
                unit: or_null(author.unit),
                user: or_null(author.user),
            },
            started_by: author.started_by.map(|starter| Process {
                pid: starter.pid,
                comm: starter.comm,
                exe: or_null(starter.executable),
                unit: or_null(starter.unit),
                user: or_null(starter.user),
            }),
        }
    }
}
