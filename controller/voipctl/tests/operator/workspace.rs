//! Folders of documents: `apply --prune`, `export`, and conflicts.

use voipfleet_proto::v1;

use crate::fixture::{Fixture, Terminal, ago};

const ACME: &str = "kind: Tenant\nname: acme\nnetworks: {offices: [203.0.113.0/24]}\n";
const GLOBEX: &str = "kind: Tenant\nname: globex\nnetworks: {offices: [198.51.100.0/24]}\n";

fn change(name: &str, change: v1::Change, revision: u64) -> v1::DocumentChange {
    v1::DocumentChange {
        kind: "Tenant".to_owned(),
        name: name.to_owned(),
        change: change.into(),
        revision,
    }
}

fn stored(name: &str, revision: u64, yaml: &str) -> v1::StoredDocument {
    v1::StoredDocument {
        kind: "Tenant".to_owned(),
        name: name.to_owned(),
        revision,
        yaml: yaml.to_owned(),
    }
}

fn conflict(name: &str, expected: u64, found: u64, by: &str) -> v1::DocumentConflict {
    v1::DocumentConflict {
        kind: "Tenant".to_owned(),
        name: name.to_owned(),
        expected,
        found,
        changed_by: by.to_owned(),
        changed_ms: if by.is_empty() { 0 } else { ago(300) },
    }
}

/// A folder that was exported: acme at 12, globex at 7.
async fn exported() -> (Fixture, String) {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.documents.documents = vec![stored("acme", 12, ACME), stored("globex", 7, GLOBEX)];
        script.documents.complete = true;
    });
    let folder = fixture.path("policies").to_str().unwrap().to_owned();
    let ended = fixture.run(&["export", &folder]).await;
    assert_eq!(ended.status, 0, "{ended}");
    (fixture, folder)
}

fn read(fixture: &Fixture, name: &str) -> Option<String> {
    std::fs::read_to_string(fixture.path(name)).ok()
}

#[tokio::test]
async fn export_reports_and_repeats() {
    let fixture = Fixture::new().await;
    let folder = fixture.path("policies").to_str().unwrap().to_owned();
    let mut shown = fixture.run(&["export", &folder]).await.to_string();
    fixture.script(|script| {
        script.documents.documents = vec![stored("acme", 12, ACME), stored("globex", 7, GLOBEX)];
        script.documents.complete = true;
    });
    shown.push_str(&fixture.run(&["export", &folder]).await.to_string());
    let before = read(&fixture, "policies/.voipfleet-revisions.json").unwrap();
    assert_eq!(read(&fixture, "policies/tenant/acme.yaml").unwrap(), ACME);
    shown.push_str(&fixture.run(&["export", &folder]).await.to_string());
    let after = read(&fixture, "policies/.voipfleet-revisions.json").unwrap();
    assert_eq!(before, after);
    // One document was changed, and one deleted.
    fixture.script(|script| {
        let changed = ACME.replace("offices", "office");
        script.documents.documents = vec![stored("acme", 31, &changed)];
    });
    let json = ["export", &folder, "-o", "json"];
    shown.push_str(&fixture.run(&json).await.to_string());
    assert!(
        read(&fixture, "policies/tenant/acme.yaml")
            .unwrap()
            .contains("office:")
    );
    assert_eq!(read(&fixture, "policies/tenant/globex.yaml"), None);
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn invisible_documents_are_not_removed() {
    let (fixture, folder) = exported().await;
    let before = read(&fixture, "policies/.voipfleet-revisions.json").unwrap();
    fixture.script(|script| {
        script.documents.documents = vec![stored("acme", 12, ACME)];
        script.documents.complete = false;
    });
    let mut shown = fixture.run(&["export", &folder]).await.to_string();
    let forced = ["export", &folder, "--force", "-o", "json"];
    shown.push_str(&fixture.run(&forced).await.to_string());
    let left = read(&fixture, "policies/tenant/globex.yaml");
    assert_eq!(left.as_deref(), Some(GLOBEX));
    let after = read(&fixture, "policies/.voipfleet-revisions.json").unwrap();
    assert_eq!(before, after);
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn export_keeps_local_edits() {
    let (fixture, folder) = exported().await;
    let mine = format!("# ours\n{ACME}");
    fixture.write("policies/tenant/acme.yaml", &mine);
    fixture.write("policies/tenant/new.yaml", GLOBEX.replace("globex", "new"));
    // Its document has not changed: the file is kept.
    let mut shown = fixture.run(&["export", &folder]).await.to_string();
    assert_eq!(read(&fixture, "policies/tenant/acme.yaml").unwrap(), mine);
    // Its document has changed: no file is written.
    fixture.script(|script| {
        script.documents.documents = vec![
            stored("acme", 31, ACME),
            stored("globex", 32, &GLOBEX.replace("offices", "office")),
        ];
    });
    let refused = fixture.run(&["export", &folder]).await;
    assert_eq!(refused.status, 2);
    shown.push_str(&refused.to_string());
    assert_eq!(read(&fixture, "policies/tenant/acme.yaml").unwrap(), mine);
    assert_eq!(
        read(&fixture, "policies/tenant/globex.yaml").unwrap(),
        GLOBEX
    );
    shown.push_str(
        &fixture
            .run(&["export", &folder, "--force"])
            .await
            .to_string(),
    );
    assert_eq!(read(&fixture, "policies/tenant/acme.yaml").unwrap(), ACME);
    assert!(read(&fixture, "policies/tenant/new.yaml").is_some());
    // A folder that is an operator's own.
    fixture.write("own/policies.yaml", ACME);
    let own = fixture.path("own").to_str().unwrap().to_owned();
    shown.push_str(&fixture.run(&["export", &own]).await.to_string());
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn apply_sends_and_records_revisions() {
    let (fixture, folder) = exported().await;
    fixture.write("policies/README.md", "ours\n");
    fixture.script(|script| {
        script.apply.changes = vec![
            change("acme", v1::Change::Changed, 40),
            change("globex", v1::Change::Unchanged, 7),
        ];
    });
    let ended = fixture.run(&["apply", "-f", &folder]).await;
    let asked = fixture.requests().pop().unwrap();
    for part in [
        "revision: 12",
        "revision: 7",
        "rest_is_new: true",
        "tenant/acme.yaml",
    ] {
        assert!(asked.contains(part), "{part} is not in {asked}");
    }
    let noted = read(&fixture, "policies/.voipfleet-revisions.json").unwrap();
    assert!(noted.contains("\"revision\": 40"), "{noted}");
    insta::assert_snapshot!(ended);
    // Another installation's revisions mean nothing.
    fixture.write(
        "policies/.voipfleet-revisions.json",
        noted.replace("\"installation\": \"", "\"installation\": \"0"),
    );
    fixture.run(&["apply", "-f", &folder]).await;
    let asked = fixture.requests().pop().unwrap();
    assert!(
        asked.contains("expected: []") && asked.contains("rest_is_new: false"),
        "{asked}"
    );
}

#[tokio::test]
async fn conflicts_are_reported() {
    let (fixture, folder) = exported().await;
    fixture.script(|script| {
        script.apply.conflicts = vec![
            conflict("acme", 12, 31, "ben"),
            conflict("globex", 7, 0, "ben"),
            conflict("initech", 0, 9, ""),
        ];
    });
    let before = read(&fixture, "policies/.voipfleet-revisions.json");
    let mut shown = String::new();
    for width in [60, 120] {
        let line = ["apply", "-f", &folder];
        let ended = fixture.run_on(Terminal::Plain(width, ""), &line).await;
        assert_eq!(ended.status, 2, "{ended}");
        shown.push_str(&ended.to_string());
    }
    let json = ["apply", "-f", &folder, "-o", "json"];
    shown.push_str(&fixture.run(&json).await.to_string());
    assert_eq!(read(&fixture, "policies/.voipfleet-revisions.json"), before);
    insta::assert_snapshot!(shown);
    fixture.run(&["apply", "-f", &folder, "--overwrite"]).await;
    let asked = fixture.requests().pop().unwrap();
    assert!(
        asked.contains("expected: []") && asked.contains("rest_is_new: false"),
        "{asked}"
    );
}

#[tokio::test]
async fn expected_revisions_from_the_command_line() {
    let fixture = Fixture::new().await;
    fixture.write("acme.yaml", ACME);
    let file = fixture.path("acme.yaml").to_str().unwrap().to_owned();
    let line = ["apply", "-f", &file, "--expect-revision", "tenant/acme=57"];
    fixture.run(&line).await;
    let asked = fixture.requests().pop().unwrap();
    assert!(
        asked.contains("revision: 57") && asked.contains("rest_is_new: false"),
        "{asked}"
    );
    let both = [&line[..], &["--overwrite"]].concat();
    let mut shown = fixture.run(&both).await.to_string();
    shown.push_str(
        &fixture
            .run(&["apply", "-f", &file, "--prune"])
            .await
            .to_string(),
    );
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn file_of_a_folder_uses_its_revisions() {
    let (fixture, folder) = exported().await;
    fixture.script(|script| {
        script.apply.changes = vec![change("acme", v1::Change::Changed, 40)];
    });
    let file = format!("{folder}/tenant/acme.yaml");
    let ended = fixture.run(&["apply", "-f", &file]).await;
    let asked = fixture.requests().pop().unwrap();
    assert!(
        asked.contains("revision: 12") && asked.contains("rest_is_new: true"),
        "{asked}"
    );
    let noted = read(&fixture, "policies/.voipfleet-revisions.json").unwrap();
    assert!(
        noted.contains("\"revision\": 40") && noted.contains("globex"),
        "{noted}"
    );
    assert!(!ended.err.contains("--prune"), "{ended}");
    let refused = fixture.run(&["apply", "-f", &file, "--prune"]).await;
    assert!(
        refused.err.contains("--prune needs one folder"),
        "{refused}"
    );
}

#[tokio::test]
async fn prune_shows_and_asks() {
    let (fixture, folder) = exported().await;
    std::fs::remove_file(fixture.path("policies/tenant/globex.yaml")).unwrap();
    fixture.script(|script| {
        script.apply.changes = vec![change("acme", v1::Change::Unchanged, 12)];
    });
    // It stays, with a note.
    let mut shown = fixture.run(&["apply", "-f", &folder]).await.to_string();
    fixture.script(|script| {
        let deleted = change("globex", v1::Change::Deleted, 0);
        script.apply.changes.push(deleted);
    });
    let line = ["apply", "-f", &folder, "--prune"];
    shown.push_str(&fixture.run(&line).await.to_string());
    let no = fixture.run_on(Terminal::Plain(60, "n\n"), &line).await;
    assert_eq!(no.status, 1);
    shown.push_str(&no.to_string());
    let asked = fixture.requests();
    assert!(
        !asked
            .iter()
            .skip(2)
            .any(|asked| asked.contains("dry_run: false")),
        "{asked:?}"
    );
    let yes = fixture.run_on(Terminal::Plain(60, "y\n"), &line).await;
    shown.push_str(&yes.to_string());
    let asked = fixture.requests().pop().unwrap();
    assert!(asked.contains("dry_run: false"), "{asked}");
    let noted = read(&fixture, "policies/.voipfleet-revisions.json").unwrap();
    assert!(!noted.contains("globex"), "{noted}");
    // Every document that is not in the folder.
    fixture.script(|script| {
        script.documents.documents = vec![stored("acme", 12, ACME), stored("other", 90, GLOBEX)];
        script.apply.changes.pop();
        script
            .apply
            .changes
            .push(change("other", v1::Change::Deleted, 0));
    });
    let all = ["apply", "-f", &folder, "--prune=all", "--yes", "-o", "json"];
    shown.push_str(&fixture.run(&all).await.to_string());
    let asked = fixture.requests().pop().unwrap();
    assert!(asked.contains("name: \"other\", revision: 90"), "{asked}");
    let new = fixture.path("new").to_str().unwrap().to_owned();
    fixture.write("new/acme.yaml", ACME);
    shown.push_str(
        &fixture
            .run(&["apply", "-f", &new, "--prune"])
            .await
            .to_string(),
    );
    insta::assert_snapshot!(shown);
}
