//! The gRPC service: every call is authorised here, and answered by its group's file.

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use voipfleet_common::identity::rights::{Call, Target};
use voipfleet_proto::v1::{
    AbortRolloutRequest, ApplyRequest, ApplyResponse, CreateTokenRequest, CreateTokenResponse,
    DeleteRequest, DeleteResponse, DriftRequest, DriftResponse, GetDocumentsRequest,
    GetDocumentsResponse, ListTokensRequest, ListTokensResponse, PauseRolloutRequest, PushEvent,
    PushRequest, RenderRequest, RenderResponse, ResumeRolloutRequest, RevokeTokenRequest,
    RevokeTokenResponse, RollbackRequest, RolloutReport, RolloutStatusRequest,
    RolloutStatusResponse, StatusRequest, StatusResponse, WatchRolloutRequest,
    operator_server::Operator,
};

use super::begin::{self, About, Begun};
use super::{Api, Caller, convert, nodes};

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

    async fn begin<T>(
        &self,
        request: &Request<T>,
        call: Call,
        about: impl About,
    ) -> Result<Begun, Status> {
        self.api.begin(request, call, about).await
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    type PushStream = ReceiverStream<Result<PushEvent, Status>>;
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
        let target = begin::site(&request.get_ref().site);
        let begun = self.begin(&request, Call::Push, target).await?;
        let events = match convert::order(&begun.caller, request.into_inner()) {
            Ok(order) => self.api.push(&begun.caller, order).await,
            Err(refused) => Err(refused),
        };
        begun.end(events.map(ReceiverStream::new)).await
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let target = begin::site(&request.get_ref().site);
        let begun = self.begin(&request, Call::Status, target).await?;
        let answer = self.api.status(request.get_ref()).await;
        begun.end(answer).await
    }

    async fn drift(
        &self,
        request: Request<DriftRequest>,
    ) -> Result<Response<DriftResponse>, Status> {
        let target = begin::site(&request.get_ref().site);
        let begun = self.begin(&request, Call::Drift, target).await?;
        let answer = self.api.drift(request.get_ref()).await;
        begun.end(answer).await
    }

    async fn get_documents(
        &self,
        request: Request<GetDocumentsRequest>,
    ) -> Result<Response<GetDocumentsResponse>, Status> {
        let begun = self
            .begin(&request, Call::GetDocuments, Target::Visible)
            .await?;
        let answer = self.api.get(request.get_ref()).await;
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
        let target = begin::site(&request.get_ref().site);
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

    async fn rollback(
        &self,
        request: Request<RollbackRequest>,
    ) -> Result<Response<Self::RollbackStream>, Status> {
        let target = convert::parse(&request.get_ref().site).map(Target::site);
        let begun = self.begin(&request, Call::Rollback, target).await?;
        let events = match convert::rollback(&begun.caller, request.get_ref()) {
            Ok(order) => self.api.push(&begun.caller, order).await,
            Err(refused) => Err(refused),
        };
        begun.end(events.map(ReceiverStream::new)).await
    }

    async fn watch_rollout(
        &self,
        request: Request<WatchRolloutRequest>,
    ) -> Result<Response<Self::WatchRolloutStream>, Status> {
        let target = convert::parse(&request.get_ref().site).map(Target::site);
        let begun = self.begin(&request, Call::WatchRollout, target).await?;
        let events = self.api.watch_rollout(&request.get_ref().site).await;
        begun.end(events.map(ReceiverStream::new)).await
    }

    async fn rollout_status(
        &self,
        request: Request<RolloutStatusRequest>,
    ) -> Result<Response<RolloutStatusResponse>, Status> {
        let target = begin::site(&request.get_ref().site);
        let begun = self.begin(&request, Call::RolloutStatus, target).await?;
        let answer = self.api.rollout_status(&begun.caller, request.get_ref());
        let answer = answer.await;
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
