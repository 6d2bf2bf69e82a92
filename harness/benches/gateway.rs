//! What the gateway costs: round trips of a small message on a kept connection, straight and through it, on loopback.
//!
//! `cargo bench --profile dev --bench gateway` measures the build that rehearsals use. The gateway runs as a process of
//! its own, as in a mirror; both ways take turns, so that a busy machine is busy for both.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made has nothing to tell")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fulldress::mirror::containers::gateway::{CONFIG_VARIABLE, Forward, GatewayConfig};
use fulldress_workloads::clock::Clock;

/// Length of a message, bytes: a small request.
const MESSAGE_BYTES: usize = 256;
/// Round trips of a turn.
const TURN: usize = 500;
/// Turns of each way.
const TURNS: usize = 40;
/// Most that the median may cost, microseconds.
const COST_US_MAX: f64 = 150.0;

/// Answers every message with itself.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn serve(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let mut message = [0; MESSAGE_BYTES];
    while stream.read_exact(&mut message).is_ok() && stream.write_all(&message).is_ok() {}
}

/// The real program; ended when dropped.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[expect(clippy::disallowed_methods, reason = "the measurement starts the real program from outside")]
fn gateway(target: SocketAddr) -> (Gateway, SocketAddr) {
    // A port that was free a moment ago; nobody else takes ports in turn here.
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let forward = Forward { listen: listen.port(), host: target.ip().to_string(), port: target.port() };
    let config = GatewayConfig {
        forwards: vec![forward],
        resolver: true,
        resolver_port: 0,
        ..GatewayConfig::default()
    };
    let child = Command::new(env!("CARGO_BIN_EXE_fulldress"))
        .arg("gateway")
        .env(CONFIG_VARIABLE, serde_json::to_string(&config).unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut gateway = Gateway(child);
    let clock = Clock::start();
    while TcpStream::connect(listen).is_err() {
        if clock.now_us() > 10_000_000 || gateway.0.try_wait().unwrap().is_some() {
            let mut said = String::new();
            gateway.0.kill().unwrap();
            BufReader::new(gateway.0.stderr.take().unwrap()).read_line(&mut said).unwrap();
            panic!("the gateway does not listen: {said}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    (gateway, listen)
}

/// Appends a turn's round trips, microseconds.
fn turn(stream: &mut TcpStream, clock: Clock, round_trips_us: &mut Vec<f64>) {
    let mut message = [7; MESSAGE_BYTES];
    for _ in 0..TURN / 10 {
        let before = clock.now_us();
        // The clock counts whole microseconds: ten round trips share one reading.
        for _ in 0..10 {
            stream.write_all(&message).unwrap();
            stream.read_exact(&mut message).unwrap();
        }
        #[expect(clippy::cast_precision_loss, reason = "a turn takes milliseconds")]
        round_trips_us.push((clock.now_us() - before) as f64 / 10.0);
    }
}

fn quantile(sorted: &[f64], per_thousand: usize) -> f64 {
    sorted[(sorted.len() - 1) * per_thousand / 1000]
}

fn main() {
    let target = echo();
    let (_gateway, through) = gateway(target);
    let clock = Clock::start();
    let mut ways = [target, through].map(|address| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        (stream, Vec::new())
    });
    for _ in 0..TURNS {
        for (stream, round_trips_us) in &mut ways {
            turn(stream, clock, round_trips_us);
        }
    }
    let [direct, through] = ways.map(|(_, mut round_trips_us)| {
        round_trips_us.sort_by(f64::total_cmp);
        (quantile(&round_trips_us, 500), quantile(&round_trips_us, 990))
    });
    println!("direct    p50 {:7.1} us   p99 {:7.1} us", direct.0, direct.1);
    println!("gateway   p50 {:7.1} us   p99 {:7.1} us", through.0, through.1);
    let cost_us = through.0 - direct.0;
    println!(
        "cost      p50 {cost_us:7.1} us   ratio {:.2}   (at most {COST_US_MAX} us)",
        through.0 / direct.0
    );
    assert!(cost_us < COST_US_MAX, "the gateway costs more than it may");
}
