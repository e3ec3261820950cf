//! The services of VoipNow: their ports, who reaches them by default, and on what that rests.
//!
//! Ports and exposures come from the vendor's page "Basic access rules"; each service's
//! [`basis`](Service::basis) names the source where they do not.

mod services;

use std::fmt;

use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{Family, PortRange};

pub use services::SERVICES;

use crate::{AddressWord, Transport};

/// One service of VoipNow.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Its name, as `services:` of a site writes it.
    pub name: &'static str,
    /// Whether it is reached from outside the node, or reached by it.
    pub direction: Direction,
    /// Its part of the chain.
    pub group: Group,
    /// Its transports and ports. Empty for ICMP, and where a site's carriers decide.
    pub openings: &'static [Opening],
    /// Its ICMP types. Empty for services with ports.
    pub icmp: &'static [IcmpOpening],
    /// Who reaches it by default; empty if it is closed until the site sets `from`.
    pub default_from: &'static [Exposure],
    /// The roles whose nodes run it.
    pub roles: Roles,
    /// Opening it to the world is an error unless the site sets `dangerous: true`.
    pub never_world: bool,
    /// It carries media: providers reach it from their media networks, not the signalling ones.
    pub media: bool,
    /// On what ports, roles and exposure rest.
    pub basis: &'static str,
    /// What an operator should know; may be empty.
    pub note: &'static str,
}

/// The direction of a service's first packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the node: the compiler opens it.
    Inbound,
    /// From the node: documentation for sites that filter OUTPUT elsewhere; never opened.
    Egress,
}

/// A part of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Voice media, first: most packets are of it.
    Rtp,
    /// Signalling, behind its limits.
    Sip,
    /// Fax media.
    T38,
    /// Everything else, in the catalogue's order.
    Other,
}

/// One transport of a service with its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// The transport.
    pub transport: Transport,
    /// Its ports, ascending.
    pub ports: &'static [PortRange],
}

/// One ICMP type of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpOpening {
    /// ICMP of this family.
    pub family: Family,
    /// The type.
    pub icmp_type: u8,
    /// What it is.
    pub name: &'static str,
    /// An echo request: limited, and open only to the sources of the service. The other types
    /// keep paths and neighbours working, and are open to every source that is not denied.
    pub echo: bool,
}

/// Who reaches a service by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exposure {
    /// Any source that is not denied.
    World,
    /// The site's tenants and providers.
    Clients,
    /// The site's providers.
    Providers,
    /// The site's admins.
    Admins,
    /// The site's nodes.
    Cluster,
    /// The node itself.
    Local,
}

/// The roles whose nodes run a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roles {
    /// Every node.
    All,
    /// Nodes with one of these.
    Of(&'static [Role]),
    /// The vendor does not document it. Closed by default; a site that opens it opens it on every
    /// node.
    Unpublished,
}

/// The service of that name.
pub fn service(name: &str) -> Option<&'static Service> {
    SERVICES.iter().find(|service| service.name == name)
}

impl Roles {
    /// Whether a node with `roles` runs the service, as far as is known.
    pub fn meet(self, roles: &std::collections::BTreeSet<Role>) -> bool {
        match self {
            Roles::All | Roles::Unpublished => true,
            Roles::Of(of) => of.iter().any(|role| roles.contains(role)),
        }
    }
}

impl From<Exposure> for AddressWord {
    fn from(exposure: Exposure) -> Self {
        match exposure {
            Exposure::World => AddressWord::World,
            Exposure::Clients => AddressWord::Clients,
            Exposure::Providers => AddressWord::Providers,
            Exposure::Admins => AddressWord::Admins,
            Exposure::Cluster => AddressWord::Cluster,
            Exposure::Local => AddressWord::Local,
        }
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Exposure::World => "world",
            Exposure::Clients => "clients",
            Exposure::Providers => "providers",
            Exposure::Admins => "admins",
            Exposure::Cluster => "cluster",
            Exposure::Local => "local",
        })
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Direction::Inbound => "inbound",
            Direction::Egress => "egress",
        })
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Roles::All => f.pad("all"),
            Roles::Unpublished => f.pad("not published"),
            Roles::Of(roles) => {
                let codes: Vec<&str> = roles.iter().map(|role| role.code()).collect();
                f.pad(&codes.join(", "))
            }
        }
    }
}

impl fmt::Display for Opening {
    /// As people write it: `udp 10000-20000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        let ports: Vec<String> = self.ports.iter().map(PortRange::to_string).collect();
        f.pad(&format!("{transport} {}", ports.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use voipfleet_ruleset::ruleset::{LimitName, Ports};

    #[test]
    fn every_row_is_well_formed() {
        let names: BTreeSet<&str> = SERVICES.iter().map(|service| service.name).collect();
        assert_eq!(names.len(), SERVICES.len(), "a name is given twice");
        for service in SERVICES {
            assert!(
                voipfleet_ruleset::identifiers::is_name(service.name),
                "{}",
                service.name
            );
            assert!(
                service.name.parse::<LimitName>().is_ok(),
                "{}",
                service.name
            );
            assert!(!service.basis.is_empty(), "{}", service.name);
            for opening in service.openings {
                assert!(
                    Ports::exact(opening.ports.to_vec()).is_ok(),
                    "{}",
                    service.name
                );
            }
            if service.direction == Direction::Inbound {
                assert!(
                    service.openings.is_empty() != service.icmp.is_empty(),
                    "{} is ports or ICMP",
                    service.name
                );
            }
            if service.roles == Roles::Unpublished {
                assert!(service.default_from.is_empty(), "{}", service.name);
                assert!(service.note.contains("role"), "{}", service.name);
            }
            if service.never_world {
                assert!(!service.default_from.contains(&Exposure::World));
            }
        }
    }

    #[test]
    fn t38_leaves_the_sip_ports_out() {
        let t38 = service("t38").expect("t38 is in the catalogue");
        for opening in t38.openings {
            let open = |port: u16| opening.ports.iter().any(|range| range.contains(port));
            assert!([4000, 5049, 5051, 5059, 5062, 5999].into_iter().all(open));
            assert!(![3999, 5050, 5060, 5061, 6000].into_iter().any(open));
        }
    }
}
