//! What a node's kernel would be given, for people, and for hosts that cannot run an agent.

use tonic::Status;
use voipfleet_compiler::Standing;
use voipfleet_proto::v1::{RenderRequest, RenderResponse, RenderedNode};
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::iptables::{Failsafe, Table, apply_input, set_create_input};
use voipfleet_ruleset::ruleset::dynamic_sets::Missing;
use voipfleet_ruleset::ruleset::{Digest, Family, Ruleset};

use super::PlanApi;
use super::fields::{invalid, parse};
use super::refusals::refused;
use crate::push::PushError;
use crate::server::rpc_status::internal;
use crate::site_inputs::{SiteNode, read_addresses};

impl PlanApi {
    /// Compiles the stored documents, and renders them without pushing anything.
    pub(super) async fn render(&self, request: &RenderRequest) -> Result<RenderResponse, Status> {
        let site: SiteName = parse(&request.site)?;
        let only: Option<NodeName> = match request.node.as_str() {
            "" => None,
            node => Some(parse(node)?),
        };
        let (dynamic, compiled) = match &only {
            Some(node) if !request.roles.is_empty() => {
                let host = SiteNode {
                    roles: request
                        .roles
                        .iter()
                        .map(|role| parse(role))
                        .collect::<Result<_, _>>()?,
                    addresses: read_addresses(&request.addresses),
                    lost: Vec::new(),
                    enrolled_ms: 0,
                    confirmed: None,
                    listeners: Vec::new(),
                    missing_features: Vec::new(),
                    refused: None,
                    standing: Standing::Member,
                };
                let compiled = self.pushes.compiler.compile_with(&site, node.clone(), host);
                compiled.await.map_err(refused)?
            }
            None if !request.roles.is_empty() => {
                return Err(invalid("roles need the name of a node"));
            }
            _ => self
                .pushes
                .compiler
                .compile_site(&site)
                .await
                .map_err(refused)?,
        };
        if let Some(node) = only
            .as_ref()
            .filter(|n| !compiled.rulesets.contains_key(*n))
        {
            return Err(refused(PushError::UnknownNode(format!("{site}/{node}"))));
        }
        let now = self.clock.now_ms() / 1000;
        let rendering = tokio::task::spawn_blocking(move || {
            compiled
                .rulesets
                .values()
                .filter(|ruleset| only.as_ref().is_none_or(|only| *only == ruleset.node))
                .map(|ruleset| {
                    // No agent will update the host: it gets the present members. The digest is
                    // that of the ruleset which a push would bring, as in a node's status.
                    let whole = ruleset.with_dynamic(&dynamic)?;
                    Ok(rendered(&whole, &ruleset.digest(), now))
                })
                .collect::<Result<_, Missing>>()
        });
        let nodes = rendering
            .await
            .map_err(|_| refused(PushError::Broken(site.clone())))?
            .map_err(|error| internal(&format!("site {site} cannot be rendered: {error}")))?;
        Ok(RenderResponse { nodes })
    }
}

/// On a host without rules of ours: chains, rules and the jump to them. Without an agent there
/// is no controller to keep open. What ends by itself is given what is left of it at `now`,
/// Unix time in seconds.
fn rendered(ruleset: &Ruleset, digest: &Digest, now: u64) -> RenderedNode {
    let restore = |family| apply_input(ruleset, &Failsafe::default(), family, &Table::default());
    RenderedNode {
        node: ruleset.node.to_string(),
        digest: digest.as_bytes().to_vec(),
        ipset: set_create_input(&ruleset.sets, now),
        iptables: restore(Family::V4),
        ip6tables: restore(Family::V6),
    }
}
