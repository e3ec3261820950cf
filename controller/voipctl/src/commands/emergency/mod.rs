//! Emergency commands that take effect at once, without a push: `block`, `allow`, `panic-open`,
//! and their reversals.

pub mod allow;
pub mod block;
pub mod blocks;
pub mod disallow;
mod enforcement;
pub mod panic_close;
pub mod panic_open;
pub mod unblock;

use std::time::Duration;

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use self::enforcement::{Enforcement, show};
use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, duration, millis};

/// How long an emergency entry lasts.
#[derive(Debug, Clone, Copy)]
pub enum Ttl {
    /// This long from now.
    For(Duration),
    /// Until it is lifted.
    Forever,
}

impl Ttl {
    fn on_the_wire(self) -> (u64, bool) {
        match self {
            Ttl::For(length) => (millis(length), false),
            Ttl::Forever => (0, true),
        }
    }
}

fn ttl(text: &str) -> Result<Ttl, String> {
    if text == "forever" {
        return Ok(Ttl::Forever);
    }
    duration(text)
        .map(Ttl::For)
        .map_err(|error| format!("{error}, or forever"))
}

/// The site, or every site.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub struct ScopeArgs {
    /// Only at this site
    #[arg(long, value_name = "SITE")]
    site: Option<SiteName>,

    /// At every site
    #[arg(long)]
    all: bool,
}

impl ScopeArgs {
    /// `None`: neither was given.
    fn on_the_wire(&self) -> Option<v1::SiteScope> {
        use v1::site_scope::Kind;
        let kind = match &self.site {
            Some(site) => Kind::Site(site.to_string()),
            None if self.all => Kind::All(true),
            None => return None,
        };
        Some(v1::SiteScope { kind: Some(kind) })
    }
}

fn all_sites() -> v1::SiteScope {
    v1::SiteScope {
        kind: Some(v1::site_scope::Kind::All(true)),
    }
}

/// An address that is blocked or allowed; the names are a contract.
#[derive(Serialize)]
struct ExceptionEntry {
    address: String,
    /// Null: every site.
    site: Option<String>,
    at: Moment,
    /// Null: forever.
    until: Moment,
    by: String,
    reason: String,
    forced: bool,
}

impl ExceptionEntry {
    fn of(exception: v1::Exception) -> Self {
        use v1::site_scope::Kind;
        let site = match exception.scope.and_then(|scope| scope.kind) {
            Some(Kind::Site(site)) => Some(site),
            Some(Kind::All(_)) | None => None,
        };
        Self {
            address: exception.address,
            site,
            at: Moment::of(exception.at_ms),
            until: Moment::of(exception.until_ms),
            by: exception.by,
            reason: exception.reason,
            forced: exception.forced,
        }
    }

    fn scope(&self) -> String {
        match &self.site {
            Some(site) => format!("at {site}"),
            None => "at every site".to_owned(),
        }
    }
}

/// A site that is open to the world; the names are a contract.
#[derive(Serialize)]
pub struct OpenEntry {
    site: String,
    at: Moment,
    /// Null: until it is closed.
    until: Moment,
    by: String,
    reason: String,
}

impl OpenEntry {
    /// Reads it from the wire.
    pub fn of(open: v1::OpenSite) -> Self {
        Self {
            site: open.site,
            at: Moment::of(open.at_ms),
            until: Moment::of(open.until_ms),
            by: open.by,
            reason: open.reason,
        }
    }
}

/// `until 2026-11-23T13:00:00Z (in 1h)`, `until it is lifted`.
fn until(end: Moment, now: jiff::Timestamp, otherwise: &str) -> String {
    if end.is_known() {
        format!("until {end} ({})", end.relative(now))
    } else {
        format!("until {otherwise}")
    }
}

/// A site that is open to the world, in one loud line.
pub fn open_warning(open: &v1::OpenSite, now: jiff::Timestamp) -> String {
    let open = OpenEntry::of(open.clone());
    format!(
        "{} IS OPEN TO THE WORLD since {} ({}), by {}, {}: {}",
        open.site,
        open.at,
        open.at.relative(now),
        open.by,
        until(open.until, now, "it is closed"),
        open.reason
    )
}

/// `voipctl unblock`, `voipctl disallow`
#[derive(Debug, clap::Args)]
pub struct LiftArgs {
    /// The address or prefix, exactly as `voipctl blocks` shows it
    address: String,

    #[command(flatten)]
    place: ScopeArgs,
}

impl LiftArgs {
    fn on_the_wire(self) -> v1::LiftRequest {
        v1::LiftRequest {
            scope: self.place.on_the_wire(),
            address: self.address,
        }
    }
}

fn show_added(
    state: &str,
    answer: v1::EmergencyResponse,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    let outcome = Enforcement::of(answer);
    let now = session.now;
    let lines = outcome.exceptions.iter().map(|entry| {
        let until = until(entry.until, now, "it is lifted");
        format!("{} is {state} {} {until}\n", entry.address, entry.scope())
    });
    let text: String = lines.collect();
    show(&outcome, &text, session)
}

fn show_lifted(
    state: &str,
    answer: v1::EmergencyResponse,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    let outcome = Enforcement::of(answer);
    let now = session.now;
    let lines = outcome.exceptions.iter().map(|entry| {
        format!(
            "{} is no longer {state} {} (set {} by {}: {})\n",
            entry.address,
            entry.scope(),
            entry.at.relative(now),
            entry.by,
            entry.reason
        )
    });
    let text: String = lines.collect();
    show(&outcome, &text, session)
}
