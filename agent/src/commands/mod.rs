//! What each subcommand does.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::EnvFilter;
use voipfleet_protocol::identity::JoinToken;

use crate::cli::{Cli, Command, Common, Enroll, LogFormat, Run, Status, Teardown};
use crate::enforcement::apply::Own;
use crate::enforcement::dynamic_sets;
use crate::enforcement::inspect::inspect;
use crate::enforcement::management_rules::describe_note;
use crate::enforcement::recovery::{self, Interrupted};
use crate::host::Host;
use crate::host::errors::chain;
use crate::host::exec::Runner;
use crate::host::state_dir::StateDir;
use crate::host::{disk, systemd};
use crate::inventory::HostInventory;
use crate::kernel::Watch;
use crate::kernel::{Kernel, LOCK_FILE, System};
use crate::ledger::Ledger;
use crate::link::Link;
use crate::link::enrolment::{Request, enroll};
use crate::mailbox::{Inbox, Outbox};
use crate::reconcile::{Reconciler, Settings};

/// The most that a file with a token may hold.
const MAX_TOKEN_FILE: usize = 4096;

/// Does what the command line says.
pub fn main(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Enroll(args) => become_node(&args),
        Command::Run(args) => run(&args),
        Command::Restore(args) => restore(&args),
        Command::Teardown(args) => teardown(&args),
        Command::Status(args) => status(&args),
    }
}

/// A line for the person at the terminal.
fn say(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("standard output is closed")
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false);
    // A second start in one process (tests) keeps the first.
    let _started = match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // One thread: there is one connection to serve. The kernel's work has a thread of its own.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime does not start")
}

fn find_tools(common: &Common) -> anyhow::Result<System> {
    System::find(Runner::new(&common.tool_path)).context("this machine's firewall tools")
}

fn become_node(args: &Enroll) -> anyhow::Result<ExitCode> {
    let from_file;
    let token = match (&args.token, &args.token_file) {
        (Some(token), _) => token,
        (None, Some(path)) => {
            let text = disk::read_text(path, MAX_TOKEN_FILE)?;
            let Some(text) = text else {
                bail!("{} does not exist", path.display());
            };
            from_file = text.parse::<JoinToken>()?;
            &from_file
        }
        (None, None) => bail!("give a token: --token, --token-file or VOIPFLEET_TOKEN"),
    };
    let state = StateDir::open(&args.state.state)?;
    let request = Request {
        controller: &args.controller,
        token,
        node: args.node.clone(),
        force: args.force,
    };
    let config = runtime()?.block_on(enroll(&state, request))?;
    say(&format!(
        "this machine is node {}/{} ({}) of the controller at {}; next: voipfleet-agent run",
        config.site,
        config.node,
        config.roles.join(", "),
        config.controller
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn run(args: &Run) -> anyhow::Result<ExitCode> {
    start_log(args.common.log_format);
    let state = StateDir::open(&args.common.state.state)?;
    let config = state.config()?;
    let _lock = state.lock()?;
    let system = find_tools(&args.common)?;
    info!(
        site = config.site.as_str(),
        node = config.node.as_str(),
        backend = system.backend().as_str(),
        iptables = system.version(),
        "agent starts"
    );
    let own_processes = system.own_processes();
    let backend = system.backend();
    let inbox = Arc::new(Inbox::default());
    let outbox = Arc::new(Outbox::default());
    let settings = Settings {
        own: Own {
            site: config.site.clone(),
            node: config.node.clone(),
        },
        poll_interval: args.poll_interval,
        inventory: Box::new(HostInventory::new(Host::new(Runner::new(
            &args.common.tool_path,
        )))),
    };
    let runtime = runtime()?;
    // Before the rules are put in force: a change after that moment is not missed.
    let watch =
        runtime.block_on(async { Watch::open(backend, own_processes, Path::new(LOCK_FILE)) });
    let ledger = Ledger::open(&state.ledger())?;
    let reconciler = Reconciler::start(
        Box::new(system),
        ledger,
        settings,
        Arc::clone(&inbox),
        Arc::clone(&outbox),
    );
    let stop = CancellationToken::new();
    let kernel_task = std::thread::Builder::new()
        .name("reconcile".to_owned())
        .spawn({
            let stop = stop.clone();
            move || {
                let _ends = stop.drop_guard(); // also when it panics
                reconciler.run();
            }
        })
        .context("the thread that owns the kernel does not start")?;
    systemd::ready();
    runtime.block_on(async {
        match watch {
            Ok(watch) => {
                tokio::spawn(Arc::clone(&inbox).follow(watch));
            }
            Err(error) => inbox.deaf(&error),
        }
        let link = Link::new(state.clone(), config, Arc::clone(&inbox), outbox);
        let link = tokio::spawn(link.run(stop.clone()));
        let asked = wait_for_signal(&stop).await;
        stop.cancel();
        let _ended = link.await;
        asked
    })?;
    systemd::stopping();
    inbox.stop();
    if kernel_task.join().is_err() {
        bail!("the thread that owns the kernel ended by a fault; the rules stay");
    }
    info!("agent ends; the confirmed rules stay");
    Ok(ExitCode::SUCCESS)
}

async fn wait_for_signal(stop: &CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = stop.cancelled() => {}
    }
    Ok(())
}

fn restore(args: &Common) -> anyhow::Result<ExitCode> {
    start_log(args.log_format);
    let state = StateDir::open(&args.state.state)?;
    let _lock = state.lock()?;
    let mut system = find_tools(args)?;
    let ledger = Ledger::open(&state.ledger())?;
    let recovered = recovery::recover(&mut system, &ledger);
    if let Some(fallback) = &recovered.fallback {
        bail!("{}", fallback.describe());
    }
    if let Some(lost) = &recovered.lost {
        bail!("the confirmed ruleset is lost; the rules in the kernel stay as they are: {lost}");
    }
    match &recovered.interrupted {
        Some(Interrupted::Known(journal)) => say(&format!(
            "generation {} was not confirmed before the agent ended, and is undone",
            journal.held.generation
        ))?,
        Some(Interrupted::Unknown(error)) => say(&format!(
            "a ruleset was not confirmed before the agent ended, and is undone ({})",
            chain(error)
        ))?,
        None => {}
    }
    if let Some(failed) = &recovered.failed {
        bail!("the rules are not in force: {}", chain(failed));
    }
    if let Some(error) = recovered.live.error() {
        say(&error)?;
    }
    match &recovered.confirmed {
        Some(confirmed) => say(&format!(
            "generation {} ({}) is in force: {} rules, {} sets, read back and compared",
            confirmed.held.generation,
            confirmed.held.digest.short(),
            confirmed.ruleset.rule_count(),
            confirmed.ruleset.sets.len()
        ))?,
        None => say("nothing was ever confirmed on this node: there is nothing to restore")?,
    }
    Ok(ExitCode::SUCCESS)
}

fn teardown(args: &Teardown) -> anyhow::Result<ExitCode> {
    start_log(args.common.log_format);
    let state = StateDir::open(&args.common.state.state)?;
    let _lock = state.lock()?;
    let mut system = find_tools(&args.common)?;
    let ledger = Ledger::open(&state.ledger())?;
    recovery::teardown(&mut system, &ledger, args.purge)
        .map_err(|error| anyhow::anyhow!("not all was removed: {}", chain(&error)))?;
    say(if args.purge {
        "every rule and set of ours is gone, and the confirmed ruleset is forgotten"
    } else {
        "every rule and set of ours is gone; the confirmed ruleset comes back with `run` or \
         `restore` (--purge forgets it)"
    })?;
    Ok(ExitCode::SUCCESS)
}

fn status(args: &Status) -> anyhow::Result<ExitCode> {
    start_log(args.common.log_format);
    let state = StateDir::at(&args.common.state.state);
    let config = state.config().ok();
    let mut system = find_tools(&args.common)?;
    let ledger = Ledger::look_at(&state.ledger());
    let mut confirmed = ledger.confirmed()?;
    let live = dynamic_sets::find(&mut system, &ledger, confirmed.as_mut());
    // What differs from a ruleset that is known not to run says nothing.
    let fallback = ledger.fallback().map(|note| describe_note(&note));
    let found = confirmed
        .as_ref()
        .filter(|_| fallback.is_none())
        .map(|confirmed| inspect(&mut system, confirmed));
    let drift = match &found {
        None if fallback.is_some() => "drifted",
        None => "none",
        Some(found) if found.is_unreadable() => "unreadable",
        Some(found) if found.is_clean() => "clean",
        Some(_) => "drifted",
    };
    let differences = found.map(|found| found.differences).unwrap_or_default();
    if args.json {
        let differences: Vec<_> = differences
            .iter()
            .map(|difference| {
                json!({
                    "class": difference.class.as_str(),
                    "family": difference.family.to_string(),
                    "table": difference.table,
                    "chain": difference.chain,
                    "rule": difference.rule,
                    "wanted": difference.wanted,
                    "observed": difference.observed,
                })
            })
            .collect();
        let held = confirmed.as_ref().map(|confirmed| confirmed.held);
        say(&serde_json::to_string(&json!({
            "site": config.as_ref().map(|config| &config.site),
            "node": config.as_ref().map(|config| &config.node),
            "controller": config.as_ref().map(|config| &config.controller),
            "generation": held.map(|held| held.generation),
            "digest": held.map(|held| held.digest.to_string()),
            "backend": system.backend().as_str(),
            "iptables": system.version(),
            "drift": drift,
            "fallback": fallback,
            "live_digest": live.held.as_ref().map(|live| live.digest.to_string()),
            "live_error": live.error(),
            "differences": differences,
        }))?)?;
    } else {
        match &config {
            Some(config) => say(&format!("node        {}/{}", config.site, config.node))?,
            None => say("node        not enrolled")?,
        }
        match &confirmed {
            Some(confirmed) => {
                say(&format!("generation  {}", confirmed.held.generation))?;
                say(&format!("digest      {}", confirmed.held.digest))?;
            }
            None => say("generation  none confirmed")?,
        }
        if let Some(live) = &live.held {
            say(&format!("live sets   {}", live.digest))?;
        }
        let (backend, version) = (system.backend(), system.version());
        say(&format!("backend     {backend} (iptables {version})"))?;
        say(&format!("drift       {drift}"))?;
        if let Some(fallback) = &fallback {
            say(&format!("  {fallback}"))?;
        }
        if let Some(error) = live.error() {
            say(&format!("  {error}"))?;
        }
        for difference in &differences {
            let words = crate::enforcement::read_back::describe(difference, 0);
            say(&format!("  {words}"))?;
        }
    }
    Ok(if differences.is_empty() && fallback.is_none() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
