//! Peers that take connections and give nothing: strangers, and identities that were stolen.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tonic::Code;
use voipfleet_proto::v1::StatusRequest;
use voipfleet_proto::v1::operator_client::OperatorClient;
use voipfleet_protocol::identity::{Identity, tls};
use voipfleet_testkit::credentials::certificate_request;
use voipfleet_testkit::{Credentials, PATIENCE};

use super::installation::{Installation, SITE, connected, enrol, refused};
use super::log::logged;
use super::raw_http2::{self, Http2, PING, PRIORITY, SETTINGS, dial, frame};
use super::requests::{block, one_site};

fn stranger(number: usize) -> IpAddr {
    let number = u8::try_from(number % 64).unwrap();
    // Not all of one network.
    Ipv4Addr::new(127, 7, number / 8, 1 + number % 8).into()
}

fn client(pair: &Credentials) -> Arc<ClientConfig> {
    Arc::new(tls::client(pair.tls()).unwrap())
}

/// Strangers that connect from 64 addresses and say nothing, 600 a second.
struct Flood {
    made: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

/// So many are open at once at most: file descriptors are shared with other tests.
const OPEN: usize = 2_500;

impl Flood {
    fn start(address: String) -> Self {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let task = tokio::spawn(async move {
            let mut held: VecDeque<TcpStream> = VecDeque::new();
            let mut beat = tokio::time::interval(Duration::from_millis(50));
            loop {
                beat.tick().await;
                for _ in 0..30 {
                    let number = count.load(Ordering::SeqCst);
                    if let Ok(connection) = dial(stranger(number), &address).await {
                        count.store(number + 1, Ordering::SeqCst);
                        held.push_back(connection);
                    }
                }
                while held.len() > OPEN {
                    held.pop_front();
                }
            }
        });
        Self { made, task }
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }

    /// Returns when so many connections were made.
    async fn reached(&self, wanted: usize) {
        let reached = async {
            while self.made() < wanted {
                // A poll: the flood has a beat of its own.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_say_nothing_keep_up_no_block_and_no_trial() {
    let (installation, node, mut session) = connected().await;
    // Where no node has to answer.
    installation
        .apply("kind: Site\nname: site-b\nadmins: [198.51.100.10]\n")
        .await;
    let flood = Flood::start(installation.address());
    flood.reached(1_500).await;

    // A new connection each time, as each voipctl has.
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let begun = Instant::now();
        let mut operator = installation.operator().await;
        let answer = operator.block(block(one_site("site-b"))).await;
        answer.unwrap();
        slowest = slowest.max(begun.elapsed());
    }
    // From an address at which nobody was before.
    let tcp = dial(Ipv4Addr::new(127, 9, 9, 9).into(), &installation.address()).await;
    let unknown = Http2::connect(tcp.unwrap(), client(&installation.admin), None).await;
    let mut unknown = unknown.unwrap();
    unknown
        .send(&raw_http2::call(1, "/voipfleet.v1.Operator/WhoAmI"))
        .await
        .unwrap();

    // A trial is proved over a new connection.
    let push = installation.push().await;
    let offer = session.offer().await;
    drop(session);
    let mut again = node.connect(&installation.address()).await.unwrap();
    let second = again.offer().await;
    assert_eq!(offer.digest, second.digest);
    again.apply(&second).await;
    assert_eq!(push.end().await.0.applied, 1);
    println!(
        "{} silent connections of 64 addresses; slowest block {slowest:?}",
        flood.made()
    );
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_say_nothing_keep_nobody_from_enrolling() {
    let installation = Installation::start().await;
    let token = installation.token("").await;
    let address = installation.enrol_address();
    let flood = Flood::start(address.clone());
    // With good TLS, and silence after it.
    let fingerprint = installation.authority("voipfleet").fingerprint();
    let tls = Arc::new(tls::enrolment_client(fingerprint).unwrap());
    let mut silent = Vec::new();
    for number in 0..300 {
        let tcp = dial(stranger(number), &address).await.unwrap();
        silent.extend(Http2::connect(tcp, Arc::clone(&tls), None).await.ok());
    }
    flood.reached(500).await;
    let begun = Instant::now();
    let (csr, _) = certificate_request();
    enrol(&installation, &token, "a", &csr).await.unwrap();
    println!(
        "enrolled in {:?} among {} strangers",
        begun.elapsed(),
        flood.made()
    );
}

#[tokio::test]
async fn a_peer_has_two_seconds_for_its_client_hello() {
    let installation = Installation::start().await;
    for address in [installation.address(), installation.enrol_address()] {
        let mut tcp = dial(Ipv4Addr::new(127, 5, 0, 1).into(), &address)
            .await
            .unwrap();
        let mut byte = [0];
        let read = tokio::time::timeout(PATIENCE, tcp.read(&mut byte)).await;
        assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    }
    logged("no whole TLS ClientHello came in time").await;
}

#[tokio::test]
async fn a_machine_that_enrols_has_five_seconds_for_its_request() {
    let installation = Installation::start().await;
    let fingerprint = installation.authority("voipfleet").fingerprint();
    let tls = Arc::new(tls::enrolment_client(fingerprint).unwrap());
    let address = installation.enrol_address();
    let tcp = dial(Ipv4Addr::new(127, 5, 0, 2).into(), &address)
        .await
        .unwrap();
    let mut silent = Http2::connect(tcp, tls, None).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, silent.ended()).await;
    assert!(ended.is_ok(), "it may stay");
    logged("no request came in time").await;
}

/// A stolen node's connections displace each other, and never the session that is at work.
#[tokio::test]
async fn connections_of_a_node_are_bounded() {
    let (installation, node, mut session) = connected().await;
    let identity = Identity::Node {
        site: "site-a".parse().unwrap(),
        node: "a".parse().unwrap(),
    };
    let stolen = client(&installation.pair(&identity, "voipfleet", installation.clock.now_ms()));
    let mut held = Vec::new();
    for _ in 0..20 {
        let tcp = TcpStream::connect(installation.address()).await.unwrap();
        let connection = Http2::connect(tcp, Arc::clone(&stolen), None).await;
        held.push(connection.unwrap());
    }
    // With the session eight are left: the thirteen oldest are gone.
    for connection in &mut held[..13] {
        let ended = tokio::time::timeout(PATIENCE, connection.ended()).await;
        assert!(ended.is_ok(), "more than eight connections");
    }
    let push = installation.push().await;
    let offer = session.offer().await;
    session.apply(&offer).await;
    assert_eq!(push.end().await.0.applied, 1);
    drop((held, node));
}

#[tokio::test]
async fn an_operator_with_too_many_connections_at_work_is_told() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let own = client(&installation.admin);
    let mut busy = Vec::new();
    for _ in 0..32 {
        let tcp = TcpStream::connect(installation.address()).await.unwrap();
        let mut connection = Http2::connect(tcp, Arc::clone(&own), None).await.unwrap();
        // A request that never ends.
        let begun = raw_http2::call(1, "/voipfleet.v1.Operator/Apply");
        connection.send(&begun).await.unwrap();
        connection
            .send(&frame(PING, 0, 0, b"12345678"))
            .await
            .unwrap();
        // Its answer shows that the request before it was read.
        while connection.next().await.unwrap().kind != PING {}
        busy.push(connection);
    }
    let channel = installation.admin.connect(&installation.address()).await;
    let mut more = OperatorClient::new(channel.unwrap());
    let answer = more.status(StatusRequest::default()).await;
    let message = refused(answer, Code::ResourceExhausted);
    assert!(message.contains("32 connections open"), "{message}");
    busy.pop();
    let freed = async {
        loop {
            let channel = installation.admin.connect(&installation.address()).await;
            let mut again = OperatorClient::new(channel.unwrap());
            if again.status(StatusRequest::default()).await.is_ok() {
                return;
            }
            // A poll: nothing announces the end of a connection.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, freed).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_frames_without_requests_is_cut_off() {
    let installation = Installation::start().await;
    let fingerprint = installation.authority("voipfleet").fingerprint();
    let enrolling = Arc::new(tls::enrolment_client(fingerprint).unwrap());
    let targets = [
        (installation.address(), client(&installation.admin)),
        (installation.enrol_address(), enrolling),
    ];
    for (address, tls) in targets {
        for flood in [
            frame(PING, 0, 0, b"12345678"),
            frame(SETTINGS, 0, 0, &[]),
            frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7]),
        ] {
            let tcp = TcpStream::connect(&address).await.unwrap();
            let connection = Http2::connect(tcp, Arc::clone(&tls), None).await;
            let mut connection = connection.unwrap();
            let cut = async { while connection.send(&flood.repeat(100)).await.is_ok() {} };
            let cut = tokio::time::timeout(PATIENCE, cut).await;
            assert!(cut.is_ok(), "a flood goes on");
        }
    }
    logged("frames that carry no request").await;
}
