//! One HTTP/1.1 connection to the mirror, and how an exchange on it can end.
//!
//! `arrivals` owns the connections. Nothing is retried: what a client would see is what is reported.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::Bytes;
use fulldress_reports::traffic::ErrorKind;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::answer::{BODY_BYTES_MAX, Ending};
use crate::file::{Rendered, Step};
use crate::lanes::Progress;

/// Where traffic may go: a loopback address, since traffic must never leave the mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    address: SocketAddr,
    /// `host:port`, for the Host header.
    authority: String,
}

/// A base URL that traffic may not go to.
#[derive(Debug, thiserror::Error)]
#[error("base URL `{url}`: {what}")]
pub struct TargetError {
    /// The URL as it was given.
    pub url: String,
    /// What is wrong and what to do.
    pub what: &'static str,
}

impl Target {
    /// Reads a base URL of the form `http://127.0.0.1:PORT`.
    ///
    /// # Errors
    /// The URL is none, is not plain HTTP, has a path, or does not name a loopback address.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let fault = |what| TargetError { url: url.to_owned(), what };
        let uri: Uri = url.parse().map_err(|_| fault("is no URL; give http://127.0.0.1:PORT"))?;
        if uri.scheme_str() != Some("http") {
            return Err(fault("only plain http reaches the mirror; give http://127.0.0.1:PORT"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(fault("has a path; state paths in the workload's steps"));
        }
        let authority = uri.authority().ok_or_else(|| fault("names no host"))?;
        let ip = match authority.host().trim_matches(['[', ']']) {
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host
                .parse()
                .map_err(|_| fault("traffic goes to loopback only; give an address like 127.0.0.1"))?,
        };
        if !ip.is_loopback() {
            return Err(fault("traffic goes to loopback only: the mirror publishes its ports on 127.0.0.1"));
        }
        let address = SocketAddr::new(ip, authority.port_u16().unwrap_or(80));
        Ok(Self { address, authority: address.to_string() })
    }

    /// The URL without a trailing slash.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.authority)
    }
}

/// An open connection; dropping it closes the socket, whatever is still under way on it.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: AbortHandle,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Connection {
    /// Opens a connection. Must run inside a `LocalSet`.
    ///
    /// # Errors
    /// The server did not accept.
    pub(crate) async fn open(target: &Target) -> std::io::Result<Self> {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        // Its error is the one that the exchange reports.
        let driver = tokio::task::spawn_local(async move { drop(driver.await) }).abort_handle();
        Ok(Self { sender, driver })
    }

    /// Whether the server has not closed it, as far as this side has heard.
    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// The connection, once another request may be sent on it; nothing when the server closes instead.
    pub(crate) async fn reusable(mut self) -> Option<Self> {
        // After the last byte this takes one turn of the connection's task; the limit is for a peer that misbehaves.
        let ready = tokio::time::timeout(std::time::Duration::from_millis(100), self.sender.ready()).await;
        matches!(ready, Ok(Ok(()))).then_some(self)
    }
}

/// Sends one request and reads the whole answer. `progress` goes on before the first byte may leave, so that a caller who
/// gives up knows what the system may have received.
pub(crate) async fn exchange(
    idle: Option<Connection>,
    target: &Target,
    step: &Step,
    rendered: Rendered,
    progress: &Cell<Progress>,
) -> (Ending, Option<Connection>) {
    let broken = |kind, perhaps_sent| (Ending::Broken { kind, perhaps_sent }, None);
    let mut connection = match idle {
        Some(connection) => connection,
        None => match Connection::open(target).await {
            Ok(connection) => connection,
            Err(_) => return broken(ErrorKind::Connect, false),
        },
    };
    let Some(request) = request(target, step, rendered) else { return broken(ErrorKind::Dropped, false) };
    progress.set(Progress::Deciding);
    let answer = match connection.sender.try_send_request(request).await {
        Ok(answer) => answer,
        // A request that comes back was never written: the connection was closed under it.
        Err(mut error) => return broken(ErrorKind::Reset, error.take_message().is_none()),
    };
    let (head, body) = answer.into_parts();
    let (status, headers) = (head.status.as_u16(), head.headers);
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => (Ending::Answered { status, headers, body: body.to_bytes() }, Some(connection)),
        Err(error) if error.is::<LengthLimitError>() => broken(ErrorKind::WrongBody, true),
        Err(_) => broken(ErrorKind::Reset, true),
    }
}

fn request(target: &Target, step: &Step, rendered: Rendered) -> Option<Request<Full<Bytes>>> {
    let mut request =
        Request::builder().method(&step.method).uri(rendered.path).header(HOST, &target.authority);
    for (name, value) in rendered.headers {
        request = request.header(name, value);
    }
    // `Scenario::render` has checked the path, and the rest is typed: the builder has nothing left to refuse.
    request.body(Full::new(Bytes::from(rendered.body.unwrap_or_default()))).ok()
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn only_loopback_is_a_target() {
        for (url, expected) in [
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://127.9.9.9:1/", "http://127.9.9.9:1"),
            ("http://localhost:81", "http://127.0.0.1:81"),
            ("http://[::1]:8080", "http://[::1]:8080"),
        ] {
            assert_eq!(Target::parse(url).unwrap().url(), expected);
        }
        for (url, expected) in [
            ("http://10.0.0.1:80", "loopback only"),
            ("http://shop.example:80", "loopback only"),
            ("https://127.0.0.1:80", "only plain http"),
            ("http://127.0.0.1:80/api", "has a path"),
            ("127.0.0.1", "only plain http"),
        ] {
            let error = Target::parse(url).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
