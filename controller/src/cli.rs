//! The command line of `voipfleet-controller`.

use std::io::{self, Write as _};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use voipfleet_log::Form;
use voipfleet_protocol::identity::TrustDomain;
use voipfleet_ruleset::identifiers::OperatorName;

use crate::backup;
use crate::clock;
use crate::dynamic_sets::SourceOptions;
use crate::errors::chain;
use crate::operations::init::{Made, Plan, init};
use crate::operations::new_admin;
use crate::operations::restore::{self, Restored};
use crate::pki::Authority;
use crate::run::{Controller, Options, StartError, open_store};
use crate::settings::{Address, Files, Settings};
use crate::store::{Health, StoreError, StoreFailure};

const PORT: u16 = 7443;
const ENROL_PORT: u16 = 7444;
/// The exit status of any failure but those of the store.
const FAILED: u8 = 1;
/// The exit status where the store cannot be opened or written: `EX_IOERR` of sysexits.h.
const STORE_FAILED: u8 = 74;

const EXAMPLES: &str = "\
Examples:
  voipfleet-controller init --data /var/lib/voipfleet --address fw.example.net:7443
  voipfleet-controller run --data /var/lib/voipfleet
  voipfleet-controller backup --data /var/lib/voipfleet /root/voipfleet.backup

Log lines go to stderr; RUST_LOG selects them, for example RUST_LOG=warn. Exit status: 0 done, 1 failed,
2 bad usage, 74 the store cannot be opened or written (disk full, failing or damaged).";

const INIT_EXAMPLES: &str = "\
Examples:
  voipfleet-controller init --data /var/lib/voipfleet --address fw.example.net:7443
  voipfleet-controller init --data /var/lib/voipfleet --address 192.0.2.10:7443 \\
      --admin anna --context /home/anna/.config/voipctl.yaml";

const RUN_EXAMPLES: &str = "\
Examples:
  voipfleet-controller run --data /var/lib/voipfleet
  voipfleet-controller run --data /var/lib/voipfleet --listen 192.0.2.10:7443 \\
      --enrol-listen 192.0.2.10:7444 --resolver 192.0.2.53:53 --log-format json";

const NEW_ADMIN_EXAMPLES: &str = "\
Example:
  voipfleet-controller new-admin --data /var/lib/voipfleet --context /root/admin.yaml

The operator that controller.json names gets a new key and certificate. A running controller takes
them at once, a stopped one when it starts; the audit log names who ran this.";

const RESTORE_EXAMPLES: &str = "\
Example:
  voipfleet-controller restore /root/voipfleet.backup --data /var/lib/voipfleet \\
      --keys /root/voipfleet-keys

The new controller must be reachable under the address of the lost one.";

/// Holds one firewall policy per VoipNow site and pushes it to the agents.
#[derive(Debug, Parser)]
#[command(name = "voipfleet-controller", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create an installation: CA, server certificate, first admin
    #[command(after_help = INIT_EXAMPLES)]
    Init(InitArgs),
    /// Run the controller
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Back up a stopped controller; for a running one, use voipctl backup
    Backup {
        /// Data directory
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// Backup file; must not exist
        file: PathBuf,
    },
    /// Make a context file for the first admin: lost, stolen or expired ones are replaced by it
    #[command(after_help = NEW_ADMIN_EXAMPLES)]
    NewAdmin(NewAdminArgs),
    /// Create an installation from a backup and the keys of the lost one
    #[command(after_help = RESTORE_EXAMPLES)]
    Restore(RestoreArgs),
}

#[derive(Debug, clap::Args)]
struct RestoreArgs {
    /// Backup file
    file: PathBuf,
    /// New data directory: absent or empty
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Directory with copies of controller.json, ca/ and server/ of the lost data directory
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
}

#[derive(Debug, clap::Args)]
struct NewAdminArgs {
    /// Data directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// New context file; must not exist
    #[arg(long, value_name = "FILE")]
    context: PathBuf,
    /// Keep the first admin's other certificates; without this, they are refused from now on
    #[arg(long)]
    keep_others: bool,
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// Data directory: absent or empty
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Address under which agents and operators reach this controller
    #[arg(long, value_name = "HOST:PORT")]
    address: Address,
    /// Address under which machines enrol [default: the same host, port 7444]
    #[arg(long, value_name = "HOST:PORT")]
    enrol_address: Option<Address>,
    /// Name of the first operator, who always keeps all rights
    #[arg(long, value_name = "NAME", default_value = "admin")]
    admin: OperatorName,
    /// Name of the installation, part of every certificate
    #[arg(long, value_name = "NAME", default_value = "voipfleet", value_parser = trust_domain)]
    trust_domain: TrustDomain,
    /// File for the first operator's context [default: DIR/admin.yaml]
    #[arg(long, value_name = "FILE")]
    context: Option<PathBuf>,
}

fn trust_domain(text: &str) -> Result<TrustDomain, voipfleet_ruleset::identifiers::InvalidName> {
    text.parse()
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Data directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Address to listen on for agents and operators
    #[arg(long, value_name = "IP:PORT", default_value_t = any(PORT))]
    listen: SocketAddr,
    /// Address to listen on for enrolment
    #[arg(long, value_name = "IP:PORT", default_value_t = any(ENROL_PORT))]
    enrol_listen: SocketAddr,
    /// Name server for DNS names in documents; repeatable [default: those of this machine]
    #[arg(long, value_name = "IP:PORT")]
    resolver: Vec<SocketAddr>,
    /// Folder for lists with `file:` and `refresh:` [default: DIR/feeds]
    #[arg(long, value_name = "DIR")]
    feed_dir: Option<PathBuf>,
    /// Let lists come from link-local addresses, where clouds keep machines' credentials
    #[arg(long)]
    feed_link_local: bool,
    /// Format of log lines
    #[arg(long, value_enum, default_value = "text")]
    log_format: LogFormat,
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    /// Plain text
    Text,
    /// One JSON object per line
    Json,
}

impl Cli {
    /// Runs the command.
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Init(args) => initialize(args),
            Command::Run(args) => run(args).await,
            Command::Backup { data, file } => back_up(data, &file).await,
            Command::NewAdmin(args) => new_admin(args).await,
            Command::Restore(args) => restore(args).await,
        }
    }
}

fn initialize(args: InitArgs) -> anyhow::Result<()> {
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
        (files.ca_certificate(), "the CA certificate".to_owned()),
        (
            files.ca_key(),
            "the CA's private key: keep it secret, and back it up".to_owned(),
        ),
        (
            files.server_certificate(),
            format!("the server certificate for {}", plan.address),
        ),
        (
            made.context.clone(),
            format!("voipctl context of operator {admin}: keep it secret"),
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
        "Created a Voipfleet installation in {data}\n\n{made}\n\
         Start the controller:\n\n  voipfleet-controller run --data {data}\n\n\
         Then, as {admin}:\n\n  export VOIPCTL_CONFIG={context}\n  \
         voipctl apply -f PATH\n  \
         voipctl token create --site SITE --role sip\n"
    )
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    log_to_stderr(args.log_format);
    keep_memory_private();
    // Registered before anything starts: an early signal must not be lost.
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle signals")?;
    let controller = Controller::start(Options {
        files: Files::new(args.data),
        listen: args.listen,
        enrol_listen: args.enrol_listen,
        sources: SourceOptions {
            resolvers: args.resolver,
            feed_dir: args.feed_dir,
            feed_link_local: args.feed_link_local,
        },
        clock: clock::system(),
    })
    .await?;
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        failure = controller.failed() => Some(failure),
    };
    match failure {
        None => {
            let health = controller.health();
            controller.stop().await;
            match &*health.borrow() {
                Health::Failed(failure) => Err(failure.clone().into()),
                Health::Writable | Health::Refusing(_) => Ok(()),
            }
        }
        Some(failure) => {
            tracing::error!(
                reason = %chain(&failure),
                "the controller ends: its store cannot be written; what was acknowledged is on disk"
            );
            controller.abandon().await;
            Err(failure.into())
        }
    }
}

/// The exit status of a failure.
pub fn exit_status(error: &anyhow::Error) -> u8 {
    let opened = match error.downcast_ref::<StartError>() {
        Some(StartError::Store(error)) => Some(error),
        _ => error.downcast_ref::<StoreError>(),
    };
    let not_opened = opened.is_some_and(|error| !matches!(error, StoreError::InUse { .. }));
    if not_opened || error.is::<StoreFailure>() {
        STORE_FAILED
    } else {
        FAILED
    }
}

/// The CA's key is in memory while a certificate is signed: no core dump may hold it, and no other
/// process of this user may read it.
fn keep_memory_private() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "cannot keep other processes from reading this one's memory");
    }
}

fn log_to_stderr(format: LogFormat) {
    let form = match format {
        LogFormat::Text => Form::Text,
        LogFormat::Json => Form::Json,
    };
    voipfleet_log::start(form, true);
}

/// How long a running controller may take.
const TAKING: Duration = Duration::from_secs(10);

async fn new_admin(args: NewAdminArgs) -> anyhow::Result<()> {
    let files = Files::new(args.data);
    let now_ms = clock::system().now_ms();
    let context = Some(args.context);
    let making = tokio::task::spawn_blocking(move || {
        new_admin::make(&files, context, args.keep_others, now_ms)
    });
    let made = making.await??;
    let file = made.context.display();
    let (name, ends) = (&made.name, clock::show(made.expires_ms));
    writeln!(
        io::stdout(),
        "Created {file}: context of operator {name}, the first admin, until {ends}"
    )?;
    let taken = async {
        while made.handed_over.exists() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(TAKING, taken).await.is_ok() {
        writeln!(
            io::stdout(),
            "The controller has taken it: export VOIPCTL_CONFIG={file}"
        )?;
    } else {
        writeln!(
            io::stderr(),
            "the controller has not taken it yet: if it does not run, it will when it starts; else see \
             its log"
        )?;
    }
    Ok(())
}

async fn back_up(data: PathBuf, file: &Path) -> anyhow::Result<()> {
    let files = Files::new(data);
    // Opening a store creates it: first make sure that there is an installation.
    let settings = Settings::load(&files)?;
    let authority = Authority::load(files.clone(), settings.trust_domain()?)?;
    let store = open_store(&files).await.context(
        "cannot open the store; while the controller runs, back it up with voipctl backup",
    )?;
    let now_ms = clock::system().now_ms();
    let mut options = std::fs::OpenOptions::new();
    let file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .with_context(|| format!("cannot create {}", file.display()))?;
    let mut out = io::BufWriter::new(file);
    let entries = backup::take_into(&store, now_ms, authority.fingerprint(), &mut out).await?;
    out.into_inner()?.sync_all()?;
    store.close().await;
    writeln!(
        io::stderr(),
        "{entries} entries saved; keys are not part of a backup: copy ca/ and server/ separately"
    )?;
    Ok(())
}

async fn restore(args: RestoreArgs) -> anyhow::Result<()> {
    let RestoreArgs { file, data, keys } = args;
    let restoring = tokio::task::spawn_blocking(move || restore::restore(&file, &data, &keys));
    let restored = restoring.await??;
    io::stdout().write_all(restored_words(&restored, clock::system().now_ms()).as_bytes())?;
    Ok(())
}

/// `3 days`, `5 hours`, `2 minutes`.
fn age(ms: u64) -> String {
    let minutes = ms / 60_000;
    let (number, unit) = match minutes {
        0..120 => (minutes, "minute"),
        120..2880 => (minutes / 60, "hour"),
        _ => (minutes / 1440, "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

fn restored_words(restored: &Restored, now_ms: u64) -> String {
    let data = restored.files.root().display();
    let taken = clock::show(restored.header.at_ms);
    let age = age(now_ms.saturating_sub(restored.header.at_ms));
    let operators = match restored.operators.as_slice() {
        [] => "no operator but the first admin".to_owned(),
        names => names.join(", "),
    };
    let tokens = match restored.dropped_tokens {
        0 => String::new(),
        open => format!(
            "Dropped {open} open join tokens, which may have been used since. Create new ones.\n"
        ),
    };
    format!(
        "Restored {} entries of {taken} ({age} old) into {data}\n{tokens}\
         The backup knows these operators, also those that were removed since: {operators}.\n\
         Remove again whoever left: voipctl operator remove NAME\n\n\
         Start the controller under the address of the lost one:\n\n  \
         voipfleet-controller run --data {data}\n\n\
         Agents reconnect by themselves. Changes since {taken} are lost: check voipctl status, \
         operator list and blocks, then push every site once:\n\n  \
         voipctl push --all\n",
        restored.entries,
    )
}
