//! One port that leads into the mirror: bytes both ways, and nothing of them is read.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Forward;

/// Longest that a target may take to be found and to answer.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// How long one address may be silent before the next is tried beside it: containers of one machine answer at once.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(20);
/// Pause when the kernel has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Accepts for ever and owns every connection, so that its end is theirs.
pub(super) async fn accept(listener: TcpListener, forward: Forward, permits: Arc<Semaphore>) {
    let forward = Arc::new(forward);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((inside, _)) = accepted else {
                    // Out of file descriptors: the next connection may find one.
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                };
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                    reset(&inside);
                    continue;
                };
                let forward = Arc::clone(&forward);
                connections.spawn(async move {
                    carry(inside, &forward).await;
                    drop(permit);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Joins a connection to the target. Whatever breaks on one side breaks on the other: a half-close stays one, and a
/// target that is not there or goes away resets the client, as it would without a gateway between.
async fn carry(mut client: TcpStream, forward: &Forward) {
    let connected = tokio::time::timeout(CONNECT_LIMIT, connect(forward)).await;
    let Ok(Ok(mut target)) = connected else { return reset(&client) };
    // Answers of a query protocol are small and awaited: never held back to be sent together.
    let _slower = client.set_nodelay(true);
    if copy_bidirectional(&mut client, &mut target).await.is_err() {
        reset(&client);
        reset(&target);
    }
}

async fn connect(forward: &Forward) -> io::Result<TcpStream> {
    connect_any(lookup_host((forward.host.as_str(), forward.port)).await?.collect()).await
}

/// The first of a name's addresses that answers. While a service is replaced its name has the address of a container
/// that is just going, which does not even refuse: the next one is tried beside it, as RFC 8305 does.
async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut trying = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    loop {
        match waiting.next() {
            Some(address) => trying.push(TcpStream::connect(address)),
            None if trying.is_empty() => return Err(last),
            None => {}
        }
        let patience = if waiting.len() == 0 { CONNECT_LIMIT } else { NEXT_ADDRESS_AFTER };
        match tokio::time::timeout(patience, trying.next()).await {
            Ok(Some(Ok(stream))) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Some(Err(error))) => last = error,
            Ok(None) | Err(_) => {}
        }
    }
}

/// Lets the end of a connection be a reset rather than an orderly close, which a probe could take for an answer.
fn reset(stream: &TcpStream) {
    // A connection that is gone needs none.
    let _gone = stream.set_zero_linger();
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    use super::connect_any;

    #[tokio::test]
    async fn an_address_that_is_silent_is_passed_over() {
        // A listener whose queue is full: the kernel drops what comes, as nobody at all would.
        let full = TcpSocket::new_v4().unwrap();
        full.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let full = full.listen(0).unwrap();
        let silent = full.local_addr().unwrap();
        let _first = TcpStream::connect(silent).await.unwrap();
        let well = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let well = well.local_addr().unwrap();
        let refused = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let connected = connect_any(vec![silent, refused, well]).await.unwrap();
        assert_eq!(connected.peer_addr().unwrap(), well);
        assert!(connect_any(vec![refused]).await.is_err());
        assert!(connect_any(Vec::new()).await.is_err());
    }
}
