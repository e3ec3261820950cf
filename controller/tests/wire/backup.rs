use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use tonic::Code;
use voipfleet_controller::operations::restore::{RestoreError, Restored, restore};
use voipfleet_controller::settings::Files;
use voipfleet_proto::v1::{
    AuditRequest, BackupDone, BackupRequest, GetDocumentsRequest, ListTokensRequest, PushRequest,
    RolloutStatusRequest, SyncState, backup_part::Kind,
};
use voipfleet_protocol::audit::{Ending, Record};
use voipfleet_testkit::credentials::certificate_request;

use super::installation::{Installation, SITE, connected, enrol, refused, with_network};

/// Takes a backup as voipctl does.
async fn back_up(installation: &Installation) -> Vec<u8> {
    let mut client = installation.operator().await;
    let mut parts = client.backup(BackupRequest {}).await.unwrap().into_inner();
    let mut file = Vec::new();
    loop {
        match parts.message().await.unwrap().and_then(|part| part.kind) {
            Some(Kind::Data(data)) => file.extend(data),
            Some(Kind::Done(BackupDone { bytes, sha256, .. })) => {
                assert_eq!(bytes, file.len() as u64);
                assert_eq!(sha256, hex::encode(Sha256::digest(&file)));
                return file;
            }
            None => panic!("the backup broke off"),
        }
    }
}

/// What is to be kept apart from backups: the files of an installation but for its store.
fn copy_keys(files: &Files, keys: &Path) {
    for dir in ["ca", "server"] {
        std::fs::create_dir_all(keys.join(dir)).unwrap();
    }
    let to = Files::new(keys);
    for (from, to) in [
        (files.ca_key(), to.ca_key()),
        (files.ca_certificate(), to.ca_certificate()),
        (files.server_key(), to.server_key()),
        (files.server_certificate(), to.server_certificate()),
        (files.settings(), to.settings()),
    ] {
        std::fs::copy(from, to).unwrap();
    }
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(installation: &Installation) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy_keys(&installation.files, &dir.path().join("keys"));
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn restore(&self, file: &[u8]) -> Result<Restored, RestoreError> {
        let backup = self.path("backup");
        std::fs::write(&backup, file).unwrap();
        restore(&backup, &self.path("new"), &self.path("keys"))
    }
}

async fn networks(installation: &Installation) -> String {
    let mut client = installation.operator().await;
    let request = GetDocumentsRequest {
        kind: "tenant".to_owned(),
        name: "acme".to_owned(),
        ..Default::default()
    };
    let found = client.get_documents(request).await.unwrap().into_inner();
    found.documents[0].yaml.clone()
}

#[tokio::test]
async fn agents_reconnect_to_a_restored_controller() {
    let (mut installation, _, mut session) = connected().await;
    let place = Place::new(&installation);
    let open = installation.token("").await;
    let push = installation.push().await;
    let offer = session.offer().await;
    session.apply(&offer).await;
    assert_eq!(push.end().await.0.applied, 1);
    let saved = networks(&installation).await;

    let file = back_up(&installation).await;
    // What comes after the backup is lost but for the node, which knows generation 2.
    installation.apply(&with_network("203.0.112.0/24")).await;
    let push = installation.push().await;
    let later = session.offer().await;
    session.apply(&later).await;
    assert_eq!((later.generation, push.end().await.0.applied), (2, 1));
    let (_, ()) = tokio::join!(session.closed(), installation.stop());
    std::fs::remove_dir_all(installation.files.root()).unwrap();

    let restored = place.restore(&file).unwrap();
    assert_eq!(restored.dropped_tokens, 1);
    installation.files = restored.files;
    installation.run().await;
    assert_eq!(networks(&installation).await, saved);
    let mut session = session
        .agent
        .connect(&installation.address())
        .await
        .unwrap();
    let status = installation.status().await;
    assert_eq!(status.generation, 1);
    assert_eq!(status.nodes["a"].state(), SyncState::Error);
    assert!(
        status.nodes["a"].error.contains("push the site"),
        "{:?}",
        status.nodes["a"]
    );
    // The next push goes above what the node knows.
    let push = installation.push().await;
    assert_eq!(push.started.generation, 3);
    let offer = session.offer().await;
    session.apply(&offer).await;
    assert_eq!(push.end().await.0.applied, 1);
    assert_eq!(
        installation.status().await.nodes["a"].state(),
        SyncState::Synced
    );
    // A token that was open then may have been used since.
    let mut client = installation.operator().await;
    let tokens = client.list_tokens(ListTokensRequest::default()).await;
    let tokens = tokens.unwrap().into_inner().tokens;
    assert!(
        tokens.iter().all(|token| !token.used_by.is_empty()),
        "{tokens:?}"
    );
    assert!(
        enrol(&installation, &open, "b", &certificate_request().0)
            .await
            .is_err()
    );
    // Revisions go on far above: no old one is taken for a new one.
    let answer = installation
        .apply("kind: Tenant\nname: new\nnetworks: {a: [192.0.2.1]}\n")
        .await;
    assert!(answer.changes[0].revision > 1 << 32);
    // The audit log says that time is missing, once.
    for _ in 0..2 {
        let request = AuditRequest {
            what: "Restored".to_owned(),
            ..AuditRequest::default()
        };
        let told = client.audit(request).await.unwrap().into_inner();
        assert_eq!(told.records.len(), 1, "{told:?}");
    }
    // The call that took this backup was open in it, and is known to have ended well.
    let request = AuditRequest {
        what: "Backup".to_owned(),
        ..AuditRequest::default()
    };
    let told = client.audit(request).await.unwrap().into_inner();
    let record: Record = serde_json::from_slice(&told.records[0]).unwrap();
    assert_eq!(record.result, Some(Ending::Done), "{record:?}");
    installation.enrol("b").await;
}

/// A rollout that was under way may have been ended since: it does not go on by itself.
#[tokio::test]
async fn a_restored_rollout_is_paused() {
    let (mut installation, _, mut session) = connected().await;
    let place = Place::new(&installation);
    let push = installation.push().await;
    let _unanswered = session.offer().await;
    // Nor does what waited for it.
    let mut client = installation.operator().await;
    let mut waiting = client
        .push(super::queue::queue())
        .await
        .unwrap()
        .into_inner();
    waiting.message().await.unwrap();
    let file = back_up(&installation).await;
    drop((push, waiting));
    let (_, ()) = tokio::join!(session.closed(), installation.stop());
    installation.files = place.restore(&file).unwrap().files;
    installation.run().await;
    let request = RolloutStatusRequest {
        site: "site-a".to_owned(),
    };
    let mut client = installation.operator().await;
    let answer = client.rollout_status(request).await.unwrap().into_inner();
    assert_eq!(answer.rollouts[0].state, "paused");
    assert!(answer.rollouts[0].waiting.is_empty());
    assert!(
        answer.rollouts[0].why.contains("backup"),
        "{:?}",
        answer.rollouts[0]
    );
    // Its node does not answer, and no operator decided that.
    installation.clock.advance_ms(10 * 60_000);
    let operator = PushRequest {
        site: "site-a".to_owned(),
        ..PushRequest::default()
    };
    refused(
        installation.try_push(operator).await.map(|_| ()),
        Code::FailedPrecondition,
    );
    let request = RolloutStatusRequest {
        site: "site-a".to_owned(),
    };
    let answer = client.rollout_status(request).await.unwrap().into_inner();
    let nodes = &answer.rollouts[0].batches[0].nodes;
    assert_eq!(
        (answer.rollouts[0].state.as_str(), nodes[0].state.as_str()),
        ("paused", "working")
    );
}

/// While operators write, every backup is one moment: a pair that is always applied together is
/// whole in each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_consistent_during_writes() {
    let installation = Installation::start().await;
    let place = Place::new(&installation);
    let pair = |mark: usize| {
        let half = |name: &str| {
            format!("kind: Tenant\nname: {name}\nnetworks: {{a: [10.1.{mark}.0/24]}}\n")
        };
        format!("{}---\n{}", half("acme"), half("zeta"))
    };
    installation.apply(&pair(0)).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writing = async {
        let mut mark = 0;
        while !*stopped.borrow() {
            mark = (mark + 1) % 250;
            installation.apply(&pair(mark)).await;
        }
    };
    let backing = async {
        let mut files = Vec::new();
        for _ in 0..5 {
            files.push(back_up(&installation).await);
        }
        stop.send(true).unwrap();
        files
    };
    let ((), files) = tokio::join!(writing, backing);
    for (number, file) in files.iter().enumerate() {
        let restored = place.restore(file).unwrap();
        let store = voipfleet_controller::store::Embedded::open(&restored.files.store()).unwrap();
        let documents = voipfleet_controller::documents::Stored::read(&store)
            .await
            .unwrap();
        let marks: Vec<String> = documents
            .documents
            .tenants
            .values()
            .map(|tenant| format!("{:?}", tenant.networks))
            .collect();
        assert_eq!(marks.len(), 2);
        assert_eq!(marks[0], marks[1]);
        let kind = voipfleet_policy::Kind::Tenant;
        let last = documents.last_change(kind, "zeta").unwrap();
        assert_eq!(last.version, documents.version.version);
        store.close().await;
        let old = place.path(&format!("old-{number}"));
        std::fs::rename(place.path("new"), old).unwrap();
    }
}

#[tokio::test]
async fn an_incomplete_backup_is_refused_before_anything_is_written() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let place = Place::new(&installation);
    let file = back_up(&installation).await;
    let nothing_made = || {
        let names: Vec<_> = std::fs::read_dir(place.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(
            names.iter().all(|name| name == "backup" || name == "keys"),
            "{names:?}"
        );
    };
    let why = |file: &[u8]| {
        let error = place.restore(file).unwrap_err();
        nothing_made();
        voipfleet_controller::errors::chain(&error)
    };
    for cut in [0, 1, 40, file.len() / 2, file.len() - 1] {
        let why = why(&file[..cut]);
        assert!(
            why.contains("cut short") || why.contains("not a Voipfleet backup"),
            "{cut}: {why}"
        );
    }
    // Any changed byte; an added or removed line.
    for at in (0..file.len()).step_by(97) {
        let mut altered = file.clone();
        altered[at] = if altered[at] == b'7' { b'8' } else { b'7' };
        why(&altered);
    }
    let lines: Vec<&[u8]> = file.split_inclusive(|byte| *byte == b'\n').collect();
    let without = [&lines[..2], &lines[3..]].concat().concat();
    assert!(why(&without).contains("altered"));
    let longer = [&file[..], b"{}\n"].concat();
    assert!(why(&longer).contains("altered"));
    let later = String::from_utf8(file.clone()).unwrap();
    let later = later.replacen("\"voipfleet_backup\":1", "\"voipfleet_backup\":2", 1);
    assert!(why(later.as_bytes()).contains("upgrade"));

    // Keys of another installation, and keys that others can read.
    let other = Installation::start().await;
    let own = place.path("keys");
    std::fs::remove_dir_all(&own).unwrap();
    copy_keys(&other.files, &own);
    assert!(why(&file).contains("another installation"));
    std::fs::remove_dir_all(&own).unwrap();
    copy_keys(&installation.files, &own);
    std::fs::remove_file(own.join("ca/ca.key")).unwrap();
    assert!(why(&file).contains("ca/ca.key is missing"));
    copy_keys(&installation.files, &own);
    // Never over something.
    std::fs::create_dir(place.path("new")).unwrap();
    std::fs::write(place.path("new/file"), "mine").unwrap();
    let error = place.restore(&file).unwrap_err();
    assert!(matches!(error, RestoreError::Staging(_)), "{error}");
    assert_eq!(std::fs::read(place.path("new/file")).unwrap(), b"mine");
    std::fs::remove_file(place.path("new/file")).unwrap();
    place.restore(&file).unwrap();
}

#[tokio::test]
async fn a_node_may_not_take_a_backup() {
    let (installation, node, _session) = connected().await;
    let channel = node
        .credentials
        .connect(&installation.address())
        .await
        .unwrap();
    let mut client = voipfleet_proto::v1::operator_client::OperatorClient::new(channel);
    let refused = client.backup(BackupRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}
