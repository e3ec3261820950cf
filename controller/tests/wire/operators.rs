//! Operators as admins make and unmake them.

use tonic::{Code, transport::Channel};
use voipfleet_proto::v1::operator_client::OperatorClient;
use voipfleet_proto::v1::{
    AddOperatorRequest, AuditChainRequest, AuditRequest, BindOperatorRequest, DeleteRequest,
    GetDocumentsRequest, ListOperatorsRequest, OperatorBinding, PruneAuditRequest, PushRequest,
    RemoveOperatorRequest, RenewOperatorRequest, StatusRequest, WhoAmIRequest,
};
use voipfleet_protocol::audit::{Hash, Record, Walk};
use voipfleet_protocol::identity::Identity;
use voipfleet_testkit::Credentials;
use voipfleet_testkit::credentials::certificate_request;
use voipfleet_testkit::documents::TenantBuilder;

use super::installation::{Installation, NETWORK, SITE, acme, apply, refused, site};

pub(crate) fn of_all(role: &str) -> OperatorBinding {
    OperatorBinding {
        role: role.to_owned(),
        all: true,
        ..OperatorBinding::default()
    }
}

pub(crate) fn of_site(role: &str, site: &str) -> OperatorBinding {
    OperatorBinding {
        role: role.to_owned(),
        sites: vec![site.to_owned()],
        ..OperatorBinding::default()
    }
}

pub(crate) fn of_tenant(role: &str, tenant: &str) -> OperatorBinding {
    OperatorBinding {
        role: role.to_owned(),
        tenants: vec![tenant.to_owned()],
        ..OperatorBinding::default()
    }
}

/// Adds an operator and gives the key with its certificate.
pub(crate) async fn add(
    installation: &Installation,
    name: &str,
    binding: OperatorBinding,
) -> Credentials {
    let (csr_pem, key) = certificate_request();
    let request = AddOperatorRequest {
        name: name.to_owned(),
        bindings: vec![binding],
        csr_pem,
    };
    let answer = installation.operator().await.add_operator(request).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.controller, "127.0.0.1:7443");
    Credentials {
        certificate: answer.certificate_pem,
        key,
        ca: answer.ca_pem,
    }
}

pub(crate) async fn client(
    installation: &Installation,
    pair: &Credentials,
) -> OperatorClient<Channel> {
    OperatorClient::new(pair.connect(&installation.address()).await.unwrap())
}

fn status() -> StatusRequest {
    StatusRequest::default()
}

#[tokio::test]
async fn rights_change_from_the_next_call_on() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let ben = add(&installation, "ben", of_all("viewer")).await;
    let mut ben = client(&installation, &ben).await;
    ben.status(status()).await.unwrap();
    let message = refused(ben.apply(apply(SITE)).await, Code::PermissionDenied);
    assert!(message.contains("this needs role operator"), "{message}");
    let mut admin = installation.operator().await;
    let bind = BindOperatorRequest {
        name: "ben".to_owned(),
        bindings: vec![of_site("operator", "site-a"), of_tenant("viewer", "acme")],
    };
    admin.bind_operator(bind).await.unwrap();
    // The same connection as before.
    ben.apply(apply(SITE)).await.unwrap();
    let me = ben.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(me.report.unwrap().bindings.len(), 2);
    assert!(me.peer.starts_with("127.0.0.1:"));
}

#[tokio::test]
async fn a_removed_operator_loses_access_at_once_and_for_the_old_key() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    // Never answers: the push goes on until its stream is ended.
    let node = installation.enrol("a").await;
    let mut session = node.connect(&installation.address()).await.unwrap();
    let old = add(&installation, "ben", of_all("operator")).await;
    let mut ben = client(&installation, &old).await;
    let push = PushRequest {
        site: "site-a".to_owned(),
        ..PushRequest::default()
    };
    let mut events = ben.push(push).await.unwrap().into_inner();
    events.message().await.unwrap().unwrap();
    let _offer = session.offer().await;

    let remove = RemoveOperatorRequest {
        name: "ben".to_owned(),
    };
    let mut admin = installation.operator().await;
    admin.remove_operator(remove.clone()).await.unwrap();
    let end = loop {
        match events.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::PermissionDenied);
    assert!(end.message().contains("removed"), "{}", end.message());
    refused(ben.status(status()).await, Code::PermissionDenied);
    refused(admin.remove_operator(remove).await, Code::NotFound);

    let new = add(&installation, "ben", of_all("viewer")).await;
    let message = refused(ben.status(status()).await, Code::PermissionDenied);
    assert!(message.contains("another key"), "{message}");
    client(&installation, &new)
        .await
        .status(status())
        .await
        .unwrap();
}

#[tokio::test]
async fn the_last_admin_cannot_be_removed() {
    let installation = Installation::start().await;
    let mut admin = installation.operator().await;
    let remove = |name: &str| RemoveOperatorRequest {
        name: name.to_owned(),
    };
    let message = refused(
        admin.remove_operator(remove("ada")).await,
        Code::FailedPrecondition,
    );
    assert!(message.contains("controller.json"), "{message}");
    let bind = |name: &str| BindOperatorRequest {
        name: name.to_owned(),
        bindings: vec![of_all("viewer")],
    };
    refused(
        admin.bind_operator(bind("ada")).await,
        Code::FailedPrecondition,
    );
    let (csr_pem, _) = certificate_request();
    let again = AddOperatorRequest {
        name: "ada".to_owned(),
        bindings: vec![of_all("admin")],
        csr_pem: csr_pem.clone(),
    };
    refused(admin.add_operator(again).await, Code::AlreadyExists);
    let second = add(&installation, "ben", of_all("admin")).await;
    let mut second = client(&installation, &second).await;
    refused(
        second.remove_operator(remove("ben")).await,
        Code::FailedPrecondition,
    );
    refused(
        second.bind_operator(bind("ben")).await,
        Code::FailedPrecondition,
    );
    let listed = admin.list_operators(ListOperatorsRequest {}).await.unwrap();
    let names: Vec<_> = listed
        .into_inner()
        .operators
        .into_iter()
        .map(|o| o.name)
        .collect();
    assert_eq!(names, ["ada", "ben"]);
    let nothing = AddOperatorRequest {
        name: "cyd".to_owned(),
        bindings: Vec::new(),
        csr_pem: csr_pem.clone(),
    };
    refused(admin.add_operator(nothing).await, Code::InvalidArgument);
    let both = OperatorBinding {
        all: true,
        ..of_site("viewer", "site-a")
    };
    let both = AddOperatorRequest {
        name: "cyd".to_owned(),
        bindings: vec![both],
        csr_pem,
    };
    refused(admin.add_operator(both).await, Code::InvalidArgument);
}

/// A certificate in place of the one that is called with.
async fn renew(installation: &Installation, old: &Credentials) -> (Credentials, u64) {
    let (csr_pem, key) = certificate_request();
    let renew = RenewOperatorRequest { csr_pem };
    let mut caller = client(installation, old).await;
    let answer = caller.renew_operator(renew).await.unwrap().into_inner();
    let new = Credentials {
        certificate: answer.certificate_pem,
        key,
        ca: answer.ca_pem,
    };
    (new, answer.certificate_expires_ms)
}

#[tokio::test]
async fn a_renewed_certificate_replaces_the_one_it_was_asked_with() {
    let installation = Installation::start().await;
    for (name, old) in [
        ("ben", add(&installation, "ben", of_all("viewer")).await),
        ("ada", installation.admin.clone()),
    ] {
        let (new, expires_ms) = renew(&installation, &old).await;
        let mut with_new = client(&installation, &new).await;
        with_new.status(status()).await.unwrap();
        // The answer may have been lost: the old one may ask again for a while.
        let mut with_old = client(&installation, &old).await;
        with_old.status(status()).await.unwrap();
        let year = 365 * 24 * 3_600_000;
        let now = installation.clock.now_ms();
        assert!(expires_ms.abs_diff(now + year) < 60_000);
        installation.clock.advance_ms(6 * 60_000);
        with_new.status(status()).await.unwrap();
        let message = refused(with_old.status(status()).await, Code::PermissionDenied);
        for said in [
            &format!("this certificate of operator {name} was replaced at "),
            "by a renewal from 127.0.0.1",
            "someone else has your key",
        ] {
            assert!(message.contains(said), "{message}");
        }
    }
}

#[tokio::test]
async fn whoever_renews_a_stolen_certificate_is_not_left_alone_with_it() {
    let installation = Installation::start().await;
    let owner = add(&installation, "ben", of_all("viewer")).await;
    // The thief renews many times, and the owner once more within the time that is left.
    let mut stolen = owner.clone();
    for _ in 0..6 {
        (stolen, _) = renew(&installation, &stolen).await;
    }
    installation.clock.advance_ms(6 * 60_000);
    let mut calls = client(&installation, &owner).await;
    let message = refused(calls.status(status()).await, Code::PermissionDenied);
    assert!(message.contains("was replaced"), "{message}");
    let remove = RemoveOperatorRequest {
        name: "ben".to_owned(),
    };
    let mut admin = installation.operator().await;
    admin.remove_operator(remove).await.unwrap();
    let mut thief = client(&installation, &stolen).await;
    refused(thief.status(status()).await, Code::PermissionDenied);
}

#[tokio::test]
async fn a_certificate_of_the_first_admin_that_was_never_issued_is_refused() {
    let installation = Installation::start().await;
    let identity = Identity::Operator("ada".parse().unwrap());
    let now_ms = installation.clock.now_ms();
    let forged = installation.pair(&identity, "voipfleet", now_ms);
    let mut calls = client(&installation, &forged).await;
    let message = refused(calls.status(status()).await, Code::PermissionDenied);
    assert!(message.contains("new-admin"), "{message}");
    installation
        .operator()
        .await
        .status(status())
        .await
        .unwrap();
}

#[tokio::test]
async fn unused_join_tokens_go_with_their_maker() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let ben = add(&installation, "ben", of_all("operator")).await;
    let token = client(&installation, &ben)
        .await
        .create_token(super::operator_calls::token())
        .await
        .unwrap()
        .into_inner();
    let own = installation.token("").await;
    let remove = RemoveOperatorRequest {
        name: "ben".to_owned(),
    };
    let answer = installation.operator().await.remove_operator(remove).await;
    assert_eq!(
        answer.unwrap().into_inner().revoked_tokens,
        [token.report.unwrap().id]
    );
    let (csr, _) = certificate_request();
    let refused = super::installation::enrol(&installation, &token.token, "a", &csr).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    super::installation::enrol(&installation, &own, "a", &csr)
        .await
        .unwrap();
}

/// The whole log, as a client reads and checks it.
async fn walk(admin: &mut OperatorClient<Channel>) -> (Walk, Vec<Record>) {
    let first = AuditChainRequest { after: 0 };
    let first = admin.audit_chain(first).await.unwrap().into_inner();
    let anchor = first.anchor.unwrap();
    let from = voipfleet_protocol::audit::Link {
        seq: anchor.seq,
        hash: anchor.hash.parse().unwrap(),
    };
    let mut walk = Walk::new(from);
    let read = |found: &voipfleet_proto::v1::AuditChainRecord| walk.next(found.seq, &found.record);
    let records = first
        .records
        .iter()
        .map(read)
        .collect::<Result<_, _>>()
        .unwrap();
    walk.end().unwrap();
    (walk, records)
}

#[tokio::test]
async fn a_pruned_audit_log_continues_from_its_anchor() {
    let mut installation = Installation::start().await;
    for _ in 0..5 {
        installation.apply(SITE).await;
    }
    let mut admin = installation.operator().await;
    let (_, records) = walk(&mut admin).await;
    // Before them the first admin's certificate was taken.
    assert_eq!(records.len(), 11);
    let chain = admin
        .audit_chain(AuditChainRequest { after: 6 })
        .await
        .unwrap()
        .into_inner();
    let seventh = &chain.records[0];
    assert_eq!(seventh.seq, 7);
    let mut last = voipfleet_proto::v1::AuditLink {
        seq: 7,
        hash: Hash::of(b"another").to_string(),
    };
    let prune = PruneAuditRequest {
        last: Some(last.clone()),
    };
    refused(admin.prune_audit(prune).await, Code::FailedPrecondition);
    last.hash = Hash::of(&seventh.record).to_string();
    let prune = PruneAuditRequest { last: Some(last) };
    let answer = admin.prune_audit(prune).await.unwrap().into_inner();
    assert_eq!(answer.removed, 7);
    let (end, records) = walk(&mut admin).await;
    assert_eq!(records[0].seq, 8);
    let pruned = records.last().unwrap();
    assert_eq!(pruned.what, "PruneAudit");
    assert!(pruned.objects[0].starts_with("Record/7/"), "{pruned:?}");
    installation.stop().await;
    installation.run().await;
    let mut admin = installation.operator().await;
    installation.apply(SITE).await;
    let (later, _) = walk(&mut admin).await;
    assert_eq!(later.at().seq, end.at().seq + 2);
    let request = AuditRequest {
        limit: 3,
        ..AuditRequest::default()
    };
    let page = admin.audit(request.clone()).await.unwrap().into_inner();
    let seqs = |page: &voipfleet_proto::v1::AuditResponse| -> Vec<u64> {
        let read = |bytes: &Vec<u8>| serde_json::from_slice::<Record>(bytes).unwrap().seq;
        page.records.iter().map(read).collect()
    };
    // Of a change that ended only the result.
    assert_eq!(seqs(&page), [17, 15, 13]);
    let request = AuditRequest {
        before: page.next,
        ..request
    };
    let page = admin.audit(request).await.unwrap().into_inner();
    assert_eq!((seqs(&page), page.next), (vec![11, 9], 0));
}

const FOREIGN: &str = "
kind: Site
name: site-b
admins: [198.51.100.10]
tenants: [globex, both]
---
kind: Tenant
name: globex
networks: {offices: [192.0.2.0/24]}
---
kind: Tenant
name: both
networks: {offices: [198.18.0.0/24]}
";

#[tokio::test]
async fn errors_do_not_reveal_documents_of_other_sites() {
    let installation = Installation::start().await;
    installation.apply(&format!("{SITE}---{FOREIGN}")).await;
    installation
        .apply(&site().tenants(&["acme", "both"]).to_string())
        .await;
    let ben = add(&installation, "ben", of_site("operator", "site-a")).await;
    let mut ben = client(&installation, &ben).await;
    // Naming a foreign tenant would make it readable.
    let steal = |name: &str| site().tenants(&["acme", name]) + acme(NETWORK);
    let words = |name: &str| {
        let mut ben = ben.clone();
        let request = apply(&steal(name));
        let name = name.to_owned();
        async move {
            let answer = ben.apply(request).await.unwrap().into_inner();
            assert!(answer.changes.is_empty());
            format!("{:?}", answer.diagnostics).replace(&name, "NAME")
        }
    };
    let (there, nowhere) = (words("globex").await, words("globez").await);
    assert_eq!(there, nowhere);
    assert!(there.contains("NAME"), "{there}");
    // Nor does a push say more of documents that are not stored.
    let preview = |name: &str| PushRequest {
        site: "site-a".to_owned(),
        dry_run: true,
        sources: apply(&steal(name)).sources,
        ..PushRequest::default()
    };
    let there = refused(ben.push(preview("globex")).await, Code::InvalidArgument);
    let nowhere = refused(ben.push(preview("globez")).await, Code::InvalidArgument);
    assert_eq!(
        there.replace("globex", "NAME"),
        nowhere.replace("globez", "NAME")
    );
    let message = refused(
        ben.apply(apply(
            "kind: Tenant\nname: both\nnetworks: {a: [203.0.113.9]}\n",
        ))
        .await,
        Code::PermissionDenied,
    );
    assert!(
        message.contains("tenant both is served by other sites too"),
        "{message}"
    );
    let delete = DeleteRequest {
        kind: "Tenant".to_owned(),
        name: "both".to_owned(),
    };
    refused(ben.delete(delete).await, Code::PermissionDenied);
    // A new tenant of its own site.
    let own = site().tenants(&["acme", "both", "mine"])
        + acme(NETWORK)
        + "---
" + &TenantBuilder::new("mine")
        .networks("a", &["203.0.114.0/24"])
        .to_string();
    let answer = ben.apply(apply(&own)).await.unwrap().into_inner();
    assert_eq!(answer.changes.len(), 3, "{answer:?}");
    let all = GetDocumentsRequest::default();
    let seen = ben.get_documents(all).await.unwrap().into_inner().documents;
    let seen: Vec<_> = seen.iter().map(|found| found.name.as_str()).collect();
    assert_eq!(seen, ["site-a", "acme", "both", "mine"]);
}
