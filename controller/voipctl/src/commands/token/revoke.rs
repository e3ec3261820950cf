//! `voipctl token revoke ID`.

use serde::Serialize;
use voipfleet_proto::v1;

use crate::Session;
use crate::failure::{ExitStatus, Failure};

/// Runs it.
pub(super) async fn run(id: String, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    #[derive(Serialize)]
    struct Revoked {
        revoked: String,
    }
    let controller = session.controller().await?;
    let request = v1::RevokeTokenRequest { id: id.clone() };
    controller
        .answer(controller.calls().revoke_token(request))
        .await?;
    if !session.print(&Revoked {
        revoked: id.clone(),
    })? {
        session.console.data(&format!("revoked {id}\n"));
    }
    Ok(ExitStatus::Done)
}
