//! A controller that answers what a test tells it to, over real TLS.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use voipfleet_proto::v1::operator_server::{Operator, OperatorServer};
use voipfleet_proto::v1::{self, backup_part, push_event};
use voipfleet_protocol::identity::tls::{self, Credentials};

/// What the controller answers, and what it was asked.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) apply: v1::ApplyResponse,
    pub(crate) push: Vec<push_event::Kind>,
    /// Why pushes that change something are refused; with `push_rehearsed` also those that only
    /// ask.
    pub(crate) push_refused: Option<Status>,
    pub(crate) push_rehearsed: bool,
    /// How the push breaks off after these events.
    pub(crate) push_breaks: Option<Status>,
    pub(crate) status: v1::StatusResponse,
    pub(crate) drift: v1::DriftResponse,
    pub(crate) documents: v1::GetDocumentsResponse,
    pub(crate) token: v1::CreateTokenResponse,
    pub(crate) tokens: v1::ListTokensResponse,
    pub(crate) render: v1::RenderResponse,
    pub(crate) operators: People,
    pub(crate) emergency: v1::EmergencyResponse,
    pub(crate) blocks: v1::ListBlocksResponse,
    pub(crate) backup: Vec<backup_part::Kind>,
    pub(crate) plan: v1::PlanResponse,
    pub(crate) history: v1::HistoryResponse,
    pub(crate) generation: v1::ShowGenerationResponse,
    pub(crate) differences: v1::DiffGenerationsResponse,
    pub(crate) sources: v1::LiveSourcesResponse,
    pub(crate) rollouts: v1::RolloutStatusResponse,
    pub(crate) refusal: Option<Status>,
    pub(crate) asked: Vec<String>,
}

/// The answers about operators and the audit log.
#[derive(Default)]
pub(crate) struct People {
    pub(crate) me: v1::WhoAmIResponse,
    pub(crate) added: v1::AddOperatorResponse,
    pub(crate) list: v1::ListOperatorsResponse,
    pub(crate) bound: v1::BindOperatorResponse,
    pub(crate) renewed: v1::RenewOperatorResponse,
    pub(crate) audit: v1::AuditResponse,
    pub(crate) chain: v1::AuditChainResponse,
    pub(crate) pruned: v1::PruneAuditResponse,
}

/// A CA of its own.
pub(crate) struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { params, key, pem }
    }

    /// A certificate and key, PEM, that end in this year.
    pub(crate) fn issue(&self, spiffe: &str, until_year: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI(spiffe.try_into().unwrap())];
        params.not_after = rcgen::date_time_ymd(until_year, 2, 21);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// Starts a controller with this certificate; it ends with the test's runtime.
pub(crate) async fn serve(
    authority: &Authority,
    spiffe: &str,
    until_year: i32,
    script: Arc<Mutex<Script>>,
) -> SocketAddr {
    let (certificate, key) = authority.issue(spiffe, until_year);
    let config = tls::server(Credentials {
        certificate_pem: &certificate,
        key_pem: &key,
        ca_pem: &authority.pem,
    });
    let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (accepted, connections) = tokio::sync::mpsc::channel(4);
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let mut tls = match acceptor.accept(tcp).into_fallible().await {
                Ok(tls) => tls,
                Err((_, mut tcp)) => {
                    // A close with unread bytes would reset the connection and take the alert
                    // with it.
                    tokio::spawn(async move {
                        tcp.shutdown().await?;
                        tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await
                    });
                    continue;
                }
            };
            // tonic serves only streams that it knows; a pipe is one.
            let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut tls, &mut theirs).await });
            if accepted.send(Ok::<_, std::io::Error>(ours)).await.is_err() {
                break;
            }
        }
    });
    let service =
        OperatorServer::new(Double { script }).max_decoding_message_size(16 * 1024 * 1024);
    let server = tonic::transport::Server::builder();
    tokio::spawn(server.serve_with_incoming(service, ReceiverStream::new(connections)));
    address
}

struct Double {
    script: Arc<Mutex<Script>>,
}

impl Double {
    fn answer<Q: std::fmt::Debug, A>(
        &self,
        request: &Request<Q>,
        answer: impl FnOnce(&Script) -> A,
    ) -> Result<Response<A>, Status> {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.asked.push(format!("{:?}", request.get_ref()));
        match &script.refusal {
            Some(status) => Err(status.clone()),
            None => Ok(Response::new(answer(&script))),
        }
    }
}

#[tonic::async_trait]
impl Operator for Double {
    type BackupStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::BackupPart, Status>>>;
    type PushStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::PushEvent, Status>>>;
    type RollbackStream = Self::PushStream;
    type WatchRolloutStream = Self::PushStream;

    async fn apply(
        &self,
        request: Request<v1::ApplyRequest>,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        self.answer(&request, |script| script.apply.clone())
    }

    async fn push(
        &self,
        request: Request<v1::PushRequest>,
    ) -> Result<Response<Self::PushStream>, Status> {
        let site = request.get_ref().site.clone();
        let asks = request.get_ref().rehearse;
        let named = move |event: Result<v1::PushEvent, Status>| {
            event.map(|mut event| {
                match &mut event.kind {
                    Some(push_event::Kind::Started(started)) => started.site.clone_from(&site),
                    Some(push_event::Kind::Queued(queued)) => queued.site.clone_from(&site),
                    Some(push_event::Kind::Done(done)) => done.site.clone_from(&site),
                    _ => {}
                }
                event
            })
        };
        let mut refused = None;
        let answer = self.answer(&request, |script| {
            if script.push_rehearsed || !asks {
                refused.clone_from(&script.push_refused);
            }
            let events: Vec<_> = events(script).map(named).collect();
            tokio_stream::iter(events)
        })?;
        refused.map_or(Ok(answer), Err)
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<Self::PushStream>, Status> {
        self.answer(&request, stream)
    }

    async fn watch_rollout(
        &self,
        request: Request<v1::WatchRolloutRequest>,
    ) -> Result<Response<Self::PushStream>, Status> {
        self.answer(&request, stream)
    }

    async fn rollout_status(
        &self,
        request: Request<v1::RolloutStatusRequest>,
    ) -> Result<Response<v1::RolloutStatusResponse>, Status> {
        self.answer(&request, |script| script.rollouts.clone())
    }

    async fn pause_rollout(
        &self,
        request: Request<v1::PauseRolloutRequest>,
    ) -> Result<Response<v1::RolloutReport>, Status> {
        self.answer(&request, first)
    }

    async fn resume_rollout(
        &self,
        request: Request<v1::ResumeRolloutRequest>,
    ) -> Result<Response<v1::RolloutReport>, Status> {
        self.answer(&request, first)
    }

    async fn abort_rollout(
        &self,
        request: Request<v1::AbortRolloutRequest>,
    ) -> Result<Response<v1::RolloutReport>, Status> {
        self.answer(&request, first)
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        self.answer(&request, |script| script.status.clone())
    }

    async fn drift(
        &self,
        request: Request<v1::DriftRequest>,
    ) -> Result<Response<v1::DriftResponse>, Status> {
        self.answer(&request, |script| script.drift.clone())
    }

    async fn live_sources(
        &self,
        request: Request<v1::LiveSourcesRequest>,
    ) -> Result<Response<v1::LiveSourcesResponse>, Status> {
        self.answer(&request, |script| script.sources.clone())
    }

    async fn fetch_feed(
        &self,
        request: Request<v1::FetchFeedRequest>,
    ) -> Result<Response<v1::FetchFeedResponse>, Status> {
        self.answer(&request, |script| v1::FetchFeedResponse {
            feed: script.sources.feeds.first().cloned(),
        })
    }

    async fn get_documents(
        &self,
        request: Request<v1::GetDocumentsRequest>,
    ) -> Result<Response<v1::GetDocumentsResponse>, Status> {
        self.answer(&request, |script| script.documents.clone())
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        self.answer(&request, |_| v1::DeleteResponse {})
    }

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        self.answer(&request, |script| {
            let part = |kind: &backup_part::Kind| {
                let kind = Some(kind.clone());
                Ok(v1::BackupPart { kind })
            };
            let parts: Vec<_> = script.backup.iter().map(part).collect();
            tokio_stream::iter(parts)
        })
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        self.answer(&request, |script| script.token.clone())
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        self.answer(&request, |script| script.tokens.clone())
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        self.answer(&request, |_| v1::RevokeTokenResponse {})
    }

    async fn render(
        &self,
        request: Request<v1::RenderRequest>,
    ) -> Result<Response<v1::RenderResponse>, Status> {
        self.answer(&request, |script| script.render.clone())
    }

    async fn plan(
        &self,
        request: Request<v1::PlanRequest>,
    ) -> Result<Response<v1::PlanResponse>, Status> {
        self.answer(&request, |script| script.plan.clone())
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        self.answer(&request, |script| script.history.clone())
    }

    async fn show_generation(
        &self,
        request: Request<v1::ShowGenerationRequest>,
    ) -> Result<Response<v1::ShowGenerationResponse>, Status> {
        self.answer(&request, |script| script.generation.clone())
    }

    async fn diff_generations(
        &self,
        request: Request<v1::DiffGenerationsRequest>,
    ) -> Result<Response<v1::DiffGenerationsResponse>, Status> {
        self.answer(&request, |script| script.differences.clone())
    }

    async fn who_am_i(
        &self,
        request: Request<v1::WhoAmIRequest>,
    ) -> Result<Response<v1::WhoAmIResponse>, Status> {
        self.answer(&request, |script| script.operators.me.clone())
    }

    async fn add_operator(
        &self,
        request: Request<v1::AddOperatorRequest>,
    ) -> Result<Response<v1::AddOperatorResponse>, Status> {
        self.answer(&request, |script| script.operators.added.clone())
    }

    async fn list_operators(
        &self,
        request: Request<v1::ListOperatorsRequest>,
    ) -> Result<Response<v1::ListOperatorsResponse>, Status> {
        self.answer(&request, |script| script.operators.list.clone())
    }

    async fn bind_operator(
        &self,
        request: Request<v1::BindOperatorRequest>,
    ) -> Result<Response<v1::BindOperatorResponse>, Status> {
        self.answer(&request, |script| script.operators.bound.clone())
    }

    async fn renew_operator(
        &self,
        request: Request<v1::RenewOperatorRequest>,
    ) -> Result<Response<v1::RenewOperatorResponse>, Status> {
        self.answer(&request, |script| script.operators.renewed.clone())
    }

    async fn audit(
        &self,
        request: Request<v1::AuditRequest>,
    ) -> Result<Response<v1::AuditResponse>, Status> {
        self.answer(&request, |script| script.operators.audit.clone())
    }

    async fn prune_audit(
        &self,
        request: Request<v1::PruneAuditRequest>,
    ) -> Result<Response<v1::PruneAuditResponse>, Status> {
        self.answer(&request, |script| script.operators.pruned)
    }

    async fn remove_operator(
        &self,
        request: Request<v1::RemoveOperatorRequest>,
    ) -> Result<Response<v1::RemoveOperatorResponse>, Status> {
        self.answer(&request, |_| v1::RemoveOperatorResponse {})
    }

    async fn audit_chain(
        &self,
        request: Request<v1::AuditChainRequest>,
    ) -> Result<Response<v1::AuditChainResponse>, Status> {
        let after = request.get_ref().after;
        self.answer(&request, |script| {
            let mut answer = script.operators.chain.clone();
            answer.records.retain(|record| record.seq > after);
            answer.records.truncate(3);
            answer
        })
    }

    async fn block(
        &self,
        request: Request<v1::BlockRequest>,
    ) -> Result<Response<v1::EmergencyResponse>, Status> {
        self.answer(&request, |script| script.emergency.clone())
    }

    async fn unblock(
        &self,
        request: Request<v1::LiftRequest>,
    ) -> Result<Response<v1::EmergencyResponse>, Status> {
        self.answer(&request, |script| script.emergency.clone())
    }

    async fn list_blocks(
        &self,
        request: Request<v1::ListBlocksRequest>,
    ) -> Result<Response<v1::ListBlocksResponse>, Status> {
        self.answer(&request, |script| script.blocks.clone())
    }

    async fn allow(
        &self,
        request: Request<v1::AllowRequest>,
    ) -> Result<Response<v1::EmergencyResponse>, Status> {
        self.answer(&request, |script| script.emergency.clone())
    }

    async fn disallow(
        &self,
        request: Request<v1::LiftRequest>,
    ) -> Result<Response<v1::EmergencyResponse>, Status> {
        self.answer(&request, |script| script.emergency.clone())
    }

    async fn panic_open(
        &self,
        request: Request<v1::PanicOpenRequest>,
    ) -> Result<Response<v1::EmergencyResponse>, Status> {
        self.answer(&request, |script| script.emergency.clone())
    }

    async fn panic_close(
        &self,
        request: Request<v1::PanicCloseRequest>,
    ) -> Result<Response<v1::EmergencyResponse>, Status> {
        self.answer(&request, |script| script.emergency.clone())
    }
}

fn first(script: &Script) -> v1::RolloutReport {
    script
        .rollouts
        .rollouts
        .first()
        .cloned()
        .unwrap_or_default()
}

fn stream(
    script: &Script,
) -> tokio_stream::Iter<std::vec::IntoIter<Result<v1::PushEvent, Status>>> {
    tokio_stream::iter(events(script).collect::<Vec<_>>())
}

fn events(script: &Script) -> impl Iterator<Item = Result<v1::PushEvent, Status>> {
    let events = script.push.iter().map(|kind| {
        Ok(v1::PushEvent {
            kind: Some(kind.clone()),
        })
    });
    let end = script.push_breaks.clone().map(Err);
    events.chain(end).collect::<Vec<_>>().into_iter()
}
