//! `voipfleet-agent run`

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use voipfleet_protocol::errors::chain;

use super::{find_tools, runtime, start_log, with_fleet_clock};
use crate::cli::Run;
use crate::enforcement::apply::NodeId;
use crate::host::exec::Runner;
use crate::host::state_dir::{NodeConfig, StateDir};
use crate::host::{Host, systemd};
use crate::inventory::HostInventory;
use crate::kernel::{AddressEvents, Kernel, LOCK_FILE, Watch};
use crate::ledger::Ledger;
use crate::link::{FetchLimits, Link};
use crate::mailbox::{Inbox, Outbox};
use crate::reconcile::{Reconciler, Settings};

pub(super) fn run(arguments: &Run) -> anyhow::Result<ExitCode> {
    let tools = &arguments.tools;
    start_log(tools.log_format);
    let state = StateDir::open(&tools.state.state)?;
    let config = state.config()?;
    let _lock = state.lock()?;
    let system = find_tools(tools)?;
    info!(
        site = config.site.as_str(),
        node = config.node.as_str(),
        backend = system.backend().as_str(),
        iptables = system.version(),
        "agent started"
    );
    let inbox = Arc::new(Inbox::default());
    let outbox = Arc::new(Outbox::default());
    let runtime = runtime()?;
    // Before the rules are put in force, so that no change after that is missed.
    let (backend, own) = (system.backend(), system.own_processes());
    let watch = runtime.block_on(async { Watch::open(backend, own, Path::new(LOCK_FILE)) });
    let addresses = runtime.block_on(async { AddressEvents::open() });
    let ledger = Ledger::open(&state.ledger())?;
    let system = with_fleet_clock(system, &ledger, inbox.clock());
    let settings = settings(arguments, &config);
    let (to_kernel, reports) = (Arc::clone(&inbox), Arc::clone(&outbox));
    let reconciler = Reconciler::start(Box::new(system), ledger, settings, to_kernel, reports);
    let stop = CancellationToken::new();
    let kernel_task = start_thread(reconciler, stop.clone())?;
    systemd::ready();
    let limits = FetchLimits::default();
    let link = Link::new(state.clone(), config, Arc::clone(&inbox), outbox, limits);
    runtime.block_on(async {
        match watch {
            Ok(watch) => {
                tokio::spawn(Arc::clone(&inbox).follow(watch));
            }
            Err(error) => inbox.polling_only(&error),
        }
        match addresses {
            Ok(addresses) => {
                tokio::spawn(Arc::clone(&inbox).follow_addresses(addresses));
            }
            Err(error) => {
                let reason = chain(&error);
                warn!(reason, "no events for changes of addresses; polling only");
            }
        }
        let link = tokio::spawn(link.run(stop.clone()));
        let stopped = wait_for_signal(&stop).await;
        stop.cancel();
        let _ended = link.await;
        stopped
    })?;
    systemd::stopping();
    inbox.stop();
    if kernel_task.join().is_err() {
        bail!("the thread that owns the kernel panicked; the rules stay in force");
    }
    info!("agent stopped; the confirmed rules stay in force");
    Ok(ExitCode::SUCCESS)
}

fn settings(arguments: &Run, config: &NodeConfig) -> Settings {
    let host = Host::new(Runner::new(&arguments.tools.tool_path));
    Settings {
        node: NodeId {
            site: config.site.clone(),
            node: config.node.clone(),
        },
        poll_interval: arguments.poll_interval,
        inventory: Box::new(HostInventory::new(host)),
    }
}

/// Runs the task that owns the kernel. Its end stops the agent, also when it panics.
fn start_thread(reconciler: Reconciler, stop: CancellationToken) -> anyhow::Result<JoinHandle<()>> {
    let thread = std::thread::Builder::new().name("reconcile".to_owned());
    let work = move || {
        let _stops = stop.drop_guard();
        reconciler.run();
    };
    thread
        .spawn(work)
        .context("cannot start the thread that owns the kernel")
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
