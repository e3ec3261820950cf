//! One node that is killed again and again, and what it must be after each start.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use voipfleet_agent::enforcement::apply::Prepared;
use voipfleet_agent::enforcement::recovery;
use voipfleet_agent::kernel::Backend;
use voipfleet_agent::ledger::{KeptSets, Ledger, Management, SiteSets};
use voipfleet_ruleset::iptables::Failsafe;
use voipfleet_ruleset::ruleset::{DynamicSets, Ruleset};
use voipfleet_testkit::files::copy_folder;

use crate::dynamic_sets::{first, naming};
use crate::node::{Node, announced, confirm, program, was_killed};
use crate::support::{Place, held, in_namespace, same};

/// Two rulesets that differ in all that is written anywhere: rules, sets, chains, admins. Both
/// name dynamic sets.
pub(super) fn ruleset(variant: u16) -> Ruleset {
    let mut ruleset = naming(variant);
    let admin = format!("198.51.100.{}/32", 10 + variant);
    ruleset.admins[0] = admin.parse().unwrap();
    Ruleset::decode(&ruleset.encode()).expect("a sound ruleset")
}

/// A pushed ruleset, by its variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pushed {
    pub(super) generation: u64,
    pub(super) variant: u16,
}

/// What the controller does in a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TrialEnd {
    /// It confirms.
    Confirmed,
    /// It does not answer until the trial's time is over.
    TimedOut,
}

pub(super) struct Bench<'a> {
    pub(super) place: &'a Place,
    pub(super) node: Node<'a>,
    /// What must be in force after the next start; none: nothing of ours.
    pub(super) confirmed: Option<Pushed>,
    /// What the failsafe chain keeps open then.
    pub(super) failsafe: Failsafe,
    /// What dynamic sets hold then.
    pub(super) dynamic: DynamicSets,
    generation: u64,
    /// What the kernel prints of a ruleset on its own, beside the rules of others.
    printed: Vec<(Option<u16>, Failsafe, DynamicSets, String)>,
}

/// Runs `work` in another namespace.
pub(super) fn elsewhere<T: Send + 'static>(
    backend: Backend,
    work: impl FnOnce(&Place) -> T + Send + 'static,
) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    in_namespace(backend, move |place| sender.send(work(place)).unwrap());
    receiver.recv().unwrap()
}

/// Runs a subcommand of the agent to its end.
pub(super) fn ask(place: &Place, verb: &[&str], state: &Path, failpoint: &str) -> ExitStatus {
    let mut command = program(place, verb[0], state);
    if !failpoint.is_empty() {
        command.env("VOIPFLEET_FAILPOINT", failpoint);
    }
    command
        .args(&verb[1..])
        .env("RUST_LOG", "off")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
}

/// What the boot unit makes of a copy of that state, in the kernel of a machine that has just
/// been started.
pub(super) fn rebooted(place: &Place, state: &Path) -> (ExitStatus, String) {
    let kept = tempfile::tempdir().unwrap();
    copy_folder(state, kept.path());
    let said = elsewhere(place.backend, move |place| {
        place.add_foreign_rules();
        let status = ask(place, &["restore"], kept.path(), "");
        (status, place.everything(), kept)
    });
    let (status, everything, kept) = said;
    assert!(!kept.path().join("ledger/journal").exists());
    (status, everything)
}

impl<'a> Bench<'a> {
    pub(super) async fn new(place: &'a Place) -> Self {
        let node = Node::idle(place).await;
        let failsafe = Failsafe {
            controllers: vec![node.controller.address],
            ssh_ports: Vec::new(),
        };
        Self {
            place,
            node,
            confirmed: None,
            failsafe,
            dynamic: first(),
            generation: 0,
            printed: Vec::new(),
        }
    }

    /// The variant that is not confirmed.
    pub(super) fn other(&self) -> u16 {
        match self.confirmed {
            Some(Pushed { variant: 1, .. }) => 2,
            _ => 1,
        }
    }

    pub(super) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    /// What the kernel must print.
    pub(super) fn wanted(&mut self) -> String {
        let variant = self.confirmed.map(|confirmed| confirmed.variant);
        let known = |(of, failsafe, dynamic, _): &&(Option<u16>, Failsafe, DynamicSets, String)| {
            let same = *failsafe == self.failsafe && *dynamic == self.dynamic;
            *of == variant && (variant.is_none() || same)
        };
        if let Some((.., text)) = self.printed.iter().find(known) {
            return text.clone();
        }
        let (failsafe, dynamic) = (self.failsafe.clone(), self.dynamic.clone());
        let text = elsewhere(self.place.backend, move |place| {
            place.add_foreign_rules();
            if let Some(variant) = variant {
                let (mut system, ruleset) = (place.system(), ruleset(variant));
                let held = held(1, &ruleset);
                let prepared =
                    Prepared::preflight(&system, held, ruleset, Some(&dynamic), failsafe).unwrap();
                prepared.enforce(&mut system).unwrap();
            }
            place.everything()
        });
        let (failsafe, dynamic) = (self.failsafe.clone(), self.dynamic.clone());
        let entry = (variant, failsafe, dynamic, text.clone());
        self.printed.push(entry);
        text
    }

    /// Nothing of ours is there, and nothing is remembered but dynamic sets.
    pub(super) fn start_over(&mut self) {
        self.forget();
        self.keep_dynamic_sets();
    }

    fn keep_dynamic_sets(&self) {
        let (_, ledger) = self.parts();
        let dynamic = SiteSets::new(self.dynamic.clone());
        if ledger.dynamic_sets() != KeptSets::Last(dynamic.clone()) {
            ledger.keep_dynamic_sets(&dynamic).unwrap();
        }
    }

    /// Nothing of ours is there, and nothing is remembered.
    pub(super) fn forget(&mut self) {
        let (mut system, ledger) = self.parts();
        recovery::teardown(&mut system, &ledger, true).unwrap();
        self.confirmed = None;
        same(&self.wanted(), &self.place.everything());
    }

    /// Makes sure that a ruleset is confirmed and in force, with that failsafe.
    pub(super) fn be_confirmed(&mut self, failsafe: &Failsafe) {
        if self.confirmed.is_some() && self.failsafe == *failsafe {
            return;
        }
        self.keep_dynamic_sets();
        let (variant, generation) = (1, self.next_generation());
        let (mut system, ledger) = self.parts();
        let ruleset = ruleset(variant);
        let held = held(generation, &ruleset);
        let (dynamic, open) = (Some(&self.dynamic), failsafe.clone());
        let prepared = Prepared::preflight(&system, held, ruleset, dynamic, open).unwrap();
        ledger
            .confirm(&prepared.enforce(&mut system).unwrap())
            .unwrap();
        self.failsafe = failsafe.clone();
        self.confirmed = Some(Pushed {
            generation,
            variant,
        });
    }

    pub(super) fn parts(&self) -> (voipfleet_agent::kernel::System, Ledger) {
        let ledger = Ledger::open(&self.node.state.ledger()).unwrap();
        (self.place.system(), ledger)
    }

    /// The kernel of a machine that has just been started: the rules of others, none of ours.
    pub(super) fn lose_the_kernel(&self) {
        let (mut system, ledger) = self.parts();
        recovery::teardown(&mut system, &ledger, false).unwrap();
    }

    /// Pushes, until the agent dies at `failpoint`.
    pub(super) async fn push_until(&mut self, failpoint: &str, pushed: Pushed, end: TrialEnd) {
        self.node.run_until(Some(failpoint));
        let (first, hello) = self.node.session().await;
        assert_eq!(announced(&hello), None, "{failpoint}");
        let confirmed = self.confirmed.map_or(0, |confirmed| confirmed.generation);
        assert_eq!(hello.generation, confirmed, "{failpoint}");
        let content = ruleset(pushed.variant);
        let within_ms = match end {
            TrialEnd::Confirmed => crate::node::LONG,
            TrialEnd::TimedOut => 300,
        };
        self.node
            .offer(&first, pushed.generation, &content, within_ms)
            .await;
        let nonce = pushed.generation;
        let said = (end == TrialEnd::Confirmed).then(|| confirm(nonce, &content));
        let status = self.node.ended_in_trial(said).await;
        assert!(was_killed(status), "{failpoint}: {status}");
    }

    /// Notices dynamic sets, until the agent dies at `failpoint`.
    pub(super) async fn notice_until(
        &mut self,
        failpoint: &str,
        dynamic: &DynamicSets,
        flushed: bool,
    ) {
        self.node.run_until(Some(failpoint));
        let (session, hello) = self.node.session().await;
        let from =
            (hello.dynamic_digest == self.dynamic.digest().as_bytes()).then_some(&self.dynamic);
        if flushed {
            for set in ["vf-clients-4", "vf-clients-6"] {
                self.place.tool(&format!("ipset flush {set}"));
            }
        }
        self.node.notice(&session, dynamic, from).await;
        let status = self.node.ended_in_trial(None).await;
        assert!(was_killed(status), "{failpoint}: {status}");
    }

    /// Starts the agent, until it dies at `failpoint` without a word from the controller.
    pub(super) async fn start_until(&mut self, failpoint: &str) {
        self.node.run_until(Some(failpoint));
        let status = self.node.ended_in_trial(None).await;
        assert!(was_killed(status), "{failpoint}: {status}");
    }

    /// After the agent died at `failpoint`: whatever starts it again finds the one ruleset or
    /// the other, whole, and the ledger has the same one.
    pub(super) fn check(&mut self, failpoint: &str) {
        let at = format!("{:?}, killed at {failpoint}", self.place.backend);
        let wanted = self.wanted();
        // The machine went down with it.
        let (status, everything) = rebooted(self.place, &self.node.folder());
        assert!(status.success(), "{at}: restore {status}");
        assert_eq!(everything, wanted, "{at}: after a reboot");
        // Only the program did; and the controller is out of reach.
        self.place.tool("ip link set lo down");
        self.node.run();
        self.node.wait_ready();
        assert_eq!(self.place.everything(), wanted, "{at}: after a start");
        self.node.kill();
        self.place.tool("ip link set lo up");
        self.check_ledger(&at);
    }

    /// The ledger agrees with the kernel, and nothing is under way.
    pub(super) fn check_ledger(&self, at: &str) {
        let ledger = Ledger::open_read_only(&self.node.state.ledger());
        assert_eq!(ledger.journal().unwrap(), None, "{at}");
        let confirmed = ledger.confirmed().unwrap();
        let held = confirmed.as_ref().map(|confirmed| confirmed.held);
        let wanted = self.confirmed.map(|confirmed| {
            crate::support::held(confirmed.generation, &ruleset(confirmed.variant))
        });
        assert_eq!(held, wanted, "{at}");
        if let Some(confirmed) = &confirmed {
            assert_eq!(confirmed.failsafe, self.failsafe, "{at}");
            let management = ledger.management().unwrap();
            assert_eq!(management, Some(Management::from(confirmed)), "{at}");
            let dynamic = SiteSets::new(self.dynamic.clone());
            assert_eq!(ledger.dynamic_sets(), KeptSets::Last(dynamic), "{at}");
        }
        assert_eq!(ledger.fallback(), None, "{at}");
    }
}
