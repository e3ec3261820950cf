//! Plans against what nodes have confirmed, and pushes of exactly what was planned.

use tonic::Code;
use voipfleet_proto::v1::{
    DiffGenerationsRequest, HistoryRequest, PlanRequest, PlanResponse, PlannedState, PushRequest,
    RollbackRequest, ShowGenerationRequest, Source,
};

use super::installation::{
    Installation, NETWORK, SITE, canary, connected, refused, staged, with_network,
};

async fn plan(installation: &Installation, sources: &[&str]) -> PlanResponse {
    let given = |text: &&str| Source {
        path: "site.yaml".to_owned(),
        text: (*text).to_owned(),
    };
    let request = PlanRequest {
        site: "site-a".to_owned(),
        sources: sources.iter().map(given).collect(),
        ..PlanRequest::default()
    };
    installation
        .operator()
        .await
        .plan(request)
        .await
        .unwrap()
        .into_inner()
}

fn agreed(plan: &PlanResponse) -> PushRequest {
    PushRequest {
        site: "site-a".to_owned(),
        basis: plan.basis.clone(),
        ..PushRequest::default()
    }
}

const WIDER: &str = "203.0.112.0/23";

fn wider() -> String {
    with_network(WIDER)
}

#[tokio::test]
async fn a_plan_compares_with_what_nodes_have_confirmed() {
    let (installation, _, mut session) = connected().await;
    let first = plan(&installation, &[]).await;
    assert_eq!(
        (first.generation, first.current, first.changed),
        (1, 0, true)
    );
    assert_eq!(first.nodes[0].state(), PlannedState::First);
    assert!(
        first
            .warnings
            .iter()
            .any(|w| w.contains("first rules on a: what they do not open is closed"))
    );
    assert!(first.changes.unwrap().access.is_empty());

    let push = installation.push().await;
    let offer = session.offer().await;
    session.apply(&offer).await;
    push.end().await;
    let same = plan(&installation, &[]).await;
    assert!(!same.changed);
    assert_eq!(same.nodes[0].state(), PlannedState::Unchanged);
    assert!(same.changes.unwrap().rules.is_empty());

    // Documents that make the same rules are the generation's own once they were pushed.
    let staged = staged(canary(), NETWORK);
    installation.apply(&staged).await;
    let staging = plan(&installation, &[]).await;
    assert_eq!((staging.changed, staging.documents.len()), (false, 1));
    let (done, _) = installation.push().await.end().await;
    assert_eq!((done.generation, done.changed), (1, false));
    assert!(plan(&installation, &[]).await.documents.is_empty());
    installation.apply(SITE).await;
    installation.push().await.end().await;

    // As if other documents were stored; nothing is.
    let given = plan(&installation, &[&wider()]).await;
    assert_eq!((given.generation, given.changed), (2, true));
    assert_eq!(given.documents.len(), 1);
    assert_eq!(given.documents[0].fields[0].field, "networks.offices");
    let changes = given.changes.unwrap();
    let set = &changes.sets[0];
    assert_eq!(
        (set.set.as_str(), set.added.len(), set.removed.len()),
        ("clients", 1, 1)
    );
    assert_eq!(set.added[0].owners, ["tenant acme: offices"]);
    assert_eq!(set.removed[0].owners, ["tenant acme: offices"]);
    // The wider network holds the old one: nothing is lost.
    assert!(changes.access.iter().all(|access| access.gains));
    assert_eq!(changes.access[0].networks, ["203.0.112.0/24"]);

    // Pushed and not confirmed: the node still runs the first one.
    installation.apply(&wider()).await;
    let push = installation.push().await;
    session.offer().await;
    let held = plan(&installation, &[]).await;
    assert!(!held.changed);
    assert_eq!(held.nodes[0].generation, 1);
    assert_eq!(held.nodes[0].state(), PlannedState::Changed);
    assert_eq!(held.changes.unwrap().sets[0].set, "clients");
    drop(push);
}

#[tokio::test]
async fn a_plan_reports_a_running_rollout() {
    let (installation, _, mut session) = connected().await;
    let request = |rehearse| PushRequest {
        dry_run: true,
        rehearse,
        ..agreed(&PlanResponse {
            basis: None,
            ..PlanResponse::default()
        })
    };
    assert_eq!(plan(&installation, &[]).await.held, "");
    installation.try_push(request(true)).await.unwrap();
    let push = installation.push().await;
    let offer = session.offer().await;
    let planned = plan(&installation, &[]).await;
    let blocked = [vec![planned.held], planned.held_hints].concat().join("; ");
    assert!(
        blocked.contains("the rollout of generation 1 by"),
        "{blocked}"
    );
    installation.try_push(request(false)).await.unwrap();
    let answer = installation.try_push(request(true)).await.map(|_| ());
    assert_eq!(refused(answer, Code::FailedPrecondition), blocked);
    session.apply(&offer).await;
    push.end().await;
    assert_eq!(plan(&installation, &[]).await.held, "");
}

#[tokio::test]
async fn a_plan_reports_an_unknown_ruleset_of_a_node() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let mut node = installation.enrol("a").await;
    node.confirmed = Some((4, vec![7; 32]));
    let _session = node.connect(&installation.address()).await.unwrap();
    let told = plan(&installation, &[]).await;
    assert_eq!(told.nodes[0].state(), PlannedState::Unknown);
    assert_eq!(told.nodes[0].generation, 4);
}

#[tokio::test]
async fn a_push_with_a_plan_pushes_exactly_that_plan() {
    let (installation, _, mut session) = connected().await;
    let planned = plan(&installation, &[&wider()]).await;
    // Those documents are not stored: what would be pushed is not what was agreed to.
    let message = refused(
        installation.try_push(agreed(&planned)).await.map(|_| ()),
        Code::Aborted,
    );
    assert!(message.contains("rules of a: different"), "{message}");
    installation.apply(&wider()).await;
    let push = installation.try_push(agreed(&planned)).await.unwrap();
    assert_eq!(push.started.generation, 1);
    let offer = session.offer().await;
    assert_eq!(offer.digest, planned.nodes[0].wanted);
    session.apply(&offer).await;
    push.end().await;
}

#[tokio::test]
async fn a_stale_plan_is_refused_with_the_change() {
    let (installation, _, mut session) = connected().await;
    let planned = plan(&installation, &[]).await;
    let stale = async |planned: &PlanResponse| {
        let pushed = installation.try_push(agreed(planned)).await;
        refused(pushed.map(|_| ()), Code::Aborted)
    };
    installation.apply(&wider()).await;
    let message = stale(&planned).await;
    assert!(
        message.contains("since ada changed the documents"),
        "{message}"
    );
    assert_eq!(installation.status().await.generation, 0);

    // The same rules in other batches are not what was shown.
    let planned = plan(&installation, &[]).await;
    let staged = staged(canary(), WIDER);
    installation.apply(&staged).await;
    let message = stale(&planned).await;
    assert!(
        message.contains("rollout: changed by ada from {canary: 0, batch: 100%"),
        "{message}"
    );
    installation.apply(&wider()).await;

    let planned = plan(&installation, &[]).await;
    installation.enrol("b").await;
    let message = stale(&planned).await;
    assert!(message.contains("node b: enrolled"), "{message}");

    let planned = plan(&installation, &[]).await;
    let push = installation.push().await;
    let message = stale(&planned).await;
    assert!(message.contains("generation 1: pushed by ada"), "{message}");
    let planned = plan(&installation, &[]).await;
    let offer = session.offer().await;
    session.apply(&offer).await;
    installation
        .until_status(|site| site.nodes["a"].generation != 0)
        .await;
    let message = stale(&planned).await;
    assert!(
        message.contains("node a: now runs generation 1"),
        "{message}"
    );
    drop(push);

    // A document that is no concern of the site moves nothing.
    let planned = plan(&installation, &[]).await;
    installation
        .apply("kind: Tenant\nname: other\nnetworks: {hq: [198.18.0.0/24]}\n")
        .await;
    installation.try_push(agreed(&planned)).await.unwrap();
    let elsewhere = PushRequest {
        site: "site-b".to_owned(),
        ..agreed(&planned)
    };
    refused(
        installation.try_push(elsewhere).await.map(|_| ()),
        Code::InvalidArgument,
    );
}

#[tokio::test]
async fn earlier_generations_are_listed_shown_and_compared() {
    let (installation, _, mut session) = connected().await;
    for documents in [SITE.to_owned(), wider()] {
        installation.apply(&documents).await;
        let push = installation.push().await;
        let offer = session.offer().await;
        session.apply(&offer).await;
        push.end().await;
    }
    let mut client = installation.operator().await;
    let site = "site-a".to_owned();
    let request = HistoryRequest {
        site: site.clone(),
        limit: 0,
    };
    let history = client.history(request).await.unwrap().into_inner();
    assert_eq!(history.current, 2);
    let numbers: Vec<u64> = history
        .generations
        .iter()
        .map(|entry| entry.generation)
        .collect();
    assert_eq!(numbers, [2, 1]);
    assert_eq!(history.generations[0].by, "ada");
    assert_eq!(history.generations[0].running, 1);
    assert_eq!(history.generations[0].changed_nodes, ["a"]);
    assert_eq!(history.generations[1].added_nodes, ["a"]);

    let request = ShowGenerationRequest {
        site: site.clone(),
        generation: 1,
    };
    let shown = client.show_generation(request).await.unwrap().into_inner();
    let tenant = shown
        .documents
        .iter()
        .find(|document| document.kind == "Tenant")
        .unwrap();
    assert!(tenant.yaml.contains("203.0.113.0/24"), "{}", tenant.yaml);
    assert_eq!(shown.nodes[0].running, 2);

    let request = |from, to| DiffGenerationsRequest {
        site: site.clone(),
        from,
        to,
    };
    for to in [2, 0] {
        let answer = client
            .diff_generations(request(1, to))
            .await
            .unwrap()
            .into_inner();
        assert!(answer.documents_known);
        assert_eq!(answer.documents[0].fields[0].added, ["203.0.112.0/23"]);
        let sets = answer.changes.unwrap().sets;
        assert_eq!(sets[0].removed[0].network, "203.0.113.0/24");
        assert_eq!(sets[0].removed[0].owners, ["tenant acme: offices"]);
    }
    let back = PlanRequest {
        site: site.clone(),
        back: true,
        ..PlanRequest::default()
    };
    let back = client.plan(back).await.unwrap().into_inner();
    assert_eq!((back.generation, back.to, back.changed), (3, 1, true));
    assert_eq!(back.steps.len(), 1);
    // It changes no document, and says what the next push does.
    assert!(back.documents.is_empty(), "{:?}", back.documents);
    let stay = back
        .warnings
        .iter()
        .any(|one| one.contains("documents stay"));
    assert!(stay, "{:?}", back.warnings);
    let access = &back.changes.as_ref().unwrap().access;
    assert!(!access.is_empty());
    assert!(
        access
            .iter()
            .all(|access| !access.gains && access.owner == "tenant acme")
    );
    // What was shown is what is brought back, or nothing.
    installation.enrol("b").await;
    let stale = RollbackRequest {
        site: site.clone(),
        to: back.to,
        basis: back.basis,
        ..RollbackRequest::default()
    };
    let message = refused(client.rollback(stale).await.map(|_| ()), Code::Aborted);
    assert!(message.contains("node b: enrolled"), "{message}");
    let done = &history.generations[0];
    assert_eq!((done.result.as_str(), done.applied), ("done", Some(1)));
    refused(client.diff_generations(request(1, 9)).await, Code::NotFound);
    let request = HistoryRequest {
        site: "site-z".to_owned(),
        limit: 0,
    };
    refused(client.history(request).await, Code::NotFound);
}

/// The digests that a generation gives its nodes.
async fn stored(installation: &Installation, generation: u64) -> Vec<(String, Vec<u8>)> {
    let request = ShowGenerationRequest {
        site: "site-a".to_owned(),
        generation,
    };
    let mut client = installation.operator().await;
    let shown = client.show_generation(request).await.unwrap().into_inner();
    let nodes = shown.nodes.into_iter();
    nodes.map(|node| (node.node, node.digest)).collect()
}

/// The digests that a plan shows.
fn shown(plan: &PlanResponse) -> Vec<(String, Vec<u8>)> {
    let nodes = plan.nodes.iter();
    nodes
        .map(|node| (node.node.clone(), node.wanted.clone()))
        .collect()
}

/// Plan, dry run, push and rollback are the same proposal: number and digests agree.
#[tokio::test]
async fn what_a_plan_shows_is_what_is_stored() {
    let (installation, _, mut session) = connected().await;
    for documents in [SITE.to_owned(), wider()] {
        installation.apply(&documents).await;
        let plan = plan(&installation, &[]).await;
        let basis = plan.basis.clone().unwrap();
        let of_basis = basis.nodes.into_iter().map(|node| (node.node, node.wanted));
        assert_eq!(of_basis.collect::<Vec<_>>(), shown(&plan));
        let dry = PushRequest {
            dry_run: true,
            ..agreed(&plan)
        };
        let mut client = installation.operator().await;
        let mut events = client.push(dry).await.unwrap().into_inner();
        let mut numbers = Vec::new();
        while let Some(event) = events.message().await.unwrap() {
            if let Some(voipfleet_proto::v1::push_event::Kind::Done(done)) = event.kind {
                numbers.push((done.generation, done.changed));
            }
        }
        assert_eq!(numbers, [(plan.generation, plan.changed)]);
        let push = installation.try_push(agreed(&plan)).await.unwrap();
        let offer = session.offer().await;
        session.apply(&offer).await;
        assert_eq!(push.end().await.0.generation, plan.generation);
        assert_eq!(stored(&installation, plan.generation).await, shown(&plan));
    }
    let request = PlanRequest {
        site: "site-a".to_owned(),
        back: true,
        ..PlanRequest::default()
    };
    let mut client = installation.operator().await;
    let plan = client.plan(request).await.unwrap().into_inner();
    assert_eq!((plan.to, plan.generation), (1, 3));
    let request = RollbackRequest {
        site: "site-a".to_owned(),
        basis: plan.basis.clone(),
        ..RollbackRequest::default()
    };
    let mut events = client.rollback(request).await.unwrap().into_inner();
    let offer = session.offer().await;
    session.apply(&offer).await;
    while events.message().await.unwrap().is_some() {}
    assert_eq!(stored(&installation, 3).await, shown(&plan));
    assert_eq!(
        stored(&installation, 3).await,
        stored(&installation, 1).await
    );
}
