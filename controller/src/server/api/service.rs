//! The gRPC service of operators: each call is authorised and recorded, then answered by its group.

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use voipfleet_proto::v1::{self, operator_server::Operator};
use voipfleet_protocol::identity::rights::Call;

use super::expiries::Expiries;
use super::fields::parse;
use super::{
    Access, AuditApi, BackupApi, DocumentsApi, EmergencyApi, FleetApi, OperatorsApi, PlanApi,
    PushApi, SourcesApi, TokensApi, audit_detail, push_request, redact, target,
};
use crate::records::ExceptionKind;

/// The service.
#[derive(Debug, Clone)]
pub struct OperatorService {
    pub(super) access: Access,
    pub(super) expiries: Expiries,
    pub(super) documents: DocumentsApi,
    pub(super) fleet: FleetApi,
    pub(super) emergency: EmergencyApi,
    pub(super) pushes: PushApi,
    pub(super) plans: PlanApi,
    pub(super) operators: OperatorsApi,
    pub(super) tokens: TokensApi,
    pub(super) audit: AuditApi,
    pub(super) backups: BackupApi,
    pub(super) sources: SourcesApi,
}

type Events = ReceiverStream<Result<v1::PushEvent, Status>>;

#[tonic::async_trait]
impl Operator for OperatorService {
    type PushStream = Events;
    type RollbackStream = Events;
    type WatchRolloutStream = Events;
    type BackupStream = ReceiverStream<Result<v1::BackupPart, Status>>;

    async fn apply(
        &self,
        request: Request<v1::ApplyRequest>,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let request = self
            .access
            .request(Call::Apply, request)
            .detail(audit_detail::apply);
        request
            .answer(|caller, request| async move { self.documents.apply(&caller, request).await })
            .await
    }

    async fn push(
        &self,
        request: Request<v1::PushRequest>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let request = self.access.request(Call::Push, request);
        request
            .answer(|caller, request| async move {
                let given = self.documents.check_given(&caller, &request.sources);
                given.await?;
                // A dry run waits for nothing.
                let queue = request.queue && !request.dry_run;
                let order = push_request::push_request(&caller, request)?;
                let events = self.pushes.push(&caller, order, queue).await?;
                Ok(self.access.guarded(&caller, ReceiverStream::new(events)))
            })
            .await
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let request = self.access.request(Call::Status, request);
        request
            .answer(|caller, request| async move {
                let answer = self.fleet.status(&request).await?;
                let mut answer = redact::status(&caller.sight, answer);
                self.expiries.fill(&caller, &mut answer).await?;
                Ok(answer)
            })
            .await
    }

    async fn drift(
        &self,
        request: Request<v1::DriftRequest>,
    ) -> Result<Response<v1::DriftResponse>, Status> {
        let request = self.access.request(Call::Drift, request);
        request
            .answer(|caller, request| async move {
                let request = redact::drift_request(&caller.sight, request);
                let answer = self.fleet.drift(&request).await?;
                Ok(redact::drift(&caller.sight, answer))
            })
            .await
    }

    async fn list_dynamic_sets(
        &self,
        request: Request<v1::ListDynamicSetsRequest>,
    ) -> Result<Response<v1::ListDynamicSetsResponse>, Status> {
        let request = self.access.request(Call::ListDynamicSets, request);
        request
            .answer(|caller, _| async move { self.sources.list_dynamic_sets(&caller).await })
            .await
    }

    async fn fetch_feed(
        &self,
        request: Request<v1::FetchFeedRequest>,
    ) -> Result<Response<v1::FetchFeedResponse>, Status> {
        let request = self
            .access
            .request(Call::FetchFeed, request)
            .detail(audit_detail::fetch_feed);
        request
            .answer(
                |caller, request| async move { self.sources.fetch_feed(&caller, &request).await },
            )
            .await
    }

    async fn get_documents(
        &self,
        request: Request<v1::GetDocumentsRequest>,
    ) -> Result<Response<v1::GetDocumentsResponse>, Status> {
        let request = self.access.request(Call::GetDocuments, request);
        request
            .answer(|caller, request| async move {
                let answer = self.documents.get(&request).await?;
                Ok(redact::documents(&caller.sight, answer))
            })
            .await
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let request = self.access.request(Call::Delete, request);
        request
            .answer(|caller, request| async move {
                if target::is_node(&request.kind) {
                    self.fleet.delete_node(&caller, &request.name).await?;
                } else {
                    self.documents.delete(&caller, &request).await?;
                }
                Ok(v1::DeleteResponse {})
            })
            .await
    }

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let request = self.access.request(Call::Backup, request);
        request
            .answer(|caller, _| async move {
                let parts = self.backups.backup().await?;
                Ok(self.access.guarded(&caller, parts))
            })
            .await
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let request = self
            .access
            .request(Call::CreateToken, request)
            .detail(audit_detail::create_token);
        request
            .answer(|caller, request| async move { self.tokens.create(&caller, &request).await })
            .await
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let request = self.access.request(Call::ListTokens, request);
        request
            .answer(|caller, request| async move { self.tokens.list(&caller, &request).await })
            .await
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let request = self
            .access
            .request(Call::RevokeToken, request)
            .detail(audit_detail::revoke_token);
        request
            .answer(|caller, request| async move {
                self.tokens.revoke(&caller, &request.id).await?;
                Ok(v1::RevokeTokenResponse {})
            })
            .await
    }

    async fn render(
        &self,
        request: Request<v1::RenderRequest>,
    ) -> Result<Response<v1::RenderResponse>, Status> {
        let request = self.access.request(Call::Render, request);
        request
            .answer(|_, request| async move { self.plans.render(&request).await })
            .await
    }

    async fn plan(
        &self,
        request: Request<v1::PlanRequest>,
    ) -> Result<Response<v1::PlanResponse>, Status> {
        let request = self.access.request(Call::Plan, request);
        request
            .answer(|caller, request| async move {
                let given = self.documents.check_given(&caller, &request.sources);
                given.await?;
                let site = parse(&request.site)?;
                let seen = self.documents.plan_sight(&caller, &request).await?;
                let by = caller.name.as_str();
                let peer = Some(caller.peer.ip());
                let mut plan = self.plans.plan(by, request, peer, &seen).await?;
                plan.expiries = self.expiries.of_site(&caller, &site).await?;
                Ok(plan)
            })
            .await
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        let request = self.access.request(Call::History, request);
        request
            .answer(|caller, request| async move {
                let answer = self.plans.history(&request).await?;
                Ok(redact::history(&caller.sight, answer))
            })
            .await
    }

    async fn show_generation(
        &self,
        request: Request<v1::ShowGenerationRequest>,
    ) -> Result<Response<v1::ShowGenerationResponse>, Status> {
        let request = self.access.request(Call::ShowGeneration, request);
        request
            .answer(|_, request| async move { self.plans.show_generation(&request).await })
            .await
    }

    async fn diff_generations(
        &self,
        request: Request<v1::DiffGenerationsRequest>,
    ) -> Result<Response<v1::DiffGenerationsResponse>, Status> {
        let request = self.access.request(Call::DiffGenerations, request);
        request
            .answer(|_, request| async move { self.plans.diff_generations(&request).await })
            .await
    }

    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIResponse>, Status> {
        let request = self.access.request(Call::WhoAmI, request);
        request
            .answer(|caller, _| async move { self.operators.who_am_i(&caller).await })
            .await
    }

    async fn add_operator(
        &self,
        request: Request<v1::AddOperatorRequest>,
    ) -> Result<Response<v1::AddOperatorResponse>, Status> {
        let request = self
            .access
            .request(Call::AddOperator, request)
            .detail(audit_detail::add_operator);
        request
            .answer(|caller, request| async move { self.operators.add(&caller, request).await })
            .await
    }

    async fn list_operators(
        &self,
        request: Request<v1::ListOperatorsRequest>,
    ) -> Result<Response<v1::ListOperatorsResponse>, Status> {
        let request = self.access.request(Call::ListOperators, request);
        request
            .answer(|_, _| async move { self.operators.list().await })
            .await
    }

    async fn bind_operator(
        &self,
        request: Request<v1::BindOperatorRequest>,
    ) -> Result<Response<v1::BindOperatorResponse>, Status> {
        let request = self
            .access
            .request(Call::BindOperator, request)
            .detail(audit_detail::bind_operator);
        request
            .answer(|caller, request| async move { self.operators.bind(&caller, request).await })
            .await
    }

    async fn remove_operator(
        &self,
        request: Request<v1::RemoveOperatorRequest>,
    ) -> Result<Response<v1::RemoveOperatorResponse>, Status> {
        let request = self
            .access
            .request(Call::RemoveOperator, request)
            .detail(audit_detail::remove_operator);
        request
            .answer(|caller, request| async move { self.operators.remove(&caller, &request).await })
            .await
    }

    async fn renew_operator(
        &self,
        request: Request<v1::RenewOperatorRequest>,
    ) -> Result<Response<v1::RenewOperatorResponse>, Status> {
        let request = self.access.request(Call::RenewOperator, request);
        request
            .answer(|caller, request| async move { self.operators.renew(&caller, &request).await })
            .await
    }

    async fn audit(
        &self,
        request: Request<v1::AuditRequest>,
    ) -> Result<Response<v1::AuditResponse>, Status> {
        let request = self.access.request(Call::Audit, request);
        request
            .answer(|caller, request| async move { self.audit.records(&caller, &request).await })
            .await
    }

    async fn audit_chain(
        &self,
        request: Request<v1::AuditChainRequest>,
    ) -> Result<Response<v1::AuditChainResponse>, Status> {
        let request = self.access.request(Call::AuditChain, request);
        request
            .answer(|_, request| async move { self.audit.chain(&request).await })
            .await
    }

    async fn prune_audit(
        &self,
        request: Request<v1::PruneAuditRequest>,
    ) -> Result<Response<v1::PruneAuditResponse>, Status> {
        let request = self
            .access
            .request(Call::PruneAudit, request)
            .detail(audit_detail::prune_audit);
        request
            .answer(|caller, request| async move { self.audit.prune(&caller, &request).await })
            .await
    }

    async fn block(
        &self,
        request: Request<v1::BlockRequest>,
    ) -> Result<Response<v1::EmergencyResponse>, Status> {
        let request = self
            .access
            .request(Call::Block, request)
            .detail(audit_detail::block);
        request
            .answer(|caller, request| async move { self.emergency.block(&caller, request).await })
            .await
    }

    async fn unblock(
        &self,
        request: Request<v1::LiftRequest>,
    ) -> Result<Response<v1::EmergencyResponse>, Status> {
        let request = self
            .access
            .request(Call::Unblock, request)
            .detail(audit_detail::unblock);
        request
            .answer(|caller, request| async move {
                self.emergency
                    .lift(&caller, ExceptionKind::Block, request)
                    .await
            })
            .await
    }

    async fn list_blocks(
        &self,
        request: Request<v1::ListBlocksRequest>,
    ) -> Result<Response<v1::ListBlocksResponse>, Status> {
        let request = self.access.request(Call::ListBlocks, request);
        request
            .answer(|caller, request| async move { self.emergency.list(&caller, &request).await })
            .await
    }

    async fn allow(
        &self,
        request: Request<v1::AllowRequest>,
    ) -> Result<Response<v1::EmergencyResponse>, Status> {
        let request = self
            .access
            .request(Call::Allow, request)
            .detail(audit_detail::allow);
        request
            .answer(|caller, request| async move { self.emergency.allow(&caller, request).await })
            .await
    }

    async fn disallow(
        &self,
        request: Request<v1::LiftRequest>,
    ) -> Result<Response<v1::EmergencyResponse>, Status> {
        let request = self
            .access
            .request(Call::Disallow, request)
            .detail(audit_detail::disallow);
        request
            .answer(|caller, request| async move {
                self.emergency
                    .lift(&caller, ExceptionKind::Allow, request)
                    .await
            })
            .await
    }

    async fn panic_open(
        &self,
        request: Request<v1::PanicOpenRequest>,
    ) -> Result<Response<v1::EmergencyResponse>, Status> {
        let request = self
            .access
            .request(Call::PanicOpen, request)
            .detail(audit_detail::panic_open);
        request
            .answer(|caller, request| async move { self.emergency.open(&caller, request).await })
            .await
    }

    async fn panic_close(
        &self,
        request: Request<v1::PanicCloseRequest>,
    ) -> Result<Response<v1::EmergencyResponse>, Status> {
        let request = self.access.request(Call::PanicClose, request);
        request
            .answer(|caller, request| async move { self.emergency.close(&caller, &request).await })
            .await
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<Self::RollbackStream>, Status> {
        let request = self
            .access
            .request(Call::Rollback, request)
            .detail(audit_detail::rollback);
        request
            .answer(|caller, request| async move {
                let order = push_request::rollback(&caller, &request)?;
                let events = self.pushes.push(&caller, order, false).await?;
                Ok(self.access.guarded(&caller, ReceiverStream::new(events)))
            })
            .await
    }

    async fn watch_rollout(
        &self,
        request: Request<v1::WatchRolloutRequest>,
    ) -> Result<Response<Self::WatchRolloutStream>, Status> {
        let request = self.access.request(Call::WatchRollout, request);
        request
            .answer(|caller, request| async move {
                let events = self.pushes.watch_rollout(&request.site).await?;
                Ok(self.access.guarded(&caller, ReceiverStream::new(events)))
            })
            .await
    }

    async fn rollout_status(
        &self,
        request: Request<v1::RolloutStatusRequest>,
    ) -> Result<Response<v1::RolloutStatusResponse>, Status> {
        let request = self.access.request(Call::RolloutStatus, request);
        request.answer(|caller, request| async move { self.pushes.rollout_status(&caller, &request).await }).await
    }

    async fn pause_rollout(
        &self,
        request: Request<v1::PauseRolloutRequest>,
    ) -> Result<Response<v1::RolloutReport>, Status> {
        let request = self.access.request(Call::PauseRollout, request);
        request
            .answer(|caller, request| async move {
                self.pushes.pause_rollout(&caller, &request.site).await
            })
            .await
    }

    async fn resume_rollout(
        &self,
        request: Request<v1::ResumeRolloutRequest>,
    ) -> Result<Response<v1::RolloutReport>, Status> {
        let request = self.access.request(Call::ResumeRollout, request);
        request
            .answer(|_, request| async move { self.pushes.resume_rollout(&request.site).await })
            .await
    }

    async fn abort_rollout(
        &self,
        request: Request<v1::AbortRolloutRequest>,
    ) -> Result<Response<v1::RolloutReport>, Status> {
        let request = self
            .access
            .request(Call::AbortRollout, request)
            .detail(audit_detail::abort_rollout);
        request
            .answer(
                |caller, request| async move { self.pushes.abort_rollout(&caller, &request).await },
            )
            .await
    }
}
