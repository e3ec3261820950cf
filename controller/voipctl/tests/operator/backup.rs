//! `voipctl backup`.

use std::os::unix::fs::PermissionsExt as _;

use sha2::{Digest as _, Sha256};
use voipfleet_proto::v1::{self, backup_part::Kind};

use crate::fixture::Fixture;

const LINES: &[u8] = b"{\"voipfleet_backup\":1}\n{\"entries\":0}\n";

fn done(bytes: u64, of: &[u8]) -> Kind {
    Kind::Done(v1::BackupDone {
        entries: 1_234,
        bytes,
        sha256: hex::encode(Sha256::digest(of)),
    })
}

fn parts() -> Vec<Kind> {
    let (first, rest) = LINES.split_at(10);
    vec![Kind::Data(first.to_vec()), Kind::Data(rest.to_vec())]
}

#[tokio::test]
async fn backup_is_private_and_never_overwrites() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.backup = parts();
        script.backup.push(done(LINES.len() as u64, LINES));
    });
    let file = fixture.path("backup").to_str().unwrap().to_owned();
    let mut shown = fixture.run(&["backup", &file]).await.to_string();
    assert_eq!(std::fs::read(&file).unwrap(), LINES);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    shown.push_str(&fixture.run(&["backup", &file]).await.to_string());
    let other = fixture.path("other").to_str().unwrap().to_owned();
    let json = ["backup", &other, "-o", "json"];
    shown.push_str(&fixture.run(&json).await.to_string());
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn incomplete_backup_leaves_no_file() {
    let fixture = Fixture::new().await;
    let file = fixture.path("backup").to_str().unwrap().to_owned();
    let length = LINES.len() as u64;
    let mut shown = String::new();
    for end in [
        None,
        Some(done(length + 1, LINES)),
        Some(done(length, b"other")),
    ] {
        fixture.script(|script| {
            script.backup = parts();
            script.backup.extend(end);
        });
        let ended = fixture.run(&["backup", &file]).await;
        assert_eq!(ended.status, 3, "{ended}");
        shown.push_str(&ended.to_string());
        let left: Vec<_> = std::fs::read_dir(fixture.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["context.yaml"]);
    }
    insta::assert_snapshot!(shown);
}
