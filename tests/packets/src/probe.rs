//! Sends probes, all at once, each from its own namespace.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::icmp;
use super::plan::{Kind, Outcome, Probe, Reach, Seen};

/// How long a probe that should get through may take: room for a busy machine.
const OPEN_WAIT: Duration = Duration::from_secs(5);
/// How long silence must last to count as such. An unfiltered port answers at once, and the
/// second try of a lost packet (TCP repeats a SYN after 1 s) fits in as well.
const CLOSED_WAIT: Duration = Duration::from_millis(1_300);
/// How often a datagram without an answer is sent again.
const RESEND: Duration = Duration::from_millis(250);
/// What is sent, and must come back.
const PAYLOAD: &[u8] = b"voipfleet";

/// Tries every probe and gives the outcomes in the same order.
///
/// A thread per namespace enters it; that needs root.
pub fn run(probes: &[Probe]) -> Result<Vec<Outcome>> {
    let mut by_namespace: BTreeMap<&str, Vec<(usize, Probe)>> = BTreeMap::new();
    for (index, probe) in probes.iter().enumerate() {
        by_namespace
            .entry(&probe.netns)
            .or_default()
            .push((index, probe.clone()));
    }
    let mut outcomes = Vec::with_capacity(probes.len());
    std::thread::scope(|scope| {
        let threads: Vec<_> = by_namespace
            .into_iter()
            .map(|(netns, probes)| scope.spawn(move || run_in(netns, probes)))
            .collect();
        for thread in threads {
            let found = thread
                .join()
                .map_err(|_| anyhow!("a probing thread panicked"))??;
            outcomes.extend(found);
        }
        anyhow::Ok(())
    })?;
    outcomes.sort_by_key(|(index, _)| *index);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// Moves the calling thread into a namespace of `ip netns`, for good.
pub fn enter(netns: &str) -> Result<()> {
    let path = format!("/run/netns/{netns}");
    let file = std::fs::File::open(&path)
        .with_context(|| format!("there is no network namespace {netns}"))?;
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter {path}; run as root"))
}

fn run_in(netns: &str, probes: Vec<(usize, Probe)>) -> Result<Vec<(usize, Outcome)>> {
    if !netns.is_empty() {
        enter(netns)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for (index, probe) in probes {
            tasks.spawn(async move {
                let seen = see(&probe)
                    .await
                    .with_context(|| format!("cannot try {probe:?}"))?;
                anyhow::Ok((index, Outcome { probe, seen }))
            });
        }
        let mut outcomes = Vec::with_capacity(tasks.len());
        while let Some(outcome) = tasks.join_next().await {
            outcomes.push(outcome??);
        }
        Ok(outcomes)
    })
}

async fn see(probe: &Probe) -> Result<Seen> {
    let wait = match probe.expect {
        Reach::Open => OPEN_WAIT,
        Reach::Closed => CLOSED_WAIT,
    };
    let any = match probe.to {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let from = SocketAddr::new(probe.source.unwrap_or(any), 0);
    let to = SocketAddr::new(probe.to, probe.port);
    match probe.kind {
        Kind::Tcp => tcp(from, to, wait).await,
        Kind::Udp => udp(from, to, wait).await,
        Kind::Ping => icmp::ping(from.ip(), to.ip(), wait, RESEND).await,
    }
}

async fn tcp(from: SocketAddr, to: SocketAddr, wait: Duration) -> Result<Seen> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    socket.bind(from)?;
    let exchange = async {
        let mut stream = socket.connect(to).await?;
        stream.write_all(PAYLOAD).await?;
        let mut answer = [0; PAYLOAD.len()];
        stream.read_exact(&mut answer).await?;
        Ok(answer == PAYLOAD)
    };
    judge(timeout(wait, exchange).await)
}

async fn udp(from: SocketAddr, to: SocketAddr, wait: Duration) -> Result<Seen> {
    let socket = UdpSocket::bind(from).await?;
    socket.connect(to).await?;
    let deadline = Instant::now() + wait;
    let exchange = async {
        let mut answer = [0; 64];
        loop {
            socket.send(PAYLOAD).await?;
            if let Ok(received) = timeout(RESEND, socket.recv(&mut answer)).await {
                return Ok(answer.get(..received?) == Some(PAYLOAD));
            }
        }
    };
    judge(timeout_at(deadline, exchange).await)
}

fn judge(result: Result<std::io::Result<bool>, tokio::time::error::Elapsed>) -> Result<Seen> {
    match result {
        Ok(Ok(true)) => Ok(Seen::Open),
        Ok(Ok(false)) => Err(anyhow!("something else than the echo server answered")),
        Ok(Err(error)) => match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Ok(Seen::Refused),
            ErrorKind::TimedOut => Ok(Seen::Closed),
            _ => Err(error.into()),
        },
        Err(_) => Ok(Seen::Closed),
    }
}
