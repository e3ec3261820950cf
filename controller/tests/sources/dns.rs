//! A name server on loopback.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What it says of a name.
#[derive(Debug, Clone)]
pub(crate) enum Says {
    Addresses(u32, Vec<IpAddr>),
    Alias(&'static str, Vec<IpAddr>),
    Code(ResponseCode),
    Nothing,
}

#[derive(Debug, Default)]
struct Zone {
    names: BTreeMap<String, Says>,
    asked: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Dns {
    pub(crate) address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    /// A question came.
    heard: Arc<Notify>,
    task: JoinHandle<()>,
}

pub(crate) fn addresses(texts: &[&str]) -> Says {
    Says::Addresses(60, texts.iter().map(|text| text.parse().unwrap()).collect())
}

impl Dns {
    pub(crate) async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let zone = Arc::new(Mutex::new(Zone::default()));
        let heard = Arc::new(Notify::new());
        let (answering, announce) = (Arc::clone(&zone), Arc::clone(&heard));
        let task = tokio::spawn(async move {
            let mut packet = [0; 2048];
            loop {
                let (length, peer) = socket.recv_from(&mut packet).await.unwrap();
                let question = Message::from_vec(&packet[..length]).unwrap();
                let answer = answering.lock().unwrap().answer(&question);
                announce.notify_one();
                let Some(answer) = answer else { continue };
                let bytes = answer.to_vec().unwrap();
                socket.send_to(&bytes, peer).await.unwrap();
            }
        });
        Self {
            address,
            zone,
            heard,
            task,
        }
    }

    pub(crate) fn say(&self, name: &str, says: Says) {
        self.zone
            .lock()
            .unwrap()
            .names
            .insert(name.to_owned(), says);
    }

    /// The questions since the last look.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.zone.lock().unwrap().asked)
    }

    /// The questions since the last look, once there are any.
    pub(crate) async fn next_asked(&self) -> Vec<String> {
        loop {
            let asked = self.asked();
            if !asked.is_empty() {
                return asked;
            }
            self.heard.notified().await;
        }
    }

    pub(crate) async fn die(&mut self) {
        self.task.abort();
        (&mut self.task).await.unwrap_err();
    }
}

impl Zone {
    fn answer(&mut self, question: &Message) -> Option<Message> {
        let query = question.queries.first().unwrap().clone();
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.add_query(query.clone());
        let name = query.name().to_ascii();
        self.asked.push(format!("{name} {}", query.query_type()));
        let mut add = |owner: &Name, ttl, addresses: &[IpAddr]| {
            for address in addresses {
                let data = match (address, query.query_type()) {
                    (IpAddr::V4(address), RecordType::A) => RData::A(A(*address)),
                    (IpAddr::V6(address), RecordType::AAAA) => RData::AAAA(AAAA(*address)),
                    _ => continue,
                };
                answer.add_answer(Record::from_rdata(owner.clone(), ttl, data));
            }
        };
        match self.names.get(name.trim_end_matches('.')) {
            Some(Says::Addresses(ttl, found)) => add(query.name(), *ttl, found),
            Some(Says::Alias(other, found)) => {
                let other = Name::from_ascii(other).unwrap();
                add(&other, 60, found);
                let alias = RData::CNAME(CNAME(other));
                answer.add_answer(Record::from_rdata(query.name().clone(), 60, alias));
            }
            Some(Says::Code(code)) => answer.metadata.response_code = *code,
            Some(Says::Nothing) => return None,
            None => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        Some(answer)
    }
}
