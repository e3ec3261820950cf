//! `voipctl token create|list|revoke`: the tokens with which nodes enrol.

use std::time::Duration;

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::role::Role;

use crate::Session;
use crate::console::style::Tone;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, duration, millis, or_dash, or_null};
use crate::table::{Cell, Table};

/// `voipctl token`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Create a token; it is shown once, and enrols one node
    Create(Create),
    /// List the tokens
    List {
        /// Only tokens of this site
        #[arg(long)]
        site: Option<SiteName>,
    },
    /// Revoke a token
    Revoke {
        /// The token's id, as `voipctl token list` shows it
        id: String,
    },
}

#[derive(Debug, clap::Args)]
struct Create {
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
    expires: Moment,
    enrolment_address: String,
}

#[derive(Serialize)]
struct Tokens {
    tokens: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    id: String,
    site: String,
    roles: Vec<String>,
    node: Option<String>,
    created: Moment,
    created_by: String,
    expires: Moment,
    used_by: Option<String>,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    match args.verb {
        Verb::Create(args) => create(args, session).await,
        Verb::List { site } => list(site, session).await,
        Verb::Revoke { id } => revoke(id, session).await,
    }
}

async fn create(args: Create, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let request = v1::CreateTokenRequest {
        site: args.site.to_string(),
        roles: args.roles.iter().map(ToString::to_string).collect(),
        ttl_ms: millis(args.ttl),
        node: args.node.map(String::from).unwrap_or_default(),
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

async fn list(site: Option<SiteName>, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let request = v1::ListTokensRequest {
        site: site.map(String::from).unwrap_or_default(),
    };
    let tokens = controller
        .answer(controller.calls().list_tokens(request))
        .await?
        .tokens;
    let listed = |token: v1::TokenReport| Listed {
        id: token.id,
        site: token.site,
        roles: token.roles,
        node: or_null(token.node),
        created: Moment::of(token.created_ms),
        created_by: token.created_by,
        expires: Moment::of(token.expires_ms),
        used_by: or_null(token.used_by),
    };
    let tokens = Tokens {
        tokens: tokens.into_iter().map(listed).collect(),
    };
    if session.print(&tokens)? {
        return Ok(ExitStatus::Done);
    }
    if tokens.tokens.is_empty() {
        session.console.note("no tokens");
        session
            .console
            .hint("to create one, see: voipctl token create --help");
    }
    let text = tokens.table(session.now).render(session.console.out());
    session.console.data(&text);
    Ok(ExitStatus::Done)
}

impl Tokens {
    fn table(&self, now: jiff::Timestamp) -> Table {
        let mut table = Table::new(&[
            "id",
            "site",
            "roles",
            "node",
            "state",
            "expires",
            "created by",
        ]);
        for token in &self.tokens {
            let state = match &token.used_by {
                Some(node) => Cell::from(format!("used by {node}")),
                None if token.expires.is_past(now) => Cell::from("expired"),
                None => Cell::toned("open", Tone::Good),
            };
            table.row([
                token.id.as_str().into(),
                token.site.as_str().into(),
                token.roles.join(",").into(),
                token.node.as_deref().unwrap_or("any").into(),
                state,
                token.expires.relative(now).into(),
                or_dash(&token.created_by).into(),
            ]);
        }
        table
    }
}

async fn revoke(id: String, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
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
