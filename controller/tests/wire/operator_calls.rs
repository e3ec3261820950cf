use tonic::Code;
use voipfleet_proto::v1::operator_client::OperatorClient;
use voipfleet_proto::v1::{
    AllowRequest, ApplyRequest, BlockRequest, Change, DeleteRequest, DocumentChange, DriftRequest,
    GetDocumentsRequest, InterfaceAddress, LiftRequest, ListBlocksRequest, ListTokensRequest,
    PanicCloseRequest, PanicOpenRequest, PushRequest, RenderRequest, RevokeTokenRequest, Severity,
    StatusRequest,
};
use voipfleet_testkit::credentials::certificate_request;

use super::installation::{Installation, NETWORK, SITE, acme, apply, enrol, refused, site};

#[tokio::test]
async fn a_node_may_not_call_the_operator_service() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let node = installation.enrol("a").await;
    let channel = node
        .credentials
        .connect(&installation.address())
        .await
        .unwrap();
    let mut client = OperatorClient::new(channel);
    let denied = Code::PermissionDenied;
    refused(client.apply(apply(SITE)).await, denied);
    refused(client.push(PushRequest::default()).await, denied);
    refused(client.status(StatusRequest::default()).await, denied);
    refused(client.drift(DriftRequest::default()).await, denied);
    refused(
        client.get_documents(GetDocumentsRequest::default()).await,
        denied,
    );
    refused(client.delete(DeleteRequest::default()).await, denied);
    refused(client.create_token(token()).await, denied);
    refused(
        client.list_tokens(ListTokensRequest::default()).await,
        denied,
    );
    refused(
        client.revoke_token(RevokeTokenRequest::default()).await,
        denied,
    );
    refused(client.render(RenderRequest::default()).await, denied);
    refused(client.block(BlockRequest::default()).await, denied);
    refused(client.unblock(LiftRequest::default()).await, denied);
    refused(client.allow(AllowRequest::default()).await, denied);
    refused(client.disallow(LiftRequest::default()).await, denied);
    refused(
        client.list_blocks(ListBlocksRequest::default()).await,
        denied,
    );
    refused(client.panic_open(PanicOpenRequest::default()).await, denied);
    refused(
        client.panic_close(PanicCloseRequest::default()).await,
        denied,
    );
}

pub(crate) fn token() -> voipfleet_proto::v1::CreateTokenRequest {
    voipfleet_proto::v1::CreateTokenRequest {
        site: "site-a".to_owned(),
        roles: vec!["sip".to_owned()],
        ..Default::default()
    }
}

#[tokio::test]
async fn an_operator_may_not_call_the_fleet_service() {
    let installation = Installation::start().await;
    let channel = installation
        .admin
        .connect(&installation.address())
        .await
        .unwrap();
    let mut client = voipfleet_proto::v1::fleet_client::FleetClient::new(channel);
    let request = voipfleet_proto::v1::FetchRulesetRequest::default();
    refused(client.fetch_ruleset(request).await, Code::PermissionDenied);
}

#[tokio::test]
async fn exported_documents_apply_unchanged() {
    let installation = Installation::start().await;
    let answer = installation.apply(SITE).await;
    let changes: Vec<_> = answer.changes.iter().map(DocumentChange::change).collect();
    assert_eq!(changes, [Change::Created, Change::Created]);
    let mut client = installation.operator().await;
    let request = GetDocumentsRequest::default();
    let found = client.get_documents(request).await.unwrap().into_inner();
    assert!(found.complete);
    let yaml: Vec<_> = found.documents.iter().map(|d| d.yaml.as_str()).collect();
    let answer = installation.apply(&yaml.join("---\n")).await;
    assert!(
        answer
            .changes
            .iter()
            .all(|c| c.change() == Change::Unchanged),
        "{answer:?}"
    );
    let request = GetDocumentsRequest {
        kind: "tenant".to_owned(),
        name: "nobody".to_owned(),
        ..Default::default()
    };
    refused(client.get_documents(request).await, Code::NotFound);
}

/// Documents that are read in several answers are all of one state.
#[tokio::test]
async fn pages_of_documents_are_of_one_state() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let mut client = installation.operator().await;
    let mut request = GetDocumentsRequest {
        paged: true,
        ..Default::default()
    };
    let page = client
        .get_documents(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!((page.documents.len(), page.next), (2, 0));
    request.after = 1;
    request.state = page.state;
    let rest = client
        .get_documents(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(rest.documents, page.documents[1..]);
    installation
        .apply(&super::installation::with_network("203.0.112.0/24"))
        .await;
    let message = refused(client.get_documents(request).await, Code::Aborted);
    assert!(message.contains("modified concurrently"), "{message}");
}

#[tokio::test]
async fn invalid_documents_store_nothing() {
    let installation = Installation::start().await;
    let answer = installation
        .apply(&(site().tenants(&["unknown"]) + acme(NETWORK)))
        .await;
    assert!(
        answer
            .diagnostics
            .iter()
            .any(|d| d.severity() == Severity::Error)
    );
    assert!(answer.changes.is_empty());
    let mut client = installation.operator().await;
    let dry = ApplyRequest {
        dry_run: true,
        ..apply(SITE)
    };
    assert_eq!(
        client.apply(dry).await.unwrap().into_inner().changes.len(),
        2
    );
    let request = GetDocumentsRequest::default();
    let found = client.get_documents(request).await.unwrap().into_inner();
    assert!(found.documents.is_empty());
}

/// Changes at the same time are all kept: each is checked against the ones before it.
#[tokio::test]
async fn concurrent_applies_lose_nothing() {
    let installation = Installation::start().await;
    let tenants: Vec<String> = (0..8)
        .map(|n| format!("kind: Tenant\nname: t{n}\nnetworks: {{a: [203.0.{n}.0/24]}}\n"))
        .collect();
    let applies = tenants.iter().map(|yaml| installation.apply(yaml));
    futures_util::future::join_all(applies).await;
    let mut client = installation.operator().await;
    let request = GetDocumentsRequest::default();
    let found = client.get_documents(request).await.unwrap().into_inner();
    assert_eq!(found.documents.len(), 8);
}

#[tokio::test]
async fn used_documents_cannot_be_deleted() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    installation.enrol("a").await;
    let mut client = installation.operator().await;
    let request = |kind: &str, name: &str| DeleteRequest {
        kind: kind.to_owned(),
        name: name.to_owned(),
    };
    let message = refused(
        client.delete(request("Tenant", "acme")).await,
        Code::FailedPrecondition,
    );
    assert!(message.contains("site-a"), "{message}");
    let message = refused(
        client.delete(request("Site", "site-a")).await,
        Code::FailedPrecondition,
    );
    assert!(message.contains('a'), "{message}");
    client.delete(request("Node", "site-a/a")).await.unwrap();
    client.delete(request("Site", "site-a")).await.unwrap();
    client.delete(request("Tenant", "acme")).await.unwrap();
    refused(
        client.delete(request("Tenant", "acme")).await,
        Code::NotFound,
    );
    refused(
        client.delete(request("Node", "site-a/a")).await,
        Code::NotFound,
    );
    refused(
        client.delete(request("Node", "a")).await,
        Code::InvalidArgument,
    );
}

#[tokio::test]
async fn tokens_and_drift_of_an_unknown_site_are_not_found() {
    let installation = Installation::start().await;
    let mut client = installation.operator().await;
    let message = refused(client.create_token(token()).await, Code::NotFound);
    assert!(message.contains("voipctl apply"), "{message}");
    let drift = DriftRequest {
        site: "site-a".to_owned(),
        ..DriftRequest::default()
    };
    refused(client.drift(drift.clone()).await, Code::NotFound);
    installation.apply(SITE).await;
    client.drift(drift).await.unwrap();
    // A token goes with its site, and does not come back with it.
    let made = client.create_token(token()).await.unwrap().into_inner();
    let request = DeleteRequest {
        kind: "Site".to_owned(),
        name: "site-a".to_owned(),
    };
    client.delete(request).await.unwrap();
    installation.apply(SITE).await;
    let result = enrol(&installation, &made.token, "a", &certificate_request().0).await;
    refused(result, Code::Unauthenticated);
}

#[tokio::test]
async fn a_revoked_token_enrols_no_machine() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let mut client = installation.operator().await;
    let made = client.create_token(token()).await.unwrap().into_inner();
    assert_eq!(made.enrolment_address, "127.0.0.1:7444");
    let id = made.report.unwrap().id;
    let listed = client
        .list_tokens(ListTokensRequest::default())
        .await
        .unwrap();
    let listed = listed.into_inner().tokens;
    assert_eq!(
        (listed[0].id.as_str(), listed[0].created_by.as_str()),
        (id.as_str(), "ada")
    );
    client
        .revoke_token(RevokeTokenRequest { id: id.clone() })
        .await
        .unwrap();
    let result = enrol(&installation, &made.token, "a", &certificate_request().0).await;
    refused(result, Code::Unauthenticated);
    refused(
        client.revoke_token(RevokeTokenRequest { id }).await,
        Code::NotFound,
    );
}

#[tokio::test]
async fn a_rendered_node_is_complete_restore_input() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    installation.enrol("a").await;
    let mut client = installation.operator().await;
    let request = RenderRequest {
        site: "site-a".to_owned(),
        node: "a".to_owned(),
        ..RenderRequest::default()
    };
    let nodes = client.render(request).await.unwrap().into_inner().nodes;
    assert_eq!(nodes.len(), 1);
    assert!(nodes[0].iptables.starts_with("*filter\n"));
    assert!(nodes[0].iptables.contains("-j VF-INPUT"));
    assert!(nodes[0].ip6tables.ends_with("COMMIT\n"));
    assert!(nodes[0].ipset.contains("203.0.113.0/24"));
    let request = RenderRequest {
        site: "site-a".to_owned(),
        node: "b".to_owned(),
        ..RenderRequest::default()
    };
    refused(client.render(request.clone()).await, Code::NotFound);

    // A host that cannot run an agent is no node, and is rendered by what it does.
    let request = RenderRequest {
        roles: vec!["pbx".to_owned()],
        addresses: vec![InterfaceAddress {
            interface: "eth1".to_owned(),
            address: vec![10, 20, 0, 50],
            prefix_length: 24,
        }],
        ..request
    };
    let nodes = client
        .render(request.clone())
        .await
        .unwrap()
        .into_inner()
        .nodes;
    assert_eq!(nodes.len(), 1);
    assert!(nodes[0].iptables.contains("--dports 10000:"));
    assert!(nodes[0].ipset.contains("203.0.113.0/24"));
    let request = RenderRequest {
        roles: vec!["boss".to_owned()],
        ..request
    };
    refused(client.render(request).await, Code::InvalidArgument);
}
