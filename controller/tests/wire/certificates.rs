//! Day 365: the server's certificate renews itself, and root on the host makes a new first admin.

use tonic::Code;
use voipfleet_controller::operations::new_admin;
use voipfleet_proto::v1::{AuditRequest, PlanRequest, StatusRequest, WhoAmIRequest};
use voipfleet_protocol::audit::Record;
use voipfleet_protocol::identity::{tls, validity};

use super::installation::{Installation, SITE, refused};
use super::operators::client;

const DAY_MS: u64 = 24 * 3_600_000;

/// When the server's certificate on disk ends, Unix time in milliseconds.
fn server_ends(installation: &Installation) -> u64 {
    let pem = std::fs::read_to_string(installation.files.server_certificate()).unwrap();
    let chain = tls::certificates(&pem, "certificate").unwrap();
    let ends = validity(&chain[0]).unwrap().not_after;
    let since = ends.duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

#[tokio::test]
async fn everything_expired_and_the_installation_goes_on() {
    // Made more than a year ago.
    let installation = Installation::start_made_at(|now_ms| now_ms - 366 * DAY_MS).await;
    let year = installation.clock.now_ms() + 365 * DAY_MS;
    assert!(server_ends(&installation).abs_diff(year) < DAY_MS);
    let admin = installation
        .new_admin("new.yaml", false, installation.clock.now_ms())
        .await;
    let mut calls = client(&installation, &admin).await;
    let me = calls.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
    assert!(me.report.unwrap().first_admin);
    let request = AuditRequest {
        what: "FirstAdminCertificate".to_owned(),
        ..AuditRequest::default()
    };
    let records = calls.audit(request).await.unwrap().into_inner().records;
    let record: Record = serde_json::from_slice(&records[0]).unwrap();
    let detail = record.detail.unwrap();
    assert!(
        detail.contains("on the controller's host, new-admin"),
        "{detail}"
    );
    assert_eq!(record.objects, ["Operator/ada"]);
}

#[tokio::test]
async fn a_new_first_admin_replaces_the_old_certificates() {
    let installation = Installation::start().await;
    let mut old = installation.operator().await;
    old.status(StatusRequest::default()).await.unwrap();
    let admin = installation
        .new_admin("new.yaml", false, installation.clock.now_ms())
        .await;
    let mut new = client(&installation, &admin).await;
    new.status(StatusRequest::default()).await.unwrap();
    let message = refused(
        old.status(StatusRequest::default()).await,
        Code::PermissionDenied,
    );
    assert!(
        message.contains("on the controller's host, new-admin"),
        "{message}"
    );
    // Nothing is written over.
    let context = Some(installation.files.root().join("new.yaml"));
    let now_ms = installation.clock.now_ms();
    let again = new_admin::make(&installation.files, context, false, now_ms);
    assert!(again.unwrap_err().to_string().contains("already exists"));
}

#[tokio::test]
async fn the_server_certificate_is_renewed_and_shown_without_a_restart() {
    let installation = Installation::start().await;
    let first = server_ends(&installation);
    installation.clock.advance_ms(300 * DAY_MS);
    let ends = installation
        .until(async || Some(server_ends(&installation)).filter(|ends| *ends != first))
        .await;
    assert!(ends > first + 290 * DAY_MS);
    // By this machine's clock the new one begins in 300 days: the listener shows it already.
    let error = installation.admin.connect(&installation.address()).await;
    let error = format!("{:?}", error.unwrap_err());
    assert!(error.contains("NotValidYet"), "{error}");
}

#[tokio::test]
async fn certificates_that_end_soon_are_in_the_status() {
    let installation = Installation::start_made_at(|now_ms| now_ms - 310 * DAY_MS).await;
    installation.apply(SITE).await;
    let mut calls = installation.operator().await;
    let answer = calls.status(StatusRequest::default()).await.unwrap();
    let sites = answer.into_inner().sites;
    // The server's own was renewed, and the CA has nine years.
    let soon: Vec<&str> = sites[0]
        .expiries
        .iter()
        .map(|one| one.what.as_str())
        .collect();
    assert_eq!(soon, ["your certificate"]);
    let request = PlanRequest {
        site: "site-a".to_owned(),
        ..PlanRequest::default()
    };
    let plan = calls.plan(request).await.unwrap();
    assert_eq!(plan.into_inner().expiries, sites[0].expiries);
}
