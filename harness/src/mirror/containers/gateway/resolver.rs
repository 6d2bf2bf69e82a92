//! The resolver that knows no name: whoever asks is told at once that there is none, and is written down.
//!
//! A system that phones home asks for a name first. With no resolver it would hang for the resolver's time limit, which
//! no production does; with this one it fails as if the name were gone, and the attempt is known with the asker's
//! address.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fulldress_workloads::clock::Clock;
use serde::{Deserialize, Serialize};
use simple_dns::{OPCODE, Packet, PacketFlag, RCODE, header_buffer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};

/// Longest question that is read; a real one has 300 bytes at most.
const MESSAGE_BYTES_MAX: usize = 4096;
/// Names by asker that are remembered, so that each is told once; after them one last line says that there are more.
const NAMES_MAX: usize = 10_000;
/// Connections over TCP at a time.
const CONNECTIONS_MAX: usize = 128;
/// How long a connection over TCP may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Pause after a fault of the socket, which is the network's and passes.
const FAULT_PAUSE: Duration = Duration::from_millis(10);

/// A line of standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// `name`, `address`, or `more` once when more were asked for than are remembered. Of a witness before all others
    /// `early`, with a number, when calls were made before it could see; then `ready`.
    pub attempt: Cow<'static, str>,
    /// The name in lower case without a dot at its end, or the protocol and the address with its port; else empty.
    pub name: String,
    /// Who asked.
    pub from: IpAddr,
    /// When, microseconds since 1970 in UTC.
    pub at_unix_us: u64,
}

impl Attempt {
    /// So many packets went nowhere before anything could be seen.
    pub(super) fn early(packets: u64) -> Self {
        Self { attempt: "early".into(), name: packets.to_string(), ..Self::ready() }
    }

    /// That everything which comes now is seen.
    pub(super) fn ready() -> Self {
        let at_unix_us = Clock::start().epoch_unix_us();
        Self { attempt: "ready".into(), name: String::new(), from: Ipv4Addr::LOCALHOST.into(), at_unix_us }
    }
}

/// Which names were asked for by whom, each told once.
#[derive(Debug)]
struct Ledger {
    clock: Clock,
    told: mpsc::Sender<Attempt>,
    known: Mutex<HashSet<(String, IpAddr)>>,
}

impl Ledger {
    fn write(&self, name: String, from: IpAddr) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() > NAMES_MAX || known.contains(&(name.clone(), from)) {
            return;
        }
        let at_unix_us = self.clock.epoch_unix_us() + self.clock.now_us();
        let full = known.len() == NAMES_MAX;
        let attempt = if full {
            Attempt { attempt: "more".into(), name: String::new(), from, at_unix_us }
        } else {
            Attempt { attempt: "name".into(), name: name.clone(), from, at_unix_us }
        };
        // A line that finds no room is told when the name is asked for again: no answer waits for a reader.
        if self.told.try_send(attempt).is_ok() {
            known.insert((name, from));
        }
    }
}

/// A resolver that listens already.
#[derive(Debug)]
pub(super) struct Resolver {
    datagrams: UdpSocket,
    connections: TcpListener,
    address: SocketAddr,
    ledger: Arc<Ledger>,
}

impl Resolver {
    /// Listens on UDP and TCP at one port.
    pub(super) async fn bind(port: u16, told: mpsc::Sender<Attempt>) -> io::Result<Self> {
        let connections = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
        let address = connections.local_addr()?;
        let datagrams = UdpSocket::bind(address).await?;
        let ledger = Arc::new(Ledger { clock: Clock::start(), told, known: Mutex::default() });
        Ok(Self { datagrams, connections, address, ledger })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers for ever.
    pub(super) async fn answer(self) {
        let Self { datagrams, connections, ledger, .. } = self;
        tokio::join!(answer_datagrams(&datagrams, &ledger), answer_connections(&connections, &ledger));
    }
}

async fn answer_datagrams(socket: &UdpSocket, ledger: &Ledger) {
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        // An error tells of an earlier answer that nobody waited for.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            tokio::time::sleep(FAULT_PAUSE).await;
            continue;
        };
        if let Some(answer) = reply(&buffer[..length], from.ip(), ledger) {
            let _lost = socket.send_to(&answer, from).await;
        }
    }
}

async fn answer_connections(listener: &TcpListener, ledger: &Arc<Ledger>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Aborts what is in it when the resolver ends.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, from)) = accepted else {
                    tokio::time::sleep(FAULT_PAUSE).await;
                    continue;
                };
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
                let ledger = Arc::clone(ledger);
                connections.spawn(async move {
                    // A peer that breaks off or talks nonsense has ended its own connection.
                    let _ended = converse(stream, from.ip(), &ledger).await;
                    drop(permit);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Each message has its length in front, two bytes (RFC 1035, 4.2.2).
async fn converse(mut stream: TcpStream, from: IpAddr, ledger: &Ledger) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let reading = async {
            let length = usize::from(stream.read_u16().await?);
            if length > MESSAGE_BYTES_MAX {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
            buffer.resize(length, 0);
            stream.read_exact(&mut buffer).await
        };
        tokio::time::timeout(SILENCE_MAX, reading).await??;
        let Some(answer) = reply(&buffer, from, ledger) else { return Ok(()) };
        let mut message = u16::try_from(answer.len()).unwrap_or_default().to_be_bytes().to_vec();
        message.extend(answer);
        stream.write_all(&message).await?;
    }
}

/// The answer to a message; none for what is no question at all.
fn reply(message: &[u8], from: IpAddr, ledger: &Ledger) -> Option<Vec<u8>> {
    let id = header_buffer::id(message).ok()?;
    // Answering an answer could go round for ever between two that do.
    if header_buffer::has_flags(message, PacketFlag::RESPONSE).ok()? {
        return None;
    }
    let mut answer = Packet::new_reply(id);
    *answer.rcode_mut() = RCODE::FormatError;
    if let Ok(question) = Packet::parse(message) {
        *answer.opcode_mut() = question.opcode();
        if question.has_flags(PacketFlag::RECURSION_DESIRED) {
            answer.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
        }
        if question.opcode() != OPCODE::StandardQuery {
            *answer.rcode_mut() = RCODE::NotImplemented;
        } else if let [asked] = question.questions.as_slice() {
            let name = asked.qname.to_string().trim_end_matches('.').to_ascii_lowercase();
            ledger.write(name, from);
            *answer.rcode_mut() = RCODE::NameError;
            answer.questions.push(asked.clone().into_owned());
        }
    }
    answer.build_bytes_vec().ok()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Mutex;

    use fulldress_workloads::clock::Clock;
    use proptest::prelude::*;
    use simple_dns::{CLASS, Name, Packet, QCLASS, QTYPE, Question, RCODE, TYPE};
    use tokio::sync::mpsc;

    use super::{Attempt, Ledger, NAMES_MAX, reply};

    const ASKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 20, 0, 5));

    fn ledger() -> (Ledger, mpsc::Receiver<Attempt>) {
        let (told, attempts) = mpsc::channel(2 * NAMES_MAX);
        (Ledger { clock: Clock::start(), told, known: Mutex::default() }, attempts)
    }

    fn question(name: &str) -> Vec<u8> {
        let mut packet = Packet::new_query(7);
        let name = Name::new(name).unwrap();
        packet.questions.push(Question::new(name, QTYPE::TYPE(TYPE::A), QCLASS::CLASS(CLASS::IN), false));
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn every_name_is_unknown_and_told_once_for_each_asker() {
        let (ledger, mut attempts) = ledger();
        for asker in [ASKER, ASKER, "172.20.0.6".parse().unwrap()] {
            let answer = reply(&question("Telemetry.example"), asker, &ledger).unwrap();
            let answer = Packet::parse(&answer).unwrap();
            assert_eq!((answer.id(), answer.rcode(), answer.questions.len()), (7, RCODE::NameError, 1));
        }
        let first = attempts.try_recv().unwrap();
        assert_eq!((&*first.attempt, first.name.as_str(), first.from), ("name", "telemetry.example", ASKER));
        assert_ne!(attempts.try_recv().unwrap().from, ASKER);
        assert!(attempts.try_recv().is_err());
    }

    #[test]
    fn what_is_remembered_has_a_bound_that_is_told_once() {
        let (ledger, mut attempts) = ledger();
        for number in 0..NAMES_MAX + 5 {
            reply(&question(&format!("n{number}.example")), ASKER, &ledger).unwrap();
        }
        let told: Vec<Attempt> = std::iter::from_fn(|| attempts.try_recv().ok()).collect();
        assert_eq!((told.len(), &*told.last().unwrap().attempt), (NAMES_MAX + 1, "more"));
    }

    #[test]
    fn an_answer_is_not_answered_and_two_questions_are_malformed() {
        let (ledger, mut attempts) = ledger();
        let answer = reply(&question("a.example"), ASKER, &ledger).unwrap();
        assert_eq!(reply(&answer, ASKER, &ledger), None);
        attempts.try_recv().unwrap();
        let mut two = Packet::parse(&question("b.example")).unwrap().questions.remove(0).into_owned();
        let mut packet = Packet::new_query(9);
        packet.questions.push(two.clone());
        two.unicast_response = false;
        packet.questions.push(two);
        let answer = reply(&packet.build_bytes_vec().unwrap(), ASKER, &ledger).unwrap();
        assert_eq!(Packet::parse(&answer).unwrap().rcode(), RCODE::FormatError);
        assert!(attempts.try_recv().is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_crash_it(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let (ledger, _attempts) = ledger();
            let _any = reply(&bytes, ASKER, &ledger);
        }

        #[test]
        fn no_damage_to_a_question_crashes_it(at in 0_usize..64, byte in any::<u8>(), cut in 0_usize..64) {
            let (ledger, _attempts) = ledger();
            let mut bytes = question("a.telemetry.example");
            let length = bytes.len();
            bytes[at % length] = byte;
            bytes.truncate(length - cut % length);
            let _any = reply(&bytes, ASKER, &ledger);
        }
    }
}
