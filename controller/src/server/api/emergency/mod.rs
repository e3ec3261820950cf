//! What operators do at once, without a push: block, allow, open a site; and take it back.

mod enforcement;
mod order;
mod ownership;
mod protected;
mod records;
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::server::rpc_status::unknown_site;
use tonic::Status;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use self::enforcement::Awaited;
use self::order::{Asked, Order};
pub(super) use self::records::open_sites;
use self::records::written;
use super::fields::{parse, scope};
use super::{Caller, failed};
use crate::clock::Clock;
use crate::documents::Cache;
use crate::fleet::Fleet;
use crate::records::{ExceptionKind, ExceptionRecord, OpenRecord, SiteScope};
use crate::store::{Revision, Store, every, keys};

/// Blocks, allows and open sites.
#[derive(Debug, Clone)]
pub(super) struct EmergencyApi {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) fleet: Fleet,
    pub(super) documents: Cache,
}

impl EmergencyApi {
    /// Blocks an address: it reaches nothing, and what it has going is cut.
    pub(super) async fn block(
        &self,
        caller: &Caller,
        request: v1::BlockRequest,
    ) -> Result<v1::EmergencyResponse, Status> {
        let asked = Asked {
            address: request.address,
            scope: request.scope,
            ttl_ms: request.ttl_ms,
            forever: request.forever,
            reason: request.reason,
            force: request.force,
        };
        let order = Order::read(asked, self.clock.now_ms())?;
        let sites = self.affected(&order.scope).await?;
        let mut notes = Vec::new();
        match self.whose(&sites, &order.net).await {
            Ok(hits) if order.forced => notes = hits.notes(),
            Ok(hits) => {
                if let Some(refusal) = hits.refusal(&order.net) {
                    return Err(refusal);
                }
            }
            // The owners are unknown, but the block is forced.
            Err(_) if order.forced => {}
            Err(refusal) => return Err(refusal),
        }
        self.put(caller, ExceptionKind::Block, &order, &sites, notes)
            .await
    }

    /// Lets an address reach what clients reach.
    pub(super) async fn allow(
        &self,
        caller: &Caller,
        request: v1::AllowRequest,
    ) -> Result<v1::EmergencyResponse, Status> {
        let asked = Asked {
            address: request.address,
            scope: request.scope,
            ttl_ms: request.ttl_ms,
            forever: request.forever,
            reason: request.reason,
            force: false,
        };
        let order = Order::read(asked, self.clock.now_ms())?;
        let sites = self.affected(&order.scope).await?;
        let blocked = self.exceptions(ExceptionKind::Block).await?;
        let notes = blocked
            .iter()
            .filter(|block| sites.iter().any(|site| block.scope.covers(site)))
            .find(|block| block.net.contains(&order.net) || order.net.contains(&block.net))
            .map(|block| {
                format!(
                    "{} is blocked {}, and a block stands above: voipctl unblock {}",
                    written(&block.net),
                    records::place(&block.scope),
                    written(&block.net)
                )
            });
        let notes = notes.into_iter().collect();
        self.put(caller, ExceptionKind::Allow, &order, &sites, notes)
            .await
    }

    async fn put(
        &self,
        caller: &Caller,
        kind: ExceptionKind,
        order: &Order,
        sites: &BTreeSet<SiteName>,
        notes: Vec<String>,
    ) -> Result<v1::EmergencyResponse, Status> {
        for site in sites {
            caller.concerns_site(site);
        }
        caller.concerns(format!("{}/{}", kind.word(), written(&order.net)));
        caller.detail(&order.reason);
        let (record, revision) = self.put_exception(caller, kind, order).await?;
        tracing::info!(
            operator = %caller.name, kind = kind.word(), net = %record.net, scope = %record.scope,
            reason = record.reason, "block or allow added"
        );
        let awaited = Awaited::Exception(kind, order.net);
        let sites = self.outcome(sites, &awaited, revision, false);
        Ok(v1::EmergencyResponse {
            exceptions: vec![exception(record)],
            open: None,
            changed: true,
            sites: sites.await?,
            notes,
        })
    }

    /// Takes a block or an allow back.
    pub(super) async fn lift(
        &self,
        caller: &Caller,
        kind: ExceptionKind,
        request: v1::LiftRequest,
    ) -> Result<v1::EmergencyResponse, Status> {
        let net = order::net(&request.address)?;
        let scope = scope(request.scope)?;
        caller.concerns(format!("{}/{}", kind.word(), written(&net)));
        let (lifted, revision) = self
            .take_exception(caller, kind, net, scope.as_ref())
            .await?;
        let mut sites = BTreeSet::new();
        for record in &lifted {
            tracing::info!(
                operator = %caller.name, kind = kind.word(), net = %record.net,
                scope = %record.scope, "block or allow removed"
            );
            sites.extend(self.sites_of(&record.scope).await?);
        }
        for site in &sites {
            caller.concerns_site(site);
        }
        let awaited = Awaited::Exception(kind, net);
        let sites = self.outcome(&sites, &awaited, revision, true).await?;
        // A block of all sites still holds where one site's was removed.
        let left = self.exceptions(kind).await?;
        let still = left
            .iter()
            .filter(|record| record.net.contains(&net))
            .filter(|record| match &record.scope {
                SiteScope::All => true,
                SiteScope::One(site) => caller.sight.whole_site(site),
            });
        let notes = still.map(|record| {
            let said = match kind {
                ExceptionKind::Block => "blocked",
                ExceptionKind::Allow => "allowed",
            };
            let place = records::place(&record.scope);
            format!("{} is still {said} {place}", written(&record.net))
        });
        Ok(v1::EmergencyResponse {
            exceptions: lifted.into_iter().map(exception).collect(),
            open: None,
            changed: true,
            sites,
            notes: notes.collect(),
        })
    }

    /// What is blocked, allowed and open.
    pub(super) async fn list(
        &self,
        caller: &Caller,
        request: &v1::ListBlocksRequest,
    ) -> Result<v1::ListBlocksResponse, Status> {
        let only: Option<SiteName> = match request.site.as_str() {
            "" => None,
            site => Some(parse(site)?),
        };
        if let Some(site) = &only {
            self.affected(&SiteScope::One(site.clone())).await?;
        }
        let seen = |site: &SiteName| {
            only.as_ref().is_none_or(|only| only == site) && caller.sight.whole_site(site)
        };
        let holds = |record: &ExceptionRecord| match &record.scope {
            SiteScope::All => true,
            SiteScope::One(site) => seen(site),
        };
        let [blocks, allows] = ExceptionKind::ALL.map(|kind| self.exceptions(kind));
        let listed = |records: Vec<ExceptionRecord>| {
            records.into_iter().filter(holds).map(exception).collect()
        };
        let open = records::open_sites(self.store.as_ref(), self.clock.now_ms());
        let open = open.await?.into_iter();
        let open = open.filter(|(site, _)| seen(site));
        Ok(v1::ListBlocksResponse {
            blocks: listed(blocks.await?),
            allows: listed(allows.await?),
            open: open
                .map(|(site, record)| open_site(&site, record))
                .collect(),
        })
    }

    /// Opens a site to everyone.
    pub(super) async fn open(
        &self,
        caller: &Caller,
        request: v1::PanicOpenRequest,
    ) -> Result<v1::EmergencyResponse, Status> {
        let site: SiteName = parse(&request.site)?;
        let now_ms = self.clock.now_ms();
        let record = OpenRecord {
            at_ms: now_ms,
            until: order::until(request.ttl_ms, request.forever, now_ms)?,
            by: caller.name.to_string(),
            reason: order::reason(&request.reason)?,
        };
        let sites = self.affected(&SiteScope::One(site.clone())).await?;
        caller.detail(&record.reason);
        let (record, revision) = self.put_open(&site, record).await?;
        tracing::warn!(
            operator = %caller.name, %site, reason = record.reason, "site opened to everyone"
        );
        let sites = self.outcome(&sites, &Awaited::Open, revision, false);
        Ok(v1::EmergencyResponse {
            exceptions: Vec::new(),
            open: Some(open_site(&site, record)),
            changed: true,
            sites: sites.await?,
            notes: Vec::new(),
        })
    }

    /// Closes a site that was opened to everyone.
    pub(super) async fn close(
        &self,
        caller: &Caller,
        request: &v1::PanicCloseRequest,
    ) -> Result<v1::EmergencyResponse, Status> {
        let site: SiteName = parse(&request.site)?;
        let sites = self.affected(&SiteScope::One(site.clone())).await?;
        let Some((record, revision)) = self.take_open(&site).await? else {
            return Ok(v1::EmergencyResponse::default());
        };
        tracing::warn!(operator = %caller.name, %site, "site closed");
        let sites = self.outcome(&sites, &Awaited::Open, revision, true);
        Ok(v1::EmergencyResponse {
            exceptions: Vec::new(),
            open: Some(open_site(&site, record)),
            changed: true,
            sites: sites.await?,
            notes: Vec::new(),
        })
    }

    /// Whether the nodes of these sites enforce what was committed.
    async fn outcome(
        &self,
        sites: &BTreeSet<SiteName>,
        awaited: &Awaited,
        revision: Revision,
        lifted: bool,
    ) -> Result<Vec<v1::SiteEnforcement>, Status> {
        let nodes = self.nodes_of(sites).await?;
        let mut outcome = self.enforced(&nodes, awaited, revision, lifted).await;
        for site in &mut outcome {
            site.observe = self.observes(&parse(&site.site)?).await?;
        }
        Ok(outcome)
    }

    /// The sites of a scope; an error where there is no such site.
    async fn affected(&self, scope: &SiteScope) -> Result<BTreeSet<SiteName>, Status> {
        let sites = self.sites_of(scope).await?;
        match scope {
            SiteScope::One(site) if sites.is_empty() => Err(unknown_site(site)),
            _ => Ok(sites),
        }
    }

    /// The sites of a scope that have a document or a node.
    async fn sites_of(&self, scope: &SiteScope) -> Result<BTreeSet<SiteName>, Status> {
        let nodes = match scope {
            SiteScope::All => keys::ALL_NODES.to_owned(),
            SiteScope::One(site) => keys::nodes(site),
        };
        let stored = self.documents.read().await.map_err(failed)?;
        let nodes = every(self.store.as_ref(), &nodes).await.map_err(failed)?;
        let mut sites: BTreeSet<SiteName> = stored.documents.sites.keys().cloned().collect();
        let site = |key: &str| keys::site_and_node(key)?.0.parse::<SiteName>().ok();
        sites.extend(nodes.iter().filter_map(|entry| site(&entry.key)));
        sites.retain(|site| scope.covers(site));
        Ok(sites)
    }
}

fn exception(record: ExceptionRecord) -> v1::Exception {
    use v1::site_scope::Kind;
    v1::Exception {
        address: written(&record.net),
        scope: Some(v1::SiteScope {
            kind: Some(match record.scope {
                SiteScope::All => Kind::All(true),
                SiteScope::One(site) => Kind::Site(site.into()),
            }),
        }),
        at_ms: record.at_ms,
        until_ms: record.until.unwrap_or_default().saturating_mul(1000),
        by: record.by,
        reason: record.reason,
        forced: record.forced,
    }
}

/// For a caller.
pub(super) fn open_site(site: &SiteName, record: OpenRecord) -> v1::OpenSite {
    v1::OpenSite {
        site: site.to_string(),
        at_ms: record.at_ms,
        until_ms: record.until.unwrap_or_default().saturating_mul(1000),
        by: record.by,
        reason: record.reason,
    }
}
