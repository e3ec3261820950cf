//! `voipctl panic-open SITE`.

use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::enforcement::{Enforcement, show};
use super::{Ttl, ttl, until};
use crate::Session;
use crate::failure::{ExitStatus, Failure};

/// `voipctl panic-open`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site
    site: SiteName,

    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// How long: 10m, 2h, or forever
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ttl)]
    ttl: Ttl,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let (ttl_ms, forever) = args.ttl.on_the_wire();
    let request = v1::PanicOpenRequest {
        site: args.site.to_string(),
        ttl_ms,
        forever,
        reason: args.reason,
    };
    let controller = session.controller().await?;
    let answer = controller
        .answer(controller.calls().panic_open(request))
        .await?;
    let outcome = Enforcement::of(answer);
    let end = outcome
        .open
        .as_ref()
        .map(|open| until(open.until, session.now, "it is closed"));
    let text = format!(
        "{} is open to the world {}\n",
        args.site,
        end.unwrap_or_default()
    );
    let status = show(&outcome, &text, session)?;
    session.console.note(&format!(
        "blocks stay in force; to close the site: voipctl panic-close {}",
        args.site
    ));
    Ok(status)
}
