//! Roles by the daemons that run.
//!
//! The vendor keeps them in table `node_role` of a database, whose password is not ours to
//! read. `ic` has no daemon of its own that could be distinguished from `http`.

use std::collections::BTreeSet;

use voipfleet_ruleset::role::Role;

use crate::host::Processes;

/// The roles whose daemons run.
pub(super) fn found(processes: &Processes) -> BTreeSet<Role> {
    let mut roles = BTreeSet::new();
    for pid in processes.ids() {
        let Some((_, comm)) = processes.parent_and_comm(pid) else {
            continue;
        };
        let role = by_name(&comm).or_else(|| {
            // What an interpreter runs is in its command line only.
            let runs = ["java", "beam.smp", "python", "celery", "hubring"];
            let interpreter = runs.iter().any(|name| comm.starts_with(name));
            by_command_line(&interpreter.then(|| processes.command_line(pid))??)
        });
        roles.extend(role);
    }
    roles
}

fn by_name(comm: &str) -> Option<Role> {
    match comm {
        "kamailio" => Some(Role::Sip),
        "asterisk" => Some(Role::Pbx),
        "httpd" | "apache2" | "nginx" => Some(Role::Http),
        "mysqld" | "mariadbd" => Some(Role::Sql),
        "hubring" => Some(Role::Dd),
        "celery" => Some(Role::Wk),
        _ => None,
    }
}

fn by_command_line(line: &str) -> Option<Role> {
    let words = [
        ("rabbit", Role::Que),
        ("ejabberd", Role::Jabber),
        ("elasticsearch", Role::Es),
        ("celery", Role::Wk),
        ("hubring", Role::Dd),
    ];
    let line = line.to_ascii_lowercase();
    let found = words.into_iter().find(|(word, _)| line.contains(word));
    found.map(|(_, role)| role)
}
