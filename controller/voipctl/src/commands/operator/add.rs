//! `voipctl operator add`: makes a key locally, has it signed, and writes a context file.

use std::path::PathBuf;

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::OperatorName;

use super::key_pair::NewKeyPair;
use super::{Grant, Operator};
use crate::Session;
use crate::atomic_file::{self, Access, AtomicFile};
use crate::context::Context;
use crate::failure::{ExitStatus, Failure};

/// `voipctl operator add`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The new operator
    name: OperatorName,

    #[command(flatten)]
    grant: Grant,

    /// The new operator's context file, a secret [default: NAME.yaml in this folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs it.
pub(super) async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    #[derive(Serialize)]
    struct Added {
        #[serde(flatten)]
        operator: Operator,
        context_file: PathBuf,
    }
    let name = args.name.to_string();
    let path = args
        .out
        .unwrap_or_else(|| PathBuf::from(format!("{name}.yaml")));
    let controller = session.controller().await?;
    // Before the operator is added: a key that cannot be written would be lost.
    atomic_file::must_be_new(&path)?;
    let mut file = AtomicFile::new(&path, Access::Private)?;
    let key = NewKeyPair::generate()?;
    let request = v1::AddOperatorRequest {
        name: name.clone(),
        bindings: args.grant.bindings(),
        csr_pem: key.csr_pem,
    };
    let mut calls = controller.calls();
    let answer = controller.answer(calls.add_operator(request));
    let answer = answer.await?;
    let context = Context {
        controller: answer.controller,
        operator: name,
        ca: answer.ca_pem,
        certificate: answer.certificate_pem,
        key: key.key_pem,
    };
    file.write(context.to_text().as_bytes())?;
    file.create()?;
    let added = Added {
        operator: answer.report.unwrap_or_default().into(),
        context_file: path,
    };
    if session.print(&added)? {
        return Ok(ExitStatus::Done);
    }
    let path = added.context_file.display();
    session.console.data(&format!(
        "added operator {}: {}\n",
        added.operator.name,
        added.operator.rights()
    ));
    session.console.note(&format!(
        "its key and certificate (expires {}) are in {path}; hand it over securely, then delete it \
         here",
        added.operator.certificate_expires.relative(session.now)
    ));
    session.console.hint(&format!(
        "the operator installs it with: voipctl context use {path}"
    ));
    Ok(ExitStatus::Done)
}
