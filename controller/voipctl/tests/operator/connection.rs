//! Connections to the controller, and how their failures are reported.

use std::time::Duration;

use tonic::Status;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_testkit::{Credentials, TestCa};

use crate::fixture::{ADA, CONTROLLER, Fixture, Terminal};

#[tokio::test]
async fn connection_refused() {
    let fixture = Fixture::new().await;
    // Port 1 of loopback: nothing has listened there for decades.
    fixture.write_context("127.0.0.1:1", &TestCa::new().issue(ADA, 2027));
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn controller_of_another_installation() {
    let (theirs, ours) = (TestCa::new(), TestCa::new());
    let fixture = Fixture::between(&theirs.issue(CONTROLLER, 2999), &ours.issue(ADA, 2027)).await;
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn controller_certificate_expired() {
    let ca = TestCa::new();
    let fixture = Fixture::between(&ca.issue(CONTROLLER, 2020), &ca.issue(ADA, 2027)).await;
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn node_certificate_is_not_a_controllers() {
    let ca = TestCa::new();
    let node = "spiffe://fleet.example/site/site-a/node/sip1";
    let fixture = Fixture::between(&ca.issue(node, 2999), &ca.issue(ADA, 2027)).await;
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn own_certificate_expired() {
    let ca = TestCa::new();
    let fixture = Fixture::between(&ca.issue(CONTROLLER, 2999), &ca.issue(ADA, 2026)).await;
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn own_certificate_expired_by_the_controllers_clock() {
    let ca = TestCa::new();
    let fixture = Fixture::between(&ca.issue(CONTROLLER, 2999), &ca.issue(ADA, 2020)).await;
    let slow_clock = "2019-01-01T00:00:00Z".parse().unwrap();
    insta::assert_snapshot!(
        fixture
            .run_with(Terminal::None, "", slow_clock, &["status"])
            .await
    );
}

#[tokio::test]
async fn own_certificate_of_another_ca() {
    let fixture = Fixture::new().await;
    let text = std::fs::read_to_string(fixture.path("context.yaml")).unwrap();
    let context: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mixed = Credentials {
        ca: context["ca"].as_str().unwrap().to_owned(),
        ..TestCa::new().issue(ADA, 2027)
    };
    fixture.write_context(&fixture.address(), &mixed);
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn status_codes_are_explained() {
    let fixture = Fixture::new().await;
    let mut shown = String::new();
    for refusal in [
        Status::permission_denied("a node cannot do this"),
        Refusal::new(Reason::UnknownSite, "no site named site-z")
            .hint("to list the sites: voipctl get site")
            .into(),
        Status::failed_precondition("list voipbl is used by site site-a"),
        Status::resource_exhausted("too many pushes at once"),
        Refusal::new(Reason::RateLimited, "too many calls by ada")
            .retry_after(Duration::from_secs(5))
            .into(),
        Status::internal("cannot write the store: \u{1b}[2Jdisk full"),
        Status::unimplemented(""),
    ] {
        fixture.script(|script| script.refusal = Some(refusal));
        shown.push_str(&fixture.run(&["status", "site-z"]).await.to_string());
    }
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn context_show() {
    let fixture = Fixture::new().await;
    let shown = fixture.run(&["context"]).await.to_string();
    let json = fixture
        .run(&["context", "show", "-o", "json"])
        .await
        .to_string();
    insta::assert_snapshot!(shown + &json);
}

#[tokio::test]
async fn readable_context_file_is_a_warning() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = Fixture::new().await;
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(fixture.path("context.yaml"), open).unwrap();
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn missing_and_broken_context() {
    let fixture = Fixture::new().await;
    fixture.write("context.yaml", "controller: [\n");
    crate::fixture::private(&fixture.path("context.yaml"));
    let broken = fixture.run(&["status"]).await;
    assert_eq!(broken.status, 2);
    assert!(
        broken.err.contains("is not a context file"),
        "{}",
        broken.err
    );
    std::fs::remove_file(fixture.path("context.yaml")).unwrap();
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn context_use_copies_privately() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = Fixture::new().await;
    std::fs::rename(fixture.path("context.yaml"), fixture.path("new.yaml")).unwrap();
    let new = fixture.path("new.yaml");
    let taken = fixture
        .run(&["context", "use", new.to_str().unwrap()])
        .await;
    assert_eq!(taken.status, 0, "{taken}");
    let mode = std::fs::metadata(fixture.path("context.yaml"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fixture.run(&["status"]).await.status, 0);

    let kept = std::fs::read(fixture.path("context.yaml")).unwrap();
    fixture.write_context("elsewhere.example:7443", &TestCa::new().issue(ADA, 2027));
    std::fs::rename(fixture.path("context.yaml"), &new).unwrap();
    std::fs::write(fixture.path("context.yaml"), &kept).unwrap();
    crate::fixture::private(&fixture.path("context.yaml"));
    let refused = fixture
        .run(&["context", "use", new.to_str().unwrap()])
        .await;
    assert_eq!(refused.status, 2, "{refused}");
    assert_eq!(std::fs::read(fixture.path("context.yaml")).unwrap(), kept);
    let taken = fixture
        .run(&["--yes", "context", "use", new.to_str().unwrap()])
        .await;
    assert_eq!(taken.status, 0, "{taken}");
    assert_ne!(std::fs::read(fixture.path("context.yaml")).unwrap(), kept);
}
