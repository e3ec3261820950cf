//! `voipctl operator renew`: renews our own key and certificate.

use std::path::PathBuf;

use serde::Serialize;
use voipfleet_proto::v1;

use super::key_pair::NewKeyPair;
use crate::Session;
use crate::atomic_file::{self, Access};
use crate::context::Context;
use crate::failure::{ExitStatus, Failure};
use crate::format::Moment;

/// Runs it.
pub(super) async fn run(session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    #[derive(Serialize)]
    struct Renewed {
        certificate_expires: Moment,
        context_file: PathBuf,
    }
    let path = session.context_path()?;
    let old = session.context()?;
    let controller = session.controller().await?;
    let key = NewKeyPair::generate()?;
    let request = v1::RenewOperatorRequest {
        csr_pem: key.csr_pem,
    };
    let mut calls = controller.calls();
    let answer = controller.answer(calls.renew_operator(request));
    let answer = answer.await?;
    // Keeps the address that works from here: it may differ from the controller's own.
    let context = Context {
        ca: answer.ca_pem,
        certificate: answer.certificate_pem,
        key: key.key_pem,
        ..old
    };
    atomic_file::write(&path, context.to_text().as_bytes(), Access::Private)?;
    let renewed = Renewed {
        certificate_expires: Moment::of(answer.certificate_expires_ms),
        context_file: path,
    };
    if !session.print(&renewed)? {
        session.console.data(&format!(
            "renewed: the new certificate expires {} ({}); written to {}\n",
            renewed.certificate_expires.relative(session.now),
            renewed.certificate_expires,
            renewed.context_file.display()
        ));
        session
            .console
            .note("other copies of the old context file stop working within five minutes");
    }
    Ok(ExitStatus::Done)
}
