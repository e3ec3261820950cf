//! Many changes a second by programs that keep rules of their own.

use std::time::{Duration, Instant};

use voipfleet_proto::v1::DriftRecord;
use voipfleet_testkit::Intercept;
use voipfleet_testkit::kernel::Call;

use crate::node::Node;
use crate::reconciler::{Agent, NEVER};
use crate::support::{BACKENDS, Place, in_namespace, install, on_both_backends, sample};

/// A chain above `INPUT`'s other rules with a rule for each call, as rtpengine keeps it.
fn call(place: &Place, number: u32) {
    let verb = if number.is_multiple_of(2) { "-I" } else { "-D" };
    let port = 30_000 + number / 2 % 5000 * 2;
    place.tool(&format!(
        "iptables {verb} RTPENGINE_allow -d 198.18.0.11 -p udp --dport {port} -j ACCEPT"
    ));
}

fn rtpengine(place: &Place) {
    place.tool("iptables -N RTPENGINE_allow");
    place.tool("iptables -A INPUT -p udp --dport 30000:40000 -j RTPENGINE_allow");
}

#[test]
fn looks_in_a_storm_are_few_and_an_edit_of_ours_is_repaired_in_it() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        rtpengine(place);
        let own = system.own_processes();
        let (looks, seen) = std::sync::mpsc::channel();
        let counting = Intercept::new(Box::new(system)).after(move |call| {
            if matches!(call, Call::Save(_)) {
                let _ended = looks.send(());
            }
        });
        let agent = Agent::start_with(place, NEVER, Box::new(counting), own);
        let began = Instant::now();
        let mut changes = 0;
        while began.elapsed() < Duration::from_secs(4) {
            call(place, changes);
            changes += 1;
        }
        let looks = seen.try_iter().count();
        let families = 2;
        // 14 at once, then one of each kind in each second, and those of quick looks.
        let most = families * (14 + 2 * 6 + 6);
        assert!(looks <= most, "{looks} looks at {changes} changes");
        assert!(agent.records_within(Duration::ZERO).is_empty());
        place.tool("iptables -D VF-SIP 1");
        let repaired = |record: &DriftRecord| record.repaired_after_ms.is_some();
        let storm = std::thread::scope(|scope| {
            let records =
                scope.spawn(|| agent.records_until(|records| records.iter().any(repaired)));
            while !records.is_finished() {
                call(place, changes);
                changes += 1;
            }
            records.join().unwrap()
        });
        assert!(
            storm.iter().all(|record| record.chain == "VF-SIP"),
            "{storm:?}"
        );
    });
}

/// Clock ticks of a process, and of its children that have ended.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    // utime, stime, cutime, cstime are fields 14 to 17; the first one here is field 3.
    let fields: Vec<&str> = fields.split(' ').collect();
    fields[11..15]
        .iter()
        .map(|it| it.parse::<u64>().unwrap())
        .sum()
}

/// Prints what an agent with its tools costs, idle and at 20 changes a second.
#[test]
#[ignore = "a measurement of half a minute"]
fn processor_time_in_a_storm() {
    for backend in BACKENDS {
        in_namespace(backend, move |place| {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut node = Node::start(place).await;
                node.wait_ready();
                let (session, _) = node.session().await;
                let _session = node.push(session, 1, &sample(1)).await;
                rtpengine(place);
                for (what, pause) in [("idle", None), ("storm", Some(50))] {
                    // What the push and the last phase began is over.
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    let (before, began) = (ticks(node.pid()), Instant::now());
                    let mut changes = 0;
                    while began.elapsed() < Duration::from_secs(15) {
                        if pause.is_some() {
                            call(place, changes);
                        }
                        changes += 1;
                        let next = began + Duration::from_millis(50) * changes;
                        tokio::time::sleep_until(next.into()).await;
                    }
                    let spent = ticks(node.pid()) - before;
                    let seconds = began.elapsed().as_secs_f64();
                    #[expect(clippy::cast_precision_loss, reason = "a few hundred ticks")]
                    let percent = spent as f64 / seconds;
                    let rate = if pause.is_some() { changes } else { 0 };
                    println!("{backend}: {what}, {rate} changes in {seconds:.0} s: {percent:.2} % of a core");
                }
            });
        });
    }
}
