//! Twenty operators who change the same documents, push and block, all at once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::Code;
use tonic::transport::Channel;
use voipfleet_proto::v1::operator_client::OperatorClient;
use voipfleet_proto::v1::{
    ApplyRequest, ApplyResponse, BlockRequest, Change, DeleteRequest, DocumentConflict,
    DocumentRevision, GetDocumentsRequest, ListBlocksRequest, PushRequest, SiteScope,
    StoredDocument, site_scope,
};

use super::installation::{Installation, SITE, apply, refused, with_network};
use super::operators::{add, client, of_all};

const OPERATORS: usize = 20;
/// Far more tries than twenty operators can take from each other.
const TRIES: usize = 2_000;

fn revision(kind: &str, name: &str, revision: u64) -> DocumentRevision {
    DocumentRevision {
        kind: kind.to_owned(),
        name: name.to_owned(),
        revision,
    }
}

async fn documents(client: &mut OperatorClient<Channel>) -> BTreeMap<String, StoredDocument> {
    let request = GetDocumentsRequest::default();
    let found = client.get_documents(request).await.unwrap().into_inner();
    let by_name = |one: StoredDocument| (format!("{}/{}", one.kind, one.name), one);
    found.documents.into_iter().map(by_name).collect()
}

fn networks(document: &StoredDocument) -> Value {
    let value: Value = serde_saphyr::from_str(&document.yaml).unwrap();
    value.get("networks").unwrap().clone()
}

/// Two tenants that are always applied together.
fn pair(mark: usize) -> String {
    let half = |name| json!({"kind": "Tenant", "name": name, "networks": {"mark": [format!("10.1.{mark}.0/24")]}});
    format!("{}\n---\n{}\n", half("left"), half("right"))
}

/// Adds a network to the tenant that all share; returns how often another operator was faster.
async fn add_network(client: &mut OperatorClient<Channel>, number: usize) -> usize {
    for lost in 0..TRIES {
        let all = documents(client).await;
        let acme = all.get("Tenant/acme").unwrap();
        let mut networks = networks(acme);
        let entry = format!("n{number}");
        networks[entry] = json!([format!("10.0.{number}.0/24")]);
        let document = json!({"kind": "Tenant", "name": "acme", "networks": networks});
        let request = ApplyRequest {
            expected: vec![revision("Tenant", "acme", acme.revision)],
            ..apply(&document.to_string())
        };
        let answer = client.apply(request).await.unwrap().into_inner();
        let [conflict] = answer.conflicts.as_slice() else {
            assert_eq!(answer.conflicts.len(), 0);
            assert_eq!(answer.changes.len(), 1);
            return lost;
        };
        assert!(answer.changes.is_empty(), "nothing was stored");
        assert_eq!(
            (conflict.kind.as_str(), conflict.name.as_str()),
            ("Tenant", "acme")
        );
        assert_eq!(conflict.expected, acme.revision);
        assert!(conflict.found > acme.revision, "{conflict:?}");
        // Another operator, by name.
        let by = conflict.changed_by.as_str();
        assert!(
            by.starts_with("op") && by != operator(number),
            "{conflict:?}"
        );
        assert!(conflict.changed_ms > 0);
    }
    panic!("operator {number} never had its turn");
}

fn operator(number: usize) -> String {
    format!("op{number}")
}

/// Each operator blocks an own address and a shared one.
async fn block(client: &mut OperatorClient<Channel>, number: usize) {
    for address in [format!("192.0.2.{number}"), "192.0.2.200".to_owned()] {
        let request = BlockRequest {
            address,
            scope: Some(SiteScope {
                kind: Some(site_scope::Kind::Site("site-a".to_owned())),
            }),
            reason: operator(number),
            ..BlockRequest::default()
        };
        client.block(request).await.unwrap();
    }
}

async fn push(client: &mut OperatorClient<Channel>) {
    let request = PushRequest {
        site: "site-a".to_owned(),
        ..PushRequest::default()
    };
    match client.push(request).await {
        Ok(events) => {
            let mut events = events.into_inner();
            while events.message().await.unwrap().is_some() {}
        }
        // The second one is refused because another push is running.
        Err(status) => {
            assert!(
                matches!(status.code(), Code::Aborted | Code::FailedPrecondition),
                "{status:?}"
            );
            assert!(status.message().contains("site-a"), "{status:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_operators_lose_nothing_and_see_no_partial_apply() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    installation.apply(&pair(0)).await;
    let (done, ended) = watch::channel(false);

    let mut observer = installation.operator().await;
    let watching = tokio::spawn(async move {
        let mut marks = BTreeSet::new();
        loop {
            let last = *ended.borrow();
            let all = documents(&mut observer).await;
            let left = networks(all.get("Tenant/left").unwrap());
            let right = networks(all.get("Tenant/right").unwrap());
            assert_eq!(left, right, "both of a pair, or none");
            marks.insert(left.to_string());
            if last {
                return marks.len();
            }
        }
    });
    let mut operators = Vec::new();
    for number in 1..=OPERATORS {
        let pair_of = add(&installation, &operator(number), of_all("operator")).await;
        let mut client = client(&installation, &pair_of).await;
        operators.push(tokio::spawn(async move {
            let both = client.apply(apply(&pair(number))).await.unwrap();
            assert!(both.into_inner().conflicts.is_empty());
            let lost = add_network(&mut client, number).await;
            block(&mut client, number).await;
            push(&mut client).await;
            lost
        }));
    }
    let mut lost = 0;
    for operator in operators {
        lost += operator.await.unwrap();
    }
    done.send(true).unwrap();
    assert!(watching.await.unwrap() >= 1);

    let mut client = installation.operator().await;
    let all = documents(&mut client).await;
    let networks = networks(all.get("Tenant/acme").unwrap());
    for number in 1..=OPERATORS {
        let entry = format!("n{number}");
        assert!(
            networks.get(&entry).is_some(),
            "{entry} was lost of {networks}"
        );
    }
    assert_eq!(networks.as_object().unwrap().len(), OPERATORS + 1);
    let blocks = client.list_blocks(ListBlocksRequest::default()).await;
    let blocks = blocks.unwrap().into_inner().blocks;
    let of = |address: String| blocks.iter().find(|one| one.address == address).unwrap();
    for number in 1..=OPERATORS {
        assert_eq!(of(format!("192.0.2.{number}")).by, operator(number));
    }
    assert!(of("192.0.2.200".to_owned()).by.starts_with("op"));
    assert_eq!(blocks.len(), OPERATORS + 1);
    println!("{lost} conflicts, each told to the one who lost");
    // What they pushed last is what the documents say.
    let pushed = installation.push().await;
    let again = installation.push().await;
    assert_eq!(again.started.generation, pushed.started.generation);
}

async fn send(installation: &Installation, request: ApplyRequest) -> ApplyResponse {
    let mut client = installation.operator().await;
    client.apply(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn an_apply_is_refused_when_its_expected_revision_is_stale() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let mut client = installation.operator().await;
    let seen = documents(&mut client).await["Tenant/acme"].revision;
    let text =
        |last: u8| format!("kind: Tenant\nname: acme\nnetworks: {{offices: [203.0.113.{last}]}}\n");
    let at = |expected: u64, last: u8| ApplyRequest {
        expected: vec![revision("tenant", "acme", expected)],
        ..apply(&text(last))
    };
    let first = send(&installation, at(seen, 1)).await;
    let now = first.changes[0].revision;
    assert!(now > seen, "the answer says where it is now");
    let late = send(&installation, at(seen, 2)).await;
    let [
        DocumentConflict {
            expected, found, ..
        },
    ] = late.conflicts.as_slice()
    else {
        panic!("{late:?}");
    };
    assert_eq!((*expected, *found), (seen, now));
    // Who comes late with the same words changes nothing, and is told so.
    let same = send(&installation, at(seen, 1)).await;
    assert_eq!(same.changes[0].change(), Change::Unchanged);
    assert_eq!(same.changes[0].revision, now);
    // A document that must be new, and is not.
    let new = send(&installation, at(0, 3)).await;
    assert_eq!(new.conflicts[0].found, now);
    let unknown = ApplyRequest {
        rest_is_new: true,
        ..apply(&text(3))
    };
    assert_eq!(send(&installation, unknown).await.conflicts[0].found, now);
    // A document that was deleted meanwhile.
    let gone = ApplyRequest {
        expected: vec![revision("List", "gone", 7)],
        ..apply("kind: List\nname: gone\naddresses: [192.0.2.1]\n")
    };
    assert_eq!(send(&installation, gone).await.conflicts[0].found, 0);
}

#[tokio::test]
async fn pruning_and_applying_are_one_transaction() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let globex = "kind: Tenant\nname: globex\nnetworks: {a: [192.0.2.1]}\n";
    let other = "kind: Site\nname: site-b\nadmins: [198.51.100.10]\ntenants: [globex]\n";
    installation.apply(&format!("{globex}---\n{other}")).await;
    let mut client = installation.operator().await;
    let all = documents(&mut client).await;
    let at = |name: &str| {
        let (kind, short) = name.split_once('/').unwrap();
        revision(kind, short, all[name].revision)
    };
    let prune = |yaml: &str, prune: Vec<DocumentRevision>| ApplyRequest {
        prune,
        ..apply(yaml)
    };

    // Still used by a site that stays.
    let request = prune(SITE, vec![at("Tenant/globex")]);
    let message = refused(client.apply(request).await, Code::FailedPrecondition);
    assert!(
        message.contains("Tenant globex is used by site site-b"),
        "{message}"
    );
    // Used by what is applied with it: shown in its line.
    let request = prune(other, vec![at("Tenant/globex")]);
    let answer = client.apply(request).await.unwrap().into_inner();
    assert!(
        answer
            .diagnostics
            .iter()
            .any(|d| d.message.contains("globex")),
        "{answer:?}"
    );
    // Changed since it was shown: neither the pruning nor the rest happens.
    let mut stale = at("Site/site-b");
    stale.revision -= 1;
    let changed = with_network("203.0.112.0/24");
    let request = prune(&changed, vec![stale, at("Tenant/globex")]);
    let answer = client.apply(request).await.unwrap().into_inner();
    assert_eq!(answer.conflicts.len(), 1, "{answer:?}");
    assert_eq!(documents(&mut client).await, all);

    let request = prune(&changed, vec![at("Site/site-b"), at("Tenant/globex")]);
    let dry_run = ApplyRequest {
        dry_run: true,
        ..request.clone()
    };
    let shown = client.apply(dry_run).await.unwrap().into_inner();
    assert_eq!(documents(&mut client).await, all);
    let answer = client.apply(request).await.unwrap().into_inner();
    let words = |answer: &ApplyResponse| -> Vec<(String, Change)> {
        let word = |c: &voipfleet_proto::v1::DocumentChange| (c.name.clone(), c.change());
        answer.changes.iter().map(word).collect()
    };
    assert_eq!(words(&shown), words(&answer));
    assert_eq!(
        words(&answer),
        [
            ("site-a".to_owned(), Change::Unchanged),
            ("acme".to_owned(), Change::Changed),
            ("site-b".to_owned(), Change::Deleted),
            ("globex".to_owned(), Change::Deleted),
        ]
    );
    let left: Vec<String> = documents(&mut client).await.into_keys().collect();
    assert_eq!(left, ["Site/site-a", "Tenant/acme"]);

    // A site with nodes stays.
    installation.enrol("a").await;
    let all = documents(&mut client).await;
    let request = prune(
        "kind: Tenant\nname: acme\nnetworks: {a: [192.0.2.1]}\n",
        vec![revision("Site", "site-a", all["Site/site-a"].revision)],
    );
    let message = refused(client.apply(request).await, Code::FailedPrecondition);
    assert!(
        message.contains("site site-a still has nodes: a"),
        "{message}"
    );
    let request = DeleteRequest {
        kind: "Tenant".to_owned(),
        name: "acme".to_owned(),
    };
    let message = refused(client.delete(request).await, Code::FailedPrecondition);
    assert!(message.contains("is used by site site-a"), "{message}");
}
