//! A DNS query for the name servers of the root, which every resolver knows (RFC 1035).

use std::net::SocketAddr;

use super::ProbeError;
use super::datagram::{exchange, socket_to};

/// One question after the header: the root's name, type NS, class IN.
const QUESTION: [u8; 5] = [0, 0, 2, 0, 1];
const HEADER: usize = 12;
/// QR: it is an answer. The four bits of the opcode are beside it; 0 is a plain query.
const ANSWER: u8 = 0x80;
const OPCODE: u8 = 0x78;
const RCODE: u8 = 0x0f;
const SERVFAIL: u8 = 2;

/// Asks until an answer comes.
///
/// Any answer shows that the server is reached, `REFUSED` too: a server that knows its own
/// zones only refuses the root to all clients. `SERVFAIL` is a failure: so answers a resolver on
/// this node that is cut off from those which it asks.
pub(super) async fn ask(to: SocketAddr) -> Result<(), ProbeError> {
    let socket = socket_to(to).await?;
    let id = rand::random();
    let rcode = exchange(&socket, &query(id), |packet| read(packet, id)).await?;
    if rcode == SERVFAIL {
        return Err(ProbeError::ServerFailure);
    }
    Ok(())
}

/// Recursion desired, one question.
fn query(id: u16) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    let mut query = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(QUESTION);
    query
}

/// The response code, if `packet` answers the query with that id. A server may leave the
/// question out of an error.
fn read(packet: &[u8], id: u16) -> Option<u8> {
    let (header, rest) = packet.split_at_checked(HEADER)?;
    let &[a, b, flags, more, count_high, count_low, ..] = header else {
        return None;
    };
    let same_question = match [count_high, count_low] {
        [0, 0] => more & RCODE != 0,
        [0, 1] => rest.starts_with(&QUESTION),
        _ => false,
    };
    let answers =
        [a, b] == id.to_be_bytes() && flags & (ANSWER | OPCODE) == ANSWER && same_question;
    answers.then_some(more & RCODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: u16, flags: u8, rcode: u8, questions: u8) -> Vec<u8> {
        let [high, low] = id.to_be_bytes();
        let mut packet = vec![high, low, flags, rcode, 0, questions, 0, 0, 0, 0, 0, 0];
        packet.extend(QUESTION);
        packet
    }

    #[test]
    fn dns_answer_must_match_id_and_question() {
        assert_eq!(read(&answer(7, 0x81, 0x80, 1), 7), Some(0));
        assert_eq!(read(&answer(7, 0x81, 0x85, 1), 7), Some(5));
        assert_eq!(read(&answer(7, 0x81, 0x82, 0)[..HEADER], 7), Some(2));
        let mut other = answer(7, 0x81, 0x80, 1);
        other[14] = 1; // type A
        for bad in [
            query(7),
            answer(8, 0x81, 0x80, 1),
            answer(7, 0xa1, 0x80, 1),
            answer(7, 0x81, 0x80, 0),
            answer(7, 0x81, 0x80, 2),
            answer(7, 0x81, 0x80, 1)[..HEADER].to_vec(),
            other,
            vec![0, 7],
            Vec::new(),
        ] {
            assert_eq!(read(&bad, 7), None, "{bad:?}");
        }
    }
}
