//! `voipctl schema`: the JSON schema of the documents.

use voipfleet_policy as policy;

use crate::Session;
use crate::failure::{Failure, Status};
use crate::output::Format;

/// Prints the schema; JSON unless YAML was asked for.
pub fn run(session: &mut Session<'_>) -> Result<Status, Failure> {
    if session.format.is_table() {
        session.format = Format::Json;
    }
    session.print(&policy::json_schema())?;
    Ok(Status::Done)
}
