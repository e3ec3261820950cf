//! How the nodes of a site reach each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;
use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{Interface, IpProtocol};

/// How the nodes of a site reach each other.
///
/// A node reports its addresses, and that is a claim: it becomes a member of the cluster by an
/// address only where the document allows that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Where addresses that nodes report may lie.
    pub networks: Vec<IpNet>,
    /// The interface by which members come; `None`: any.
    pub interface: Option<Interface>,
    /// Members that no node reports.
    pub members: Vec<IpNet>,
    /// IP protocols that members may send, on any interface where `networks` or `members` name
    /// them.
    pub protocols: Vec<IpProtocol>,
    /// What members may reach.
    pub trust: Trust,
    /// Changes for nodes of a role.
    pub roles: BTreeMap<Role, ClusterOverride>,
    /// Changes for one node; they come before those of its roles.
    pub nodes: BTreeMap<NodeName, ClusterOverride>,
}

/// What is different on some nodes; absent fields keep the site's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterOverride {
    /// The interface by which members come.
    pub interface: Option<Interface>,
    /// IP protocols that members may send to these nodes.
    pub protocols: Option<Vec<IpProtocol>>,
}

/// What the members of a cluster may reach on each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Trust {
    /// Everything.
    #[default]
    Full,
    /// The catalogue's services that are open to `cluster`.
    Strict,
}

/// How members reach one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCluster<'s> {
    /// The interface by which they come; `None`: any.
    pub interface: Option<&'s Interface>,
    /// IP protocols that they may send.
    pub protocols: BTreeSet<IpProtocol>,
}

/// A node whose roles have different interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictingRoles {
    /// Two of the roles, with the interface of each.
    pub roles: [(Role, Interface); 2],
}

impl fmt::Display for ConflictingRoles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [(one, first), (other, second)] = &self.roles;
        let (one, other) = (one.code(), other.code());
        write!(f, "{first} for role {one} and {second} for role {other}")
    }
}

impl Cluster {
    /// Whether it names no member: neither networks, nor an interface, nor members.
    pub fn names_nobody(&self) -> bool {
        self.networks.is_empty() && self.interface.is_none() && self.members.is_empty()
    }

    /// Whether members are known by nothing but the interface that they claim to be on.
    pub fn is_by_interface_alone(&self) -> bool {
        self.networks.is_empty() && self.interface.is_some()
    }

    /// The interfaces of all nodes, the site's first.
    pub fn interfaces(&self) -> BTreeSet<&Interface> {
        let overrides = self.roles.values().chain(self.nodes.values());
        let theirs = overrides.filter_map(|change| change.interface.as_ref());
        self.interface.iter().chain(theirs).collect()
    }

    /// How members reach a node.
    pub fn of(
        &self,
        node: &NodeName,
        roles: &BTreeSet<Role>,
    ) -> Result<NodeCluster<'_>, ConflictingRoles> {
        let own = self.nodes.get(node);
        let of_roles = || {
            roles
                .iter()
                .filter_map(|role| Some((role, self.roles.get(role)?)))
        };
        let interface = if let Some(interface) = own.and_then(|own| own.interface.as_ref()) {
            Some(interface)
        } else {
            let mut found: Option<(&Role, &Interface)> = None;
            for (role, change) in of_roles() {
                let Some(interface) = &change.interface else {
                    continue;
                };
                if let Some((other, first)) = found.filter(|(_, first)| *first != interface) {
                    let roles = [(*other, first.clone()), (*role, interface.clone())];
                    return Err(ConflictingRoles { roles });
                }
                found = Some((role, interface));
            }
            found
                .map(|(_, interface)| interface)
                .or(self.interface.as_ref())
        };
        let protocols = if let Some(protocols) = own.and_then(|own| own.protocols.as_ref()) {
            protocols.iter().copied().collect()
        } else {
            let theirs: Vec<_> = of_roles()
                .filter_map(|(_, change)| change.protocols.as_ref())
                .collect();
            if theirs.is_empty() {
                self.protocols.iter().copied().collect()
            } else {
                theirs.into_iter().flatten().copied().collect()
            }
        };
        Ok(NodeCluster {
            interface,
            protocols,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(interface: &str) -> ClusterOverride {
        ClusterOverride {
            interface: Some(interface.parse().unwrap()),
            protocols: None,
        }
    }

    #[test]
    fn a_nodes_own_interface_comes_before_its_roles_and_the_sites() {
        let cluster = Cluster {
            interface: Some("eth1".parse().unwrap()),
            roles: BTreeMap::from([(Role::Sip, change("eth2")), (Role::Pbx, change("eth3"))]),
            nodes: BTreeMap::from([("a".parse().unwrap(), change("ens224"))]),
            ..Cluster::default()
        };
        let of = |node: &str, roles: &[Role]| {
            let roles = roles.iter().copied().collect();
            let found = cluster.of(&node.parse().unwrap(), &roles);
            found.map(|found| found.interface.unwrap().to_string())
        };
        assert_eq!(of("a", &[Role::Sip, Role::Pbx]), Ok("ens224".to_owned()));
        assert_eq!(of("b", &[Role::Sip]), Ok("eth2".to_owned()));
        assert_eq!(of("b", &[Role::Sql]), Ok("eth1".to_owned()));
        let conflict = of("b", &[Role::Sip, Role::Pbx]).unwrap_err().to_string();
        assert!(
            conflict.contains("eth2") && conflict.contains("eth3"),
            "{conflict}"
        );
    }

    #[test]
    fn protocols_of_several_roles_add_up() {
        let vrrp: IpProtocol = "vrrp".parse().unwrap();
        let esp: IpProtocol = "esp".parse().unwrap();
        let protocols = |protocols: &[IpProtocol]| ClusterOverride {
            interface: None,
            protocols: Some(protocols.to_vec()),
        };
        let cluster = Cluster {
            protocols: vec![esp],
            roles: BTreeMap::from([(Role::Sip, protocols(&[vrrp])), (Role::Pbx, protocols(&[]))]),
            nodes: BTreeMap::from([("a".parse().unwrap(), protocols(&[]))]),
            ..Cluster::default()
        };
        let of = |node: &str, role| {
            let found = cluster.of(&node.parse().unwrap(), &BTreeSet::from([role]));
            found.unwrap().protocols
        };
        assert_eq!(of("b", Role::Sql), BTreeSet::from([esp]));
        assert_eq!(of("b", Role::Sip), BTreeSet::from([vrrp]));
        assert_eq!(of("b", Role::Pbx), BTreeSet::new());
        assert_eq!(of("a", Role::Sip), BTreeSet::new());
    }
}
