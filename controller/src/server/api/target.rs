//! What each request is about: rights are decided by it.

use tonic::Status;
use voipfleet_policy::Kind;
use voipfleet_proto::v1;
use voipfleet_protocol::identity::rights::Target;
use voipfleet_ruleset::identifiers::ListName;

use super::convert::parse;
use super::{documents, emergency, nodes};

/// A request of an operator.
pub(super) trait Targeted {
    /// An error: the request names nothing that could exist.
    fn target(&self) -> Result<Target, Status>;
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
    ApplyRequest LiveSourcesRequest RenewOperatorRequest RevokeTokenRequest WhoAmIRequest
        => |_| Ok(Target::Visible);
    AddOperatorRequest AuditChainRequest BackupRequest BindOperatorRequest ListOperatorsRequest
    PruneAuditRequest RemoveOperatorRequest
        => |_| Ok(Target::Installation);
    AbortRolloutRequest CreateTokenRequest DiffGenerationsRequest HistoryRequest
    PanicCloseRequest PanicOpenRequest PauseRolloutRequest PlanRequest RenderRequest
    ResumeRolloutRequest RollbackRequest ShowGenerationRequest WatchRolloutRequest
        => |request| site(&request.site);
    AuditRequest DriftRequest ListBlocksRequest ListTokensRequest PushRequest
    RolloutStatusRequest StatusRequest
        => |request| site_or_visible(&request.site);
    AllowRequest BlockRequest LiftRequest
        => |request| emergency::target(request.scope.clone());
    GetDocumentsRequest => documents::got;
    DeleteRequest => nodes::deleted;
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
