//! Host and port of the back ends, from files that hold credentials too.
//!
//! The format is not published. What is assumed here is how scripts in the field read these
//! files: lines of `KEY FIELD:HOST:PORT…` in three of them, and of `FIELD:FIELD:FIELD:HOST:PORT`
//! in `disdbase.conf`; `#` starts a comment. So host and port are taken from their places and
//! from nowhere else: a file of another form is reported as not understood, rather than a password
//! as a host.

use std::net::IpAddr;

use voipfleet_policy::catalogue;
use voipfleet_proto::v1 as pb;

use crate::host::Root;

/// Such a file has a few lines.
const MAX_FILE: u64 = 64 << 10;
/// Back ends of one file: more is no configuration of a node.
const MAX_HOSTS: usize = 16;
/// The longest name of a host (RFC 1035).
const MAX_HOST: usize = 253;

/// Where a back end is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BackEnd {
    /// The catalogue's name of the service.
    service: &'static str,
    host: String,
    port: u16,
}

/// A file, and the place of host and port in it.
struct File {
    path: &'static str,
    service: &'static str,
    /// The line's first word; none: any line.
    key: Option<&'static str>,
    /// Which of the fields between colons is the host. The port follows.
    host: usize,
}

const FILES: [File; 4] = [
    File {
        path: "/etc/voipnow/sqldbase.conf",
        service: "sql",
        key: Some("DB_MASTER"),
        host: 1,
    },
    File {
        path: "/etc/voipnow/disdbase.conf",
        service: "hubring",
        key: None,
        host: 3,
    },
    File {
        path: "/etc/voipnow/es.conf",
        service: "es",
        key: Some("ES_HOST"),
        host: 1,
    },
    File {
        path: "/etc/voipnow/amqp.conf",
        service: "amqp",
        key: Some("AMQP_HOST"),
        host: 1,
    },
];

/// The back ends, and the files that are there and name none.
pub(super) fn back_ends(root: &Root) -> (Vec<BackEnd>, Vec<String>) {
    let (mut found, mut not_understood) = (Vec::new(), Vec::new());
    for file in &FILES {
        if !root.exists(file.path) {
            continue;
        }
        let text = root.text(file.path, MAX_FILE).unwrap_or_default();
        let mut here: Vec<BackEnd> = Vec::new();
        for back_end in text.lines().filter_map(|line| file.read(line)) {
            if here.len() < MAX_HOSTS && !here.contains(&back_end) {
                here.push(back_end);
            }
        }
        if here.is_empty() {
            not_understood.push(file.path.to_owned());
        }
        found.extend(here);
    }
    (found, not_understood)
}

impl File {
    fn read(&self, line: &str) -> Option<BackEnd> {
        let line = line.trim();
        if line.starts_with('#') {
            return None;
        }
        let value = match self.key {
            Some(key) => {
                let mut words = line.split_whitespace();
                (words.next()? == key).then(|| words.next())??
            }
            None => line,
        };
        let mut fields = value.split(':').skip(self.host);
        let host = fields.next()?.trim();
        let port = fields.next()?.trim();
        let plain = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port: u16 = plain.then(|| port.parse().ok())??;
        (port != 0 && is_host(host)).then(|| BackEnd {
            service: self.service,
            host: host.to_owned(),
            port,
        })
    }
}

/// An address, or a name of letters, digits, dots and hyphens. IPv6 cannot be between colons.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let name = || {
        text.len() <= MAX_HOST
            && text.split('.').all(label)
            // All digits is no name, and no address either by now.
            && text.bytes().any(|c| c.is_ascii_alphabetic())
    };
    text.parse::<IpAddr>().is_ok() || name()
}

impl BackEnd {
    pub(super) fn to_wire(&self) -> pb::BackEnd {
        debug_assert!(catalogue::service(self.service).is_some());
        pb::BackEnd {
            service: self.service.to_owned(),
            host: self.host.clone(),
            port: self.port.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_back_end_file_names_a_catalogue_service() {
        for file in &FILES {
            assert!(
                catalogue::service(file.service).is_some(),
                "{}",
                file.service
            );
        }
    }

    #[test]
    fn host_and_port_are_parsed_from_fixed_fields_only() {
        let [sql, hubring, ..] = &FILES;
        let read = |file: &File, line: &str| {
            let found = file.read(line)?;
            Some(format!("{}:{}", found.host, found.port))
        };
        let wanted = |text: &str| Some(text.to_owned());
        assert_eq!(
            read(sql, "DB_MASTER mysql:10.0.0.5:3306"),
            wanted("10.0.0.5:3306")
        );
        assert_eq!(
            read(sql, "  DB_MASTER  m:db.example:3307:u:pw "),
            wanted("db.example:3307")
        );
        assert_eq!(
            read(hubring, "0:redis:s3cret:127.0.0.1:11211"),
            wanted("127.0.0.1:11211")
        );
        for line in [
            "# DB_MASTER mysql:10.0.0.5:3306",
            "DB_SLAVE mysql:10.0.0.5:3306",
            "DB_MASTER",
            "DB_MASTER mysql",
            "DB_MASTER mysql:10.0.0.5",
            "DB_MASTER mysql:10.0.0.5:0",
            "DB_MASTER mysql:10.0.0.5:65536",
            "DB_MASTER mysql:10.0.0.5:+3306",
            "DB_MASTER mysql:s3cret!:3306",
            "DB_MASTER mysql:-a:3306",
            "DB_MASTER mysql::3306",
            "DB_MASTER mysql:12345:3306",
            "",
        ] {
            assert_eq!(read(sql, line), None, "{line}");
        }
    }
}
