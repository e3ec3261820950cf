//! `apply`, `get` and `delete`.

use voipfleet_policy::{self as policy, Diagnostic, Documents, Severity, Source};
use voipfleet_proto::v1;

use crate::fixture::{Fixture, Terminal, ago};

const SITE: &str = "kind: Site\nname: site-a\nadmins: [198.51.100.10]\ntennants: [acme]\n";

/// The diagnostics that the controller's parser has for a document.
fn check(path: &str, text: &str) -> Vec<v1::Diagnostic> {
    let source = Source {
        path: path.to_owned(),
        text: text.to_owned(),
    };
    let checked = policy::check(&[source], &Documents::default());
    assert!(!checked.diagnostics.is_empty(), "no diagnostics of {text}");
    let wire = |found: Diagnostic| v1::Diagnostic {
        severity: match found.severity {
            Severity::Error => v1::Severity::Error,
            Severity::Warning => v1::Severity::Warning,
        }
        .into(),
        path: found.path,
        offset: found.offset as u64,
        length: found.length as u64,
        line: found.line,
        column: found.column,
        message: found.message,
        label: found.label,
        help: found.help,
    };
    checked.diagnostics.into_iter().map(wire).collect()
}

fn change(kind: &str, name: &str, change: v1::Change) -> v1::DocumentChange {
    v1::DocumentChange {
        kind: kind.to_owned(),
        name: name.to_owned(),
        change: change.into(),
        ..v1::DocumentChange::default()
    }
}

#[tokio::test]
async fn apply_a_folder() {
    let fixture = Fixture::new().await;
    fixture.write("policy/site.yaml", SITE);
    fixture.write(
        "policy/lists.yml",
        "kind: List\nname: voipbl\nfile: lists/voipbl.txt\n",
    );
    fixture.write("policy/lists/voipbl.txt", "192.0.2.1\n");
    fixture.write("policy/README.md", "not a document\n");
    fixture.script(|script| {
        script.apply.changes = vec![
            change("List", "voipbl", v1::Change::Created),
            change("Site", "site-a", v1::Change::Unchanged),
        ];
    });
    let folder = fixture.path("policy");
    let line = ["apply", "-f", folder.to_str().unwrap()];
    let mut shown = fixture.run(&line).await.to_string();
    let asked = fixture.requests();
    for sent in [
        "policy/site.yaml",
        "policy/lists.yml",
        "policy/lists/voipbl.txt",
    ] {
        assert!(asked[0].contains(sent), "{sent} was not sent: {asked:?}");
    }
    assert!(!asked[0].contains("README"), "{asked:?}");
    let json = [&line[..], &["-o", "json", "--dry-run"]].concat();
    shown.push_str(&fixture.run(&json).await.to_string());
    assert!(fixture.requests()[1].contains("dry_run: true"));
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn diagnostics_show_their_place() {
    let fixture = Fixture::new().await;
    fixture.write("site.yaml", SITE);
    let path = fixture.path("site.yaml");
    let path = path.to_str().unwrap();
    fixture.script(|script| script.apply.diagnostics = check(path, SITE));
    let mut shown = fixture
        .run_on(Terminal::Plain(80, ""), &["apply", "-f", path])
        .await
        .to_string();
    shown.push_str(
        &fixture
            .run(&["apply", "-f", path, "-o", "json"])
            .await
            .to_string(),
    );
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn many_diagnostics_are_counted_and_errors_come_first() {
    let fixture = Fixture::new().await;
    fixture.write("site.yaml", SITE);
    let path = fixture.path("site.yaml");
    let path = path.to_str().unwrap();
    fixture.script(|script| {
        let error = check(path, SITE).remove(0);
        let warning = v1::Diagnostic {
            severity: v1::Severity::Warning.into(),
            ..error.clone()
        };
        script.apply.diagnostics = vec![warning; 999];
        script.apply.diagnostics.push(error);
    });
    let shown = fixture.run(&["apply", "-f", path]).await;
    assert_eq!(shown.status, 2);
    assert!(
        shown
            .err
            .starts_with("error: a site has no field `tennants`"),
        "{shown}"
    );
    assert_eq!(shown.err.matches("warning: ").count(), 49);
    assert!(shown.err.contains("and 950 more"), "{shown}");
    assert!(
        shown
            .err
            .ends_with("1 error, 999 warnings in 1 file; nothing was changed\n"),
        "{shown}"
    );
}

#[tokio::test]
async fn unchanged_documents_need_no_push() {
    let fixture = Fixture::new().await;
    fixture.write("site.yaml", SITE);
    let file = fixture.path("site.yaml").to_str().unwrap().to_owned();
    for (change, hints) in [(v1::Change::Unchanged, 0), (v1::Change::Changed, 1)] {
        fixture.script(|script| {
            script.apply.changes = vec![v1::DocumentChange {
                kind: "Site".to_owned(),
                name: "site-a".to_owned(),
                change: change.into(),
                revision: 12,
            }];
        });
        let shown = fixture.run(&["apply", "-f", &file]).await;
        assert_eq!(shown.err.matches("voipctl push site-a").count(), hints);
    }
}

#[tokio::test]
async fn apply_from_stdin() {
    let fixture = Fixture::new().await;
    let now = crate::fixture::now();
    let shown = fixture
        .run_with(Terminal::None, SITE, now, &["apply", "-f", "-"])
        .await;
    assert_eq!(shown.status, 0, "{shown}");
    assert!(fixture.requests()[0].contains("tennants"));
}

#[tokio::test]
async fn missing_empty_and_binary_files() {
    let fixture = Fixture::new().await;
    let missing = fixture.path("missing.yaml");
    let mut shown = fixture
        .run(&["apply", "-f", missing.to_str().unwrap()])
        .await
        .to_string();
    std::fs::create_dir(fixture.path("empty")).unwrap();
    let empty = fixture.path("empty");
    shown.push_str(
        &fixture
            .run(&["apply", "-f", empty.to_str().unwrap()])
            .await
            .to_string(),
    );
    // Nor is a file without a document, whatever else it holds.
    fixture.write("empty.yaml", "# acme comes later\n---\n");
    let none = fixture.path("empty.yaml");
    for command in [
        &["apply", "--dry-run"][..],
        &["plan", "site-a"],
        &["push", "site-a", "--yes"],
    ] {
        let line = [command, &["-f", none.to_str().unwrap()]].concat();
        let ended = fixture.run(&line).await;
        assert_eq!(ended.status, 2, "{ended}");
        shown.push_str(&ended.to_string());
    }
    std::fs::copy(&none, empty.join("acme.yaml")).unwrap();
    let ended = fixture.run(&["apply", "-f", empty.to_str().unwrap()]).await;
    assert_eq!(ended.status, 2, "{ended}");
    let stdin = fixture.run(&["apply", "-f", "-"]).await;
    assert_eq!(stdin.status, 2, "{stdin}");
    shown.push_str(&stdin.to_string());
    fixture.write("latin1.yaml", b"kind: Site\nname: caf\xe9\n");
    let latin1 = fixture.path("latin1.yaml");
    shown.push_str(
        &fixture
            .run(&["apply", "-f", latin1.to_str().unwrap()])
            .await
            .to_string(),
    );
    insta::assert_snapshot!(shown);
    assert!(fixture.requests().is_empty(), "{:?}", fixture.requests());
}

#[tokio::test]
async fn endless_file_is_not_read_to_its_end() {
    let fixture = Fixture::new().await;
    let shown = fixture.run(&["apply", "-f", "/dev/zero"]).await;
    assert_eq!(shown.status, 2, "{shown}");
    assert!(fixture.requests().is_empty());
}

#[tokio::test]
async fn dry_run_without_a_context() {
    let fixture = Fixture::new().await;
    std::fs::remove_file(fixture.path("context.yaml")).unwrap();
    fixture.write(
        "acme.yaml",
        "kind: Tenant\nname: acme\nnetworks: {offices: [203.0.113.0/24]}\n",
    );
    fixture.write("site.yaml", SITE);
    let acme = fixture.path("acme.yaml");
    let good = fixture
        .run(&["apply", "--dry-run", "-f", acme.to_str().unwrap()])
        .await;
    let site = fixture.path("site.yaml");
    let bad = fixture
        .run(&["apply", "--dry-run", "-f", site.to_str().unwrap()])
        .await;
    assert_eq!(bad.status, 2, "{bad}");
    assert!(bad.err.contains("site.yaml:4:1"), "{bad}");
    insta::assert_snapshot!(good);
}

#[tokio::test]
async fn get_documents() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        let stored = |kind: &str, name: &str, yaml: &str| v1::StoredDocument {
            kind: kind.to_owned(),
            name: name.to_owned(),
            revision: 12,
            yaml: yaml.to_owned(),
        };
        script.documents.documents = vec![
            stored(
                "Tenant",
                "acme",
                "kind: Tenant\nname: acme\nnetworks:\n  offices: [203.0.113.0/24]\n",
            ),
            stored(
                "Tenant",
                "globex",
                "kind: Tenant\nname: globex\nnetworks: {}\n",
            ),
        ];
    });
    let mut shown = String::new();
    for line in [
        &["get", "tenants"][..],
        &["get", "tenant", "-o", "yaml"],
        &["get", "Tenant", "-o", "json"],
    ] {
        shown.push_str(&fixture.run(line).await.to_string());
    }
    fixture.script(|script| script.documents.documents.clear());
    shown.push_str(&fixture.run(&["get", "tenant", "acne"]).await.to_string());
    shown.push_str(&fixture.run(&["get", "all"]).await.to_string());
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn revision_comments_detect_conflicts() {
    let fixture = Fixture::new().await;
    let acme = "kind: Tenant\nname: acme\nnetworks:\n  offices: [203.0.113.0/24]\n";
    fixture.script(|script| {
        script.documents.documents = vec![v1::StoredDocument {
            kind: "Tenant".to_owned(),
            name: "acme".to_owned(),
            revision: 17,
            yaml: acme.to_owned(),
        }];
        script.apply.changes = vec![v1::DocumentChange {
            kind: "Tenant".to_owned(),
            name: "acme".to_owned(),
            change: v1::Change::Changed.into(),
            revision: 18,
        }];
    });
    let fetched = fixture.run(&["get", "tenant", "acme", "-o", "yaml"]).await;
    assert_eq!(fetched.out, format!("# revision: 17\n{acme}"));
    fixture.write("acme.yaml", fetched.out.replace("113", "112"));
    let file = fixture.path("acme.yaml").to_str().unwrap().to_owned();
    let line = ["apply", "-f", &file];
    fixture.run(&[&line[..], &["--dry-run"]].concat()).await;
    for revision in [17, 18] {
        fixture.run(&line).await;
        let asked = fixture.requests().pop().unwrap();
        let expected = format!("name: \"acme\", revision: {revision} }}]");
        assert!(asked.contains(&expected), "{asked}");
        assert!(asked.contains("rest_is_new: false"), "{asked}");
    }
    let again = std::fs::read_to_string(&file).unwrap();
    assert!(
        again.starts_with("# revision: 18\nkind: Tenant\n"),
        "{again}"
    );
    fixture.script(|script| {
        let lost = |name: &str, by: &str, found| v1::DocumentConflict {
            kind: "Tenant".to_owned(),
            name: name.to_owned(),
            expected: 18,
            found,
            changed_by: by.to_owned(),
            changed_ms: if by.is_empty() { 0 } else { ago(300) },
        };
        script.apply.conflicts = vec![lost("acme", "ben", 23), lost("globex", "", 0)];
    });
    let lost = fixture.run(&line).await;
    assert_eq!(lost.status, 2);
    insta::assert_snapshot!(lost);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), again);
    fixture.run(&[&line[..], &["--overwrite"]].concat()).await;
    let asked = fixture.requests().pop().unwrap();
    assert!(asked.contains("expected: []"), "{asked}");
}

#[tokio::test]
async fn very_long_list_as_json() {
    let fixture = Fixture::new().await;
    let addresses: Vec<String> = (0..300_000_u32)
        .map(|n| std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).to_string())
        .collect();
    fixture.script(|script| {
        script.documents.documents = vec![v1::StoredDocument {
            kind: "List".to_owned(),
            name: "voipbl".to_owned(),
            revision: 1,
            yaml: format!(
                "kind: List\nname: voipbl\naddresses:\n  - {}\n",
                addresses.join("\n  - ")
            ),
        }];
    });
    let shown = fixture.run(&["get", "list", "voipbl", "-o", "json"]).await;
    let value: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    let held = value["documents"][0]["document"]["addresses"]
        .as_array()
        .unwrap();
    assert_eq!(held.len(), addresses.len());
}

#[tokio::test]
async fn delete_asks_first() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.status.sites = vec![v1::SiteStatus {
            site: "site-a".to_owned(),
            nodes: vec![v1::NodeReport {
                node: "sip1".to_owned(),
                ..v1::NodeReport::default()
            }],
            ..v1::SiteStatus::default()
        }];
    });
    let deletes = || {
        let asked = fixture.requests().into_iter();
        asked
            .filter(|asked| asked.starts_with("DeleteRequest"))
            .count()
    };
    let mut shown = fixture.run(&["delete", "list", "voipbl"]).await.to_string();
    let no = Terminal::Plain(80, "n\n");
    shown.push_str(
        &fixture
            .run_on(no, &["delete", "node", "site-a/sip1"])
            .await
            .to_string(),
    );
    shown.push_str(
        &fixture
            .run(&["delete", "node", "sip1", "--yes"])
            .await
            .to_string(),
    );
    assert_eq!(deletes(), 0);
    // What is not there is not asked about.
    let yes = Terminal::Plain(80, "yes\n");
    let nope = fixture
        .run_on(yes, &["delete", "node", "site-a/nope"])
        .await;
    assert_eq!((nope.status, deletes()), (2, 0), "{nope}");
    assert!(!nope.err.contains("[y/N]"), "{nope}");
    shown.push_str(&nope.to_string());
    shown.push_str(
        &fixture
            .run(&["delete", "list", "voipbl", "--yes"])
            .await
            .to_string(),
    );
    let yes = Terminal::Plain(80, "yes\n");
    shown.push_str(
        &fixture
            .run_on(yes, &["delete", "node", "site-a/sip1"])
            .await
            .to_string(),
    );
    assert_eq!(deletes(), 2);
    insta::assert_snapshot!(shown);
}

/// Documents may come from strangers: what they name is read from their own folder only.
#[tokio::test]
async fn files_of_lists_are_read_from_the_documents_folder_only() {
    let fixture = Fixture::new().await;
    fixture.write("secret.txt", "root:x:0:0\n");
    for file in ["../secret.txt", "/etc/passwd", "lists/../../secret.txt"] {
        let text = format!("kind: List\nname: voipbl\nfile: {file}\n");
        fixture.write("policy/lists.yml", text);
        let folder = fixture.path("policy");
        let line = ["apply", "-f", folder.to_str().unwrap()];
        let shown = fixture.run(&line).await.to_string();
        assert!(!shown.contains("root:"), "{file}: {shown}");
        let asked = fixture.requests();
        assert!(!asked.last().unwrap().contains("root:"), "{file}");
    }
    fixture.write(
        "policy/lists.yml",
        "kind: List\nname: voipbl\nfile: own.txt\n",
    );
    let outside = fixture.path("policy/own.txt");
    std::os::unix::fs::symlink(fixture.path("secret.txt"), &outside).unwrap();
    let before = fixture.requests().len();
    let folder = fixture.path("policy");
    let line = ["apply", "-f", folder.to_str().unwrap()];
    let shown = fixture.run(&line).await.to_string();
    assert!(
        shown.contains("a link that leads out of its document's folder"),
        "{shown}"
    );
    assert_eq!(fixture.requests().len(), before);
    // Of a file that is no list nothing is shown but the place.
    std::fs::remove_file(&outside).unwrap();
    fixture.write("policy/own.txt", "192.0.2.1\nkey: hunter2\n");
    let text = std::fs::read_to_string(fixture.path("policy/own.txt")).unwrap();
    let sources = [
        (
            "policy/lists.yml",
            "kind: List\nname: voipbl\nfile: own.txt\n",
        ),
        ("policy/own.txt", &text),
    ];
    let sources = sources.map(|(path, text)| voipfleet_policy::Source {
        path: path.to_owned(),
        text: text.to_owned(),
    });
    let checked = voipfleet_policy::check(&sources, &voipfleet_policy::Documents::default());
    let said = format!("{:?}", checked.diagnostics);
    assert!(
        said.contains("this line is more than one address") && !said.contains("hunter2"),
        "{said}"
    );
}
