//! Flows that go on for as long as a test wants, packet by packet: SIP and media over UDP.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};

use voipfleet_packets::enter;

/// What a phone sends of speech: a packet every 20 ms.
const PACE: Duration = Duration::from_millis(20);

/// Opens sockets in a network namespace of `ip netns`.
fn in_netns<T: Send>(netns: &str, open: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter(netns)?;
            let opened = open()?;
            anyhow::Ok(opened)
        });
        thread.join().map_err(|_| anyhow!("a thread panicked"))?
    })
}

fn socket(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot bind {address}"))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Which numbers came, of those that were sent from 1 on.
#[derive(Debug, Default)]
struct Numbers(Mutex<Vec<u64>>);

impl Numbers {
    fn add(&self, number: u64) {
        let mut numbers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        numbers.push(number);
    }

    fn all(&self) -> Vec<u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn last(&self) -> u64 {
        self.all().into_iter().max().unwrap_or_default()
    }
}

/// What one flow came to.
#[derive(Debug, Default)]
pub struct Flow {
    sent: AtomicU64,
    /// The node does not answer it.
    unanswered: AtomicBool,
    /// At the node.
    received: Numbers,
    /// Of the node's answers, back at the peer.
    answered: Numbers,
}

impl Flow {
    /// The number of the last packet that the peer sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// The highest number that reached the node.
    pub fn received(&self) -> u64 {
        self.received.last()
    }

    /// The highest number that the node answered, and the peer heard.
    pub fn answered(&self) -> u64 {
        self.answered.last()
    }

    /// Whether the node answers what it hears of it.
    pub fn is_answered(&self, answers: bool) {
        self.unanswered.store(!answers, Ordering::SeqCst);
    }

    /// That every packet from 1 to the last one sent went there and back, in order.
    pub fn is_whole(&self) -> Result<()> {
        let wanted: Vec<u64> = (1..=self.sent()).collect();
        for (what, numbers) in [("received", &self.received), ("answered", &self.answered)] {
            let found = numbers.all();
            let lost: Vec<&u64> = wanted.iter().filter(|n| !found.contains(n)).collect();
            ensure!(lost.is_empty(), "not {what}: {lost:?} of {}", wanted.len());
            ensure!(found == wanted, "{what} in another order");
        }
        Ok(())
    }
}

/// Flows from one network namespace to ports of one node.
#[derive(Debug)]
pub struct Calls {
    flows: Vec<Arc<Flow>>,
    sending: Arc<AtomicBool>,
    node_speaks: Arc<AtomicBool>,
    running: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// A flow that was asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The network namespace of the peer.
    pub netns: String,
    /// Its address and port.
    pub from: SocketAddr,
    /// The node's.
    pub to: SocketAddr,
}

impl Calls {
    /// Begins flows to the node in `netns`. Nobody else may listen on its ports.
    pub fn begin(netns: &str, wanted: &[Wanted]) -> Result<Self> {
        let flows: Vec<Arc<Flow>> = wanted.iter().map(|_| Arc::default()).collect();
        let running = Arc::new(AtomicBool::new(true));
        let sending = Arc::new(AtomicBool::new(true));
        let node_speaks = Arc::new(AtomicBool::new(false));
        let mut ports: BTreeMap<u16, UdpSocket> = BTreeMap::new();
        let mut peers = Vec::new();
        let mut by_peer: BTreeMap<(SocketAddr, u16), Arc<Flow>> = BTreeMap::new();
        for (wanted, flow) in wanted.iter().zip(&flows) {
            let port = wanted.to.port();
            if let std::collections::btree_map::Entry::Vacant(free) = ports.entry(port) {
                let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
                free.insert(in_netns(netns, || socket(any))?);
            }
            let peer = in_netns(&wanted.netns, || {
                let socket = socket(wanted.from)?;
                socket.connect(wanted.to)?;
                Ok(socket)
            })?;
            by_peer.insert((wanted.from, port), Arc::clone(flow));
            peers.push((peer, Arc::clone(flow)));
        }
        let talk = {
            let (running, sending) = (Arc::clone(&running), Arc::clone(&sending));
            std::thread::spawn(move || talk(&peers, &running, &sending))
        };
        let serve = {
            let (running, speaks) = (Arc::clone(&running), Arc::clone(&node_speaks));
            std::thread::spawn(move || serve(&ports, &by_peer, &running, &speaks))
        };
        Ok(Self {
            flows,
            sending,
            node_speaks,
            running,
            threads: vec![talk, serve],
        })
    }

    /// The flows, in the order in which they were asked for.
    pub fn flows(&self) -> &[Arc<Flow>] {
        &self.flows
    }

    /// Whether the node speaks of itself to everybody whom it ever heard, as the other half of a
    /// call does.
    pub fn node_speaks(&self, speaks: bool) {
        self.node_speaks.store(speaks, Ordering::SeqCst);
    }

    /// The peers say no more; what is under way still arrives.
    pub fn hang_up(&self) {
        self.sending.store(false, Ordering::SeqCst);
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        self.running.store(false, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

/// Numbers of the node's own packets start here.
const OWN: u64 = 1 << 40;

fn talk(peers: &[(UdpSocket, Arc<Flow>)], running: &AtomicBool, sending: &AtomicBool) {
    let mut next = Instant::now();
    while running.load(Ordering::SeqCst) {
        if sending.load(Ordering::SeqCst) && Instant::now() >= next {
            next += PACE;
            for (socket, flow) in peers {
                let number = flow.sent() + 1;
                flow.sent.store(number, Ordering::SeqCst);
                // The error of a send is the ICMP answer to an earlier one: then once more.
                if socket.send(&number.to_be_bytes()).is_err() {
                    let _refused = socket.send(&number.to_be_bytes());
                }
            }
        }
        for (socket, flow) in peers {
            while let Some((number, _)) = receive(socket) {
                if number < OWN {
                    flow.answered.add(number);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn serve(
    ports: &BTreeMap<u16, UdpSocket>,
    flows: &BTreeMap<(SocketAddr, u16), Arc<Flow>>,
    running: &AtomicBool,
    speaks: &AtomicBool,
) {
    let mut heard: BTreeMap<(SocketAddr, u16), SocketAddr> = BTreeMap::new();
    let mut next = Instant::now();
    let mut own = OWN;
    while running.load(Ordering::SeqCst) {
        for (port, socket) in ports {
            while let Some((number, from)) = receive(socket) {
                let peer = SocketAddr::new(from.ip().to_canonical(), from.port());
                let Some(flow) = flows.get(&(peer, *port)) else {
                    continue;
                };
                flow.received.add(number);
                heard.insert((peer, *port), from);
                if !flow.unanswered.load(Ordering::SeqCst) {
                    let _unsent = socket.send_to(&number.to_be_bytes(), from);
                }
            }
        }
        if speaks.load(Ordering::SeqCst) && Instant::now() >= next {
            next = Instant::now() + PACE;
            own += 1;
            for ((_, port), to) in &heard {
                if let Some(socket) = ports.get(port) {
                    let _unsent = socket.send_to(&own.to_be_bytes(), to);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A number and its sender; none: nothing is there. The ICMP answer to something sent is passed
/// over.
fn receive(socket: &UdpSocket) -> Option<(u64, SocketAddr)> {
    let mut bytes = [0; 8];
    loop {
        match socket.recv_from(&mut bytes) {
            Ok((8, from)) => return Some((u64::from_be_bytes(bytes), from)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Ok(_) | Err(_) => {}
        }
    }
}
