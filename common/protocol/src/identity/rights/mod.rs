//! What operators may do: roles, where they hold, and the one function that decides.

mod call;
mod decision;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use voipfleet_ruleset::identifiers::{SiteName, TenantName};

pub use call::{Call, ScopeKind};
pub use decision::{Allowed, Decision, Refusal, Target, Use, Uses, Visibility, decide};

/// What an operator may do, each with everything of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperatorRole {
    /// Reads.
    Viewer,
    /// Changes documents, pushes, blocks, lets machines enrol.
    Operator,
    /// Gives rights, deletes sites and nodes, takes backups.
    Admin,
}

impl OperatorRole {
    /// Every role, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for OperatorRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A text that is no role of an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role of an operator; use viewer, operator or admin")]
pub struct InvalidRole(String);

impl FromStr for OperatorRole {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, InvalidRole> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| InvalidRole(text.chars().take(80).collect()))
    }
}

/// Where a role holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Everywhere.
    All,
    /// At these sites.
    Sites(BTreeSet<SiteName>),
    /// For these tenants.
    Tenants(BTreeSet<TenantName>),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn list<T: AsRef<str>>(names: &BTreeSet<T>) -> String {
            let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
            names.join(", ")
        }
        match self {
            Scope::All => f.write_str("everything"),
            Scope::Sites(names) if names.len() == 1 => write!(f, "site {}", list(names)),
            Scope::Sites(names) => write!(f, "sites {}", list(names)),
            Scope::Tenants(names) if names.len() == 1 => write!(f, "tenant {}", list(names)),
            Scope::Tenants(names) => write!(f, "tenants {}", list(names)),
        }
    }
}

/// A role and where it holds. An operator may have several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// What.
    pub role: OperatorRole,
    /// Where.
    pub scope: Scope,
}

impl Binding {
    /// Everything, everywhere: what the first admin of an installation has.
    pub fn everything() -> Self {
        Self {
            role: OperatorRole::Admin,
            scope: Scope::All,
        }
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, scope } = self;
        write!(f, "{role} of {scope}")
    }
}
