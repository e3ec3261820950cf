//! Who is on the other end, and what an operator is told when it is not who it should be.

use tonic::Status;
use voipfleet_testkit::{Credentials, TestCa};

use crate::fixture::{ADA, CONTROLLER, Fixture, Terminal};

#[tokio::test]
async fn nobody_listens() {
    let fixture = Fixture::new().await;
    // Port 1 of loopback: nothing has listened there for decades.
    fixture.write_context("127.0.0.1:1", &TestCa::new().issue(ADA, 2027));
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn the_controller_is_of_another_installation() {
    let (theirs, ours) = (TestCa::new(), TestCa::new());
    let fixture = Fixture::between(&theirs.issue(CONTROLLER, 2999), &ours.issue(ADA, 2027)).await;
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn the_controllers_certificate_has_expired() {
    let ca = TestCa::new();
    let fixture = Fixture::between(&ca.issue(CONTROLLER, 2020), &ca.issue(ADA, 2027)).await;
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn a_node_is_no_controller() {
    let ca = TestCa::new();
    let node = "spiffe://fleet.example/site/site-a/node/sip1";
    let fixture = Fixture::between(&ca.issue(node, 2999), &ca.issue(ADA, 2027)).await;
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn our_certificate_has_expired() {
    let ca = TestCa::new();
    let fixture = Fixture::between(&ca.issue(CONTROLLER, 2999), &ca.issue(ADA, 2026)).await;
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn our_certificate_has_expired_by_the_controllers_clock() {
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
async fn our_certificate_is_from_another_ca() {
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
async fn the_controller_refuses() {
    let fixture = Fixture::new().await;
    let mut shown = String::new();
    for refusal in [
        Status::permission_denied("operators may not do this"),
        Status::not_found("there is no site site-z; `voipctl get site` lists them"),
        Status::failed_precondition("list voipbl is used by site site-a"),
        Status::resource_exhausted("too many pushes at once"),
        Status::internal("the store cannot be written: \u{1b}[2Jdisk full"),
        Status::unimplemented(""),
    ] {
        fixture.script(|script| script.refusal = Some(refusal));
        shown.push_str(&fixture.run(&["status", "site-z"]).await.to_string());
    }
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn the_context_is_shown_with_our_certificates_end() {
    let fixture = Fixture::new().await;
    let shown = fixture.run(&["context"]).await.to_string();
    let json = fixture
        .run(&["context", "show", "-o", "json"])
        .await
        .to_string();
    insta::assert_snapshot!(shown + &json);
}

#[tokio::test]
async fn a_context_file_that_others_can_read_is_pointed_out() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = Fixture::new().await;
    let open = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(fixture.path("context.yaml"), open).unwrap();
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn no_context_and_a_broken_one() {
    let fixture = Fixture::new().await;
    fixture.write("context.yaml", "controller: [\n");
    crate::fixture::private(&fixture.path("context.yaml"));
    let broken = fixture.run(&["status"]).await;
    assert_eq!(broken.status, 2);
    assert!(broken.err.contains("is no context file"), "{}", broken.err);
    std::fs::remove_file(fixture.path("context.yaml")).unwrap();
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn a_context_is_taken_and_kept_private() {
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
