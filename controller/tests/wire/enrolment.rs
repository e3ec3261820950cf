use tonic::Code;
use voipfleet_proto::v1::{CreateTokenRequest, DeleteRequest};
use voipfleet_testkit::FakeAgent;
use voipfleet_testkit::credentials::certificate_request;

use super::installation::{Installation, enrol, refused};
use super::log::{logged, was_logged};
use super::operator_calls::token;
use super::operators::{add, client, of_site};

#[tokio::test]
async fn a_token_enrols_one_machine() {
    let installation = Installation::start().await;
    let token = installation.token("").await;
    let (csr_a, _) = certificate_request();
    let answer = enrol(&installation, &token, "sip1", &csr_a).await.unwrap();
    assert_eq!(answer.roles, ["sip"]);
    assert_eq!(answer.controller, "127.0.0.1:7443");

    // The answer was lost: the same key may ask again.
    enrol(&installation, &token, "sip1", &csr_a).await.unwrap();

    // Another machine may not, nor the same one under another name.
    let (csr_b, _) = certificate_request();
    for (node, csr) in [("sip2", &csr_b), ("sip1", &csr_b), ("sip2", &csr_a)] {
        let result = enrol(&installation, &token, node, csr).await;
        let message = refused(result, Code::PermissionDenied);
        assert!(message.contains("used by node site-a/sip1"), "{message}");
    }
}

/// An operator who deletes a node means it: the machine has its key and the used token still.
#[tokio::test]
async fn a_deleted_node_does_not_come_back_with_its_used_token() {
    let installation = Installation::start().await;
    let token = installation.token("").await;
    let (csr, _) = certificate_request();
    enrol(&installation, &token, "sip1", &csr).await.unwrap();
    let request = DeleteRequest {
        kind: "node".to_owned(),
        name: "site-a/sip1".to_owned(),
    };
    installation.operator().await.delete(request).await.unwrap();
    let result = enrol(&installation, &token, "sip1", &csr).await;
    let message = refused(result, Code::PermissionDenied);
    assert!(message.contains("used by node site-a/sip1"), "{message}");
}

/// A used token is no way to a certificate without end.
#[tokio::test]
async fn a_used_token_renews_no_certificate_after_its_end() {
    let installation = Installation::start().await;
    let token = installation.token("").await;
    let (csr, _) = certificate_request();
    enrol(&installation, &token, "sip1", &csr).await.unwrap();
    installation.clock.advance_ms(3_600_001);
    let result = enrol(&installation, &token, "sip1", &csr).await;
    let message = refused(result, Code::PermissionDenied);
    assert!(message.contains("used by node site-a/sip1"), "{message}");
}

#[tokio::test]
async fn a_token_expires() {
    let installation = Installation::start().await;
    let token = installation.token("").await;
    installation.clock.advance_ms(3_600_001);
    let result = enrol(&installation, &token, "sip1", &certificate_request().0).await;
    let message = refused(result, Code::PermissionDenied);
    assert!(message.contains("expired"), "{message}");
}

#[tokio::test]
async fn a_wrong_id_and_a_wrong_secret_look_the_same() {
    let installation = Installation::start().await;
    let token = installation.token("").await;
    let (rest, secret) = token.rsplit_once('.').unwrap();
    let (head, id) = rest.rsplit_once('.').unwrap();
    let flipped = |text: &str| -> String {
        let last = if text.ends_with('0') { "1" } else { "0" };
        format!("{}{last}", &text[..text.len() - 1])
    };
    let mut messages = Vec::new();
    for wrong in [
        format!("{head}.{}.{secret}", flipped(id)),
        format!("{head}.{id}.{}", flipped(secret)),
    ] {
        let result = enrol(&installation, &wrong, "sip1", &certificate_request().0).await;
        messages.push(refused(result, Code::Unauthenticated));
    }
    assert_eq!(messages[0], messages[1]);
    logged("enrolment refused").await;
    assert!(!was_logged(secret), "a secret was logged");
    // The right one still works: a wrong guess costs nothing.
    enrol(&installation, &token, "sip1", &certificate_request().0)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_node_name_is_unique() {
    let installation = Installation::start().await;
    installation.enrol("sip1").await;
    let token = installation.token("").await;
    let result = enrol(&installation, &token, "sip1", &certificate_request().0).await;
    let message = refused(result, Code::AlreadyExists);
    assert!(
        message.contains("voipctl delete node site-a/sip1"),
        "{message}"
    );
    // The machine that has the name may be a healthy one.
    let (other, delete) = (message.find("--node NAME"), message.find("voipctl delete"));
    assert!(other.is_some() && other < delete, "{message}");
    // The token was not spent by that.
    enrol(&installation, &token, "sip2", &certificate_request().0)
        .await
        .unwrap();
}

/// A machine that takes another one's place, without a moment in which the name is nobody's.
#[tokio::test]
async fn a_replacing_token_takes_the_place_of_a_node() {
    let installation = Installation::start().await;
    let old = installation.enrol("a").await;
    let session = old.connect(&installation.address()).await.unwrap();
    let replacing = CreateTokenRequest {
        node: "a".to_owned(),
        replaces: true,
        ..token()
    };
    let nameless = CreateTokenRequest {
        node: String::new(),
        ..replacing.clone()
    };
    let mut operator = installation.operator().await;
    refused(operator.create_token(nameless).await, Code::InvalidArgument);
    // Who may not delete the node may not replace it.
    let ben = add(&installation, "ben", of_site("operator", "site-a")).await;
    let mut ben = client(&installation, &ben).await;
    refused(
        ben.create_token(replacing.clone()).await,
        Code::PermissionDenied,
    );
    let made = operator.create_token(replacing).await.unwrap().into_inner();
    let addresses = old.addresses.clone();
    let enrol_address = installation.enrol_address();
    let new = FakeAgent::enrol(&enrol_address, &made.token, "a", addresses);
    let new = new.await.unwrap();
    let _session = new.connect(&installation.address()).await.unwrap();
    drop(session);
    // The old machine is nobody now.
    assert!(old.connect(&installation.address()).await.is_err());
}

#[tokio::test]
async fn a_token_for_one_name_enrols_no_other() {
    let installation = Installation::start().await;
    let token = installation.token("sip7").await;
    let result = enrol(&installation, &token, "sip8", &certificate_request().0).await;
    let message = refused(result, Code::PermissionDenied);
    assert!(message.contains("--node sip7"), "{message}");
    enrol(&installation, &token, "sip7", &certificate_request().0)
        .await
        .unwrap();
}

#[tokio::test]
async fn malformed_enrolments_are_refused() {
    let installation = Installation::start().await;
    let token = installation.token("").await;
    let (good, _) = certificate_request();
    let rsa_or_broken = good.replace('A', "B");
    for (node, csr) in [
        ("../x", good.as_str()),
        ("sip1", "no request"),
        ("sip1", &rsa_or_broken),
        ("sip1", &"x".repeat(20_000)),
    ] {
        let result = enrol(&installation, &token, node, csr).await;
        refused(result, Code::InvalidArgument);
    }
}

/// Of many machines with one token exactly one gets in.
#[tokio::test]
async fn a_race_for_a_token_has_one_winner() {
    let installation = Installation::start().await;
    let token = installation.token("").await;
    let requests: Vec<(String, String)> = (0..4)
        .map(|n| (format!("sip{n}"), certificate_request().0))
        .collect();
    let tries = requests
        .iter()
        .map(|(name, csr)| enrol(&installation, &token, name, csr));
    let results = futures_util::future::join_all(tries).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
}
