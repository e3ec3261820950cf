//! Join tokens.

use std::collections::BTreeSet;
use std::sync::Arc;

use tonic::Status;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_proto::v1::{
    CreateTokenRequest, CreateTokenResponse, ListTokensRequest, ListTokensResponse, TokenReport,
};
use voipfleet_protocol::identity::rights::{Call, Target, Uses, decide};
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::role::Role;

use super::fields::{invalid, parse};
use super::{Caller, failed};
use crate::clock::Clock;
use crate::documents::Cache;
use crate::limits::MAX_TOKENS;
use crate::pki::{Authority, token};
use crate::records::{self, TokenRecord};
use crate::server::rpc_status::Failed;
use crate::settings::Address;
use crate::store::{Expect, Store, Txn, every, keys, transact, write_batched};

const HOUR_MS: u64 = 3_600_000;
/// How long a token is valid by default.
const DEFAULT_TTL_MS: u64 = HOUR_MS;
/// The longest that a token may be valid: it is a password for a place in the site.
const MAX_TTL_MS: u64 = 30 * 24 * HOUR_MS;
/// How long a token is kept after its end, to say who used it.
const KEPT_MS: u64 = 30 * 24 * HOUR_MS;

fn report(id: &str, record: &TokenRecord) -> TokenReport {
    TokenReport {
        id: id.to_owned(),
        site: record.site.to_string(),
        roles: record.roles.iter().map(ToString::to_string).collect(),
        node: record
            .node
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        created_ms: record.created_ms,
        expires_ms: record.expires_ms,
        used_by: record
            .used
            .as_ref()
            .map(|used| used.node.to_string())
            .unwrap_or_default(),
        created_by: record.created_by.clone(),
        replaces: record.replaces,
    }
}

/// Who lets a machine take a node's place could as well delete the node.
fn may_replace(caller: &Caller, site: &SiteName, node: Option<&NodeName>) -> Result<(), Status> {
    let Some(node) = node else {
        let message = "a token that replaces a node needs the name of that node";
        return Err(Refusal::new(Reason::InvalidRequest, message)
            .hint("name it, such as --node sip1 --replaces")
            .into());
    };
    let target = Target::Node(site.clone(), node.clone());
    decide(&caller.bindings, Call::Delete, &target, &Uses::new())
        .map(drop)
        .map_err(|refusal| caller.refuse(&refusal))
}

/// Join tokens.
#[derive(Debug, Clone)]
pub(super) struct TokensApi {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) documents: Cache,
    pub(super) authority: Arc<Authority>,
    /// Where machines enrol.
    pub(super) enrol_address: Address,
}

impl TokensApi {
    /// Makes a token; its secret is in the answer and nowhere else.
    pub(super) async fn create(
        &self,
        caller: &Caller,
        request: &CreateTokenRequest,
    ) -> Result<CreateTokenResponse, Status> {
        let roles = request
            .roles
            .iter()
            .map(|role| parse::<Role>(role))
            .collect::<Result<BTreeSet<_>, _>>()?;
        if roles.is_empty() {
            return Err(
                Refusal::new(Reason::InvalidRequest, "a token needs at least one role")
                    .hint("name one, such as --role sip")
                    .into(),
            );
        }
        let ttl_ms = match request.ttl_ms {
            0 => DEFAULT_TTL_MS,
            ttl if ttl <= MAX_TTL_MS => ttl,
            _ => return Err(invalid("a token may be valid for at most 30 days")),
        };
        let node = match request.node.as_str() {
            "" => None,
            node => Some(parse(node)?),
        };
        let site: SiteName = parse(&request.site)?;
        if request.replaces {
            may_replace(caller, &site, node.as_ref())?;
        }
        let now_ms = self.clock.now_ms();
        self.forget_old_tokens(now_ms).await?;
        let new = token::generate(self.authority.fingerprint()).map_err(invalid)?;
        let record = TokenRecord {
            secret_hash: new.secret_hash,
            site,
            roles,
            node,
            replaces: request.replaces,
            created_ms: now_ms,
            expires_ms: now_ms.saturating_add(ttl_ms),
            created_by: caller.name.to_string(),
            used: None,
        };
        let key = keys::token(new.token.id());
        transact(
            self.store.as_ref(),
            "the set of documents",
            async |mut tx| {
                let stored = self.documents.read().await?;
                if !stored.documents.sites.contains_key(&record.site) {
                    let message = format!("there is no site {}", record.site);
                    return Err(Failed::from(
                        Refusal::new(Reason::UnknownSite, message)
                            .hint(format!(
                                "apply a document of kind Site with the name {} first; see: voipctl apply --help",
                                record.site
                            ))
                            .fact("site", &record.site),
                    ));
                }
                tx.expect(keys::DOCUMENTS, stored.expect);
                tx.expect(key.clone(), Expect::Absent);
                tx.put_json(&key, &record)?;
                Ok(tx.done(()))
            },
        )
        .await?;
        let id = new.token.id();
        tracing::info!(operator = %caller.name, id, site = %record.site, "token created");
        caller.concerns(format!("Token/{id}"));
        Ok(CreateTokenResponse {
            token: new.token.to_string(),
            report: Some(report(id, &record)),
            enrolment_address: self.enrol_address.to_string(),
        })
    }

    /// Tokens without their secrets, newest first.
    pub(super) async fn list(
        &self,
        caller: &Caller,
        request: &ListTokensRequest,
    ) -> Result<ListTokensResponse, Status> {
        let site: Option<SiteName> = match request.site.as_str() {
            "" => None,
            site => Some(parse(site)?),
        };
        let mut tokens: Vec<TokenReport> = self
            .tokens()
            .await?
            .iter()
            .filter(|(_, record)| caller.sight.whole_site(&record.site))
            .filter(|(_, record)| site.as_ref().is_none_or(|site| *site == record.site))
            .map(|(id, record)| report(id, record))
            .collect();
        tokens.sort_by(|a, b| (b.created_ms, &a.id).cmp(&(a.created_ms, &b.id)));
        Ok(ListTokensResponse { tokens })
    }

    /// Takes a token back; nodes that used it stay.
    pub(super) async fn revoke(&self, caller: &Caller, id: &str) -> Result<(), Status> {
        let key = keys::token(id);
        // A token of a foreign site is as unknown as one that never was.
        let mut tokens = self.tokens().await?.into_iter();
        let found =
            tokens.find(|(known, token)| known == id && caller.sight.whole_site(&token.site));
        let Some((_, token)) = found else {
            let shown: String = id.chars().take(80).collect();
            return Err(
                Refusal::new(Reason::UnknownToken, format!("there is no token {shown}"))
                    .hint("list the tokens: voipctl token list")
                    .fact("token", shown)
                    .into(),
            );
        };
        caller.concerns_site(&token.site);
        caller.concerns(format!("Token/{id}"));
        self.store
            .commit(Txn::new().delete(key))
            .await
            .map_err(failed)?;
        tracing::info!(operator = %caller.name, id, "token revoked");
        Ok(())
    }

    async fn tokens(&self) -> Result<Vec<(String, TokenRecord)>, Status> {
        let entries = every(self.store.as_ref(), keys::ALL_TOKENS).await;
        entries
            .map_err(failed)?
            .iter()
            .map(|entry| {
                let id = entry.key.strip_prefix(keys::ALL_TOKENS).unwrap_or_default();
                let record = records::from_json(&entry.key, &entry.held).map_err(failed)?;
                Ok((id.to_owned(), record))
            })
            .collect()
    }

    async fn forget_old_tokens(&self, now_ms: u64) -> Result<(), Status> {
        let tokens = self.tokens().await?;
        let old: Vec<String> = tokens
            .iter()
            .filter(|(_, record)| record.expires_ms.saturating_add(KEPT_MS) < now_ms)
            .map(|(id, _)| keys::token(id))
            .collect();
        if tokens.len() - old.len() >= MAX_TOKENS {
            let message = format!("there are {MAX_TOKENS} tokens, the most that may exist");
            return Err(Refusal::new(Reason::LimitReached, message)
                .hint("revoke some; list them: voipctl token list")
                .into());
        }
        if !old.is_empty() {
            let old = old.into_iter().map(|key| (key, None));
            let deleted = write_batched(self.store.as_ref(), old).await;
            deleted.map_err(failed)?;
        }
        Ok(())
    }
}
