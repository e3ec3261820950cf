//! The command line of `voipfleet-controller`.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use voipfleet_protocol::identity::TrustDomain;
use voipfleet_ruleset::identifiers::OperatorName;

use crate::backup;
use crate::clock;
use crate::dynamic_sets::SourceOptions;
use crate::operations::init::{Made, Plan, init};
use crate::operations::restore::{self, Restored};
use crate::pki::Authority;
use crate::run::{Controller, Options, open_store};
use crate::settings::{Address, Files, Settings};

const PORT: u16 = 7443;
const ENROL_PORT: u16 = 7444;

/// Holds one firewall policy per VoipNow site and pushes it to the agents.
#[derive(Debug, Parser)]
#[command(name = "voipfleet-controller", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an installation: CA, server certificate, first admin
    Init(InitArgs),
    /// Run the controller
    Run(RunArgs),
    /// Write a backup of a controller that does not run; of one that runs: voipctl backup
    Backup {
        /// The data directory
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// The file; it must not exist yet
        file: PathBuf,
    },
    /// Make an installation of a backup and the keys of the one that is lost
    Restore(RestoreArgs),
}

#[derive(Debug, clap::Args)]
struct RestoreArgs {
    /// The backup
    file: PathBuf,
    /// The new data directory: absent or empty
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// A copy of controller.json, ca/ and server/ of the lost data directory
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// The data directory: absent or empty
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where agents and operators will dial
    #[arg(long, value_name = "HOST:PORT")]
    address: Address,
    /// Where machines will enrol [default: the same host, port 7444]
    #[arg(long, value_name = "HOST:PORT")]
    enrol_address: Option<Address>,
    /// The first operator
    #[arg(long, value_name = "NAME", default_value = "admin")]
    admin: OperatorName,
    /// The name of the installation in every certificate
    #[arg(long, value_name = "NAME", default_value = "voipfleet", value_parser = trust_domain)]
    trust_domain: TrustDomain,
    /// Where the first operator's context file goes [default: DIR/admin.yaml]
    #[arg(long, value_name = "FILE")]
    context: Option<PathBuf>,
}

fn trust_domain(text: &str) -> Result<TrustDomain, voipfleet_ruleset::identifiers::InvalidName> {
    text.parse()
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The data directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where agents and operators connect
    #[arg(long, value_name = "IP:PORT", default_value_t = any(PORT))]
    listen: SocketAddr,
    /// Where machines enrol
    #[arg(long, value_name = "IP:PORT", default_value_t = any(ENROL_PORT))]
    enrol_listen: SocketAddr,
    /// A name server for DNS names in documents; may be given several times [default: those of
    /// this machine]
    #[arg(long, value_name = "IP:PORT")]
    resolver: Vec<SocketAddr>,
    /// The folder that lists with `file:` and `refresh:` may come from [default: DIR/feeds]
    #[arg(long, value_name = "DIR")]
    feed_dir: Option<PathBuf>,
    /// How log lines look; `RUST_LOG` says which
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

impl Cli {
    /// Does what was asked for.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Init(args) => make(args),
            Command::Run(args) => run(args).await,
            Command::Backup { data, file } => back_up(data, &file).await,
            Command::Restore(args) => restore(args).await,
        }
    }
}

fn make(args: InitArgs) -> anyhow::Result<()> {
    let plan = Plan {
        data: args.data,
        enrol_address: args
            .enrol_address
            .unwrap_or_else(|| args.address.with_port(ENROL_PORT)),
        address: args.address,
        trust_domain: args.trust_domain,
        admin: args.admin,
        context: args.context,
    };
    let made = init(&plan, clock::system().now_ms())?;
    io::stdout().write_all(welcome(&plan, &made).as_bytes())?;
    Ok(())
}

fn welcome(plan: &Plan, made: &Made) -> String {
    let files = &made.files;
    let data = files.root().display();
    let context = made.context.display();
    let admin = &plan.admin;
    let rows = [
        (files.ca_certificate(), "the CA's certificate".to_owned()),
        (
            files.ca_key(),
            "the CA's key: keep it secret, and back it up".to_owned(),
        ),
        (
            files.server_certificate(),
            format!("the server's certificate for {}", plan.address),
        ),
        (
            made.context.clone(),
            format!("voipctl's context of operator {admin}: a secret too"),
        ),
    ];
    let width = rows
        .iter()
        .map(|(path, _)| path.display().to_string().len())
        .max()
        .unwrap_or_default();
    let made: String = rows
        .map(|(path, what)| format!("  {:width$}  {what}\n", path.display().to_string()))
        .concat();
    format!(
        "Made a Voipfleet installation in {data}\n\n{made}\n\
         Next, start it:\n\n  voipfleet-controller run --data {data}\n\n\
         and then, as {admin}:\n\n  export VOIPCTL_CONFIG={context}\n  \
         voipctl apply -f PATH\n  \
         voipctl token create --site SITE --role sip\n"
    )
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    log_to_stderr(args.log_format);
    // Before anything is started: a signal that comes early must not be lost.
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be awaited")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be awaited")?;
    let controller = Controller::start(Options {
        files: Files::new(args.data),
        listen: args.listen,
        enrol_listen: args.enrol_listen,
        sources: SourceOptions {
            resolvers: args.resolver,
            feed_dir: args.feed_dir,
        },
        clock: clock::system(),
    })
    .await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    controller.stop().await;
    Ok(())
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(io::stderr);
    match format {
        LogFormat::Text => lines.init(),
        LogFormat::Json => lines.json().init(),
    }
}

async fn back_up(data: PathBuf, file: &Path) -> anyhow::Result<()> {
    let files = Files::new(data);
    // Without an installation there is nothing to save; sled would make an empty store.
    let settings = Settings::load(&files)?;
    let authority = Authority::load(files.clone(), settings.trust_domain()?)?;
    let store = open_store(&files).await.context(
        "a controller that runs is backed up from afar, by an operator: voipctl backup FILE",
    )?;
    let now_ms = clock::system().now_ms();
    let mut options = std::fs::OpenOptions::new();
    let file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("{} cannot be made", file.display()))?;
    let mut out = io::BufWriter::new(file);
    let entries = backup::take_into(&store, now_ms, authority.fingerprint(), &mut out).await?;
    out.into_inner()?.sync_all()?;
    store.close().await;
    writeln!(
        io::stderr(),
        "{entries} entries saved; the keys are not among them"
    )?;
    Ok(())
}

async fn restore(args: RestoreArgs) -> anyhow::Result<()> {
    let RestoreArgs { file, data, keys } = args;
    let restoring = tokio::task::spawn_blocking(move || restore::restore(&file, &data, &keys));
    let restored = restoring.await??;
    io::stdout().write_all(restored_words(&restored).as_bytes())?;
    Ok(())
}

fn restored_words(restored: &Restored) -> String {
    let data = restored.files.root().display();
    let taken = clock::show(restored.header.at_ms);
    let tokens = match restored.dropped_tokens {
        0 => String::new(),
        open => format!(
            "Open join tokens were left out ({open}): whether they were used since, nobody knows. \
             Make new ones.\n"
        ),
    };
    format!(
        "Restored {} entries of {taken} into {data}\n{tokens}\n\
         Start it where the lost one was, under the same address:\n\n  \
         voipfleet-controller run --data {data}\n\n\
         Agents come back by themselves. What was changed since {taken} is not known here: look \
         through voipctl status, operator list and blocks, and push every site once:\n\n  \
         voipctl push --all\n",
        restored.entries,
    )
}
