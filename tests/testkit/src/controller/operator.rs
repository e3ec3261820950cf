//! The operators' service: every call is noted and answered from the script.

use std::sync::{Arc, Mutex, PoisonError};

use tonic::{Request, Response, Status};
use voipfleet_proto::v1::operator_server::Operator;
use voipfleet_proto::v1::{self, backup_part, push_event};

/// What the controller answers, and what it was asked.
#[derive(Debug, Default)]
pub struct Script {
    pub apply: v1::ApplyResponse,
    pub push: Vec<push_event::Kind>,
    /// Refuses pushes that change something; with `push_rehearsed` also rehearsals.
    pub push_refused: Option<Status>,
    pub push_rehearsed: bool,
    /// Breaks the push off after its events.
    pub push_breaks: Option<Status>,
    pub status: v1::StatusResponse,
    pub drift: v1::DriftResponse,
    pub documents: v1::GetDocumentsResponse,
    pub token: v1::CreateTokenResponse,
    pub tokens: v1::ListTokensResponse,
    pub render: v1::RenderResponse,
    pub operators: PeopleScript,
    pub emergency: v1::EmergencyResponse,
    pub blocks: v1::ListBlocksResponse,
    pub backup: Vec<backup_part::Kind>,
    pub plan: v1::PlanResponse,
    pub history: v1::HistoryResponse,
    pub generation: v1::ShowGenerationResponse,
    pub differences: v1::DiffGenerationsResponse,
    pub sources: v1::ListDynamicSetsResponse,
    pub rollouts: v1::RolloutStatusResponse,
    /// Refuses every call.
    pub refusal: Option<Status>,
    pub requests: Vec<String>,
}

/// The answers about operators and the audit log.
#[derive(Debug, Default)]
pub struct PeopleScript {
    pub me: v1::WhoAmIResponse,
    pub added: v1::AddOperatorResponse,
    pub list: v1::ListOperatorsResponse,
    pub bound: v1::BindOperatorResponse,
    pub renewed: v1::RenewOperatorResponse,
    pub removed: v1::RemoveOperatorResponse,
    pub audit: v1::AuditResponse,
    pub chain: v1::AuditChainResponse,
    pub pruned: v1::PruneAuditResponse,
}

pub(super) struct OperatorDouble {
    pub(super) script: Arc<Mutex<Script>>,
}

impl OperatorDouble {
    fn answer<Q: std::fmt::Debug, A>(
        &self,
        request: &Request<Q>,
        answer: impl FnOnce(&Script) -> A,
    ) -> Result<Response<A>, Status> {
        let mut script = self.script.lock().unwrap_or_else(PoisonError::into_inner);
        script.requests.push(format!("{:?}", request.get_ref()));
        match &script.refusal {
            Some(status) => Err(status.clone()),
            None => Ok(Response::new(answer(&script))),
        }
    }

    fn push(&self, request: &Request<v1::PushRequest>) -> Result<Response<Events>, Status> {
        let site = &request.get_ref().site;
        let rehearses = request.get_ref().rehearse;
        let mut refused = None;
        let answer = self.answer(request, |script| {
            if script.push_rehearsed || !rehearses {
                refused.clone_from(&script.push_refused);
            }
            let events = script.push.iter().map(|kind| of_site(kind, site));
            self::events(events, script)
        })?;
        refused.map_or(Ok(answer), Err)
    }
}

type Events = tokio_stream::Iter<std::vec::IntoIter<Result<v1::PushEvent, Status>>>;
type BackupParts = tokio_stream::Iter<std::vec::IntoIter<Result<v1::BackupPart, Status>>>;

fn events(kinds: impl Iterator<Item = push_event::Kind>, script: &Script) -> Events {
    let event = |kind| Ok(v1::PushEvent { kind: Some(kind) });
    let end = script.push_breaks.clone().map(Err);
    let events: Vec<_> = kinds.map(event).chain(end).collect();
    tokio_stream::iter(events)
}

/// An event with the site that was asked for.
fn of_site(kind: &push_event::Kind, site: &str) -> push_event::Kind {
    let mut kind = kind.clone();
    match &mut kind {
        push_event::Kind::Started(started) => site.clone_into(&mut started.site),
        push_event::Kind::Queued(queued) => site.clone_into(&mut queued.site),
        push_event::Kind::Done(done) => site.clone_into(&mut done.site),
        _ => {}
    }
    kind
}

fn rollout_events(script: &Script) -> Events {
    events(script.push.iter().cloned(), script)
}

fn first_rollout(script: &Script) -> v1::RolloutReport {
    let first = script.rollouts.rollouts.first();
    first.cloned().unwrap_or_default()
}

fn backup(script: &Script) -> BackupParts {
    let part = |kind: &backup_part::Kind| {
        let kind = Some(kind.clone());
        Ok(v1::BackupPart { kind })
    };
    let parts: Vec<_> = script.backup.iter().map(part).collect();
    tokio_stream::iter(parts)
}

fn audit_page(script: &Script, after: u64) -> v1::AuditChainResponse {
    let mut answer = script.operators.chain.clone();
    answer.records.retain(|record| record.seq > after);
    answer.records.truncate(3);
    answer
}

/// One line for each call: its name, its types, and the answer made of the script. All of the trait is written
/// by the macro because `async_trait` does not look into macros.
macro_rules! calls {
    ($($name:ident($asked:ident) -> $answered:ty: |$script:ident, $request:pat_param| $answer:expr;)*) => {
        #[tonic::async_trait]
        impl Operator for OperatorDouble {
            type BackupStream = BackupParts;
            type PushStream = Events;
            type RollbackStream = Events;
            type WatchRolloutStream = Events;

            async fn push(
                &self,
                request: Request<v1::PushRequest>,
            ) -> Result<Response<Events>, Status> {
                OperatorDouble::push(self, &request)
            }

            $(async fn $name(
                &self,
                request: Request<v1::$asked>,
            ) -> Result<Response<$answered>, Status> {
                let $request = request.get_ref();
                self.answer(&request, |$script| $answer)
            })*
        }
    };
}

calls! {
    allow(AllowRequest) -> v1::EmergencyResponse: |script, _| script.emergency.clone();
    block(BlockRequest) -> v1::EmergencyResponse: |script, _| script.emergency.clone();
    disallow(LiftRequest) -> v1::EmergencyResponse: |script, _| script.emergency.clone();
    unblock(LiftRequest) -> v1::EmergencyResponse: |script, _| script.emergency.clone();
    panic_close(PanicCloseRequest) -> v1::EmergencyResponse: |script, _| script.emergency.clone();
    panic_open(PanicOpenRequest) -> v1::EmergencyResponse: |script, _| script.emergency.clone();
    list_blocks(ListBlocksRequest) -> v1::ListBlocksResponse: |script, _| script.blocks.clone();

    apply(ApplyRequest) -> v1::ApplyResponse: |script, _| script.apply.clone();
    get_documents(GetDocumentsRequest) -> v1::GetDocumentsResponse: |script, _| script.documents.clone();
    delete(DeleteRequest) -> v1::DeleteResponse: |_script, _| v1::DeleteResponse {};

    plan(PlanRequest) -> v1::PlanResponse: |script, _| script.plan.clone();
    render(RenderRequest) -> v1::RenderResponse: |script, _| script.render.clone();
    history(HistoryRequest) -> v1::HistoryResponse: |script, _| script.history.clone();
    show_generation(ShowGenerationRequest) -> v1::ShowGenerationResponse: |script, _| script.generation.clone();
    diff_generations(DiffGenerationsRequest) -> v1::DiffGenerationsResponse: |script, _| script.differences.clone();

    rollback(RollbackRequest) -> Events: |script, _| rollout_events(script);
    watch_rollout(WatchRolloutRequest) -> Events: |script, _| rollout_events(script);
    rollout_status(RolloutStatusRequest) -> v1::RolloutStatusResponse: |script, _| script.rollouts.clone();
    pause_rollout(PauseRolloutRequest) -> v1::RolloutReport: |script, _| first_rollout(script);
    resume_rollout(ResumeRolloutRequest) -> v1::RolloutReport: |script, _| first_rollout(script);
    abort_rollout(AbortRolloutRequest) -> v1::RolloutReport: |script, _| first_rollout(script);

    status(StatusRequest) -> v1::StatusResponse: |script, _| script.status.clone();
    drift(DriftRequest) -> v1::DriftResponse: |script, _| script.drift.clone();
    list_dynamic_sets(ListDynamicSetsRequest) -> v1::ListDynamicSetsResponse: |script, _| script.sources.clone();
    fetch_feed(FetchFeedRequest) -> v1::FetchFeedResponse: |script, _| v1::FetchFeedResponse {
        feed: script.sources.feeds.first().cloned(),
    };

    backup(BackupRequest) -> BackupParts: |script, _| backup(script);
    create_token(CreateTokenRequest) -> v1::CreateTokenResponse: |script, _| script.token.clone();
    list_tokens(ListTokensRequest) -> v1::ListTokensResponse: |script, _| script.tokens.clone();
    revoke_token(RevokeTokenRequest) -> v1::RevokeTokenResponse: |_script, _| v1::RevokeTokenResponse {};

    who_am_i(WhoAmIRequest) -> v1::WhoAmIResponse: |script, _| script.operators.me.clone();
    add_operator(AddOperatorRequest) -> v1::AddOperatorResponse: |script, _| script.operators.added.clone();
    list_operators(ListOperatorsRequest) -> v1::ListOperatorsResponse: |script, _| script.operators.list.clone();
    bind_operator(BindOperatorRequest) -> v1::BindOperatorResponse: |script, _| script.operators.bound.clone();
    renew_operator(RenewOperatorRequest) -> v1::RenewOperatorResponse: |script, _| script.operators.renewed.clone();
    remove_operator(RemoveOperatorRequest) -> v1::RemoveOperatorResponse: |script, _| script.operators.removed.clone();
    audit(AuditRequest) -> v1::AuditResponse: |script, _| script.operators.audit.clone();
    audit_chain(AuditChainRequest) -> v1::AuditChainResponse: |script, request| audit_page(script, request.after);
    prune_audit(PruneAuditRequest) -> v1::PruneAuditResponse: |script, _| script.operators.pruned;
}
