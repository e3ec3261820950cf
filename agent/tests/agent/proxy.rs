//! The link through an HTTP proxy, and another address for the controller.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use voipfleet_agent::host::state_dir::{NodeConfig, StateDir};
use voipfleet_agent::link::connection_errors::explain;
use voipfleet_agent::link::{FetchLimits, Link};
use voipfleet_agent::mailbox::{Inbox, Outbox};
use voipfleet_proto::channel;
use voipfleet_proto::proxy::Proxy;
use voipfleet_protocol::identity::tls;
use voipfleet_testkit::controller::ControllerSession;
use voipfleet_testkit::{FakeController, TestCa};

use crate::node::{CONTROLLER, NODE, enrolled};

const LIMIT: Duration = Duration::from_secs(30);

/// A proxy; the heads of the requests that it was sent. `None`: it refuses every one.
async fn proxy(target: Option<SocketAddr>) -> (Proxy, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, heads) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve(tcp, target, heard.clone()));
        }
    });
    let url = format!("http://ada:p%40ss@{address}");
    (url.parse().unwrap(), heads)
}

async fn serve(
    mut tcp: TcpStream,
    target: Option<SocketAddr>,
    requests: mpsc::UnboundedSender<String>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tcp.read_u8().await.unwrap());
    }
    requests.send(String::from_utf8(head).unwrap()).unwrap();
    let Some(target) = target else {
        let refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
        tcp.write_all(refusal).await.unwrap();
        return;
    };
    let mut controller = TcpStream::connect(target).await.unwrap();
    let opened = b"HTTP/1.1 200 Connection established\r\n\r\n";
    tcp.write_all(opened).await.unwrap();
    // However it ends.
    let _ended = tokio::io::copy_bidirectional(&mut tcp, &mut controller).await;
}

/// A link at work; the addresses that the failsafe chain is to keep open.
struct Linked {
    inbox: Arc<Inbox>,
    stop: CancellationToken,
    kept_open: mpsc::UnboundedReceiver<Vec<SocketAddr>>,
}

impl Linked {
    fn start(state: StateDir) -> Self {
        let (inbox, outbox) = (Arc::new(Inbox::default()), Arc::new(Outbox::default()));
        let stop = CancellationToken::new();
        let config = state.config().unwrap();
        let to_kernel = Arc::clone(&inbox);
        let link = Link::new(state, config, to_kernel, outbox, FetchLimits::default());
        tokio::spawn(link.run(stop.clone()));
        let (told, kept_open) = mpsc::unbounded_channel();
        // In the place of the task that owns the kernel.
        std::thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || {
                loop {
                    let wake = inbox.wait(Instant::now() + LIMIT);
                    if let Some(controllers) = wake.controllers {
                        let _heard = told.send(controllers.addresses);
                        let _heard = controllers.done.send(());
                    }
                    if wake.stop {
                        return;
                    }
                }
            }
        });
        Self {
            inbox,
            stop,
            kept_open,
        }
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.stop.cancel();
        self.inbox.stop();
    }
}

async fn session(controller: &mut FakeController) -> ControllerSession {
    let session = tokio::time::timeout(LIMIT, controller.sessions.recv()).await;
    session.expect("a session").unwrap()
}

#[tokio::test]
async fn link_goes_through_the_proxy() {
    let ca = TestCa::new();
    let mut controller = FakeController::start(&ca.issue(CONTROLLER, 2100)).await;
    let (proxy, mut heads) = proxy(Some(controller.address)).await;
    let folder = tempfile::tempdir().unwrap();
    let state = enrolled(folder.path(), &ca.issue(NODE, 2100), controller.address);
    // The proxy resolves the name: this machine need not know it.
    let config = NodeConfig {
        controller: "fw.example.invalid:7443".to_owned(),
        proxy: Some(proxy.clone()),
        ..state.config().unwrap()
    };
    state.write_config(&config).unwrap();
    assert_eq!(state.config().unwrap(), config);
    let mut linked = Linked::start(state);
    let _session = session(&mut controller).await;
    let head = heads.recv().await.unwrap();
    assert!(
        head.starts_with(
            "CONNECT fw.example.invalid:7443 HTTP/1.1\r\nHost: fw.example.invalid:7443\r\n"
        ),
        "{head}"
    );
    // ada:p@ss
    assert!(
        head.contains("Proxy-Authorization: Basic YWRhOnBAc3M=\r\n"),
        "{head}"
    );
    // What must stay reachable through any rules is the proxy.
    let kept_open = linked.kept_open.recv().await.unwrap();
    assert_eq!(kept_open, [proxy.address().parse().unwrap()]);
}

#[tokio::test]
async fn failures_of_the_proxy_are_explained() {
    let ca = TestCa::new();
    let config = Arc::new(tls::client(ca.issue(NODE, 2100).tls()).unwrap());
    let (refusing, _heads) = proxy(None).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let unreachable: Proxy = gone.local_addr().unwrap().to_string().parse().unwrap();
    drop(gone);
    for (proxy, words) in [
        (
            refusing,
            "does not connect to fw.example:7443: 403 Forbidden",
        ),
        (unreachable, "cannot be reached: connection refused"),
    ] {
        let dialled =
            channel::connect_through(Some(&proxy), "fw.example:7443", Arc::clone(&config)).await;
        let text = explain(&*dialled.unwrap_err(), "fw.example:7443");
        assert!(
            text.to_lowercase().contains(&words.to_lowercase()),
            "{text}"
        );
        assert!(text.contains(&format!("the proxy {proxy}")), "{text}");
        assert!(text.contains("set-controller"), "{text}");
        assert!(!text.contains("p@ss"), "{text}");
    }
}

async fn set_controller(state: &Path, arguments: &[&str]) -> Output {
    #[allow(clippy::disallowed_methods)] // a program of ours, not a tool of the node
    let mut command = Command::new(env!("CARGO_BIN_EXE_voipfleet-agent"));
    command
        .arg("set-controller")
        .args(arguments)
        .arg("--state")
        .arg(state);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

/// A controller that moves: the node keeps the old address until the new one has answered, and a
/// running agent takes it without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn controller_address_is_taken_once_it_answers() {
    let ca = TestCa::new();
    let mut old = FakeController::start(&ca.issue(CONTROLLER, 2100)).await;
    let mut new = FakeController::start(&ca.issue(CONTROLLER, 2100)).await;
    let stranger = FakeController::start(&TestCa::new().issue(CONTROLLER, 2100)).await;
    let folder = tempfile::tempdir().unwrap();
    let state = enrolled(folder.path(), &ca.issue(NODE, 2100), old.address);
    let linked = Linked::start(state.clone());
    let first = session(&mut old).await;

    let refused = set_controller(folder.path(), &[&stranger.address.to_string()]).await;
    let words = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success());
    assert!(words.contains("is not from this node's CA"), "{words}");
    assert!(words.contains("the address stays as it was"), "{words}");
    assert_eq!(state.config().unwrap().controller, old.address.to_string());

    let moved = set_controller(folder.path(), &[&new.address.to_string()]).await;
    assert!(moved.status.success(), "{moved:?}");
    assert_eq!(state.config().unwrap().controller, new.address.to_string());
    // The old one goes.
    drop((first, old));
    let _second = session(&mut new).await;
    drop(linked);
}
