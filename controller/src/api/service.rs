//! The gRPC service: every call is authorised here, and answered by its group's file.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use voipfleet_proto::v1::{
    ApplyRequest, ApplyResponse, CreateTokenRequest, CreateTokenResponse, DeleteRequest,
    DeleteResponse, DriftRequest, DriftResponse, GetDocumentsRequest, GetDocumentsResponse,
    ListTokensRequest, ListTokensResponse, PushEvent, PushRequest, RenderRequest, RenderResponse,
    RevokeTokenRequest, RevokeTokenResponse, StatusRequest, StatusResponse,
    operator_server::Operator,
};

use super::{Api, Caller, authorise, convert, nodes};

/// Events of a push that voipctl has not read yet; more of them wait.
const EVENTS: usize = 64;

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

    fn authorise<T>(&self, request: &Request<T>, call: &'static str) -> Result<Caller, Status> {
        authorise(request, call, self.api.clock.now_ms())
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    type PushStream = ReceiverStream<Result<PushEvent, Status>>;

    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let caller = self.authorise(&request, "Apply")?;
        let answer = self.api.apply(&caller, request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn push(
        &self,
        request: Request<PushRequest>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let caller = self.authorise(&request, "Push")?;
        let order = convert::order(&caller, request.into_inner())?;
        // Before the generation is made: no answer of a node may fall between.
        let events = self.api.fleet.events();
        let pushes = self.api.pushes.clone();
        // On a task of its own: what is begun is finished, also when the caller hangs up.
        let prepared = tokio::spawn(async move { pushes.prepare(order).await })
            .await
            .map_err(|_| Status::internal("the push broke off; the controller's log says why"))?
            .map_err(convert::refused)?;
        let rollout = self.api.pushes.roll_out(prepared);
        let (out, answers) = mpsc::channel(EVENTS);
        tokio::spawn(rollout.run(events, out));
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        self.authorise(&request, "Status")?;
        Ok(Response::new(self.api.status(request.get_ref()).await?))
    }

    async fn drift(
        &self,
        request: Request<DriftRequest>,
    ) -> Result<Response<DriftResponse>, Status> {
        self.authorise(&request, "Drift")?;
        Ok(Response::new(self.api.drift(request.get_ref()).await?))
    }

    async fn get_documents(
        &self,
        request: Request<GetDocumentsRequest>,
    ) -> Result<Response<GetDocumentsResponse>, Status> {
        self.authorise(&request, "GetDocuments")?;
        Ok(Response::new(self.api.get(request.get_ref()).await?))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let caller = self.authorise(&request, "Delete")?;
        let request = request.get_ref();
        if nodes::is_node(&request.kind) {
            self.api.delete_node(&caller, &request.name).await?;
        } else {
            self.api.delete_document(&caller, request).await?;
        }
        Ok(Response::new(DeleteResponse {}))
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let caller = self.authorise(&request, "CreateToken")?;
        let answer = self.api.create_token(&caller, request.get_ref()).await?;
        Ok(Response::new(answer))
    }

    async fn list_tokens(
        &self,
        request: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        self.authorise(&request, "ListTokens")?;
        Ok(Response::new(
            self.api.list_tokens(request.get_ref()).await?,
        ))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let caller = self.authorise(&request, "RevokeToken")?;
        self.api
            .revoke_token(&caller, &request.get_ref().id)
            .await?;
        Ok(Response::new(RevokeTokenResponse {}))
    }

    async fn render(
        &self,
        request: Request<RenderRequest>,
    ) -> Result<Response<RenderResponse>, Status> {
        self.authorise(&request, "Render")?;
        Ok(Response::new(self.api.render(request.get_ref()).await?))
    }
}
