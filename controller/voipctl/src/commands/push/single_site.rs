//! A push of one site.

use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::{Args, NOTHING_DONE, RolloutWatch, announce, rehearse, report_fields, store_documents};
use crate::Session;
use crate::client::ANSWER_TIMEOUT;
use crate::commands::apply::{self, Applied};
use crate::commands::plan;
use crate::document_files::{self, DocumentFiles};
use crate::failure::{ExitStatus, Failure};

/// Runs it.
pub(super) async fn run(
    site: SiteName,
    args: &Args,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    let asks = !session.yes && !args.dry_run;
    if asks {
        let files = args.files.iter().map(|path| format!(" {}", path.display()));
        let files: String = files.collect();
        let with = if files.is_empty() { "" } else { " -f" };
        plan::require_prompt(&format!("voipctl plan {site}{with}{files}"), session)?;
    }
    let read = if args.files.is_empty() {
        None
    } else {
        Some(document_files::read(&args.files, session.console)?)
    };
    let (mut basis, mut shown) = (None, None);
    let mut warned = Vec::new();
    if asks {
        match confirm(&site, args, read.as_ref(), session).await? {
            Answer::Push(agreed) => {
                basis = Some(agreed.basis);
                shown = agreed.documents;
                warned = agreed.warnings;
            }
            Answer::Exit(status) => return Ok(status),
        }
    } else if !args.dry_run {
        let sources = read.as_ref().map(apply::on_the_wire).unwrap_or_default();
        let controller = session.controller().await?;
        let plan = plan::fetch(&site, sources, &controller).await;
        warned = announce(plan, session)?;
    }
    let mut sources = Vec::new();
    if let Some(read) = &read {
        if !args.dry_run {
            let sites = [(&site, basis.as_ref())];
            if let Some(status) = rehearse(args, read, &sites, session).await? {
                return Ok(status);
            }
        }
        if let Some(status) = store_documents(args, read, shown.as_ref(), session).await? {
            return Ok(status);
        }
        if args.dry_run {
            sources = apply::on_the_wire(read);
            report_fields(&site, &sources, session).await?;
        }
    }
    let controller = session.controller().await?;
    let request = args.request(&site, sources, basis);
    let pushed = controller
        .within(ANSWER_TIMEOUT, controller.calls().push(request))
        .await;
    let events = match pushed {
        Err(failure) if read.is_some() && !args.dry_run => {
            session
                .console
                .note("the documents are stored, but not pushed yet");
            return Err(after_storing(failure));
        }
        pushed => pushed?,
    };
    let watch = RolloutWatch {
        site,
        dry_run: args.dry_run,
        detach: args.detach,
        wait: args.wait,
        warned,
    };
    watch
        .follow(&controller, events.into_inner(), session)
        .await
}

/// A push that was refused after its documents were stored: something was changed.
fn after_storing(failure: Failure) -> Failure {
    match failure.status {
        ExitStatus::BadInput => failure.status(ExitStatus::NotEverywhere),
        _ => failure,
    }
}

/// The plan that is to be pushed exactly.
struct Agreed {
    basis: v1::PlanBasis,
    /// Stored first.
    documents: Option<Applied>,
    /// Shown already.
    warnings: Vec<String>,
}

/// The answer to a plan.
enum Answer {
    Push(Box<Agreed>),
    /// Push nothing.
    Exit(ExitStatus),
}

/// Shows the plan, and asks before documents are stored or nodes are changed.
async fn confirm(
    site: &SiteName,
    args: &Args,
    read: Option<&DocumentFiles>,
    session: &mut Session<'_>,
) -> Result<Answer, Failure> {
    let mut sources = Vec::new();
    let mut documents = None;
    if let Some(read) = read {
        documents = plan::checked(read, session).await?;
        if documents.is_none() {
            return Ok(Answer::Exit(ExitStatus::BadInput));
        }
        sources = apply::on_the_wire(read);
    }
    let controller = session.controller().await?;
    let plan = plan::fetch(site, sources, &controller).await?;
    plan::show(&plan, session);
    if plan::is_empty(&plan) {
        return Ok(Answer::Exit(ExitStatus::Done));
    }
    if args.queue {
        plan::report_held(&plan, session);
    } else if !plan.held.is_empty() {
        session.console.note(NOTHING_DONE);
        return Err(plan::held(&plan));
    }
    let verb = if read.is_some() {
        "store these documents and push"
    } else {
        "push"
    };
    if !session.confirm(&format!("{verb} {site}?"))? {
        session.console.note("nothing was pushed");
        return Ok(Answer::Exit(ExitStatus::NotEverywhere));
    }
    Ok(Answer::Push(Box::new(Agreed {
        basis: plan.basis.unwrap_or_default(),
        documents,
        warnings: plan.warnings,
    })))
}
