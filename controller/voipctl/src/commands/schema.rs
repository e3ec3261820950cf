//! `voipctl schema`: the JSON schema of the documents.

use voipfleet_policy as policy;

use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::output_format::Format;

/// Runs it; JSON unless YAML was requested.
pub fn run(session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    if session.format.is_table() {
        session.format = Format::Json;
    }
    session.print(&policy::json_schema())?;
    Ok(ExitStatus::Done)
}
