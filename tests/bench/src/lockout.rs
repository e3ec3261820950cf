//! How long a push that locks people out keeps them out.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use voipfleet_tests::lab::{Lab, Options};

use super::figures::{Series, say, show};

const TIMES: usize = 5;
const CONFIRM_WITHIN: &str = "5s";
const PATIENCE: Duration = Duration::from_mins(1);
/// A connection that did not come about by then is not let in.
const REFUSED: Duration = Duration::from_millis(500);
/// How long one is tried while nobody is let in: the most that the figure is late.
const TRIED: Duration = Duration::from_millis(20);

pub(crate) fn run() -> Result<()> {
    let options = Options {
        nodes: 1,
        backend: "nft",
        poll_interval: "15s",
        ..Options::default()
    };
    Lab::run(&options, |lab| {
        let node = lab.nodes().first().context("the lab has no node")?;
        let address = SocketAddr::from(([198, 18, 0, u8::try_from(10 + node.index)?], 443));
        let sample = std::fs::read_to_string(lab.policies().join("site-a.yaml"))?;
        // New connections to the controller find no way out: nothing that a push of ours could
        // do, so somebody else's rules do it.
        let cut = |verb: &str| {
            let line = format!("iptables -w {verb} OUTPUT -p tcp --dport 7443 --syn -j DROP");
            lab.edit(&node.name, &line)
        };
        let (mut shut, mut out) = (Series::default(), Series::default());
        for round in 0..TIMES {
            // A generation of its own each time: one that was rolled back is not tried again
            // unless it is pushed anew.
            let closed = sample.replace(
                "web: {from: [clients, admins]}",
                &format!("web: {{from: [192.0.2.{}]}}", 200 + round),
            );
            let stored = lab.apply(&closed)?;
            ensure!(stored.success(), "apply: {}", stored.output());
            cut("-A")?;
            let start = Instant::now();
            let arguments = [
                "push",
                "site-a",
                "--yes",
                "--confirm-within",
                CONFIRM_WITHIN,
            ];
            let push = lab.start_voipctl(&arguments)?;
            let (closed, open) = watch(address, start)?;
            cut("-D")?;
            let push = push.finish()?;
            ensure!(push.status == Some(1), "the push: {}", push.output());
            shut.add(closed);
            out.add(open);
        }
        say(&format!(
            "\na push that locks out, confirm_within {CONFIRM_WITHIN}, medians of {TIMES}\n\
             {:<52} {:>10}\n{:<52} {:>10}",
            "from voipctl push until a user is locked out",
            show(shut.median()),
            "from voipctl push until he is back in",
            show(out.median())
        ))
    })
}

/// When a user of the office was locked out, and when he was let in again, after `start`.
fn watch(address: SocketAddr, start: Instant) -> Result<(Duration, Duration)> {
    std::thread::scope(|scope| {
        let user = scope.spawn(|| {
            voipfleet_packets::enter("vf-office")?;
            let mut begun = start.elapsed();
            while TcpStream::connect_timeout(&address, REFUSED).is_ok() {
                ensure!(
                    start.elapsed() < PATIENCE,
                    "the user is not locked out in time"
                );
                begun = start.elapsed();
            }
            while TcpStream::connect_timeout(&address, TRIED).is_err() {
                ensure!(
                    start.elapsed() < PATIENCE,
                    "the user is not let in again in time"
                );
            }
            Ok((begun, start.elapsed()))
        });
        user.join()
            .map_err(|_| anyhow::anyhow!("the user's thread ended early"))?
    })
}
