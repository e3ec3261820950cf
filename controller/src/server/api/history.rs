//! Earlier generations, for operators.

use std::collections::BTreeSet;

use tonic::Status;
use voipfleet_policy::Site;
use voipfleet_proto::v1;
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};

use super::PlanApi;
use super::fields::{invalid, parse};
use super::plan::{Room, changes, document, names};
use super::refusals::refused;
use crate::push::PushError;
use crate::push::history::History;
use crate::records::{Cause, GenerationRecord};

impl PlanApi {
    /// The generations of a site that are kept.
    pub(super) async fn history(
        &self,
        request: &v1::HistoryRequest,
    ) -> Result<v1::HistoryResponse, Status> {
        let site: SiteName = parse(&request.site)?;
        let history = self.pushes.history.read(&site).await.map_err(refused)?;
        let mut entries = Vec::with_capacity(history.generations.len());
        for record in &history.generations {
            entries.push(entry(record, &history));
        }
        entries.reverse();
        if request.limit > 0 {
            entries.truncate(usize::try_from(request.limit).unwrap_or(usize::MAX));
        }
        Ok(v1::HistoryResponse {
            site: site.to_string(),
            current: history.current.unwrap_or_default(),
            generations: entries,
        })
    }

    /// One generation: its documents and nodes.
    pub(super) async fn show_generation(
        &self,
        request: &v1::ShowGenerationRequest,
    ) -> Result<v1::ShowGenerationResponse, Status> {
        let site: SiteName = parse(&request.site)?;
        let history = self.pushes.history.read(&site).await.map_err(refused)?;
        let number = request.generation;
        let unknown = || refused(PushError::UnknownGeneration(site.clone(), number));
        let generations = &history.generations;
        let record = generations
            .iter()
            .find(|record| record.number == number)
            .ok_or_else(unknown)?;
        let documents = self.pushes.history.documents_of(record).await;
        let documents = documents.map_err(super::failed)?;
        let of_site = site.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let documents = documents.unwrap_or_default();
            let needs = documents.sites.get(&of_site).map(Site::needs);
            let needed = needs.unwrap_or_default().into_iter();
            needed
                .filter_map(|(kind, name)| documents.get(kind, &name))
                .map(|document| v1::GenerationDocument {
                    kind: document.kind().to_string(),
                    name: document.name().to_owned(),
                    yaml: document.to_yaml(),
                })
                .collect()
        });
        let documents = writing.await;
        let documents = documents.map_err(|_| refused(PushError::Broken(site.clone())))?;
        let node = |(name, content): (&NodeName, &crate::records::Content)| {
            let held = history.confirmed.get(name).copied().flatten();
            v1::GenerationNode {
                node: name.to_string(),
                digest: content.digest.as_bytes().to_vec(),
                size: content.size,
                running: held.map_or(0, |held| held.generation),
            }
        };
        Ok(v1::ShowGenerationResponse {
            entry: Some(entry(record, &history)),
            nodes: record.nodes.iter().map(node).collect(),
            documents,
        })
    }

    /// How two generations differ.
    pub(super) async fn diff_generations(
        &self,
        request: &v1::DiffGenerationsRequest,
    ) -> Result<v1::DiffGenerationsResponse, Status> {
        let site: SiteName = parse(&request.site)?;
        if request.from == 0 {
            return Err(invalid("a generation's number is 1 or more"));
        }
        let to: Option<Generation> = (request.to != 0).then_some(request.to);
        let differing = self.pushes.history.difference(&site, request.from, to);
        let difference = differing.await.map_err(refused)?;
        let mut room = Room::default();
        let documents_known = difference.documents.is_some();
        let documents = difference.documents.unwrap_or_default().into_iter();
        Ok(v1::DiffGenerationsResponse {
            site: site.to_string(),
            from: request.from,
            to: request.to,
            documents: documents.map(|one| document(one, &mut room)).collect(),
            documents_known,
            changes: Some(changes(difference.changes, &mut room)),
            added_nodes: names(&difference.added),
            removed_nodes: names(&difference.removed),
        })
    }
}

fn entry(record: &GenerationRecord, history: &History) -> v1::HistoryEntry {
    let changes = &record.changes;
    let running = history.confirmed.values().flatten();
    let running = running
        .filter(|held| held.generation == record.number)
        .count();
    let outcome = history.outcomes.get(&record.number);
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let list = |names: &BTreeSet<NodeName>| names.iter().map(ToString::to_string).collect();
    v1::HistoryEntry {
        generation: record.number,
        at_ms: record.at_ms,
        by: record.by.clone(),
        rollback_to: match record.cause {
            Cause::Push => 0,
            Cause::Rollback { to } => to,
        },
        documents: record.documents.unwrap_or_default(),
        observe: record.observe,
        nodes: number(record.nodes.len()),
        running: number(running),
        changed_nodes: list(&changes.changed),
        added_nodes: list(&changes.added),
        removed_nodes: list(&changes.removed),
        changed_documents: changes.documents.clone(),
        changed_document_count: changes
            .document_count
            .map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
        applied: outcome.map(|outcome| number(outcome.applied)),
        failed: outcome.map(|outcome| number(outcome.failed)),
        result: outcome.map_or_else(String::new, |outcome| outcome.state.as_str().to_owned()),
    }
}
