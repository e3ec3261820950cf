//! `voipctl panic-open SITE` and `voipctl panic-close SITE`.

use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::outcome::{Outcome, show};
use super::{Ttl, ttl, until};
use crate::Session;
use crate::failure::{Failure, Status};
use crate::wording::millis;

/// `voipctl panic-open`
#[derive(Debug, clap::Args)]
pub struct Open {
    /// The site
    site: SiteName,

    /// Why; it is kept with the opening
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// How long: 10m, 2h, or forever
    #[arg(long, value_name = "D", default_value = "1h", value_parser = ttl)]
    ttl: Ttl,
}

/// `voipctl panic-close`
#[derive(Debug, clap::Args)]
pub struct Close {
    /// The site
    site: SiteName,
}

/// Opens a site to everybody.
pub async fn open(args: Open, session: &mut Session<'_>) -> Result<Status, Failure> {
    let (ttl_ms, forever) = match args.ttl {
        Ttl::For(length) => (millis(length), false),
        Ttl::Forever => (0, true),
    };
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
    let outcome = Outcome::of(answer);
    let end = outcome
        .open
        .as_ref()
        .map(|open| until(open.until, session.now, "it is closed"));
    let text = format!(
        "{} is open to everybody {}\n",
        args.site,
        end.unwrap_or_default()
    );
    let status = show(&outcome, &text, session)?;
    session.console.note(&format!(
        "what is blocked stays blocked; close it again: voipctl panic-close {}",
        args.site
    ));
    Ok(status)
}

/// Closes it again.
pub async fn close(args: Close, session: &mut Session<'_>) -> Result<Status, Failure> {
    let request = v1::PanicCloseRequest {
        site: args.site.to_string(),
    };
    let controller = session.controller().await?;
    let answer = controller
        .answer(controller.calls().panic_close(request))
        .await?;
    let outcome = Outcome::of(answer);
    let text = match &outcome.open {
        Some(open) => format!(
            "{} is closed again (opened {} by {}: {})\n",
            args.site,
            open.at.relative(session.now),
            open.by,
            open.reason
        ),
        None => format!("{} was not open\n", args.site),
    };
    show(&outcome, &text, session)
}
