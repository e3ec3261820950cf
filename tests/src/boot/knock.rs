//! A neighbour that knocks all the time, from before a boot until after it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use tokio::net::TcpSocket;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often each door is knocked at.
const EVERY: Duration = Duration::from_millis(10);
/// When a knock without an answer is over: before TCP would repeat it (after 1 s), so that
/// each is one packet.
const PATIENCE: Duration = Duration::from_millis(800);

/// A port, and who knocks there.
#[derive(Debug, Clone)]
pub struct Door {
    /// Who, for messages.
    pub who: &'static str,
    /// The knocker's address.
    pub from: IpAddr,
    /// The port.
    pub to: SocketAddr,
}

/// What came of the knocks at a door.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// Connections.
    pub opened: u64,
    /// Refusals that were sent: the packet came through to the machine's TCP.
    pub refused: u64,
    /// Knocks without any answer.
    pub silent: u64,
    /// Those after the first connection at any door.
    pub silent_since_up: u64,
    /// The last reason why a knock could not be sent: the link is not there yet.
    pub unsent: Option<String>,
}

#[derive(Debug, Default)]
struct Seen {
    answers: Vec<Answers>,
    up: bool,
}

/// The neighbour at work.
#[derive(Debug)]
pub struct Knocker {
    doors: Vec<Door>,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Result<()>>>,
}

impl Knocker {
    /// Knocks at `doors` from network namespace `netns` until it is dropped.
    pub fn start(netns: &str, doors: Vec<Door>) -> Self {
        let seen = Arc::new(Mutex::new(Seen {
            answers: vec![Answers::default(); doors.len()],
            up: false,
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (netns, doors, stop) = (netns.to_owned(), doors.clone(), Arc::clone(&stop));
            let seen = Arc::clone(&seen);
            move || {
                voipfleet_packets::enter(&netns)?;
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?
                    .block_on(knock(&doors, &seen, &stop));
                Ok(())
            }
        });
        Self {
            doors,
            seen,
            stop,
            thread: Some(thread),
        }
    }

    /// What came of it so far, door by door.
    pub fn answers(&self) -> Vec<(Door, Answers)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let doors = self.doors.iter().cloned();
        doors.zip(seen.answers.iter().cloned()).collect()
    }

    /// Ends, and gives what came of it.
    pub fn finish(mut self) -> Result<Vec<(Door, Answers)>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it ended before")?;
        thread
            .join()
            .map_err(|_| anyhow!("the knocker panicked"))??;
        Ok(self.answers())
    }
}

impl Drop for Knocker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn knock(doors: &[Door], seen: &Arc<Mutex<Seen>>, stop: &AtomicBool) {
    let mut tasks = tokio::task::JoinSet::new();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        for (index, door) in doors.iter().enumerate() {
            let (door, seen) = (door.clone(), Arc::clone(seen));
            tasks.spawn(async move {
                let result = timeout(PATIENCE, connect(&door)).await;
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.note(index, result);
            });
        }
        while tasks.try_join_next().is_some() {}
    }
    // What is on its way still counts.
    tasks.join_all().await;
}

async fn connect(door: &Door) -> std::io::Result<()> {
    let socket = match door.to {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // Closed by RST: thousands of connections would fill the ports in TIME-WAIT.
    socket.set_zero_linger()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::new(door.from, 0))?;
    socket.connect(door.to).await.map(drop)
}

impl Seen {
    fn note(
        &mut self,
        index: usize,
        result: Result<std::io::Result<()>, tokio::time::error::Elapsed>,
    ) {
        let up = self.up;
        let Some(answers) = self.answers.get_mut(index) else {
            return;
        };
        match result {
            Ok(Ok(())) => {
                answers.opened += 1;
                self.up = true;
            }
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                answers.refused += 1;
            }
            Ok(Err(error)) => answers.unsent = Some(error.to_string()),
            Err(_) => {
                answers.silent += 1;
                answers.silent_since_up += u64::from(up);
            }
        }
    }
}

/// Nobody ever got an answer at a door that is closed, though it was knocked at while others
/// stood open.
pub(super) fn was_never_open(door: &Door, answers: &Answers) -> Result<()> {
    ensure!(
        answers.opened == 0 && answers.refused == 0,
        "{} at {}: an answer during the boot: {answers:?}",
        door.who,
        door.to
    );
    Ok(())
}
