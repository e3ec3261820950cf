//! A join token as it is kept.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::role::Role;

/// Made by an operator, used once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// SHA-256 of the secret, hexadecimal.
    pub secret_hash: String,
    /// The site that it is for.
    pub site: SiteName,
    /// The roles of the node that uses it.
    pub roles: BTreeSet<Role>,
    /// The only name that it may enrol; none: any.
    pub node: Option<NodeName>,
    /// Whether the machine takes the place of the node of that name.
    pub replaces: bool,
    /// When it was made, Unix time.
    pub created_ms: u64,
    /// When it ends, Unix time.
    pub expires_ms: u64,
    /// The operator who made it.
    pub created_by: String,
    /// Who used it.
    pub used: Option<TokenUse>,
}

/// The one use of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenUse {
    /// The node that enrolled.
    pub node: NodeName,
    /// When, Unix time.
    pub at_ms: u64,
    /// SHA-256 of the public key that was signed, hexadecimal: the same key may ask again.
    pub key_hash: String,
}
