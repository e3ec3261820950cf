//! `voipctl operator add` and `renew`: a key made here, signed by the controller.

use std::path::PathBuf;

use serde::Serialize;
use voipfleet_proto::v1;

use super::key::NewKey;
use super::{Add, Operator};
use crate::Session;
use crate::context::{Context, NewFile, install};
use crate::failure::{Failure, Status};
use crate::wording::Moment;

/// Runs it.
pub(super) async fn run(args: Add, session: &mut Session<'_>) -> Result<Status, Failure> {
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
    // Before the operator is made: what cannot be written would be lost with its key.
    let file = NewFile::create(&path)?;
    let key = NewKey::generate()?;
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
    file.write(&context.to_text())?;
    let added = Added {
        operator: answer.report.unwrap_or_default().into(),
        context_file: path,
    };
    if session.print(&added)? {
        return Ok(Status::Done);
    }
    let path = added.context_file.display();
    session.console.data(&format!(
        "operator {} is {}\n",
        added.operator.name,
        added.operator.rights()
    ));
    session.console.note(&format!(
        "its key and certificate, which ends {}, are in {path}; give that to them by a safe way, \
         and delete it here",
        added.operator.certificate_expires.relative(session.now)
    ));
    session
        .console
        .hint(&format!("they say once: voipctl context use {path}"));
    Ok(Status::Done)
}

/// A new key and certificate for ourselves, in the place of the old ones.
pub(super) async fn renew(session: &mut Session<'_>) -> Result<Status, Failure> {
    #[derive(Serialize)]
    struct Renewed {
        certificate_expires: Moment,
        context_file: PathBuf,
    }
    let path = session.context_path()?;
    let old = session.context()?;
    let controller = session.controller().await?;
    let key = NewKey::generate()?;
    let request = v1::RenewOperatorRequest {
        csr_pem: key.csr_pem,
    };
    let mut calls = controller.calls();
    let answer = controller.answer(calls.renew_operator(request));
    let answer = answer.await?;
    // The address that works from here stays: it may be another one than the controller's own.
    let context = Context {
        ca: answer.ca_pem,
        certificate: answer.certificate_pem,
        key: key.key_pem,
        ..old
    };
    install(&context.to_text(), &path)?;
    let renewed = Renewed {
        certificate_expires: Moment::of(answer.certificate_expires_ms),
        context_file: path,
    };
    if !session.print(&renewed)? {
        session.console.data(&format!(
            "the new certificate ends {} ({}); it is in {}\n",
            renewed.certificate_expires.relative(session.now),
            renewed.certificate_expires,
            renewed.context_file.display()
        ));
        session
            .console
            .note("copies of the context file elsewhere work until their own certificate ends");
    }
    Ok(Status::Done)
}
