//! A machine beside the node: a network namespace of its own, with services that probes reach.

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::oneshot;

use crate::support::Place;

/// What it answers by: a TCP listener, SIP and DNS over UDP.
pub(crate) const TCP: u16 = 9000;
pub(crate) const SIP: u16 = 5060;
pub(crate) const DNS: u16 = 53;
/// Its addresses: two of each family, so that rules can cut one and not the other.
pub(crate) const ADDRESSES: [&str; 4] = ["192.0.2.77", "10.9.9.77", "2001:db8:9::77", "fd00:9::77"];

/// Up until it is dropped.
pub(crate) struct Peer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// Joins it to the namespace of the test.
    pub(crate) fn start(place: &Place) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (say, hear) = mpsc::channel();
        let (joined, join) = mpsc::channel::<()>();
        let runner = place.runner();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            say.send(nix::unistd::gettid()).unwrap();
            join.recv().unwrap();
            let ip = |line: &str| {
                let words: Vec<&str> = line.split(' ').collect();
                runner.run("ip", &words, "").expect(line);
            };
            addresses(ip, "there", 77);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let any = IpAddr::from([0_u16; 8]); // takes IPv4 as well
                let tcp = TcpListener::bind((any, TCP)).await.unwrap();
                let sip = UdpSocket::bind((any, SIP)).await.unwrap();
                let dns = UdpSocket::bind((any, DNS)).await.unwrap();
                say.send(nix::unistd::gettid()).unwrap();
                tokio::select! {
                    _ = stopped => {}
                    () = async { while tcp.accept().await.is_ok() {} } => {}
                    () = answer(&sip, sip_answer) => {}
                    () = answer(&dns, dns_answer) => {}
                }
            });
        });
        let there = hear.recv().unwrap();
        for line in [
            "ip link set lo up".to_owned(),
            format!("ip link add here type veth peer name there netns {there}"),
        ] {
            place.tool(&line);
        }
        addresses(|line| drop(place.tool(&format!("ip {line}"))), "here", 1);
        joined.send(()).unwrap();
        hear.recv().unwrap();
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

fn addresses(ip: impl Fn(&str), interface: &str, host: u8) {
    ip("link set lo up");
    ip(&format!("link set {interface} up"));
    for address in ADDRESSES {
        let (network, length) = match address.strip_suffix("77").unwrap() {
            v4 if v4.ends_with('.') => (v4, 24),
            v6 => (v6, 64),
        };
        let nodad = if length == 64 { " nodad" } else { "" };
        ip(&format!(
            "address add {network}{host}/{length} dev {interface}{nodad}"
        ));
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || std::thread::panicking());
    }
}

/// Answers every datagram.
pub(crate) async fn answer(socket: &UdpSocket, answer: fn(&[u8]) -> Vec<u8>) {
    let mut buffer = [0; 2048];
    loop {
        let (length, from): (usize, SocketAddr) = socket.recv_from(&mut buffer).await.unwrap();
        let _unsent = socket.send_to(&answer(&buffer[..length]), from).await;
    }
}

/// 200 OK, with what a response repeats of its request (RFC 3261, 8.2.6.2).
pub(crate) fn sip_answer(request: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(request).unwrap();
    assert!(text.starts_with("OPTIONS sip:"), "{text}");
    let repeated = text.lines().filter(|line| {
        ["Via:", "From:", "Call-ID:", "CSeq:"]
            .iter()
            .any(|header| line.starts_with(header))
    });
    let to = text.lines().find(|line| line.starts_with("To:")).unwrap();
    let mut lines = vec!["SIP/2.0 200 OK".to_owned(), format!("{to};tag=314159")];
    lines.extend(repeated.map(str::to_owned));
    lines.push("Content-Length: 0\r\n\r\n".to_owned());
    lines.join("\r\n").into_bytes()
}

/// No error, no record.
pub(crate) fn dns_answer(query: &[u8]) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    answer
}
