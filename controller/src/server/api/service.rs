//! The gRPC service: every call is authorised here, and answered by its group's file.

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use voipfleet_policy::Kind;
use voipfleet_proto::v1::{
    self, AbortRolloutRequest, AllowRequest, ApplyRequest, ApplyResponse, BlockRequest,
    CreateTokenRequest, CreateTokenResponse, DeleteRequest, DeleteResponse, DriftRequest,
    DriftResponse, EmergencyResponse, GetDocumentsRequest, GetDocumentsResponse, LiftRequest,
    ListBlocksRequest, ListBlocksResponse, ListTokensRequest, ListTokensResponse,
    PanicCloseRequest, PanicOpenRequest, PauseRolloutRequest, PushEvent, PushRequest,
    RenderRequest, RenderResponse, ResumeRolloutRequest, RevokeTokenRequest, RevokeTokenResponse,
    RollbackRequest, RolloutReport, RolloutStatusRequest, RolloutStatusResponse, StatusRequest,
    StatusResponse, WatchRolloutRequest, operator_server::Operator,
};
use voipfleet_protocol::identity::rights::{Call, Target};
use voipfleet_ruleset::identifiers::ListName;

use super::audit_detail::Asks;
use super::authorize::{self, About, Begun};
use super::{Api, Caller, convert, documents, emergency, nodes, redact};
use crate::records::ExceptionKind;
use crate::server::listen::Peer;

/// The service.
#[derive(Debug, Clone)]
pub struct OperatorService {
    api: Api,
}

impl OperatorService {
    /// The service over `api`.
    pub fn new(api: Api) -> Self {
        Self { api }
    }

    async fn begin<T: Asks>(
        &self,
        request: &Request<T>,
        call: Call,
        about: impl About,
    ) -> Result<Begun, Status> {
        self.api.begin(request, call, about).await
    }

    async fn pushed(
        &self,
        caller: &Caller,
        request: PushRequest,
    ) -> Result<ReceiverStream<Result<PushEvent, Status>>, Status> {
        self.api.check_given(caller, &request.sources).await?;
        // A dry run waits for nothing.
        let queue = request.queue && !request.dry_run;
        let request = convert::push_request(caller, request)?;
        let events = self.api.push(caller, request, queue).await?;
        Ok(ReceiverStream::new(events))
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    type PushStream = ReceiverStream<Result<PushEvent, Status>>;
    type BackupStream = ReceiverStream<Result<v1::BackupPart, Status>>;
    type RollbackStream = ReceiverStream<Result<PushEvent, Status>>;
    type WatchRolloutStream = ReceiverStream<Result<PushEvent, Status>>;

    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let begun = self.begin(&request, Call::Apply, Target::Visible).await?;
        let answer = self.api.apply(&begun.caller, request.into_inner()).await;
        begun.end(answer).await
    }

    async fn push(
        &self,
        request: Request<PushRequest>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let target = authorize::site(&request.get_ref().site);
        let begun = self.begin(&request, Call::Push, target).await?;
        let events = self.pushed(&begun.caller, request.into_inner()).await;
        let events = events.map(|events| self.api.guarded(&begun.caller, events));
        begun.end(events).await
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let target = authorize::site(&request.get_ref().site);
        let begun = self.begin(&request, Call::Status, target).await?;
        let answer = self.api.status(request.get_ref()).await;
        let answer = answer.map(|answer| redact::status(&begun.caller.sight, answer));
        begun.end(answer).await
    }

    async fn drift(
        &self,
        request: Request<DriftRequest>,
    ) -> Result<Response<DriftResponse>, Status> {
        let target = authorize::site(&request.get_ref().site);
        let begun = self.begin(&request, Call::Drift, target).await?;
        let answer = self.api.drift(request.get_ref()).await;
        let answer = answer.map(|answer| redact::drift(&begun.caller.sight, answer));
        begun.end(answer).await
    }

    async fn live_sources(
        &self,
        request: Request<v1::LiveSourcesRequest>,
    ) -> Result<Response<v1::LiveSourcesResponse>, Status> {
        let begun = self
            .begin(&request, Call::LiveSources, Target::Visible)
            .await?;
        let answer = self.api.live_sources(&begun.caller).await;
        begun.end(answer).await
    }

    async fn fetch_feed(
        &self,
        request: Request<v1::FetchFeedRequest>,
    ) -> Result<Response<v1::FetchFeedResponse>, Status> {
        let list = request.get_ref().list.clone();
        let target = convert::parse::<ListName>(&list).map(|_| Target::Document(Kind::List, list));
        let begun = self.begin(&request, Call::FetchFeed, target).await?;
        let answer = self.api.fetch_feed(&begun.caller, request.get_ref()).await;
        begun.end(answer).await
    }

    async fn get_documents(
        &self,
        request: Request<GetDocumentsRequest>,
    ) -> Result<Response<GetDocumentsResponse>, Status> {
        let target = documents::got(request.get_ref());
        let begun = self.begin(&request, Call::GetDocuments, target).await?;
        let answer = self.api.get(request.get_ref()).await;
        let answer = answer.map(|answer| redact::documents(&begun.caller.sight, answer));
        begun.end(answer).await
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let target = nodes::deleted(request.get_ref());
        let begun = self.begin(&request, Call::Delete, target).await?;
        let answer = self.api.delete(&begun.caller, request.get_ref()).await;
        begun.end(answer).await
    }

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let begun = self
            .begin(&request, Call::Backup, Target::Installation)
            .await?;
        let parts = self.api.backup().await;
        let parts = parts.map(|parts| self.api.guarded(&begun.caller, parts));
        begun.end(parts).await
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let target = convert::parse(&request.get_ref().site).map(Target::site);
        let begun = self.begin(&request, Call::CreateToken, target).await?;
        let answer = self
            .api
            .create_token(&begun.caller, request.get_ref())
            .await;
        begun.end(answer).await
    }

    async fn list_tokens(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        let target = authorize::site(&request.get_ref().site);
        let begun = self.begin(&request, Call::ListTokens, target).await?;
        let answer = self.api.list_tokens(&begun.caller, request.get_ref()).await;
        begun.end(answer).await
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let begun = self
            .begin(&request, Call::RevokeToken, Target::Visible)
            .await?;
        let id = &request.get_ref().id;
        let answer = self.api.revoke_token(&begun.caller, id).await;
        begun.end(answer.map(|()| RevokeTokenResponse {})).await
    }

    async fn render(
        &self,
        request: Request<RenderRequest>,
    ) -> Result<Response<RenderResponse>, Status> {
        let target = convert::parse(&request.get_ref().site).map(Target::site);
        let begun = self.begin(&request, Call::Render, target).await?;
        let answer = self.api.render(request.get_ref()).await;
        begun.end(answer).await
    }

    async fn plan(
        &self,
        request: Request<v1::PlanRequest>,
    ) -> Result<Response<v1::PlanResponse>, Status> {
        let target = convert::parse(&request.get_ref().site).map(Target::site);
        let begun = self.begin(&request, Call::Plan, target).await?;
        let operator = request.extensions().get::<Peer>();
        let operator = operator.map(|peer| peer.address.ip());
        let answer = self.api.plan(&begun.caller, request.into_inner(), operator);
        let answer = answer.await;
        begun.end(answer).await
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        let target = convert::parse(&request.get_ref().site).map(Target::site);
        let begun = self.begin(&request, Call::History, target).await?;
        let answer = self.api.history(request.get_ref()).await;
        begun.end(answer).await
    }

    async fn show_generation(
        &self,
        request: Request<v1::ShowGenerationRequest>,
    ) -> Result<Response<v1::ShowGenerationResponse>, Status> {
        let target = convert::parse(&request.get_ref().site).map(Target::site);
        let begun = self.begin(&request, Call::ShowGeneration, target).await?;
        let answer = self.api.show_generation(request.get_ref()).await;
        begun.end(answer).await
    }

    async fn diff_generations(
        &self,
        request: Request<v1::DiffGenerationsRequest>,
    ) -> Result<Response<v1::DiffGenerationsResponse>, Status> {
        let target = convert::parse(&request.get_ref().site).map(Target::site);
        let begun = self.begin(&request, Call::DiffGenerations, target).await?;
        let answer = self.api.diff_generations(request.get_ref()).await;
        begun.end(answer).await
    }

    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let begun = self.begin(&request, Call::WhoAmI, Target::Visible).await?;
        let answer = self.api.who_am_i(&begun.caller).await;
        begun.end(answer).await
    }

    async fn add_operator(
        &self,
        request: Request<v1::AddOperatorRequest>,
    ) -> Result<Response<v1::AddOperatorResponse>, Status> {
        let call = Call::AddOperator;
        let begun = self.begin(&request, call, Target::Installation).await?;
        let answer = self
            .api
            .add_operator(&begun.caller, request.into_inner())
            .await;
        begun.end(answer).await
    }

    async fn list_operators(
        &self,
        request: Request<v1::ListOperatorsRequest>,
    ) -> Result<Response<v1::ListOperatorsResponse>, Status> {
        let call = Call::ListOperators;
        let begun = self.begin(&request, call, Target::Installation).await?;
        begun.end(self.api.list_operators().await).await
    }

    async fn bind_operator(
        &self,
        request: Request<v1::BindOperatorRequest>,
    ) -> Result<Response<v1::BindOperatorResponse>, Status> {
        let call = Call::BindOperator;
        let begun = self.begin(&request, call, Target::Installation).await?;
        let answer = self
            .api
            .bind_operator(&begun.caller, request.into_inner())
            .await;
        begun.end(answer).await
    }

    async fn remove_operator(
        &self,
        request: Request<v1::RemoveOperatorRequest>,
    ) -> Result<Response<v1::RemoveOperatorResponse>, Status> {
        let call = Call::RemoveOperator;
        let begun = self.begin(&request, call, Target::Installation).await?;
        let answer = self
            .api
            .remove_operator(&begun.caller, request.get_ref())
            .await;
        begun.end(answer).await
    }

    async fn renew_operator(
        &self,
        request: Request<v1::RenewOperatorRequest>,
    ) -> Result<Response<v1::RenewOperatorResponse>, Status> {
        let call = Call::RenewOperator;
        let begun = self.begin(&request, call, Target::Visible).await?;
        let answer = self
            .api
            .renew_operator(&begun.caller, request.get_ref())
            .await;
        begun.end(answer).await
    }

    async fn audit(
        &self,
        request: Request<v1::AuditRequest>,
    ) -> Result<Response<v1::AuditResponse>, Status> {
        let target = authorize::site(&request.get_ref().site);
        let begun = self.begin(&request, Call::Audit, target).await?;
        let answer = self.api.audit(&begun.caller, request.get_ref()).await;
        begun.end(answer).await
    }

    async fn audit_chain(
        &self,
        request: Request<v1::AuditChainRequest>,
    ) -> Result<Response<v1::AuditChainResponse>, Status> {
        let call = Call::AuditChain;
        let begun = self.begin(&request, call, Target::Installation).await?;
        begun
            .end(self.api.audit_chain(request.get_ref()).await)
            .await
    }

    async fn prune_audit(
        &self,
        request: Request<v1::PruneAuditRequest>,
    ) -> Result<Response<v1::PruneAuditResponse>, Status> {
        let call = Call::PruneAudit;
        let begun = self.begin(&request, call, Target::Installation).await?;
        let answer = self.api.prune_audit(&begun.caller, request.get_ref()).await;
        begun.end(answer).await
    }

    async fn block(
        &self,
        request: Request<BlockRequest>,
    ) -> Result<Response<EmergencyResponse>, Status> {
        let target = emergency::target(request.get_ref().scope.clone());
        let begun = self.begin(&request, Call::Block, target).await?;
        let answer = self.api.block(&begun.caller, request.into_inner()).await;
        begun.end(answer).await
    }

    async fn unblock(
        &self,
        request: Request<LiftRequest>,
    ) -> Result<Response<EmergencyResponse>, Status> {
        let target = emergency::target(request.get_ref().scope.clone());
        let begun = self.begin(&request, Call::Unblock, target).await?;
        let kind = ExceptionKind::Block;
        let answer = self
            .api
            .lift_exception(&begun.caller, kind, request.into_inner());
        let answer = answer.await;
        begun.end(answer).await
    }

    async fn rollback(
        &self,
        request: Request<RollbackRequest>,
    ) -> Result<Response<Self::RollbackStream>, Status> {
        let target = convert::parse(&request.get_ref().site).map(Target::site);
        let begun = self.begin(&request, Call::Rollback, target).await?;
        let events = match convert::rollback(&begun.caller, request.get_ref()) {
            Ok(order) => self.api.push(&begun.caller, order, false).await,
            Err(refused) => Err(refused),
        };
        let events = events.map(ReceiverStream::new);
        let events = events.map(|events| self.api.guarded(&begun.caller, events));
        begun.end(events).await
    }

    async fn watch_rollout(
        &self,
        request: Request<WatchRolloutRequest>,
    ) -> Result<Response<Self::WatchRolloutStream>, Status> {
        let target = convert::parse(&request.get_ref().site).map(Target::site);
        let begun = self.begin(&request, Call::WatchRollout, target).await?;
        let events = self.api.watch_rollout(&request.get_ref().site).await;
        let events = events.map(ReceiverStream::new);
        let events = events.map(|events| self.api.guarded(&begun.caller, events));
        begun.end(events).await
    }

    async fn rollout_status(
        &self,
        request: Request<RolloutStatusRequest>,
    ) -> Result<Response<RolloutStatusResponse>, Status> {
        let target = authorize::site(&request.get_ref().site);
        let begun = self.begin(&request, Call::RolloutStatus, target).await?;
        let answer = self.api.rollout_status(&begun.caller, request.get_ref());
        let answer = answer.await;
        begun.end(answer).await
    }

    async fn list_blocks(
        &self,
        request: Request<ListBlocksRequest>,
    ) -> Result<Response<ListBlocksResponse>, Status> {
        let target = authorize::site(&request.get_ref().site);
        let begun = self.begin(&request, Call::ListBlocks, target).await?;
        let answer = self.api.list_blocks(&begun.caller, request.get_ref()).await;
        begun.end(answer).await
    }

    async fn allow(
        &self,
        request: Request<AllowRequest>,
    ) -> Result<Response<EmergencyResponse>, Status> {
        let target = emergency::target(request.get_ref().scope.clone());
        let begun = self.begin(&request, Call::Allow, target).await?;
        let answer = self.api.allow(&begun.caller, request.into_inner()).await;
        begun.end(answer).await
    }

    async fn disallow(
        &self,
        request: Request<LiftRequest>,
    ) -> Result<Response<EmergencyResponse>, Status> {
        let target = emergency::target(request.get_ref().scope.clone());
        let begun = self.begin(&request, Call::Disallow, target).await?;
        let kind = ExceptionKind::Allow;
        let answer = self
            .api
            .lift_exception(&begun.caller, kind, request.into_inner());
        let answer = answer.await;
        begun.end(answer).await
    }

    async fn panic_open(
        &self,
        request: Request<PanicOpenRequest>,
    ) -> Result<Response<EmergencyResponse>, Status> {
        let target = convert::parse(&request.get_ref().site).map(Target::site);
        let begun = self.begin(&request, Call::PanicOpen, target).await?;
        let answer = self
            .api
            .panic_open(&begun.caller, request.into_inner())
            .await;
        begun.end(answer).await
    }

    async fn panic_close(
        &self,
        request: Request<PanicCloseRequest>,
    ) -> Result<Response<EmergencyResponse>, Status> {
        let target = convert::parse(&request.get_ref().site).map(Target::site);
        let begun = self.begin(&request, Call::PanicClose, target).await?;
        let answer = self.api.panic_close(&begun.caller, request.get_ref()).await;
        begun.end(answer).await
    }

    async fn pause_rollout(
        &self,
        request: Request<PauseRolloutRequest>,
    ) -> Result<Response<RolloutReport>, Status> {
        let target = convert::parse(&request.get_ref().site).map(Target::site);
        let begun = self.begin(&request, Call::PauseRollout, target).await?;
        let site = &request.get_ref().site;
        let answer = self.api.pause_rollout(&begun.caller, site).await;
        begun.end(answer).await
    }

    async fn resume_rollout(
        &self,
        request: Request<ResumeRolloutRequest>,
    ) -> Result<Response<RolloutReport>, Status> {
        let target = convert::parse(&request.get_ref().site).map(Target::site);
        let begun = self.begin(&request, Call::ResumeRollout, target).await?;
        let answer = self.api.resume_rollout(&request.get_ref().site).await;
        begun.end(answer).await
    }

    async fn abort_rollout(
        &self,
        request: Request<AbortRolloutRequest>,
    ) -> Result<Response<RolloutReport>, Status> {
        let target = convert::parse(&request.get_ref().site).map(Target::site);
        let begun = self.begin(&request, Call::AbortRollout, target).await?;
        let answer = self.api.abort_rollout(&begun.caller, request.get_ref());
        let answer = answer.await;
        begun.end(answer).await
    }
}

impl Api {
    async fn delete(
        &self,
        caller: &Caller,
        request: &DeleteRequest,
    ) -> Result<DeleteResponse, Status> {
        if nodes::is_node(&request.kind) {
            self.delete_node(caller, &request.name).await?;
        } else {
            self.delete_document(caller, request).await?;
        }
        Ok(DeleteResponse {})
    }
}
