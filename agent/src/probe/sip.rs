//! SIP OPTIONS: any answer proves that a SIP server is there (RFC 3261, 11).

use std::io;
use std::net::SocketAddr;

use voipfleet_ruleset::ruleset::Endpoint;

use super::datagram::{exchange, socket_to};

/// What an answer repeats of its request.
struct Transaction {
    branch: String,
    call_id: String,
}

/// Asks `to`, which is named `endpoint` in the document, until it answers.
pub(super) async fn options(endpoint: &Endpoint, to: SocketAddr) -> io::Result<()> {
    let socket = socket_to(to).await?;
    let own = socket.local_addr()?;
    let transaction = Transaction {
        // The cookie that marks it as unique (RFC 3261, 8.1.1.7).
        branch: format!("z9hG4bK{:032x}", rand::random::<u128>()),
        call_id: format!("{:032x}", rand::random::<u128>()),
    };
    let request = transaction.request(endpoint, own);
    exchange(&socket, request.as_bytes(), |packet| {
        transaction.is_answered_by(packet).then_some(())
    })
    .await
}

impl Transaction {
    fn request(&self, endpoint: &Endpoint, own: SocketAddr) -> String {
        let Self { branch, call_id } = self;
        let tag = format!("{:016x}", rand::random::<u64>());
        let version = env!("CARGO_PKG_VERSION");
        [
            format!("OPTIONS sip:{endpoint} SIP/2.0"),
            // rport: the answer comes back to this port, whatever NAT made of it (RFC 3581).
            format!("Via: SIP/2.0/UDP {own};rport;branch={branch}"),
            "Max-Forwards: 70".to_owned(),
            format!("From: <sip:voipfleet@{own}>;tag={tag}"),
            format!("To: <sip:{endpoint}>"),
            format!("Call-ID: {call_id}"),
            "CSeq: 1 OPTIONS".to_owned(),
            format!("Contact: <sip:voipfleet@{own}>"),
            "Accept: application/sdp".to_owned(),
            format!("User-Agent: voipfleet-agent/{version}"),
            "Content-Length: 0".to_owned(),
            "\r\n".to_owned(),
        ]
        .join("\r\n")
    }

    /// Whether `packet` is a response, provisional or final, to this request: of its branch and
    /// method (RFC 3261, 17.1.3), and of its call.
    fn is_answered_by(&self, packet: &[u8]) -> bool {
        let text = String::from_utf8_lossy(packet);
        let text = text.replace("\r\n ", " ").replace("\r\n\t", " "); // folded headers
        let mut lines = text.lines();
        let code = lines
            .next()
            .and_then(|line| line.strip_prefix("SIP/2.0 "))
            .and_then(|rest| rest.split(' ').next()?.parse::<u16>().ok());
        if !code.is_some_and(|code| (100..700).contains(&code)) {
            return false;
        }
        let headers: Vec<(&str, &str)> = lines
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim(), value.trim()))
            .collect();
        // The first one: ours is the topmost Via.
        let header = |name: &str, short: &str| {
            let is = |found: &str| {
                found.eq_ignore_ascii_case(name)
                    || !short.is_empty() && found.eq_ignore_ascii_case(short)
            };
            let found = headers.iter().find(|(found, _)| is(found));
            found.map_or("", |(_, value)| *value)
        };
        let via = header("Via", "v").split(',').next().unwrap_or_default();
        let branch = via.split(';').find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("branch")
                .then(|| value.trim())
        });
        branch == Some(self.branch.as_str())
            && header("Call-ID", "i") == self.call_id
            && header("CSeq", "").split_whitespace().eq(["1", "OPTIONS"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction() -> Transaction {
        Transaction {
            branch: "z9hG4bK7".to_owned(),
            call_id: "c1".to_owned(),
        }
    }

    fn response(status: &str, via: &str, call_id: &str, cseq: &str) -> String {
        format!("{status}\r\n{via}\r\n{call_id}\r\nCSeq: {cseq}\r\nContent-Length: 0\r\n\r\n")
    }

    #[test]
    fn options_request_has_every_mandatory_header() {
        let request = transaction().request(
            &"[2001:db8::5]:5060".parse().unwrap(),
            "[2001:db8::9]:41000".parse().unwrap(),
        );
        assert!(request.starts_with("OPTIONS sip:[2001:db8::5]:5060 SIP/2.0\r\n"));
        assert!(
            request.contains("\r\nVia: SIP/2.0/UDP [2001:db8::9]:41000;rport;branch=z9hG4bK7\r\n")
        );
        assert!(request.contains("\r\nCall-ID: c1\r\n"));
        assert!(request.ends_with("\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(request.matches("\r\n\r\n").count(), 1);
    }

    #[test]
    fn only_a_response_of_the_same_sip_transaction_counts() {
        let via = "Via: SIP/2.0/UDP 192.0.2.9:5060;rport=7;received=192.0.2.9;branch=z9hG4bK7";
        let (call_id, cseq) = ("Call-ID: c1", "1 OPTIONS");
        for status in [
            "SIP/2.0 100 Trying",
            "SIP/2.0 200 OK",
            "SIP/2.0 404 Not Found",
            "SIP/2.0 603",
        ] {
            let packet = response(status, via, call_id, cseq);
            assert!(transaction().is_answered_by(packet.as_bytes()), "{status}");
        }
        let ok = "SIP/2.0 200 OK";
        for (via, call_id) in [
            ("v: SIP/2.0/UDP a;branch=z9hG4bK7", "i: c1"),
            ("VIA : SIP/2.0/UDP a ; Branch = z9hG4bK7", "call-id:c1"),
            (
                "Via: SIP/2.0/UDP a;branch=z9hG4bK7, SIP/2.0/UDP b;branch=x",
                call_id,
            ),
            ("Via: SIP/2.0/UDP a\r\n ;branch=z9hG4bK7", call_id),
        ] {
            let packet = response(ok, via, call_id, cseq);
            assert!(transaction().is_answered_by(packet.as_bytes()), "{via}");
        }
        for packet in [
            response("OPTIONS sip:a SIP/2.0", via, call_id, cseq),
            response("SIP/2.0 99 x", via, call_id, cseq),
            response("SIP/2.0", via, call_id, cseq),
            response(ok, "Via: SIP/2.0/UDP a;branch=z9hG4bK8", call_id, cseq),
            response(
                ok,
                "Via: SIP/2.0/UDP a;branch=x, SIP/2.0/UDP b;branch=z9hG4bK7",
                call_id,
                cseq,
            ),
            response(ok, via, "Call-ID: c2", cseq),
            response(ok, via, call_id, "1 INVITE"),
            response(ok, via, call_id, "2 OPTIONS"),
            format!("{ok}\r\n\r\n{via}\r\n{call_id}\r\nCSeq: {cseq}\r\n"),
            String::new(),
        ] {
            assert!(!transaction().is_answered_by(packet.as_bytes()), "{packet}");
        }
        assert!(!transaction().is_answered_by(&[0xff; 64]));
    }
}
