//! The calls of operators, and what each needs: the one table of rights.

use std::fmt;

use super::OperatorRole;
use super::OperatorRole::{Admin, Operator, Viewer};

/// Which operators a call is open to, by where their role holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScopeKind {
    /// Only where it holds everywhere.
    All,
    /// Also at the sites where it holds.
    Sites,
    /// Also for the tenants for which it holds: as much of it as concerns these.
    Tenants,
}

macro_rules! calls {
    ($($name:ident: $role:ident, $scope:ident, $changes:literal, $words:literal;)*) => {
        /// A call of the operator service, named as in the proto file.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Call {
            $(#[doc = $words] $name,)*
        }

        impl Call {
            /// Every call.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name in the proto file.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The least role that may make it.
            pub fn role(self) -> OperatorRole {
                match self { $(Self::$name => $role,)* }
            }

            /// Whose role need not hold everywhere.
            pub fn scope(self) -> ScopeKind {
                match self { $(Self::$name => ScopeKind::$scope,)* }
            }

            /// Whether it may change anything: then it is in the audit log.
            pub fn changes(self) -> bool {
                match self { $(Self::$name => $changes,)* }
            }

            /// Whether it cuts off or lets in addresses at once.
            pub fn is_emergency(self) -> bool {
                matches!(
                    self,
                    Self::Block
                        | Self::Unblock
                        | Self::Allow
                        | Self::Disallow
                        | Self::PanicOpen
                        | Self::PanicClose
                )
            }

            /// What it does, for people.
            pub fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
        }
    };
}

// The right to write a site's document is the right to open it: such an operator can push
// `mode: observe` or an opening to the world, so panic-open takes no more than the same rights.
calls! {
    Apply: Operator, Tenants, true, "store documents";
    Push: Operator, Sites, true, "push a site";
    Status: Viewer, Tenants, false, "see the state of nodes";
    Drift: Viewer, Tenants, false, "see drift";
    GetDocuments: Viewer, Tenants, false, "read documents";
    Delete: Operator, Sites, true, "delete a document or a node";
    CreateToken: Operator, Sites, true, "make a join token";
    ListTokens: Viewer, Sites, false, "list join tokens";
    RevokeToken: Operator, Sites, true, "revoke a join token";
    Render: Viewer, Sites, false, "render a site's rules";
    WhoAmI: Viewer, Tenants, false, "see one's own rights";
    AddOperator: Admin, All, true, "add an operator";
    ListOperators: Admin, All, false, "list operators";
    BindOperator: Admin, All, true, "change an operator's rights";
    RemoveOperator: Admin, All, true, "remove an operator";
    RenewOperator: Viewer, Tenants, true, "renew one's own certificate";
    Audit: Viewer, Tenants, false, "read the audit log";
    AuditChain: Viewer, All, false, "verify the audit log";
    PruneAudit: Admin, All, true, "prune the audit log";
    Rollback: Operator, Sites, true, "roll a site back";
    WatchRollout: Viewer, Sites, false, "watch a rollout";
    RolloutStatus: Viewer, Sites, false, "see a rollout";
    PauseRollout: Operator, Sites, true, "pause a rollout";
    ResumeRollout: Operator, Sites, true, "resume a rollout";
    AbortRollout: Operator, Sites, true, "abort a rollout";
    Plan: Viewer, Sites, false, "plan a push";
    History: Viewer, Tenants, false, "see a site's generations";
    ShowGeneration: Viewer, Sites, false, "show a generation";
    DiffGenerations: Viewer, Sites, false, "compare generations";
    Block: Operator, Sites, true, "block addresses";
    Unblock: Operator, Sites, true, "lift a block";
    ListBlocks: Viewer, Sites, false, "see blocks";
    Allow: Operator, Sites, true, "allow addresses for a while";
    Disallow: Operator, Sites, true, "take an allowance back";
    PanicOpen: Operator, Sites, true, "open a site to the world";
    PanicClose: Operator, Sites, true, "close a site again";
    ListDynamicSets: Viewer, Sites, false, "see dynamic sets";
    FetchFeed: Operator, All, true, "fetch a list now";
    Backup: Admin, All, true, "take a backup";
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
