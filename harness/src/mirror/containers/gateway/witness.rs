//! What a container asks for outside by a bare address: written down, and refused by the kernel.
//!
//! The mirror starts this in the network namespace of the container that runs scripts, whose default route it turns to the
//! loopback device: every address that is in no network of the mirror is then one of the container's own, where nobody
//! listens, so that a connection is refused at once instead of hanging. Here the packets are read off that device.

use std::collections::HashSet;
use std::io::{self, Read as _};
use std::net::Ipv4Addr;

use fulldress_workloads::clock::Clock;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

use super::resolver::Attempt;

/// The kernel's table of the networks that the namespace is in.
const ROUTES: &str = "/proc/net/route";
/// The kernel's counters of the namespace.
const COUNTERS: &str = "/proc/net/snmp";
/// `ETH_P_IP` of linux/if_ether.h.
const ETH_P_IP: u16 = 0x0800;
/// Longest part of a packet that is looked at, bytes: its headers.
const HEADERS_MAX: usize = 256;
/// Addresses that are remembered; those above are told as one `more`.
const ADDRESSES_MAX: usize = 10_000;
/// Numbers of IANA's registry of protocols.
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A socket that sees every packet of the namespace.
#[derive(Debug)]
pub(super) struct Witness {
    packets: Socket,
    /// The namespace's networks, also those that it has left: the end of a container takes its devices away, and a last
    /// call to a neighbour is none to the outside.
    near: HashSet<String>,
    told: mpsc::Sender<Attempt>,
}

impl Witness {
    /// Needs CAP_NET_RAW. Tells first how many packets went nowhere before the default route was turned, of a container
    /// that ran already.
    pub(super) fn bind(told: mpsc::Sender<Attempt>) -> io::Result<Self> {
        let early = routeless(&std::fs::read_to_string(COUNTERS)?);
        if early > 0 {
            let _told = told.try_send(Attempt::early(early));
        }
        let protocol = Protocol::from(i32::from(ETH_P_IP.to_be()));
        // Without the link's header: what is read begins with the network's.
        let packets = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
        let mut witness = Self { packets, near: HashSet::new(), told };
        witness.learn()?;
        Ok(witness)
    }

    /// Looks until the socket fails or nobody listens; on a thread of its own.
    pub(super) fn look(mut self) -> io::Result<()> {
        let clock = Clock::start();
        let mut known: HashSet<String> = HashSet::new();
        let mut packet = [0; HEADERS_MAX];
        loop {
            let length = match self.packets.read(&mut packet) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            let Some((to, what)) = outside(&packet[..length]) else { continue };
            if known.len() > ADDRESSES_MAX || known.contains(&what) || self.is_near(to)? {
                continue;
            }
            let full = known.len() == ADDRESSES_MAX;
            let attempt = Attempt {
                attempt: if full { "more" } else { "address" }.into(),
                name: if full { String::new() } else { what.clone() },
                // Its sender has no address of its own on this device.
                from: Ipv4Addr::LOCALHOST.into(),
                at_unix_us: clock.epoch_unix_us() + clock.now_us(),
            };
            if self.told.blocking_send(attempt).is_err() {
                return Ok(());
            }
            known.insert(what);
        }
    }

    /// Whether an address is in a network that the namespace is or was in.
    fn is_near(&mut self, address: Ipv4Addr) -> io::Result<bool> {
        self.learn()?;
        Ok(self.near.iter().any(|route| is_in(route, address)))
    }

    fn learn(&mut self) -> io::Result<()> {
        let table = std::fs::read_to_string(ROUTES)?;
        self.near.extend(table.lines().skip(1).map(str::to_owned));
        Ok(())
    }
}

/// Packets of the namespace for which there was no route: a line of names and a line of numbers for each protocol
/// (`snmp_seq_show` in the kernel; `OutNoRoutes` is ipSystemStatsOutNoRoutes of RFC 4293).
fn routeless(counters: &str) -> u64 {
    let mut lines = counters.lines().filter(|line| line.starts_with("Ip:"));
    let names = lines.next().unwrap_or_default().split_whitespace();
    let numbers = lines.next().unwrap_or_default().split_whitespace();
    let of_name = names.zip(numbers).find(|(name, _)| *name == "OutNoRoutes");
    of_name.and_then(|(_, number)| number.parse().ok()).unwrap_or_default()
}

/// Addresses in that table are hexadecimal words in the machine's byte order (`fib_route_seq_show` in the kernel).
fn is_in(route: &str, address: Ipv4Addr) -> bool {
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(|word| Ipv4Addr::from(word.to_ne_bytes()));
    let columns: Vec<&str> = route.split_whitespace().collect();
    let destination = columns.get(1).and_then(|text| word(text));
    let mask = columns.get(7).and_then(|text| word(text));
    destination
        .zip(mask)
        .is_some_and(|(destination, mask)| mask != Ipv4Addr::UNSPECIFIED && address & mask == destination)
}

/// Where a packet is sent that begins something, as an address and as `tcp 192.0.2.1:443`; none for answers, and for what
/// stays in the container. Headers as in RFC 791, RFC 9293, RFC 768 and RFC 792.
fn outside(packet: &[u8]) -> Option<(Ipv4Addr, String)> {
    let first = *packet.first()?;
    let words = usize::from(first & 0x0f) * 4;
    let to = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?);
    let from = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?);
    if first >> 4 != 4 || to.is_loopback() || to.is_multicast() || to.is_broadcast() || to.is_unspecified() {
        return None;
    }
    let inner = packet.get(words..)?;
    let port = || Some(u16::from_be_bytes([*inner.get(2)?, *inner.get(3)?]));
    let protocol = *packet.get(9)?;
    let what = if protocol == TCP {
        // SYN without ACK.
        (inner.get(13)? & 0x12 == 0x02).then(|| Some(format!("tcp {to}:{}", port()?)))??
    } else if protocol == UDP {
        format!("udp {to}:{}", port()?)
    } else if protocol == ICMP {
        // Echo requests; what the kernel itself refuses with goes from and to one address.
        (*inner.first()? == 8).then(|| format!("icmp {to}"))?
    } else {
        (from != to).then(|| format!("protocol {protocol} {to}"))?
    };
    Some((to, what))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::{is_in, outside, routeless};

    const ROUTE: &str = "eth0\t000014AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0";

    fn packet(protocol: u8, to: [u8; 4], inner: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1];
        packet.extend(to);
        packet.extend(inner);
        packet
    }

    #[test]
    fn what_begins_something_outside_is_told_with_its_port() {
        let to = [192, 0, 2, 7];
        let tcp = |flags: u8| packet(6, to, &[0x80, 1, 1, 187, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags]);
        let what = |packet: &[u8]| outside(packet).map(|(_, what)| what);
        assert_eq!(what(&tcp(0x02)).as_deref(), Some("tcp 192.0.2.7:443"));
        assert_eq!(what(&tcp(0x12)), None, "an answer");
        assert_eq!(what(&tcp(0x14)), None, "a refusal");
        assert_eq!(what(&packet(17, to, &[0, 9, 0, 53, 0, 0])).as_deref(), Some("udp 192.0.2.7:53"));
        assert_eq!(what(&packet(1, to, &[8, 0])).as_deref(), Some("icmp 192.0.2.7"));
        assert_eq!(what(&packet(1, to, &[3, 3])), None, "the kernel's refusal");
        assert_eq!(what(&packet(6, [127, 0, 0, 11], &[0; 14])), None);
        assert_eq!(what(&[0x45, 0, 0]), None, "cut");
    }

    #[test]
    fn what_went_nowhere_is_counted() {
        let counters = "Ip: Forwarding OutNoRoutes ReasmTimeout\nIp: 1 3 0\nIcmp: InMsgs\nIcmp: 7\n";
        assert_eq!((routeless(counters), routeless("")), (3, 0));
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_networks_of_the_mirror_are_near() {
        assert!(is_in(ROUTE, Ipv4Addr::new(172, 20, 3, 4)));
        assert!(!is_in(ROUTE, Ipv4Addr::new(172, 21, 3, 4)));
        let default = "lo\t00000000\t00000000\t0001\t0\t0\t0\t00000000";
        assert!(!is_in(default, Ipv4Addr::new(8, 8, 8, 8)), "the default route leads outside");
    }
}
