//! `voipctl blocks`: blocked and allowed addresses, and open sites.

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::{ExceptionEntry, OpenEntry, open_warning};
use crate::Session;
use crate::console::style::Tone;
use crate::failure::{ExitStatus, Failure};
use crate::format::{or_dash, thousands};
use crate::table::{Cell, Table};

/// `voipctl blocks`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only entries that apply to this site
    #[arg(long)]
    site: Option<SiteName>,
}

/// The names are a contract.
#[derive(Serialize)]
struct Listed {
    blocks: Vec<ExceptionEntry>,
    allows: Vec<ExceptionEntry>,
    open: Vec<OpenEntry>,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let request = v1::ListBlocksRequest {
        site: args.site.map(String::from).unwrap_or_default(),
    };
    let answer = controller
        .answer(controller.calls().list_blocks(request))
        .await?;
    let open = answer.open.iter();
    let warnings: Vec<String> = open.map(|open| open_warning(open, session.now)).collect();
    let entries = |all: Vec<v1::Exception>| all.into_iter().map(ExceptionEntry::of).collect();
    let listed = Listed {
        blocks: entries(answer.blocks),
        allows: entries(answer.allows),
        open: answer.open.into_iter().map(OpenEntry::of).collect(),
    };
    let printed = session.print(&listed)?;
    for line in warnings {
        session.console.warning(&line);
    }
    if printed {
        return Ok(ExitStatus::Done);
    }
    if listed.blocks.is_empty() && listed.allows.is_empty() {
        session.console.note("no address is blocked or allowed");
        return Ok(ExitStatus::Done);
    }
    session.console.note(&format!(
        "{} blocked, {} allowed",
        thousands(listed.blocks.len() as u64),
        thousands(listed.allows.len() as u64)
    ));
    let text = listed.table(session.now).render(session.console.out());
    session.console.data(&text);
    Ok(ExitStatus::Done)
}

impl Listed {
    fn table(&self, now: jiff::Timestamp) -> Table {
        let mut table = Table::new(&["address", "what", "site", "ends", "since", "by", "reason"]);
        let blocks = self.blocks.iter().map(|entry| (entry, "block", Tone::Bad));
        let allows = self.allows.iter().map(|entry| (entry, "allow", Tone::Good));
        for (entry, what, tone) in blocks.chain(allows) {
            let reason = or_dash(&entry.reason);
            table.row([
                entry.address.as_str().into(),
                Cell::toned(what, tone),
                entry.site.as_deref().unwrap_or("every site").into(),
                entry.until.relative(now).into(),
                entry.at.relative(now).into(),
                or_dash(&entry.by).into(),
                if entry.forced {
                    format!("{reason} (forced)").into()
                } else {
                    reason.into()
                },
            ]);
        }
        table
    }
}
