//! A reconciler at work in a test.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use voipfleet_agent::host::Host;
use voipfleet_agent::host::exec::OwnProcesses;
use voipfleet_agent::inventory::HostInventory;
use voipfleet_agent::kernel::{AddressEvents, Kernel, LOCK_FILE, Watch};
use voipfleet_agent::mailbox::{Content, Inbox, Offered, Outbox};
use voipfleet_agent::reconcile::{Reconciler, Settings};
use voipfleet_proto::v1::agent_message::Kind;
use voipfleet_proto::v1::{DriftRecord, DriftState, NodeFacts, NodeState, NodeStatus};
use voipfleet_protocol::session::Attempt;
use voipfleet_ruleset::ruleset::Ruleset;

use crate::support::{Place, held, own};

/// Long enough for any machine; what is awaited ends the wait.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// Never, within a test.
pub(crate) const NEVER: Duration = Duration::from_hours(1);
pub(crate) const OFTEN: Duration = Duration::from_millis(100);

/// A reconciler at work in the namespace of the thread that makes it.
pub(crate) struct Agent {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) outbox: Arc<Outbox>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Differences of acts that tests have seen, as they were then.
    seen: Mutex<BTreeSet<(String, Option<u64>)>>,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl Agent {
    pub(crate) fn start(place: &Place, poll_interval: Duration) -> Self {
        let system = place.system();
        let own = system.own_processes();
        Self::start_with(place, poll_interval, Box::new(system), own)
    }

    pub(crate) fn start_with(
        place: &Place,
        poll_interval: Duration,
        kernel: Box<dyn Kernel>,
        own_processes: OwnProcesses,
    ) -> Self {
        Self::start_at(
            place,
            poll_interval,
            kernel,
            own_processes,
            Path::new(LOCK_FILE),
        )
    }

    /// With the lock of legacy iptables there.
    pub(crate) fn start_at(
        place: &Place,
        poll_interval: Duration,
        kernel: Box<dyn Kernel>,
        own_processes: OwnProcesses,
        lock_file: &Path,
    ) -> Self {
        let (inbox, outbox) = (Arc::new(Inbox::default()), Arc::new(Outbox::default()));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let watch = runtime
            .block_on(async { Watch::open(place.backend, own_processes, lock_file).unwrap() });
        runtime.spawn(Arc::clone(&inbox).follow(watch));
        let host = Host::at(place.folder.path(), place.runner());
        let settings = Settings {
            node: own(),
            poll_interval,
            inventory: Box::new(HostInventory::new(host)),
        };
        let reconciler = Reconciler::start(
            kernel,
            place.ledger(),
            settings,
            Arc::clone(&inbox),
            Arc::clone(&outbox),
        );
        let thread = std::thread::spawn(move || reconciler.run());
        outbox.take();
        Self {
            inbox,
            outbox,
            thread: Some(thread),
            seen: Mutex::default(),
            runtime,
        }
    }

    /// Waits until `enough` says so of the records that came by then.
    pub(crate) fn records_until(
        &self,
        enough: impl Fn(&[DriftRecord]) -> bool,
    ) -> Vec<DriftRecord> {
        let mut records: Vec<DriftRecord> = Vec::new();
        self.runtime.block_on(async {
            let wait = async {
                loop {
                    for message in self.outbox.take() {
                        records.extend(self.differences(message));
                    }
                    if enough(&records) {
                        return;
                    }
                    self.outbox.filled().await;
                }
            };
            let ended = tokio::time::timeout(LIMIT, wait).await;
            assert!(
                ended.is_ok(),
                "no such records within {LIMIT:?}: {records:#?}"
            );
        });
        records
    }
}

impl Agent {
    /// The records that are there, or come within that time.
    pub(crate) fn records_within(&self, limit: Duration) -> Vec<DriftRecord> {
        self.runtime.block_on(async {
            // Time that runs out is an answer here.
            let _late = tokio::time::timeout(limit, self.outbox.filled()).await;
        });
        let mut records = Vec::new();
        for message in self.outbox.take() {
            records.extend(self.differences(message));
        }
        records
    }

    /// The drift of a message, a record for each difference that is new or was repaired since.
    fn differences(&self, message: Kind) -> Vec<DriftRecord> {
        let Kind::Drift(report) = message else {
            return Vec::new();
        };
        let mut seen = self.seen.lock().unwrap();
        let each = report.records.iter().flat_map(DriftRecord::split);
        each.filter(|it| seen.insert((it.id.clone(), it.repaired_after_ms)))
            .collect()
    }
}

impl Agent {
    /// Waits for the first status that `chosen` chooses; returns all up to it.
    pub(crate) fn statuses_until(&self, chosen: impl Fn(&NodeStatus) -> bool) -> Vec<NodeStatus> {
        let mut statuses = Vec::new();
        self.runtime.block_on(async {
            let wait = async {
                loop {
                    for message in self.outbox.take() {
                        if let Kind::Status(status) = message {
                            statuses.push(status);
                        }
                    }
                    if statuses.iter().any(&chosen) {
                        return;
                    }
                    self.outbox.filled().await;
                }
            };
            let ended = tokio::time::timeout(LIMIT, wait).await;
            assert!(ended.is_ok(), "no such status within {LIMIT:?}");
        });
        statuses
    }
}

impl Agent {
    /// Waits for reports of the agent until `done` says so.
    pub(crate) fn reports_until(&self, mut done: impl FnMut() -> bool) {
        self.runtime.block_on(async {
            let wait = async {
                while !done() {
                    self.outbox.filled().await;
                    self.outbox.take();
                }
            };
            let ended = tokio::time::timeout(LIMIT, wait).await;
            let last = self.outbox.last_status();
            assert!(ended.is_ok(), "not within {LIMIT:?}: {last:?}");
        });
    }

    /// Hears of changes of addresses from now on.
    pub(crate) fn follow_addresses(&self) {
        let events = self
            .runtime
            .block_on(async { AddressEvents::open().unwrap() });
        let inbox = Arc::clone(&self.inbox);
        self.runtime.spawn(inbox.follow_addresses(events));
    }

    /// Waits for facts of which `wanted` holds.
    pub(crate) fn facts_until(&self, wanted: impl Fn(&NodeFacts) -> bool) {
        let mut facts = self.outbox.hello().0;
        self.runtime.block_on(async {
            let wait = async {
                while !wanted(&facts) {
                    self.outbox.filled().await;
                    for message in self.outbox.take() {
                        if let Kind::Facts(newer) = message {
                            facts = newer;
                        }
                    }
                }
            };
            let ended = tokio::time::timeout(LIMIT, wait).await;
            assert!(ended.is_ok(), "no such facts within {LIMIT:?}");
        });
    }

    /// Waits until the node's drift has this state.
    pub(crate) fn drift_until(&self, state: DriftState) {
        self.reports_until(|| self.outbox.last_status().drift() == state);
    }

    /// Waits for a warning with these words; returns it.
    pub(crate) fn warning_until(&self, words: &str) -> String {
        let mut found = None;
        let mut facts = self.outbox.hello().0;
        self.runtime.block_on(async {
            let wait = async {
                loop {
                    let mut warnings = facts.warnings.iter();
                    found = warnings.find(|warning| warning.contains(words)).cloned();
                    if found.is_some() {
                        return;
                    }
                    self.outbox.filled().await;
                    for message in self.outbox.take() {
                        if let Kind::Facts(newer) = message {
                            facts = newer;
                        }
                    }
                }
            };
            let ended = tokio::time::timeout(LIMIT, wait).await;
            assert!(ended.is_ok(), "no {words:?} within {LIMIT:?}");
        });
        found.unwrap()
    }
}

impl Agent {
    /// Offers it to the agent, confirms its trial, and returns the status that ends it.
    pub(crate) fn answer_to(&self, offered: Offered) -> NodeStatus {
        let attempt = Attempt {
            nonce: offered.nonce,
            held: offered.held,
        };
        self.inbox.offer(offered);
        let mut status = self.status_of(attempt, |state| state != NodeState::Applying);
        if status.state() == NodeState::Trial {
            self.inbox.confirm(attempt);
            status = self.status_of(attempt, |state| state != NodeState::Trial);
        }
        status
    }

    /// Offers it to the agent, and waits until it is on trial.
    pub(crate) fn try_out(&self, offered: Offered) -> Attempt {
        let attempt = Attempt {
            nonce: offered.nonce,
            held: offered.held,
        };
        self.inbox.offer(offered);
        let status = self.status_of(attempt, |state| state != NodeState::Applying);
        assert_eq!(status.state(), NodeState::Trial, "{}", status.error);
        attempt
    }

    /// Waits for a status of that attempt.
    pub(crate) fn status_of(
        &self,
        attempt: Attempt,
        chosen: impl Fn(NodeState) -> bool,
    ) -> NodeStatus {
        let ends = |status: &NodeStatus| status.nonce == attempt.nonce && chosen(status.state());
        let statuses = self.statuses_until(ends);
        statuses.into_iter().find(ends).unwrap()
    }
}

/// An offer of a ruleset.
pub(crate) fn offer(nonce: u64, generation: u64, ruleset: &Ruleset) -> Offered {
    Offered {
        nonce,
        held: held(generation, ruleset),
        content: Content::Bytes(ruleset.encode()),
        confirm_within: LIMIT,
        received: Instant::now(),
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.inbox.stop();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}
