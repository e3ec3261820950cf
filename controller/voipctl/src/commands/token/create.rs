//! `voipctl token create`: a token that enrols one node.

use std::time::Duration;

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::role::Role;

use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, duration, millis, or_null};

/// `voipctl token create`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The site of the node
    #[arg(long)]
    site: SiteName,

    /// A role of the node; may be repeated
    #[arg(
        long = "role",
        required = true,
        value_delimiter = ',',
        value_name = "ROLE"
    )]
    roles: Vec<Role>,

    /// Allow only this node name
    #[arg(long)]
    node: Option<NodeName>,

    /// Let the machine take the place of the node of that name, which may be of another machine
    #[arg(long, requires = "node")]
    replaces: bool,

    /// How long the token is valid
    #[arg(long, default_value = "1h", value_parser = duration)]
    ttl: Duration,
}

#[derive(Serialize)]
struct Created {
    token: String,
    id: String,
    site: String,
    roles: Vec<String>,
    node: Option<String>,
    replaces: bool,
    expires: Moment,
    enrolment_address: String,
}

/// Runs it.
pub(super) async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let request = v1::CreateTokenRequest {
        site: args.site.to_string(),
        roles: args.roles.iter().map(ToString::to_string).collect(),
        ttl_ms: millis(args.ttl),
        node: args.node.map(String::from).unwrap_or_default(),
        replaces: args.replaces,
    };
    let answer = controller
        .answer(controller.calls().create_token(request))
        .await?;
    let report = answer.report.unwrap_or_default();
    let created = Created {
        token: answer.token,
        id: report.id,
        site: report.site,
        roles: report.roles,
        node: or_null(report.node),
        replaces: report.replaces,
        expires: Moment::of(report.expires_ms),
        enrolment_address: answer.enrolment_address,
    };
    if session.print(&created)? {
        return Ok(ExitStatus::Done);
    }
    session.console.data(&format!("{}\n", created.token));
    session.console.note(&format!(
        "valid for one {} node of {}, until {} ({}); write it to token.txt on the node, then run:",
        created.roles.join(", "),
        created.site,
        created.expires,
        created.expires.relative(session.now),
    ));
    session.console.note(&format!(
        "  voipfleet-agent enroll --controller {} --token-file token.txt",
        created.enrolment_address
    ));
    Ok(ExitStatus::Done)
}
