//! `voipctl catalogue`: the known services.

use std::fmt::Write as _;

use serde::Serialize;
use voipfleet_policy::catalogue::{Direction, SERVICES, Service};
use voipfleet_ruleset::ruleset::Family;

use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::or_dash;
use crate::table::Table;

#[derive(Serialize)]
struct Catalogue {
    services: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    direction: String,
    ports: Vec<String>,
    from: Vec<String>,
    roles: String,
    never_world: bool,
    basis: &'static str,
    note: &'static str,
}

/// Runs it, without a controller.
pub fn run(session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let catalogue = Catalogue {
        services: SERVICES.iter().map(Entry::of).collect(),
    };
    if session.print(&catalogue)? {
        return Ok(ExitStatus::Done);
    }
    let out = session.console.out();
    let inbound = table(Direction::Inbound).render(out);
    let egress = table(Direction::Egress).render(out);
    let mut text = format!(
        "Services of the nodes, and the sources that may reach them by default\n\n{inbound}"
    );
    if !egress.is_empty() {
        text.push_str(
            "\nOutbound connections of the nodes, for firewalls elsewhere (not managed here)\n\n",
        );
        text.push_str(&egress);
    }
    text.push_str("\nNotes\n\n");
    for service in SERVICES.iter().filter(|service| !service.note.is_empty()) {
        let _ = writeln!(text, "{}: {}", service.name, service.note);
    }
    session.console.data(&text);
    Ok(ExitStatus::Done)
}

fn table(direction: Direction) -> Table {
    let mut table = Table::new(&["service", "ports", "open to", "roles", "basis"]);
    for service in SERVICES
        .iter()
        .filter(|service| service.direction == direction)
    {
        let entry = Entry::of(service);
        let mut from = match (entry.from.is_empty(), direction) {
            (false, _) => entry.from.join(", "),
            (true, Direction::Inbound) => "none".to_owned(),
            (true, Direction::Egress) => "-".to_owned(),
        };
        if entry.never_world {
            from.push_str("; never world");
        }
        table.row([
            entry.name.into(),
            or_dash(&ports(service)).into(),
            from.into(),
            entry.roles.into(),
            entry.basis.into(),
        ]);
    }
    table
}

/// One line per transport; for ICMP only the type numbers.
fn ports(service: &Service) -> String {
    let mut lines: Vec<String> = service.openings.iter().map(ToString::to_string).collect();
    for family in Family::BOTH {
        let types: Vec<String> = service
            .icmp
            .iter()
            .filter(|icmp| icmp.family == family)
            .map(|icmp| icmp.icmp_type.to_string())
            .collect();
        let types: Vec<String> = types.chunks(7).map(|some| some.join(", ")).collect();
        lines.extend(
            types
                .iter()
                .map(|types| format!("{} {types}", protocol(family))),
        );
    }
    lines.join("\n")
}

fn protocol(family: Family) -> &'static str {
    match family {
        Family::V4 => "icmp",
        Family::V6 => "icmpv6",
    }
}

impl Entry {
    fn of(service: &'static Service) -> Self {
        let openings = service.openings.iter().map(ToString::to_string);
        let icmp = service.icmp.iter().map(|icmp| {
            format!(
                "{} {} ({})",
                protocol(icmp.family),
                icmp.icmp_type,
                icmp.name
            )
        });
        Self {
            name: service.name,
            direction: service.direction.to_string(),
            ports: openings.chain(icmp).collect(),
            from: service
                .default_from
                .iter()
                .map(ToString::to_string)
                .collect(),
            roles: service.roles.to_string(),
            never_world: service.never_world,
            basis: service.basis,
            note: service.note,
        }
    }
}
