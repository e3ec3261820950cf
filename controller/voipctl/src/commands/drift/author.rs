//! The process that made a change, in words.

use voipfleet_proto::v1;

use crate::format::or_null;

/// `cron`: what an operator knows it by; none: unknown.
pub(super) fn name(author: Option<&v1::Author>) -> Option<&str> {
    let author = author?;
    let starter = author.started_by.as_ref();
    let comm = starter.map_or(&author.comm, |starter| &starter.comm);
    Some(comm.as_str()).filter(|comm| !comm.is_empty())
}

/// `cron (root, crond.service)`; `iptables (pid 4711)` where no more is known; `unknown`.
pub(super) fn brief(author: Option<&v1::Author>) -> String {
    let Some(author) = author else {
        return "unknown".to_owned();
    };
    match &author.started_by {
        Some(starter) => process(&starter.comm, starter.pid, &starter.user, &starter.unit),
        None => process(&author.comm, author.pid, &author.user, &author.unit),
    }
}

/// `cron (root, crond.service), using iptables (pid 4711)`.
pub(super) fn describe(author: Option<&v1::Author>) -> String {
    let brief = brief(author);
    match author.filter(|author| author.started_by.is_some()) {
        Some(tool) => format!("{brief}, using {} (pid {})", tool.comm, tool.pid),
        None => brief,
    }
}

fn process(comm: &str, pid: u32, user: &str, unit: &str) -> String {
    let known: Vec<String> = [user, unit]
        .into_iter()
        .filter_map(|word| or_null(word.to_owned()))
        .collect();
    match (known.is_empty(), pid) {
        (false, _) => format!("{comm} ({})", known.join(", ")),
        (true, 0) => comm.to_owned(),
        (true, pid) => format!("{comm} (pid {pid})"),
    }
}
