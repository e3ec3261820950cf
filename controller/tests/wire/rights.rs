//! Every call × every role × own and foreign scope, against a table written by hand.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;

use prost::Message as _;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};
use voipfleet_proto::v1::operator_client::OperatorClient;
use voipfleet_proto::v1::{self, OperatorBinding};
use voipfleet_testkit::credentials::certificate_request;

use super::installation::{Installation, apply, enrol};
use super::operators::{add, client, of_all, of_site, of_tenant};
use super::requests::{
    abort, allow, block, blocks, close, everywhere, lift, one_site, open, pause, resume, rollback,
    rollouts, watch,
};

/// Two sites, each with a tenant and a list of its own and a tenant that both serve.
const DOCUMENTS: &str = "
kind: Site
name: site-a
admins: [198.51.100.10]
tenants: [acme, both]
deny: [list:list-a]
---
kind: Site
name: site-b
admins: [198.51.100.11]
tenants: [globex, both]
deny: [list:list-b]
---
kind: Tenant
name: acme
networks: {offices: [203.0.113.0/24, pbx.acme.invalid]}
---
kind: Tenant
name: globex
networks: {offices: [192.0.2.0/24, pbx.globex.invalid]}
---
kind: Tenant
name: both
networks: {offices: [198.18.0.0/24]}
---
kind: List
name: list-a
addresses: [100.64.1.1]
url: http://127.0.0.1:9/list-a
---
kind: List
name: list-b
addresses: [100.64.2.2]
url: http://127.0.0.1:9/list-b
";

fn document(name: &str) -> String {
    let found = DOCUMENTS
        .split("---")
        .find(|text| text.contains(&format!("name: {name}\n")));
    found.unwrap().to_owned()
}

/// The operators of the columns, in their order. An admin of a tenant cannot be made.
const OPERATORS: [&str; 8] = [
    "all-viewer",
    "all-operator",
    "all-admin",
    "site-viewer",
    "site-operator",
    "site-admin",
    "tenant-viewer",
    "tenant-operator",
];

fn binding(operator: &str) -> OperatorBinding {
    match operator.split_once('-').unwrap() {
        ("all", role) => of_all(role),
        ("site", role) => of_site(role, "site-a"),
        (_, role) => of_tenant(role, "acme"),
    }
}

/// What an operator must never read, unless it asked with that name.
fn foreign(operator: &str) -> &'static [&'static str] {
    let site = &[
        "site-b",
        "globex",
        "192.0.2.0",
        "list-b",
        "100.64.2.2",
        "198.51.100.11",
    ];
    let tenant = &[
        "site-b",
        "globex",
        "192.0.2.0",
        "list-b",
        "100.64.2.2",
        "198.51.100.11",
        "both",
        "198.18.0.0",
        "list-a",
        "100.64.1.1",
        "198.51.100.10",
    ];
    match operator.split_once('-').unwrap().0 {
        "all" => &[],
        "site" => site,
        _ => tenant,
    }
}

type Client = OperatorClient<Channel>;
type Answer = Pin<Box<dyn Future<Output = Result<String, Status>>>>;

/// A call on a target, and what it is for each of [`OPERATORS`]: `+` allowed (whatever else
/// becomes of it), `-` refused, `0` not found, because there is nothing that it may see.
struct Row {
    call: &'static str,
    cells: &'static str,
    /// What the request itself names, and the answer may repeat.
    named: String,
    ask: Box<dyn Fn(Client) -> Answer>,
}

async fn one<T: std::fmt::Debug>(
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<String, Status> {
    Ok(format!("{:?}", answer.await?.into_inner()))
}

async fn all<T: std::fmt::Debug>(
    answer: impl Future<Output = Result<Response<Streaming<T>>, Status>>,
) -> Result<String, Status> {
    let mut stream = answer.await?.into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await? {
        messages.push(format!("{message:?}"));
    }
    Ok(messages.join("\n"))
}

macro_rules! row {
    ($call:literal, $cells:literal, $method:ident($request:expr)) => {
        row!($call, $cells, one $method($request))
    };
    ($call:literal, $cells:literal, $kind:ident $method:ident($request:expr)) => {{
        let request = $request;
        Row {
            call: $call,
            cells: $cells,
            named: format!("{request:?}"),
            ask: Box::new(move |mut client| {
                let request = request.clone();
                Box::pin(async move { $kind(client.$method(request)).await })
            }),
        }
    }};
}

fn status(site: &str) -> v1::StatusRequest {
    let site = site.to_owned();
    v1::StatusRequest {
        site,
        compare: true,
    }
}

fn drift(site: &str) -> v1::DriftRequest {
    let site = site.to_owned();
    v1::DriftRequest {
        site,
        ..v1::DriftRequest::default()
    }
}

fn get(kind: &str, name: &str) -> v1::GetDocumentsRequest {
    let (kind, name) = (kind.to_owned(), name.to_owned());
    v1::GetDocumentsRequest {
        kind,
        name,
        ..Default::default()
    }
}

fn delete(kind: &str, name: &str) -> v1::DeleteRequest {
    let (kind, name) = (kind.to_owned(), name.to_owned());
    v1::DeleteRequest { kind, name }
}

/// An apply that takes a document away.
fn prune(kind: &str, name: &str) -> v1::ApplyRequest {
    let gone = v1::DocumentRevision {
        kind: kind.to_owned(),
        name: name.to_owned(),
        revision: 1,
    };
    v1::ApplyRequest {
        prune: vec![gone],
        ..v1::ApplyRequest::default()
    }
}

fn push(site: &str) -> v1::PushRequest {
    v1::PushRequest {
        site: site.to_owned(),
        dry_run: true,
        ..v1::PushRequest::default()
    }
}

fn token(site: &str) -> v1::CreateTokenRequest {
    v1::CreateTokenRequest {
        site: site.to_owned(),
        roles: vec!["sip".to_owned()],
        ..v1::CreateTokenRequest::default()
    }
}

fn tokens(site: &str) -> v1::ListTokensRequest {
    let site = site.to_owned();
    v1::ListTokensRequest { site }
}

fn revoke(id: &str) -> v1::RevokeTokenRequest {
    v1::RevokeTokenRequest { id: id.to_owned() }
}

fn render(site: &str) -> v1::RenderRequest {
    v1::RenderRequest {
        site: site.to_owned(),
        ..v1::RenderRequest::default()
    }
}

fn plan(site: &str) -> v1::PlanRequest {
    v1::PlanRequest {
        site: site.to_owned(),
        ..v1::PlanRequest::default()
    }
}

fn history(site: &str) -> v1::HistoryRequest {
    let site = site.to_owned();
    v1::HistoryRequest { site, limit: 0 }
}

fn generation(site: &str) -> v1::ShowGenerationRequest {
    v1::ShowGenerationRequest {
        site: site.to_owned(),
        generation: 1,
    }
}

fn difference(site: &str) -> v1::DiffGenerationsRequest {
    v1::DiffGenerationsRequest {
        site: site.to_owned(),
        from: 1,
        to: 0,
    }
}

fn audit(site: &str) -> v1::AuditRequest {
    v1::AuditRequest {
        site: site.to_owned(),
        limit: 1000,
        ..v1::AuditRequest::default()
    }
}

fn fetch(list: &str) -> v1::FetchFeedRequest {
    v1::FetchFeedRequest {
        list: list.to_owned(),
        accept_shrunk: false,
    }
}

fn renew() -> v1::RenewOperatorRequest {
    let (csr_pem, _) = certificate_request();
    v1::RenewOperatorRequest { csr_pem }
}

// Columns: viewer, operator, admin of everything; of site-a; viewer, operator of tenant acme.
#[rustfmt::skip]
fn table(own_token: &str, foreign_token: &str) -> Vec<Row> {
    vec![
        row!("Apply",        "-++ -++ --", apply(apply(&document("site-a")))),
        row!("Apply",        "-++ --- --", apply(apply(&document("site-b")))),
        row!("Apply",        "-++ -++ -+", apply(apply(&document("acme")))),
        row!("Apply",        "-++ --- --", apply(apply(&document("globex")))),
        row!("Apply",        "-++ --- --", apply(apply(&document("both")))),
        row!("Apply",        "-++ --- --", apply(apply(&document("list-a")))),
        row!("Apply",        "--+ --+ --", apply(prune("Site", "site-a"))),
        row!("Apply",        "--+ --- --", apply(prune("Site", "site-b"))),
        row!("Apply",        "-++ -++ --", apply(prune("Tenant", "acme"))),
        row!("Apply",        "-++ --- --", apply(prune("Tenant", "globex"))),
        row!("Apply",        "-++ --- --", apply(prune("List", "list-a"))),
        row!("Push",         "-++ -++ --", all push(push("site-a"))),
        row!("Push",         "-++ --- --", all push(push("site-b"))),
        row!("Status",       "+++ +++ ++", status(status(""))),
        row!("Status",       "+++ +++ ++", status(status("site-a"))),
        row!("Status",       "+++ --- --", status(status("site-b"))),
        row!("Drift",        "+++ +++ ++", drift(drift(""))),
        row!("Drift",        "+++ +++ ++", drift(drift("site-a"))),
        row!("Drift",        "+++ --- --", drift(drift("site-b"))),
        row!("GetDocuments", "+++ +++ ++", get_documents(get("", ""))),
        row!("GetDocuments", "+++ +++ --", get_documents(get("Site", "site-a"))),
        row!("GetDocuments", "+++ --- --", get_documents(get("Site", "site-b"))),
        row!("GetDocuments", "+++ +++ ++", get_documents(get("Tenant", "acme"))),
        row!("GetDocuments", "+++ --- --", get_documents(get("Tenant", "globex"))),
        row!("GetDocuments", "+++ +++ --", get_documents(get("Tenant", "both"))),
        row!("GetDocuments", "+++ +++ --", get_documents(get("List", "list-a"))),
        row!("GetDocuments", "+++ --- --", get_documents(get("List", "list-b"))),
        row!("GetDocuments", "000 --- --", get_documents(get("Tenant", "nobody"))),
        row!("Delete",       "--+ --+ --", delete(delete("Site", "site-a"))),
        row!("Delete",       "--+ --- --", delete(delete("Site", "site-b"))),
        row!("Delete",       "-++ -++ --", delete(delete("Tenant", "acme"))),
        row!("Delete",       "-++ --- --", delete(delete("Tenant", "globex"))),
        row!("Delete",       "-++ --- --", delete(delete("Tenant", "both"))),
        row!("Delete",       "-++ --- --", delete(delete("List", "list-a"))),
        row!("Delete",       "--0 --0 --", delete(delete("Node", "site-a/none"))),
        row!("Delete",       "--0 --- --", delete(delete("Node", "site-b/none"))),
        row!("CreateToken",  "-++ -++ --", create_token(token("site-a"))),
        row!("CreateToken",  "-++ --- --", create_token(token("site-b"))),
        row!("ListTokens",   "+++ +++ --", list_tokens(tokens(""))),
        row!("ListTokens",   "+++ +++ --", list_tokens(tokens("site-a"))),
        row!("ListTokens",   "+++ --- --", list_tokens(tokens("site-b"))),
        row!("RevokeToken",  "-00 -00 --", revoke_token(revoke("none"))),
        // A foreign token is as unknown as one that never was.
        row!("RevokeToken",  "-++ -00 --", revoke_token(revoke(foreign_token))),
        row!("RevokeToken",  "-++ -++ --", revoke_token(revoke(own_token))),
        row!("Render",       "+++ +++ --", render(render("site-a"))),
        row!("Render",       "+++ --- --", render(render("site-b"))),
        row!("Plan",         "+++ +++ --", plan(plan("site-a"))),
        row!("Plan",         "+++ --- --", plan(plan("site-b"))),
        row!("History",      "+++ +++ ++", history(history("site-a"))),
        row!("History",      "+++ --- --", history(history("site-b"))),
        row!("ShowGeneration", "+++ +++ --", show_generation(generation("site-a"))),
        row!("ShowGeneration", "+++ --- --", show_generation(generation("site-b"))),
        row!("DiffGenerations", "+++ +++ --", diff_generations(difference("site-a"))),
        row!("DiffGenerations", "+++ --- --", diff_generations(difference("site-b"))),
        row!("WhoAmI",       "+++ +++ ++", who_am_i(v1::WhoAmIRequest {})),
        row!("RenewOperator","+++ +++ ++", renew_operator(renew())),
        row!("AddOperator",  "--+ --- --", add_operator(v1::AddOperatorRequest::default())),
        row!("ListOperators","--+ --- --", list_operators(v1::ListOperatorsRequest {})),
        row!("BindOperator", "--+ --- --", bind_operator(v1::BindOperatorRequest::default())),
        row!("RemoveOperator","--+ --- --", remove_operator(v1::RemoveOperatorRequest::default())),
        row!("Audit",        "+++ +++ ++", audit(audit(""))),
        row!("Audit",        "+++ +++ ++", audit(audit("site-a"))),
        row!("Audit",        "+++ --- --", audit(audit("site-b"))),
        row!("AuditChain",   "+++ --- --", audit_chain(v1::AuditChainRequest { after: 0 })),
        row!("Backup",       "--+ --- --", all backup(v1::BackupRequest {})),
        row!("PruneAudit",   "--+ --- --", prune_audit(v1::PruneAuditRequest::default())),
    ]
}

// The same columns: between pushes, and rollouts.
#[rustfmt::skip]
fn table_of_live_sets_and_rollouts() -> Vec<Row> {
    vec![
        row!("ListDynamicSets",  "+++ +++ --", list_dynamic_sets(v1::ListDynamicSetsRequest {})),
        row!("FetchFeed",    "-++ --- --", fetch_feed(fetch("list-a"))),
        row!("FetchFeed",    "-++ --- --", fetch_feed(fetch("list-b"))),
        row!("FetchFeed",    "-00 --- --", fetch_feed(fetch("none"))),
        row!("Block",        "-++ -++ --", block(block(one_site("site-a")))),
        row!("Block",        "-++ --- --", block(block(one_site("site-b")))),
        row!("Block",        "-++ --- --", block(block(everywhere()))),
        row!("ListBlocks",   "+++ +++ --", list_blocks(blocks(""))),
        row!("ListBlocks",   "+++ +++ --", list_blocks(blocks("site-a"))),
        row!("ListBlocks",   "+++ --- --", list_blocks(blocks("site-b"))),
        row!("Unblock",      "-++ -++ --", unblock(lift(None))),
        row!("Unblock",      "-++ -++ --", unblock(lift(Some(one_site("site-a"))))),
        row!("Unblock",      "-++ --- --", unblock(lift(Some(one_site("site-b"))))),
        row!("Unblock",      "-++ --- --", unblock(lift(Some(everywhere())))),
        row!("Allow",        "-++ -++ --", allow(allow(one_site("site-a")))),
        row!("Allow",        "-++ --- --", allow(allow(one_site("site-b")))),
        row!("Allow",        "-++ --- --", allow(allow(everywhere()))),
        row!("Disallow",     "-++ -++ --", disallow(lift(None))),
        row!("Disallow",     "-++ -++ --", disallow(lift(Some(one_site("site-a"))))),
        row!("Disallow",     "-++ --- --", disallow(lift(Some(one_site("site-b"))))),
        row!("Disallow",     "-++ --- --", disallow(lift(Some(everywhere())))),
        row!("PanicOpen",    "-++ -++ --", panic_open(open("site-a"))),
        row!("PanicOpen",    "-++ --- --", panic_open(open("site-b"))),
        row!("PanicClose",   "-++ -++ --", panic_close(close("site-a"))),
        row!("PanicClose",   "-++ --- --", panic_close(close("site-b"))),
        row!("Rollback",     "-++ -++ --", all rollback(rollback("site-a"))),
        row!("Rollback",     "-++ --- --", all rollback(rollback("site-b"))),
        row!("WatchRollout", "+++ +++ --", all watch_rollout(watch("site-a"))),
        row!("WatchRollout", "+++ --- --", all watch_rollout(watch("site-b"))),
        row!("RolloutStatus","+++ +++ --", rollout_status(rollouts(""))),
        row!("RolloutStatus","+++ +++ --", rollout_status(rollouts("site-a"))),
        row!("RolloutStatus","+++ --- --", rollout_status(rollouts("site-b"))),
        row!("PauseRollout", "-++ -++ --", pause_rollout(pause("site-a"))),
        row!("PauseRollout", "-++ --- --", pause_rollout(pause("site-b"))),
        row!("ResumeRollout","-++ -++ --", resume_rollout(resume("site-a"))),
        row!("ResumeRollout","-++ --- --", resume_rollout(resume("site-b"))),
        row!("AbortRollout", "-++ -++ --", abort_rollout(abort("site-a"))),
        row!("AbortRollout", "-++ --- --", abort_rollout(abort("site-b"))),
    ]
}

fn declared() -> BTreeSet<String> {
    let files = prost_types::FileDescriptorSet::decode(voipfleet_proto::DESCRIPTORS).unwrap();
    let services = files.file.into_iter().flat_map(|file| file.service);
    let operator = services.filter(|service| service.name() == "Operator");
    let methods = operator.flat_map(|service| service.method);
    methods.map(|method| method.name().to_owned()).collect()
}

/// What is stored, as the first admin sees it.
async fn state(installation: &Installation) -> String {
    let mut admin = installation.operator().await;
    let documents = admin.get_documents(get("", "")).await.unwrap().into_inner();
    let tokens = admin.list_tokens(tokens("")).await.unwrap().into_inner();
    let operators = admin
        .list_operators(v1::ListOperatorsRequest {})
        .await
        .unwrap();
    let operators = operators.into_inner();
    let status = admin.status(status("")).await.unwrap().into_inner();
    let blocks = admin.list_blocks(blocks("")).await.unwrap().into_inner();
    format!("{documents:?}\n{tokens:?}\n{operators:?}\n{status:?}\n{blocks:?}")
}

/// What an audit record's bytes say can only be looked at as text.
fn readable(answer: &str) -> String {
    let bytes = |list: &str| {
        let numbers = list.split(", ").map(str::parse::<u8>);
        let bytes: Vec<u8> = numbers.collect::<Result<_, _>>().ok()?;
        String::from_utf8(bytes).ok()
    };
    let lists: Vec<String> = answer.split(['[', ']']).filter_map(bytes).collect();
    if lists.is_empty() {
        answer.to_owned()
    } else {
        lists.join("\n")
    }
}

fn judge(row: &Row, operator: &str, cell: char, answer: &Result<String, Status>) {
    let told = match answer {
        Ok(answer) => readable(answer),
        Err(status) => status.message().to_owned(),
    };
    let shown: String = told.chars().take(1000).collect();
    let what = format!("{} by {operator}, of {}: {shown}", row.call, row.named);
    let code = answer.as_ref().err().map(Status::code);
    match cell {
        '+' => assert_ne!(code, Some(Code::PermissionDenied), "{what}"),
        '-' => assert_eq!(code, Some(Code::PermissionDenied), "{what}"),
        '0' => assert_eq!(code, Some(Code::NotFound), "{what}"),
        _ => panic!("a cell of {} is {cell:?}", row.call),
    }
    // Their own records repeat what they said.
    let own = format!("\"operator\":\"{operator}\"");
    let told: Vec<&str> = told.lines().filter(|line| !line.contains(&own)).collect();
    let told = told.join("\n");
    for name in foreign(operator) {
        if !row.named.contains(name)
            && let Some(at) = told.find(name)
        {
            let (_, from) = told.split_at(told.floor_char_boundary(at.saturating_sub(300)));
            let around: String = from.chars().take(400).collect();
            panic!("{name} is told by {} to {operator}: …{around}", row.call);
        }
    }
}

#[tokio::test]
async fn the_rights_table_holds_for_every_call_role_and_scope() {
    let installation = Installation::start().await;
    installation.apply(DOCUMENTS).await;
    let mut admin = installation.operator().await;
    let mut tokens = Vec::new();
    for site in ["site-a", "site-b"] {
        // With a node in it no site can be deleted.
        let used = admin.create_token(token(site)).await.unwrap().into_inner();
        let (csr_pem, _) = certificate_request();
        enrol(&installation, &used.token, "sip1", &csr_pem)
            .await
            .unwrap();
        let push = v1::PushRequest {
            dry_run: false,
            ..push(site)
        };
        all(admin.push(push)).await.unwrap();
        let open = admin.create_token(token(site)).await.unwrap().into_inner();
        tokens.push(open.report.unwrap().id);
    }
    let mut clients = Vec::new();
    for operator in OPERATORS {
        let pair = add(&installation, operator, binding(operator)).await;
        clients.push((operator, client(&installation, &pair).await));
    }
    let mut table = table(&tokens[0], &tokens[1]);
    table.extend(table_of_live_sets_and_rollouts());
    let rows: BTreeSet<String> = table.iter().map(|row| row.call.to_owned()).collect();
    assert_eq!(
        rows,
        declared(),
        "each call of the protocol has its rows, and no other"
    );

    // First what is refused: it changes nothing.
    let before = state(&installation).await;
    for allowed in [false, true] {
        for row in &table {
            let cells: Vec<char> = row.cells.chars().filter(|cell| *cell != ' ').collect();
            assert_eq!(cells.len(), OPERATORS.len(), "{}", row.call);
            for ((operator, client), cell) in clients.iter().zip(cells) {
                if (cell == '+') == allowed {
                    let answer = (row.ask)(client.clone()).await;
                    judge(row, operator, cell, &answer);
                }
            }
        }
        if !allowed {
            assert_eq!(state(&installation).await, before);
        }
    }
}
