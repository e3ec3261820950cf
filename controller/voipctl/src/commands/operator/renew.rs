//! `voipctl operator renew`: a new key and certificate for ourselves.

use std::path::PathBuf;

use serde::Serialize;
use voipfleet_proto::v1;

use super::key_pair::NewKeyPair;
use crate::Session;
use crate::context::{Context, install};
use crate::failure::{ExitStatus, Failure};
use crate::format::Moment;

/// A new key and certificate for ourselves, in the place of the old ones.
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
    Ok(ExitStatus::Done)
}
