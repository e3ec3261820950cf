//! The agent is killed between every two steps of all that it does, on the real kernel: after
//! the next start a node runs the old ruleset or the new one, whole, and never a mixture.

mod bench;
mod points;

use std::collections::BTreeSet;

use voipfleet_agent::failpoint::{File, Step, Work, name};
use voipfleet_agent::kernel::Backend;
use voipfleet_ruleset::iptables::Failsafe;

use crate::dynamic_sets::{first, with};
use crate::node::{failpoint_log, run};
use crate::support::{failsafe, in_namespace, same};
use bench::{Bench, Pushed, TrialEnd, ask, rebooted};
use points::ALL;

#[test]
fn kill_at_any_failpoint_leaves_a_whole_ruleset_nft() {
    killed_anywhere(Backend::Nft);
}

#[test]
fn kill_at_any_failpoint_leaves_a_whole_ruleset_legacy() {
    killed_anywhere(Backend::Legacy);
}

fn killed_anywhere(backend: Backend) {
    for (work, steps) in ALL {
        in_namespace(backend, move |place| {
            run(async {
                let mut bench = Bench::new(place).await;
                for step in *steps {
                    killed_at(&mut bench, *work, *step).await;
                }
                every_reached_point_is_listed(&bench);
            });
        });
    }
}

/// So that a new step cannot be forgotten.
fn every_reached_point_is_listed(bench: &Bench<'_>) {
    let listed: BTreeSet<String> = ALL
        .iter()
        .flat_map(|(work, steps)| steps.iter().map(|step| name(*work, *step)))
        .collect();
    let reached = std::fs::read_to_string(failpoint_log(bench.place)).unwrap();
    let unlisted: BTreeSet<&str> = reached
        .lines()
        .filter(|point| !listed.contains(*point))
        .collect();
    assert!(unlisted.is_empty(), "add them to points.rs: {unlisted:?}");
}

async fn killed_at(bench: &mut Bench<'_>, work: Work, step: Step) {
    let at = name(work, step);
    eprintln!("{:?}, {at}", bench.place.backend);
    let own = Failsafe {
        controllers: vec![bench.node.controller.address],
        ssh_ports: Vec::new(),
    };
    match work {
        Work::Apply => {
            // On a node without earlier rules, and on one with.
            bench.start_over();
            for _ in 0..2 {
                applied_until(bench, &at, has_confirmed(step)).await;
                bench.check(&at);
                bench.be_confirmed(&own);
            }
        }
        Work::Undo => {
            bench.start_over();
            for _ in 0..2 {
                if bench.confirmed.is_some() || step != Step::SetsFilled {
                    let pushed = next(bench);
                    bench.push_until(&at, pushed, TrialEnd::TimedOut).await;
                    bench.check(&at);
                }
                bench.be_confirmed(&own);
            }
        }
        Work::UndoAtStart => returned_until(bench, step, &at, &own).await,
        Work::Restore => {
            bench.be_confirmed(&own);
            bench.lose_the_kernel();
            let status = ask(bench.place, &["restore"], &bench.node.folder(), &at);
            assert!(crate::node::was_killed(status), "{at}: {status}");
            bench.check(&at);
        }
        Work::Settle => {
            bench.be_confirmed(&own);
            let confirmed = name(Work::Apply, Step::Synced(File::Confirmed));
            applied_until(bench, &confirmed, true).await;
            bench.start_until(&at).await;
            bench.check(&at);
        }
        Work::Renumber => {
            bench.be_confirmed(&own);
            let pushed = Pushed {
                generation: bench.next_generation(),
                ..bench.confirmed.unwrap()
            };
            bench.push_until(&at, pushed, TrialEnd::Confirmed).await;
            if has_confirmed(step) {
                bench.confirmed = Some(pushed);
            }
            bench.check(&at);
        }
        Work::Repair => {
            bench.be_confirmed(&own);
            bench.node.poll = "200ms";
            bench.node.run_until(Some(&at));
            let _session = bench.node.session().await;
            for line in [
                "iptables -D VF-SIP 1",
                "ip6tables -I VF-INPUT 1 -j ACCEPT",
                "ipset flush vf-clients-4",
            ] {
                bench.place.tool(line);
            }
            let status = bench.node.ended_in_trial(None).await;
            assert!(crate::node::was_killed(status), "{at}: {status}");
            bench.check(&at);
        }
        Work::Refresh => refreshed_until(bench, step, &at, &own).await,
        Work::DynamicSets => live_until(bench, step, &at, &own).await,
        Work::EnterFallback => closed_until(bench, &at, &own),
        Work::LeaveFallback => {
            bench.be_confirmed(&own);
            close(bench);
            bench.confirmed = None;
            applied_until(bench, &at, true).await;
            bench.check(&at);
        }
        Work::Teardown => {
            bench.be_confirmed(&own);
            torn_down_until(bench, &at);
        }
    }
}

/// A start after the agent was killed in a trial, or while it was confirmed.
async fn returned_until(bench: &mut Bench<'_>, step: Step, at: &str, own: &Failsafe) {
    bench.start_over();
    // A first push leaves a list of admins only where it was about to be confirmed.
    let of_admins = [
        Step::Removed(File::Management),
        Step::Gone(File::Management),
    ];
    let of_admins = of_admins.contains(&step);
    let cut = if of_admins {
        Step::Written(File::Confirmed)
    } else {
        Step::TrialBegun
    };
    for _ in 0..2 {
        let is_reached = match step {
            Step::SetsFilled => bench.confirmed.is_some(),
            _ if of_admins => bench.confirmed.is_none(),
            _ => true,
        };
        if is_reached {
            applied_until(bench, &name(Work::Apply, cut), false).await;
            bench.start_until(at).await;
            bench.check(at);
        }
        bench.be_confirmed(own);
    }
}

/// What was begun is finished by the next try.
fn torn_down_until(bench: &mut Bench<'_>, at: &str) {
    let verb = ["teardown", "--purge"];
    let status = ask(bench.place, &verb, &bench.node.folder(), at);
    assert!(crate::node::was_killed(status), "{at}: {status}");
    let status = ask(bench.place, &verb, &bench.node.folder(), "");
    assert!(status.success(), "{at}: {status}");
    bench.confirmed = None;
    bench.check(at);
}

/// Whether the node boots with what is new once that step is done.
fn has_confirmed(step: Step) -> bool {
    is_past(Work::Apply, step, Step::Renamed(File::Confirmed))
}

fn is_past(work: Work, step: Step, other: Step) -> bool {
    let steps = ALL.iter().find(|(of, _)| *of == work).unwrap().1;
    let place_of = |wanted: Step| steps.iter().position(|step| *step == wanted).unwrap();
    place_of(step) >= place_of(other)
}

/// Dynamic sets that change: on a node without earlier ones where only such a node reaches the
/// step, else on one that runs a ruleset with earlier ones.
async fn live_until(bench: &mut Bench<'_>, step: Step, at: &str, own: &Failsafe) {
    let mut changed = with(
        &bench.dynamic,
        "block",
        &["203.0.113.66/32", "2001:db8:66:2::1/128"],
    );
    changed = with(
        &changed,
        "cluster",
        &["10.20.0.12/32", "2001:db8:20::12/128"],
    );
    if bench.dynamic == changed {
        changed = first();
    }
    if step == Step::Written(File::PreviousSets) {
        bench.forget();
    } else {
        bench.be_confirmed(own);
    }
    // Sets that are not as they were left are all read and written.
    let flushed = matches!(step, Step::SetsFilled | Step::SetsReleased);
    bench.notice_until(at, &changed, flushed).await;
    if is_past(Work::DynamicSets, step, Step::Renamed(File::DynamicSets)) {
        bench.dynamic = changed;
    }
    bench.check(at);
}

fn next(bench: &mut Bench<'_>) -> Pushed {
    Pushed {
        generation: bench.next_generation(),
        variant: bench.other(),
    }
}

async fn applied_until(bench: &mut Bench<'_>, failpoint: &str, confirmed: bool) {
    let pushed = next(bench);
    bench
        .push_until(failpoint, pushed, TrialEnd::Confirmed)
        .await;
    if confirmed {
        bench.confirmed = Some(pushed);
    }
}

/// A start that dials elsewhere than the node did before.
async fn refreshed_until(bench: &mut Bench<'_>, step: Step, at: &str, own: &Failsafe) {
    bench.be_confirmed(&failsafe());
    bench.start_until(at).await;
    if has_confirmed_refresh(step) {
        bench.failsafe = own.clone();
    }
    let wanted = bench.wanted();
    let (status, everything) = rebooted(bench.place, &bench.node.folder());
    assert!(status.success(), "{at}: {status}");
    assert_eq!(everything, wanted, "{at}: after a reboot");
    // Not with `run`, which would go on to the other chain as soon as it dials.
    let status = ask(bench.place, &["restore"], &bench.node.folder(), "");
    assert!(status.success(), "{at}: {status}");
    assert_eq!(bench.place.everything(), wanted, "{at}: after a start");
    bench.check_ledger(at);
}

fn has_confirmed_refresh(step: Step) -> bool {
    matches!(
        step,
        Step::Renamed(File::Confirmed) | Step::Synced(File::Confirmed)
    )
}

fn damage(bench: &Bench<'_>) {
    let file = bench.node.state.ledger().join("confirmed");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&file, bytes).unwrap();
}

/// The node runs its management rules.
fn close(bench: &Bench<'_>) {
    bench.lose_the_kernel();
    damage(bench);
    let status = ask(bench.place, &["restore"], &bench.node.folder(), "");
    assert!(!status.success());
    assert!(bench.place.everything().contains("vf:management:"));
}

/// A boot whose ruleset is lost.
fn closed_until(bench: &mut Bench<'_>, at: &str, own: &Failsafe) {
    bench.be_confirmed(own);
    bench.lose_the_kernel();
    damage(bench);
    // What comes of it when nothing is in the way.
    let (status, wanted) = rebooted(bench.place, &bench.node.folder());
    assert!(!status.success());
    assert!(wanted.contains("vf:management:"), "{wanted}");
    let status = ask(bench.place, &["restore"], &bench.node.folder(), at);
    assert!(crate::node::was_killed(status), "{at}: {status}");
    let (status, everything) = rebooted(bench.place, &bench.node.folder());
    assert!(!status.success());
    assert_eq!(everything, wanted, "{at}: after a reboot");
    bench.node.run();
    bench.node.wait_ready();
    same(&wanted, &bench.place.everything());
    bench.node.kill();
    let (_, ledger) = bench.parts();
    assert!(ledger.fallback().is_some(), "{at}");
    bench.start_over();
}
