//! Commands without a controller, and outputs that fail.

use std::io::{self, Write};

use clap::Parser as _;
use voipctl::cli::Cli;
use voipctl::console::{Console, Pane};

use crate::fixture::{Fixture, Terminal, now};

/// An output on which every write fails.
struct Broken(io::ErrorKind);

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(self.0.into())
    }
}

async fn catalogue_into(kind: io::ErrorKind) -> u8 {
    let mut console = Console::new(
        Pane::plain(Broken(kind)),
        Pane::plain(io::sink()),
        io::empty(),
        false,
    );
    let cli = Cli::try_parse_from(["voipctl", "catalogue"]).unwrap();
    voipctl::run(cli, &mut console, now()).await as u8
}

#[tokio::test]
async fn broken_pipe_is_ignored_and_full_disk_is_an_error() {
    assert_eq!(catalogue_into(io::ErrorKind::BrokenPipe).await, 0);
    assert_eq!(catalogue_into(io::ErrorKind::StorageFull).await, 2);
}

#[tokio::test]
async fn catalogue_lists_every_service() {
    let fixture = Fixture::new().await;
    let shown = fixture
        .run_on(Terminal::Plain(160, ""), &["catalogue"])
        .await;
    for service in voipfleet_policy::catalogue::SERVICES {
        let row = shown
            .out
            .lines()
            .any(|line| line.starts_with(&format!("{} ", service.name)));
        assert!(row, "{} is not in {shown}", service.name);
    }
    let json = fixture.run(&["catalogue", "-o", "json"]).await.out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let sip = json["services"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "sip")
        .unwrap();
    assert_eq!(sip["ports"], serde_json::json!(["udp 5060", "tcp 5060"]));
    let narrow = fixture
        .run_on(Terminal::Plain(60, ""), &["catalogue"])
        .await;
    assert!(
        narrow.out.contains("sip-tls\n  ports    tcp 5061\n"),
        "{narrow}"
    );
}

#[tokio::test]
async fn schema_and_completions() {
    let fixture = Fixture::new().await;
    let schema = fixture.run(&["schema"]).await;
    let schema: serde_json::Value = serde_json::from_str(&schema.out).unwrap();
    assert!(
        schema["$defs"]["Site"]["properties"]["admins"].is_object(),
        "{schema}"
    );
    let script = fixture.run(&["completions", "bash"]).await.out;
    assert!(script.contains("complete -F _voipctl"), "{script}");
}

#[test]
fn bad_usage_exits_with_2() {
    for line in [
        &["voipctl"][..],
        &["voipctl", "apply"],
        &["voipctl", "push", "Site A"],
        &["voipctl", "push", "site-a", "--wait", "soon"],
        &["voipctl", "render", "site-a", "--part", "ipset"],
        &["voipctl", "get", "nodes"],
        &[
            "voipctl", "token", "create", "--site", "site-a", "--role", "boss",
        ],
    ] {
        let error = Cli::try_parse_from(line).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line:?}: {error}");
    }
}
