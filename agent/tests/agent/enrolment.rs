//! Enrolment against a controller that the test scripts.

use tonic::Status;
use voipfleet_agent::host::state_dir::StateDir;
use voipfleet_agent::link::enrolment::{EnrollError, Request, enroll};
use voipfleet_protocol::identity::{JoinToken, tls};
use voipfleet_testkit::controller::RefusingEnrolment;
use voipfleet_testkit::{FakeController, TestCa};

use crate::node::CONTROLLER;

fn token(ca: &TestCa) -> JoinToken {
    let pem = ca.pem();
    let certificates = tls::certificates(&pem, "CA certificate").unwrap();
    let ca = tls::fingerprint(&certificates[0]);
    JoinToken::new(ca, "id".to_owned(), "secret".to_owned()).unwrap()
}

async fn refused(state: &StateDir, controller: &str, token: &JoinToken) -> EnrollError {
    let request = Request {
        controller,
        token,
        node: Some("sip1".parse().unwrap()),
        force: true,
        proxy: None,
    };
    enroll(state, request).await.unwrap_err()
}

/// Every other line of the manual names that port.
#[tokio::test]
async fn port_of_agents_and_operators_is_recognised() {
    let ca = TestCa::new();
    let controller = FakeController::start(&ca.issue(CONTROLLER, 2100)).await;
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let address = controller.address.to_string();
    let words = refused(&state, &address, &token(&ca)).await.to_string();
    assert!(
        words.contains("is the controller's port for agents and operators")
            && words.contains("7444"),
        "{words}"
    );
    assert!(!words.contains("intercepted"), "{words}");

    // Another installation is no matter of ports.
    let other = TestCa::new();
    let stranger =
        RefusingEnrolment::start(&other.issue(CONTROLLER, 2100), Status::internal("")).await;
    let address = stranger.address.to_string();
    let words = refused(&state, &address, &token(&ca)).await.to_string();
    assert!(words.contains("another installation"), "{words}");
}

/// A key that the controller has never signed for is of no use to a later run.
#[tokio::test]
async fn refused_enrolment_leaves_nothing_behind() {
    let ca = TestCa::new();
    let used = Status::permission_denied("the token was used by node site-a/sip1");
    let controller = RefusingEnrolment::start(&ca.issue(CONTROLLER, 2100), used).await;
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let pending = state.identity_folder().with_extension("new");
    let address = controller.address.to_string();
    let error = refused(&state, &address, &token(&ca)).await;
    assert!(matches!(error, EnrollError::Refused(_)), "{error:?}");
    assert!(!pending.exists());

    // Where the answer was lost, the key is what the controller knows the machine by.
    drop(controller);
    refused(&state, &address, &token(&ca)).await;
    assert!(pending.join("key.pem").exists());
}
