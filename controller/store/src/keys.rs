//! The store's keys: the only place where they are spelt.

use std::fmt::Display;

use ipnet::IpNet;
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::ruleset::Digest;

use crate::exception::{ExceptionKind, SiteScope};

/// The number of the documents' state, written by every change of one: whoever read several
/// documents compares it.
pub const DOCUMENTS: &str = "documents";
/// The prefix of every state of the documents.
pub const ALL_DOCUMENTS_STATES: &str = "documents-state/";
/// The prefix of every generation.
pub const ALL_GENERATIONS: &str = "gen/";
/// The prefix of every node.
pub const ALL_NODES: &str = "node/";
/// The prefix of every token.
pub const ALL_TOKENS: &str = "token/";
/// The prefix of every site's current generation.
pub const ALL_CURRENT: &str = "current/";
/// The prefix of every node's status.
pub const ALL_STATUS: &str = "status/";
/// The prefix of every site's running or last rollout.
pub const ALL_ROLLOUTS: &str = "rollout/";
/// The prefix of how the rollout of each generation ended.
pub const ALL_OUTCOMES: &str = "outcome/";
/// The prefix of every site's queue of pushes.
pub const ALL_QUEUES: &str = "queue/";
/// The prefix of every drift record.
pub const ALL_DRIFT: &str = "drift/";
/// The prefix of every resolved DNS name.
pub const ALL_RESOLVED: &str = "resolved/";
/// The prefix of every list that has a source of its own.
pub const ALL_FEEDS: &str = "feed/";

/// The prefix of every site that is open to everybody.
pub const ALL_OPEN: &str = "open/";

/// All documents as of one state.
pub fn documents_state(version: u64) -> String {
    format!("{ALL_DOCUMENTS_STATES}{version:020}")
}

/// A node.
pub fn node(site: impl Display, node: impl Display) -> String {
    format!("node/{site}/{node}")
}

/// The nodes of a site.
pub fn nodes(site: impl Display) -> String {
    format!("node/{site}/")
}

/// A join token.
pub fn token(id: impl Display) -> String {
    format!("token/{id}")
}

/// A generation of a site.
pub fn generation(site: impl Display, number: Generation) -> String {
    format!("gen/{site}/{number:020}")
}

/// The generations of a site.
pub fn generations(site: impl Display) -> String {
    format!("gen/{site}/")
}

/// A site's newest generation, and which one each of its nodes should run.
pub fn current(site: impl Display) -> String {
    format!("current/{site}")
}

/// The members of a site's cluster.
pub fn members(site: impl Display) -> String {
    format!("members/{site}")
}

/// A site's running or last rollout.
pub fn rollout(site: impl Display) -> String {
    format!("rollout/{site}")
}

/// How the rollout of a generation ended.
pub fn outcome(site: impl Display, number: Generation) -> String {
    format!("outcome/{site}/{number:020}")
}

/// The pushes that wait for a site's running rollout.
pub fn queue(site: impl Display) -> String {
    format!("queue/{site}")
}

/// A ruleset.
pub fn ruleset(digest: &Digest) -> String {
    format!("ruleset/{digest}")
}

/// A long set of a site's rulesets.
pub fn set(site: impl Display, digest: &Digest) -> String {
    format!("set/{site}/{digest}")
}

/// What a node last said of itself.
pub fn status(site: impl Display, node: impl Display) -> String {
    format!("status/{site}/{node}")
}

/// What the nodes of a site last said of themselves.
pub fn statuses(site: impl Display) -> String {
    format!("status/{site}/")
}

/// A drift record of a node.
pub fn drift(site: impl Display, node: impl Display, sequence: u64) -> String {
    format!("drift/{site}/{node}/{sequence:020}")
}

/// The drift records of a node.
pub fn node_drift(site: impl Display, node: impl Display) -> String {
    format!("drift/{site}/{node}/")
}

/// The drift records of a site.
pub fn site_drift(site: impl Display) -> String {
    format!("drift/{site}/")
}

/// What a DNS name stands for.
pub fn resolved(host: impl Display) -> String {
    format!("resolved/{host}")
}

/// What a list's source gave.
pub fn feed(list: impl Display) -> String {
    format!("feed/{list}")
}
/// An address that is blocked or allowed.
pub fn exception(kind: ExceptionKind, scope: &SiteScope, net: &IpNet) -> String {
    let net = net.to_string().replace('/', "-");
    format!("{}{net}", exceptions(kind, scope))
}

/// The addresses that are blocked or allowed in a scope.
pub fn exceptions(kind: ExceptionKind, scope: &SiteScope) -> String {
    format!("{}/{scope}/", kind.word())
}

/// Every address that is blocked or allowed.
pub fn all_exceptions(kind: ExceptionKind) -> String {
    format!("{}/", kind.word())
}

/// That a site is open to everybody.
pub fn open(site: impl Display) -> String {
    format!("open/{site}")
}

/// The site and node in a key like `node/<site>/<node>` or `drift/<site>/<node>/…`.
pub fn site_and_node(key: &str) -> Option<(&str, &str)> {
    let mut parts = key.split('/').skip(1);
    Some((parts.next()?, parts.next()?))
}

/// The prefix of every operator.
pub const ALL_OPERATORS: &str = "operator/";
/// The prefix of every record of the audit log.
pub const ALL_AUDIT: &str = "audit/";
/// The prefix of what was asked for and has no result yet.
pub const ALL_AUDIT_OPEN: &str = "audit-open/";
/// When the backup was taken that the store was made of, Unix time; gone once the audit log has it.
pub const RESTORED: &str = "restored";
/// The last record of the audit log: its number and hash.
pub const AUDIT_HEAD: &str = "audit-head";
/// The last record that was pruned from the audit log: its number and hash.
pub const AUDIT_ANCHOR: &str = "audit-anchor";

/// An operator.
pub fn operator(name: impl Display) -> String {
    format!("operator/{name}")
}

/// A record of the audit log.
pub fn audit(seq: u64) -> String {
    format!("audit/{seq:020}")
}

/// Of a record that has no result yet.
pub fn audit_open(seq: u64) -> String {
    format!("audit-open/{seq:020}")
}

/// The number at the end of a key.
pub fn number(key: &str) -> Option<u64> {
    key.rsplit('/').next()?.parse().ok()
}

/// A part of a large value that belongs to the key `owner`.
pub fn part(owner: &str, digest: &Digest) -> String {
    format!("part/{owner}/{digest}")
}

/// The parts that belong to the key `owner`.
pub fn parts(owner: &str) -> String {
    format!("part/{owner}/")
}
