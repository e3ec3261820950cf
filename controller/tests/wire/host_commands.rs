//! The controller's commands on its own host, as processes.

use std::process::{Command, Output};

use voipfleet_proto::v1::{AuditRequest, WhoAmIRequest};
use voipfleet_protocol::audit::Record;

use super::installation::{Installation, credentials};
use super::operators::client;

#[allow(clippy::disallowed_methods, reason = "the controller under test")]
async fn new_admin(installation: &Installation, context: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_voipfleet-controller"));
    command
        .args(["new-admin", "--data"])
        .arg(installation.files.root())
        .arg("--context")
        .arg(installation.files.root().join(context));
    let running = tokio::task::spawn_blocking(move || command.output().unwrap());
    running.await.unwrap()
}

#[tokio::test]
async fn a_running_controller_takes_a_new_first_admin() {
    let installation = Installation::start().await;
    let output = new_admin(&installation, "second.yaml").await;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(output.status.success(), "{err}");
    assert!(
        out.contains("context of operator ada, the first admin"),
        "{out}"
    );
    assert!(out.contains("The controller has taken it"), "{out}{err}");
    let context = installation.files.root().join("second.yaml");
    let admin = credentials(&std::fs::read_to_string(context).unwrap());
    let mut calls = client(&installation, &admin).await;
    calls.who_am_i(WhoAmIRequest {}).await.unwrap();
    let request = AuditRequest {
        what: "FirstAdminCertificate".to_owned(),
        ..AuditRequest::default()
    };
    let records = calls.audit(request).await.unwrap().into_inner().records;
    let record: Record = serde_json::from_slice(&records[0]).unwrap();
    let detail = record.detail.unwrap();
    assert!(
        detail.contains("on the controller's host, new-admin")
            && detail.contains("1 earlier certificate counts no longer"),
        "{detail}"
    );
    // The same file again is refused, and nothing is changed.
    let output = new_admin(&installation, "second.yaml").await;
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("already exists; choose another file"), "{err}");
    calls.who_am_i(WhoAmIRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_stopped_controller_takes_it_when_it_starts() {
    let mut installation = Installation::start().await;
    installation.stop().await;
    let files = installation.files.clone();
    let context = files.root().join("second.yaml");
    let now_ms = installation.clock.now_ms();
    voipfleet_controller::operations::new_admin::make(&files, Some(context.clone()), true, now_ms)
        .unwrap();
    installation.run().await;
    assert!(!files.new_admin().exists());
    let admin = credentials(&std::fs::read_to_string(context).unwrap());
    let mut calls = client(&installation, &admin).await;
    calls.who_am_i(WhoAmIRequest {}).await.unwrap();
    // With --keep-others the first one goes on.
    let mut first = installation.operator().await;
    first.who_am_i(WhoAmIRequest {}).await.unwrap();
}
