//! What each request is about: rights are decided by it.

use tonic::Status;
use voipfleet_policy::Kind;
use voipfleet_proto::v1::{self, DeleteRequest, GetDocumentsRequest};
use voipfleet_protocol::identity::rights::Target;
use voipfleet_ruleset::identifiers::ListName;

use super::fields::{invalid, parse, scope};
use crate::records::{NodeId, SiteScope};

/// A request of an operator.
pub(super) trait Targeted {
    /// An error: the request names nothing that could exist.
    fn target(&self) -> Result<Target, Status>;

    /// Whether it only asks what a change would do: then nothing of it is in the audit log.
    fn is_dry_run(&self) -> bool {
        false
    }
}

impl Targeted for v1::ApplyRequest {
    fn target(&self) -> Result<Target, Status> {
        Ok(Target::Visible)
    }

    fn is_dry_run(&self) -> bool {
        self.dry_run
    }
}

impl Targeted for v1::PushRequest {
    fn target(&self) -> Result<Target, Status> {
        site_or_visible(&self.site)
    }

    fn is_dry_run(&self) -> bool {
        self.dry_run
    }
}

impl Targeted for v1::RollbackRequest {
    fn target(&self) -> Result<Target, Status> {
        site(&self.site)
    }

    fn is_dry_run(&self) -> bool {
        self.dry_run
    }
}

/// Implements [`Targeted`] for requests that name their target in the same way.
macro_rules! targets {
    ($($($request:ident)+ => $target:expr;)+) => {
        $($(impl Targeted for v1::$request {
            fn target(&self) -> Result<Target, Status> {
                let target: fn(&Self) -> Result<Target, Status> = $target;
                target(self)
            }
        })+)+
    };
}

targets! {
    ListDynamicSetsRequest RenewOperatorRequest RevokeTokenRequest WhoAmIRequest
        => |_| Ok(Target::Visible);
    AddOperatorRequest AuditChainRequest BackupRequest BindOperatorRequest ListOperatorsRequest
    PruneAuditRequest RemoveOperatorRequest
        => |_| Ok(Target::Installation);
    AbortRolloutRequest CreateTokenRequest DiffGenerationsRequest HistoryRequest
    PanicCloseRequest PanicOpenRequest PauseRolloutRequest PlanRequest RenderRequest
    ResumeRolloutRequest ShowGenerationRequest WatchRolloutRequest
        => |request| site(&request.site);
    AuditRequest DriftRequest ListBlocksRequest ListTokensRequest
    RolloutStatusRequest StatusRequest
        => |request| site_or_visible(&request.site);
    AllowRequest BlockRequest LiftRequest
        => |request| site_scope(request.scope.clone());
    GetDocumentsRequest => documents;
    DeleteRequest => deleted;
    FetchFeedRequest => |request| {
        parse::<ListName>(&request.list)?;
        Ok(Target::Document(Kind::List, request.list.clone()))
    };
}

fn site(name: &str) -> Result<Target, Status> {
    parse(name).map(Target::site)
}

/// Without a site the call is about whatever its caller may see.
fn site_or_visible(name: &str) -> Result<Target, Status> {
    match name {
        "" => Ok(Target::Visible),
        name => site(name),
    }
}

/// What a request for documents is about.
fn documents(request: &GetDocumentsRequest) -> Result<Target, Status> {
    if request.kind.is_empty() || request.name.is_empty() {
        return Ok(Target::Visible);
    }
    Ok(Target::Document(
        parse(&request.kind)?,
        request.name.clone(),
    ))
}

/// Whether the kind of a Delete means a node.
pub(super) fn is_node(kind: &str) -> bool {
    kind.eq_ignore_ascii_case("node") || kind.eq_ignore_ascii_case("nodes")
}

/// What a Delete is about.
fn deleted(request: &DeleteRequest) -> Result<Target, Status> {
    if is_node(&request.kind) {
        let id = node_id(&request.name)?;
        return Ok(Target::Node(id.site, id.node));
    }
    Ok(Target::Document(
        parse(&request.kind)?,
        request.name.clone(),
    ))
}

pub(super) fn node_id(name: &str) -> Result<NodeId, Status> {
    let (site, node) = name.split_once('/').ok_or_else(|| {
        let shown: String = name.chars().take(80).collect();
        invalid(format!(
            "{shown:?} is not a site and a node, such as site-a/sip1"
        ))
    })?;
    Ok(NodeId {
        site: parse(site)?,
        node: parse(node)?,
    })
}

/// What a request with this scope is about; without one whatever its caller may touch.
fn site_scope(asked: Option<v1::SiteScope>) -> Result<Target, Status> {
    Ok(match scope(asked)? {
        None => Target::Visible,
        Some(SiteScope::All) => Target::Installation,
        Some(SiteScope::One(site)) => Target::site(site),
    })
}
