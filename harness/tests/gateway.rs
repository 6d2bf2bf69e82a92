//! The gateway's forwards and its resolver, on loopback.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it, as the test itself")]

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::mpsc;
use std::time::Duration;

use fulldress::mirror::containers::gateway::{Forward, Gateway, GatewayConfig};
use fulldress_workloads::clock::Clock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lines that were written, one message for each write.
struct Lines(mpsc::Sender<String>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(String::from_utf8(bytes.to_vec()).unwrap()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Running {
    port: u16,
    resolver: Option<SocketAddr>,
    lines: mpsc::Receiver<String>,
    serving: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A gateway with one forward and a resolver.
async fn gateway(host: &str, port: u16) -> Running {
    let forward = Forward { listen: 0, host: host.to_owned(), port };
    let config = GatewayConfig {
        forwards: vec![forward],
        resolver: true,
        resolver_port: 0,
        ..GatewayConfig::default()
    };
    let gateway = Gateway::bind(&config).await.unwrap();
    let (written, lines) = mpsc::channel();
    let (port, resolver) = (gateway.ports().unwrap()[0], gateway.resolver());
    let serving = tokio::spawn(async move { gateway.serve(Lines(written)).await.unwrap() });
    Running { port, resolver, lines, serving }
}

async fn connect(running: &Running) -> TcpStream {
    TcpStream::connect(("127.0.0.1", running.port)).await.unwrap()
}

/// Whether a connection was reset rather than closed in order.
async fn is_reset(stream: &mut TcpStream) -> bool {
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await.unwrap();
    matches!(read, Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn a_target_that_was_away_is_found_again() {
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = first.local_addr().unwrap().port();
    let running = gateway("localhost", port).await;
    let mut client = connect(&running).await;
    let (mut served, _) = tokio::time::timeout(PATIENCE, first.accept()).await.unwrap().unwrap();
    client.write_all(b"x").await.unwrap();
    assert_eq!(served.read_u8().await.unwrap(), b'x');
    drop((client, served));
    drop(first);
    let mut between = connect(&running).await;
    assert!(is_reset(&mut between).await, "nobody is there");
    let second = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let mut client = connect(&running).await;
    let (mut served, _) = tokio::time::timeout(PATIENCE, second.accept()).await.unwrap().unwrap();
    client.write_all(b"again").await.unwrap();
    let mut got = [0; 5];
    served.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"again");
}

#[tokio::test]
async fn a_half_close_stays_one() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let running = gateway("127.0.0.1", target.local_addr().unwrap().port()).await;
    let mut client = connect(&running).await;
    let (mut served, _) = target.accept().await.unwrap();
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = Vec::new();
    served.read_to_end(&mut question).await.unwrap();
    served.write_all(b"answer").await.unwrap();
    drop(served);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!((question.as_slice(), answer.as_slice()), (b"question".as_slice(), b"answer".as_slice()));
}

#[tokio::test]
async fn a_target_that_is_not_there_resets_the_client_at_once() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    for (host, port) in [("127.0.0.1", nobody), ("no-such-name.invalid", 80)] {
        let running = gateway(host, port).await;
        let clock = Clock::start();
        let mut client = connect(&running).await;
        assert!(is_reset(&mut client).await, "{host}");
        assert!(clock.now_us() < 4_000_000, "{host} took {} us", clock.now_us());
    }
}

#[tokio::test]
async fn a_target_that_resets_is_seen_by_the_client() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let running = gateway("127.0.0.1", target.local_addr().unwrap().port()).await;
    let mut client = connect(&running).await;
    let (served, _) = target.accept().await.unwrap();
    served.set_zero_linger().unwrap();
    drop(served);
    assert!(is_reset(&mut client).await);
}

/// A question for an address of `telemetry.example`.
const QUESTION: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x09telemetry\x07example\0\0\x01\0\x01";
/// The answer's code for a name that does not exist.
const NO_SUCH_NAME: u8 = 3;

#[tokio::test]
async fn every_name_is_unknown_over_udp_and_tcp_also_after_garbage() {
    let running = gateway("127.0.0.1", 1).await;
    let port = running.resolver.unwrap().port();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(("127.0.0.1", port)).await.unwrap();
    for garbage in [&b""[..], b"\0", &[0xff; 3000], &QUESTION[..20], &[0xc0; 40]] {
        socket.send(garbage).await.unwrap();
    }
    let mut answer = [0; 512];
    let ask = async {
        loop {
            socket.send(QUESTION).await.unwrap();
            let length = socket.recv(&mut answer).await.unwrap();
            // Garbage with a header is answered too: as malformed.
            if answer[..length].starts_with(b"\x12\x34") && length == QUESTION.len() {
                return answer[3] & 0x0f;
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, ask).await.unwrap(), NO_SUCH_NAME);

    let mut garbage = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    garbage.write_all(&[0xff; 64]).await.unwrap();
    let closed = tokio::time::timeout(PATIENCE, garbage.read(&mut [0; 1])).await.unwrap();
    assert_eq!(closed.unwrap_or(0), 0);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    for _ in 0..2 {
        stream.write_u16(u16::try_from(QUESTION.len()).unwrap()).await.unwrap();
        stream.write_all(QUESTION).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[3] & 0x0f, NO_SUCH_NAME);
    }
    let line = running.lines.recv_timeout(PATIENCE).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["attempt"], &line["name"], &line["from"]),
        (&"name".into(), &"telemetry.example".into(), &"127.0.0.1".into())
    );
    assert!(line["at_unix_us"].as_u64().unwrap() > 1_600_000_000_000_000);
    assert!(running.lines.try_recv().is_err(), "told once for one asker");
}
