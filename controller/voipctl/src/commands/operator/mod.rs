//! `voipctl operator …`: who may do what.

mod add;
mod key;
mod rights;

use std::path::PathBuf;

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_protocol::identity::rights::OperatorRole;
use voipfleet_ruleset::identifiers::{OperatorName, SiteName, TenantName};

use crate::Session;
use crate::failure::{Failure, Status};
use crate::table::{Cell, Table, Tone};
use crate::wording::{Moment, or_null};

/// `voipctl operator`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Add an operator: makes its key here, has it signed, writes its context file
    Add(Add),
    /// List operators and their rights
    List,
    /// Replace an operator's rights, from its next call on
    Bind(Bind),
    /// Remove an operator; its certificate is refused at once
    Remove {
        /// The operator
        name: OperatorName,
    },
    /// Show who we are to the controller, and our rights
    Whoami,
    /// Get a new certificate for ourselves, and replace the context file
    Renew,
    /// Show which role each call takes
    Rights,
}

#[derive(Debug, clap::Args)]
struct Add {
    /// The new operator
    name: OperatorName,

    #[command(flatten)]
    grant: Grant,

    /// Where its context file goes: a secret [default: NAME.yaml here]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Bind {
    /// The operator
    name: OperatorName,

    #[command(flatten)]
    grant: Grant,

    /// Keep the rights that it has, and add these
    #[arg(long)]
    also: bool,
}

#[derive(Debug, clap::Args)]
struct Grant {
    /// viewer, operator or admin; everywhere, unless sites or tenants are given
    #[arg(long)]
    role: OperatorRole,

    /// Only at this site; several times for several sites
    #[arg(long = "site", value_name = "SITE", value_delimiter = ',')]
    sites: Vec<SiteName>,

    /// Only for this tenant; several times for several tenants
    #[arg(long = "tenant", value_name = "TENANT", value_delimiter = ',')]
    tenants: Vec<TenantName>,
}

impl Grant {
    fn bindings(&self) -> Vec<v1::OperatorBinding> {
        let role = self.role.to_string();
        let part = |sites, tenants| v1::OperatorBinding {
            role: role.clone(),
            all: false,
            sites,
            tenants,
        };
        let mut bindings = Vec::new();
        if !self.sites.is_empty() {
            let sites = self.sites.iter().map(ToString::to_string).collect();
            bindings.push(part(sites, Vec::new()));
        }
        if !self.tenants.is_empty() {
            let tenants = self.tenants.iter().map(ToString::to_string).collect();
            bindings.push(part(Vec::new(), tenants));
        }
        if bindings.is_empty() {
            let all = true;
            bindings.push(v1::OperatorBinding {
                role,
                all,
                ..v1::OperatorBinding::default()
            });
        }
        bindings
    }
}

#[derive(Serialize)]
struct Operator {
    name: String,
    bindings: Vec<Binding>,
    first_admin: bool,
    added: Moment,
    added_by: Option<String>,
    certificate_expires: Moment,
}

#[derive(Serialize)]
struct Binding {
    role: String,
    all: bool,
    sites: Vec<String>,
    tenants: Vec<String>,
}

impl From<v1::OperatorReport> for Operator {
    fn from(report: v1::OperatorReport) -> Self {
        let binding = |binding: v1::OperatorBinding| Binding {
            role: binding.role,
            all: binding.all,
            sites: binding.sites,
            tenants: binding.tenants,
        };
        Self {
            name: report.name,
            bindings: report.bindings.into_iter().map(binding).collect(),
            first_admin: report.first_admin,
            added: Moment::of(report.added_ms),
            added_by: or_null(report.added_by),
            certificate_expires: Moment::of(report.certificate_expires_ms),
        }
    }
}

impl Operator {
    /// `operator of site-a, site-b; viewer of everything`
    fn rights(&self) -> String {
        let one = |binding: &Binding| {
            let list = |what: &str, names: &[String]| {
                let plural = if names.len() == 1 { "" } else { "s" };
                format!("{what}{plural} {}", names.join(", "))
            };
            let scope = if binding.all {
                "everything".to_owned()
            } else if binding.sites.is_empty() {
                list("tenant", &binding.tenants)
            } else {
                list("site", &binding.sites)
            };
            format!("{} of {scope}", binding.role)
        };
        let bindings: Vec<String> = self.bindings.iter().map(one).collect();
        bindings.join("; ")
    }
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<Status, Failure> {
    match args.verb {
        Verb::Add(args) => add::run(args, session).await,
        Verb::List => list(session).await,
        Verb::Bind(args) => bind(args, session).await,
        Verb::Remove { name } => remove(&name, session).await,
        Verb::Whoami => whoami(session).await,
        Verb::Renew => add::renew(session).await,
        Verb::Rights => rights::run(session),
    }
}

async fn list(session: &mut Session<'_>) -> Result<Status, Failure> {
    #[derive(Serialize)]
    struct Operators {
        operators: Vec<Operator>,
    }
    let controller = session.controller().await?;
    let request = v1::ListOperatorsRequest {};
    let mut calls = controller.calls();
    let answer = controller.answer(calls.list_operators(request));
    let operators = answer.await?.operators.into_iter().map(Operator::from);
    let listed = Operators {
        operators: operators.collect(),
    };
    if session.print(&listed)? {
        return Ok(Status::Done);
    }
    let mut table = Table::new(&["operator", "certificate", "added", "by", "rights"]);
    for operator in &listed.operators {
        let expires = operator.certificate_expires;
        let certificate = if expires == Moment::of(0) {
            Cell::from("-")
        } else if expires.is_past(session.now) {
            Cell::toned(
                format!("expired {}", expires.relative(session.now)),
                Tone::Bad,
            )
        } else {
            Cell::from(format!("ends {}", expires.relative(session.now)))
        };
        let added = match operator.added {
            at if at == Moment::of(0) => "-".to_owned(),
            at => at.relative(session.now),
        };
        let mut rights = operator.rights();
        if operator.first_admin {
            rights += " (first admin)";
        }
        table.row([
            operator.name.as_str().into(),
            certificate,
            added.into(),
            operator.added_by.as_deref().unwrap_or("-").into(),
            rights.into(),
        ]);
    }
    let text = table.render(session.console.out());
    session.console.data(&text);
    Ok(Status::Done)
}

async fn bind(args: Bind, session: &mut Session<'_>) -> Result<Status, Failure> {
    let controller = session.controller().await?;
    let mut bindings = args.grant.bindings();
    if args.also {
        let request = v1::ListOperatorsRequest {};
        let mut calls = controller.calls();
        let answer = controller.answer(calls.list_operators(request));
        let mut known = answer.await?.operators.into_iter();
        if let Some(known) = known.find(|known| known.name == args.name.as_str()) {
            let mut kept = known.bindings;
            bindings.retain(|new| !kept.contains(new));
            kept.append(&mut bindings);
            bindings = kept;
        }
    }
    let request = v1::BindOperatorRequest {
        name: args.name.to_string(),
        bindings,
    };
    let mut calls = controller.calls();
    let answer = controller.answer(calls.bind_operator(request));
    let operator = Operator::from(answer.await?.report.unwrap_or_default());
    if !session.print(&operator)? {
        let text = format!("operator {} is {}\n", operator.name, operator.rights());
        session.console.data(&text);
    }
    Ok(Status::Done)
}

async fn remove(name: &OperatorName, session: &mut Session<'_>) -> Result<Status, Failure> {
    #[derive(Serialize)]
    struct Removed {
        removed: String,
    }
    let question = format!("remove operator {name}, whose certificate is refused from then on?");
    if !session.confirm(&question)? {
        session.console.note("nothing was changed");
        return Ok(Status::NotEverywhere);
    }
    let controller = session.controller().await?;
    let removed = name.to_string();
    let request = v1::RemoveOperatorRequest {
        name: removed.clone(),
    };
    let mut calls = controller.calls();
    let answer = controller.answer(calls.remove_operator(request));
    answer.await?;
    if !session.print(&Removed { removed })? {
        session.console.data(&format!("removed operator {name}\n"));
    }
    Ok(Status::Done)
}

async fn whoami(session: &mut Session<'_>) -> Result<Status, Failure> {
    #[derive(Serialize)]
    struct Me {
        #[serde(flatten)]
        operator: Operator,
        /// Where the controller sees us.
        peer: String,
    }
    let controller = session.controller().await?;
    let mut calls = controller.calls();
    let answer = controller.answer(calls.who_am_i(v1::WhoAmIRequest {}));
    let answer = answer.await?;
    let mut report = answer.report.unwrap_or_default();
    report.certificate_expires_ms = answer.certificate_expires_ms;
    let me = Me {
        operator: report.into(),
        peer: answer.peer,
    };
    if !session.print(&me)? {
        let expires = me.operator.certificate_expires;
        session.console.data(&format!(
            "operator     {}\nrights       {}\ncertificate  ends {} ({expires})\nfrom         {}\n",
            me.operator.name,
            me.operator.rights(),
            expires.relative(session.now),
            me.peer,
        ));
    }
    Ok(Status::Done)
}
