//! A machine with VoipNow, as its files are assumed to be.

use std::fmt::Write as _;
use std::fs;

use prost::Message as _;
use voipfleet_proto::v1::NodeFacts;

use super::*;
use crate::host::Host;
use crate::host::exec::Runner;
use crate::inventory::Findings;

const SECRETS: [&str; 6] = [
    "s3cret",
    "hunter2",
    "kerosene",
    "swordfish",
    "tr0ub4dor",
    "voipnow_user",
];

fn write(root: &Root, path: &str, text: &str) {
    let path = root.path(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn process(root: &Root, pid: u32, comm: &str, command_line: &str) {
    write(
        root,
        &format!("/proc/{pid}/stat"),
        &format!("{pid} ({comm}) S 1 {pid} 0 0\n"),
    );
    write(
        root,
        &format!("/proc/{pid}/cmdline"),
        &command_line.replace(' ', "\0"),
    );
}

fn machine() -> (tempfile::TempDir, Root) {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::new(folder.path());
    write(&root, "/etc/voipnownode/nodeid", "12\n");
    write(&root, "/usr/local/voipnow/.version", "5.5.6 8 Thu\n");
    write(
        &root,
        "/etc/voipnow/sqldbase.conf",
        "# DB_MASTER type:host:port\nDB_MASTER mysql:10.0.0.5:3307:voipnow_user:s3cret\n",
    );
    write(
        &root,
        "/etc/voipnow/disdbase.conf",
        "0:voipnow_user:hunter2:10.0.0.6:11211:kerosene\n",
    );
    write(&root, "/etc/voipnow/es.conf", "swordfish:9200:swordfish\n");
    write(
        &root,
        "/etc/voipnow/amqp.conf",
        "AMQP_HOST rabbit:que.example:5672\nAMQP_CREDENTIALS x:tr0ub4dor:5672\n",
    );
    write(
        &root,
        "/etc/voipnow/local.conf",
        "SIP_ANTIABUSE 1\n# TRUSTED_NET NETWORK/MASK\nTRUSTED_NET 10.10.33.1/24 192.0.2.7\n\
         SOME_PASSWORD swordfish\n",
    );
    process(&root, 100, "kamailio", "/usr/sbin/kamailio");
    process(
        &root,
        101,
        "python3",
        "/usr/bin/python3 -m celery --broker amqp://x:tr0ub4dor@q",
    );
    process(
        &root,
        102,
        "beam.smp",
        "beam.smp -progname erl -sname rabbit@que",
    );
    process(&root, 103, "bash", "bash -c asterisk");
    (folder, root)
}

#[test]
fn node_id_roles_and_back_ends_are_found() {
    let (_folder, root) = machine();
    let found = read(&root, &Processes::new(&root)).unwrap();
    assert_eq!(
        (found.node_id.as_str(), found.version.as_str()),
        ("12", "5.5.6")
    );
    assert_eq!(found.roles, ["sip", "wk", "que"]);
    let back_ends: Vec<String> = found
        .back_ends
        .iter()
        .map(|found| format!("{} {}:{}", found.service, found.host, found.port))
        .collect();
    assert_eq!(
        back_ends,
        [
            "sql 10.0.0.5:3307",
            "hubring 10.0.0.6:11211",
            "amqp que.example:5672"
        ]
    );
    assert_eq!(found.not_understood, ["/etc/voipnow/es.conf"]);
    let trusted: Vec<_> = found
        .trusted_networks
        .iter()
        .map(|net| (net.address.as_slice(), net.prefix_length))
        .collect();
    assert_eq!(
        trusted,
        [(&[10, 10, 33, 0][..], 24), (&[192, 0, 2, 7][..], 32)]
    );
}

#[test]
fn machine_without_voipnow_reports_none() {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::new(folder.path());
    process(&root, 100, "kamailio", "/usr/sbin/kamailio");
    assert_eq!(read(&root, &Processes::new(&root)), None);
}

#[test]
fn node_id_and_version_must_be_plain_words() {
    let (_folder, root) = machine();
    for bad in ["", " \n", "a\u{1b}[2Jb", &"1".repeat(65)] {
        write(&root, "/etc/voipnownode/nodeid", bad);
        assert_eq!(word(&root, "/etc/voipnownode/nodeid"), None, "{bad:?}");
    }
}

/// Collects every line that is logged.
#[derive(Clone, Default)]
struct Log(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn secrets_in_voipnow_files_are_never_printed_logged_or_sent() {
    let (_folder, root) = machine();
    // Damaged files too: whatever place a secret gets into.
    let files =
        ["sqldbase", "disdbase", "es", "amqp"].map(|name| format!("/etc/voipnow/{name}.conf"));
    let texts = files.clone().map(|file| root.text(&file, 4096).unwrap());
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let mut shown = String::new();
    let mut wire = Vec::new();
    tracing::subscriber::with_default(subscriber, || {
        let processes = Processes::new(&root);
        for (file, text) in files.iter().zip(&texts) {
            for other in texts
                .iter()
                .map(String::as_str)
                .chain(["\u{0}", "::::", text.trim()])
            {
                write(&root, file, other);
                let findings = Findings {
                    voipnow: read(&root, &processes),
                    ..Findings::default()
                };
                let facts = NodeFacts {
                    voipnow: findings.voipnow.clone(),
                    ..NodeFacts::default()
                };
                let _ = write!(shown, "{findings:?} {facts:?}");
                wire.extend(facts.encode_to_vec());
            }
            write(&root, file, text);
        }
    });
    let machine = Host::at("/", Runner::new("/"));
    let _ = write!(shown, "{machine:?}");
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let wire = String::from_utf8_lossy(&wire);
    for secret in SECRETS {
        assert!(!shown.contains(secret), "{secret} in {shown}");
        assert!(!logged.contains(secret), "{secret} in {logged}");
        assert!(!wire.contains(secret), "{secret} on the wire");
    }
}
