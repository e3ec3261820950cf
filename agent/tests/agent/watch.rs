//! Changes by others, noticed without a poll, with their author.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use voipfleet_agent::host::exec::OwnProcesses;
use voipfleet_agent::host::{Processes, Root};
use voipfleet_agent::kernel::Watch;
use voipfleet_agent::kernel::{Backend, KernelEvent, LOCK_FILE, LockFile, Notifier};
use voipfleet_proto::v1::DriftRecord;

use crate::reconciler::{Agent, OFTEN};
use crate::support::{Place, in_namespace, install, on_both_backends, sample};

/// Long enough for any machine; an event that comes ends the wait.
const LIMIT: Duration = Duration::from_secs(30);

/// A tool that has made its change, and lives until its input ends.
fn restore_that_stays(place: &Place, input: &str) -> Child {
    let program = place.runner().find("iptables-restore").unwrap();
    #[allow(clippy::disallowed_methods)] // the exec module waits for the end
    let mut child = Command::new(program)
        .arg("--noflush")
        .env_clear()
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.as_mut().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    stdin.flush().unwrap();
    child
}

#[test]
fn author_is_looked_up_while_it_runs() {
    on_both_backends(|place| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        // The first legacy tool of a machine makes the lock.
        place.tool("iptables -N FIRST");
        let mut watch = runtime.block_on(async {
            Watch::open(place.backend, OwnProcesses::default(), Path::new(LOCK_FILE)).unwrap()
        });
        let (seen, events) = mpsc::channel();
        runtime.spawn(async move { while seen.send(watch.next().await.unwrap()).is_ok() {} });
        let mut child = restore_that_stays(place, "*filter\n:f2b-sshd - [0:0]\nCOMMIT\n");
        let deadline = Instant::now() + LIMIT;
        // The lock is the whole machine's: tests beside this one take it too.
        let author = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let KernelEvent::Changed(change) = events.recv_timeout(left).expect("a change") else {
                continue;
            };
            let by = change.author.filter(|by| by.process.pid == child.id());
            if let Some(author) = by {
                break *author;
            }
        };
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!author.process.user.is_empty(), "{author:?}");
        assert!(author.process.executable.contains("xtables"), "{author:?}");
        let starter = author.started_by.expect("this test");
        assert_eq!(starter.pid, std::process::id());
        let own = std::env::current_exe().unwrap();
        assert_eq!(Path::new(&starter.executable), own);
    });
}

/// The next event of the lock's watch, after `take`.
fn said_of(
    runtime: &tokio::runtime::Runtime,
    lock: &mut LockFile,
    take: impl FnOnce(),
) -> KernelEvent {
    runtime.block_on(async {
        take();
        tokio::time::timeout(LIMIT, lock.next())
            .await
            .expect("an event")
            .unwrap()
    })
}

/// Takes the lock as iptables does, and lets it go.
fn take(path: &Path) {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    drop(options.open(path).unwrap());
}

#[test]
fn xtables_lock_is_watched_once_it_is_created() {
    for notifier in [Notifier::Fanotify, Notifier::Inotify] {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("xtables.lock");
        let mut lock = runtime.block_on(async {
            let processes = Processes::new(&Root::new("/"));
            LockFile::watch(&path, processes, OwnProcesses::default(), notifier).unwrap()
        });
        // Beside it there are other files.
        std::fs::write(folder.path().join("utmp"), "").unwrap();
        let made = said_of(&runtime, &mut lock, || take(&path));
        assert_eq!(made, KernelEvent::Lost);
        let taken = said_of(&runtime, &mut lock, || take(&path));
        let KernelEvent::Changed(change) = taken else {
            panic!("{taken:?}");
        };
        if let Some(author) = change.author {
            assert_eq!(notifier, Notifier::Fanotify);
            assert_eq!(author.process.pid, std::process::id());
        }
        std::fs::remove_file(&path).unwrap();
        let mut event = said_of(&runtime, &mut lock, || take(&path));
        while event != KernelEvent::Lost {
            event = said_of(&runtime, &mut lock, || {});
        }
        let taken = said_of(&runtime, &mut lock, || take(&path));
        assert!(matches!(taken, KernelEvent::Changed(_)), "{taken:?}");
    }
}

#[test]
fn missing_folder_cannot_be_watched() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let processes = Processes::new(&Root::new("/"));
        let path = Path::new("/nowhere/xtables.lock");
        let Err(error) =
            LockFile::watch(path, processes, OwnProcesses::default(), Notifier::Fanotify)
        else {
            panic!("it is watched");
        };
        assert_eq!(error.to_string(), "/nowhere/xtables.lock cannot be watched");
    });
}

#[test]
fn drift_without_a_lock_event_is_found_by_polling() {
    in_namespace(Backend::Legacy, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        let own = system.own_processes();
        // As of a tool in a container, or with another lock.
        let lock = place.folder.path().join("xtables.lock");
        let agent = Agent::start_at(place, OFTEN, Box::new(system), own, &lock);
        for line in ["iptables -D VF-SIP 1", "ip6tables -F VF-INPUT"] {
            place.tool(line);
            let repaired = |record: &DriftRecord| record.repaired_after_ms.is_some();
            let records = agent.records_until(|records| records.iter().any(repaired));
            assert!(
                records.iter().all(|record| record.by.is_none()),
                "{records:?}"
            );
        }
    });
}

#[test]
fn polling_only_is_reported_as_a_warning() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        let agent = Agent::start(place, OFTEN);
        agent
            .inbox
            .polling_only(&std::io::Error::other("no more announcements"));
        let warning = agent.warning_until("noticed only every 0.1 s");
        assert!(warning.contains("no more announcements"), "{warning}");
    });
}
