//! The kernel of a place, with what a test wants to see of its calls or fail in them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use voipfleet_agent::host::exec::ExecError;
use voipfleet_agent::kernel::{Kernel as _, KernelError, System};
use voipfleet_ruleset::ruleset::Family;
use voipfleet_testkit::Intercept;
use voipfleet_testkit::kernel::Call;

use crate::reconciler::{Agent, LIMIT};
use crate::support::Place;

pub(crate) fn intercepted(place: &Place) -> Intercept<System> {
    Intercept::new(Box::new(place.system()))
}

fn out_of_memory() -> KernelError {
    KernelError::Exec(ExecError::Refused {
        program: "iptables-restore".to_owned(),
        how: "exited with status 4".to_owned(),
        words: "out of memory".to_owned(),
    })
}

/// The nth change fails, counted from 1.
pub(crate) fn failing_at(place: &Place, nth: usize) -> Intercept<System> {
    let mut changes = 0;
    intercepted(place).before(move |_, call| {
        changes += usize::from(call.is_write());
        if call.is_write() && changes == nth {
            return Err(out_of_memory());
        }
        Ok(())
    })
}

/// The rules of one family are refused, however often they are tried.
pub(crate) fn refusing(place: &Place, refused: Family) -> Intercept<System> {
    intercepted(place).before(move |_, call| match call {
        Call::Restore(family, _) if *family == refused => Err(out_of_memory()),
        _ => Ok(()),
    })
}

/// The calls that `picks` picks fail while the switch is on.
pub(crate) fn failing_while(
    place: &Place,
    picks: fn(&Call<'_>) -> bool,
) -> (Intercept<System>, Arc<AtomicBool>) {
    let switch = Arc::<AtomicBool>::default();
    let on = Arc::clone(&switch);
    let kernel = intercepted(place).before(move |_, call| {
        if picks(call) && on.load(Ordering::SeqCst) {
            return Err(out_of_memory());
        }
        Ok(())
    });
    (kernel, switch)
}

/// The same kernel, and a message after each call that `picks` picks.
pub(crate) fn announcing(
    kernel: Intercept<System>,
    picks: fn(&Call<'_>) -> bool,
) -> (Intercept<System>, Receiver<()>) {
    let (sender, done) = channel();
    let kernel = kernel.after(move |call| {
        if picks(call) {
            // The test may have seen enough.
            let _unheard = sender.send(());
        }
    });
    (kernel, done)
}

/// Waits until `check` holds, which can change with each message only.
#[track_caller]
pub(crate) fn await_call(calls: &Receiver<()>, mut check: impl FnMut() -> bool) {
    while !check() {
        calls.recv_timeout(LIMIT).expect("a call in time");
    }
}

/// Whole inspections, and tools that changed something, both since the start.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    pub(crate) inspections: Arc<AtomicUsize>,
    pub(crate) writes: Arc<AtomicUsize>,
}

/// An agent whose work is counted.
pub(crate) fn counted(place: &Place, poll: Duration) -> (Agent, Counts) {
    let counts = Counts::default();
    let Counts {
        inspections,
        writes,
    } = counts.clone();
    let kernel = intercepted(place)
        .before(move |_, call| {
            writes.fetch_add(usize::from(call.is_write()), Ordering::SeqCst);
            Ok(())
        })
        // Sets are the last part of an inspection.
        .after(move |call| {
            let last = *call == Call::SaveSets;
            inspections.fetch_add(usize::from(last), Ordering::SeqCst);
        });
    let own = kernel.kernel.own_processes();
    let agent = Agent::start_with(place, poll, Box::new(kernel), own);
    (agent, counts)
}

/// Notes the input of the tools. `first` is restored before the first of their own sets, as
/// another program would.
pub(crate) fn recorded(
    place: &Place,
    mut first: Option<String>,
) -> (Intercept<System>, Arc<Mutex<String>>) {
    let inputs = Arc::<Mutex<String>>::default();
    let noted = Arc::clone(&inputs);
    let kernel = intercepted(place).before(move |system, call| {
        let (Call::Restore(_, input) | Call::RestoreSets(input)) = call else {
            return Ok(());
        };
        noted.lock().unwrap().push_str(input);
        if matches!(call, Call::RestoreSets(_))
            && let Some(others) = first.take()
        {
            system.ipset_restore(&others)?;
        }
        Ok(())
    });
    (kernel, inputs)
}
