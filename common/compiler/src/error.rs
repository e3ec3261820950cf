//! Why documents do not compile.

use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::ruleset::InvalidToken;

/// Documents that do not compile for a site.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// There is no such site.
    #[error("there is no site {0}; apply a document of kind Site with that name first")]
    UnknownSite(SiteName),
    /// A word refers to a document that is not there.
    #[error(
        "{place} refers to {word}, and there is no such document; apply it, or remove the word"
    )]
    Unresolved {
        /// The field: `services.sip.from`.
        place: String,
        /// The word: `tenant:acme`.
        word: String,
    },
    /// A word that has no meaning in its field.
    #[error("{place} cannot be {word}: {reason}")]
    Meaningless {
        /// The field.
        place: String,
        /// The word.
        word: String,
        /// Why not.
        reason: &'static str,
    },
    /// The site names a service that the catalogue does not have.
    #[error("there is no service {0}; `voipctl catalogue` lists them, and rules: opens others")]
    UnknownService(String),
    /// No address would have SSH.
    #[error("admins of site {0} hold no address; no one could reach its nodes")]
    NoAdmins(SiteName),
    /// A back-end service would be open to the world.
    #[error("{place} opens {what} to the world; narrow from, or set dangerous: true on it")]
    Exposed {
        /// The field.
        place: String,
        /// The service.
        what: &'static str,
    },
    /// A field that is not offered yet.
    #[error("{0} is not offered yet; remove it")]
    NotOffered(String),
    /// More of something than a node takes.
    #[error("{what}: {count} is above the limit of {limit}")]
    TooMany {
        /// What there is too much of.
        what: String,
        /// How many.
        count: usize,
        /// The most that fits.
        limit: usize,
    },
    /// Two nodes of one name.
    #[error("node {0} is given twice")]
    DuplicateNode(NodeName),
    /// A node whose roles have different interfaces of the cluster.
    #[error("cluster.roles gives node {node} {roles}; name its interface in cluster.nodes.{node}")]
    ConflictingRoles {
        /// The node.
        node: NodeName,
        /// The roles.
        roles: voipfleet_policy::ConflictingRoles,
    },
    /// Two rules of one name.
    #[error("rule {0} is defined twice in the site; rename one")]
    DuplicateRule(String),
    /// The site's own tests fail.
    #[error("{}", super::policy_tests::describe(.0))]
    Tests(Vec<super::TestFailure>),
    /// A name cannot be handed to the kernel.
    #[error("a name cannot be handed to the kernel")]
    Token(
        #[from]
        #[source]
        InvalidToken,
    ),
    /// The compiler made what no node would take: a defect of the product.
    #[error("the ruleset of node {node} is not valid; this is a defect, please report it")]
    Invalid {
        /// The node.
        node: NodeName,
        /// What is wrong.
        #[source]
        source: voipfleet_ruleset::ruleset::InvalidRuleset,
    },
}
