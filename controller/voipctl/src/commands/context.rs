//! `voipctl context show|use|path`: the controller and certificate in use.

use std::path::PathBuf;

use serde::Serialize;

use crate::Session;
use crate::atomic_file::{self, Access};
use crate::context::Context;
use crate::failure::{ExitStatus, Failure};
use crate::format::Moment;

/// `voipctl context`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Show the controller, and our name and certificate (the default)
    Show,
    /// Install a context file
    Use {
        /// A context file
        file: PathBuf,
    },
    /// Print the path of the context file
    Path,
}

#[derive(Serialize)]
struct Shown {
    controller: String,
    identity: String,
    trust_domain: String,
    certificate_expires: Moment,
    file: PathBuf,
}

/// Runs it.
pub fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    match args.verb.unwrap_or(Verb::Show) {
        Verb::Show => show(session),
        Verb::Use { file } => install(&file, session),
        Verb::Path => {
            let path = session.context_path()?;
            if !session.print(&serde_json::json!({ "file": path }))? {
                session.console.data(&format!("{}\n", path.display()));
            }
            Ok(ExitStatus::Done)
        }
    }
}

fn show(session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let context = session.context()?;
    let file = session.context_path()?;
    let certificate = context.certificate()?;
    let shown = Shown {
        controller: context.controller,
        identity: certificate.identity.to_string(),
        trust_domain: certificate.trust_domain,
        certificate_expires: certificate.expires,
        file,
    };
    if !session.print(&shown)? {
        let expires = shown.certificate_expires;
        let word = if expires.is_past(session.now) {
            "expired"
        } else {
            "expires"
        };
        session.console.data(&format!(
            "controller   {}\nidentity     {} ({})\ncertificate  {word} {} ({expires})\nfile         {}\n",
            shown.controller,
            shown.identity,
            shown.trust_domain,
            expires.relative(session.now),
            shown.file.display(),
        ));
    }
    Ok(ExitStatus::Done)
}

fn install(file: &std::path::Path, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let loaded = Context::load(file).map_err(|failure| failure.status(ExitStatus::BadInput))?;
    let certificate = loaded.context.certificate()?;
    loaded.context.tls()?;
    let path = session.context_path()?;
    let old = Context::load(&path)
        .ok()
        .filter(|old| old.text != loaded.text);
    if let Some(old) = old {
        let question = format!(
            "replace the context for {} in {}?",
            old.context.controller,
            path.display()
        );
        if !session.confirm(&question)? {
            session.console.note("nothing was changed");
            return Ok(ExitStatus::NotEverywhere);
        }
    }
    atomic_file::write(&path, loaded.text.as_bytes(), Access::Private)?;
    session.console.note(&format!(
        "voipctl now uses {} as {}; the context was copied to {}",
        loaded.context.controller,
        certificate.identity,
        path.display()
    ));
    Ok(ExitStatus::Done)
}
