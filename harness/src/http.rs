//! A small HTTP client for health probes, residue probes and reading writes back. Loopback only.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The URL is not one that may be asked.
    #[error("`{0}` is not an http:// URL with a loopback address and a port")]
    Address(String),
    /// No connection, or it broke.
    #[error("no answer from {url}: {reason}")]
    Broken {
        /// What was asked.
        url: String,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer from {0} in time")]
    Timeout(String),
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// GETs a loopback URL on a connection of its own.
///
/// # Errors
/// See [`HttpError`]; an answer of any status is no error.
pub async fn get(url: &str, limit: Duration) -> Result<Answer, HttpError> {
    let (address, path) = split(url)?;
    match tokio::time::timeout(limit, fetch(address, &path)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(reason)) => Err(HttpError::Broken { url: url.to_owned(), reason }),
        Err(_) => Err(HttpError::Timeout(url.to_owned())),
    }
}

fn split(url: &str) -> Result<(SocketAddr, String), HttpError> {
    let refused = || HttpError::Address(url.to_owned());
    let rest = url.strip_prefix("http://").ok_or_else(refused)?;
    let (host, path) =
        rest.split_once('/').map_or((rest, String::new()), |(host, path)| (host, path.to_owned()));
    let address: SocketAddr = host.replace("localhost", "127.0.0.1").parse().map_err(|_| refused())?;
    if address.ip().is_loopback() { Ok((address, format!("/{path}"))) } else { Err(refused()) }
}

async fn fetch(address: SocketAddr, path: &str) -> Result<Answer, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::get(path)
        .header(hyper::header::HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok(Answer { status, body })
    };
    tokio::pin!(answer);
    // The connection must be driven beside the request; it ends with it.
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = connection => match ended {
            // A server may close it behind its answer, which is then here and not read yet.
            Ok(()) => answer.await,
            Err(error) => Err(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::{HttpError, split};

    #[test]
    fn only_loopback_is_asked() {
        assert_eq!(split("http://127.0.0.1:80/a?b=c").unwrap().1, "/a?b=c");
        assert_eq!(split("http://localhost:80").unwrap().1, "/");
        for url in ["http://10.0.0.1:80/", "https://127.0.0.1:80/", "http://example.org:80/"] {
            assert!(matches!(split(url), Err(HttpError::Address(_))), "{url}");
        }
    }
}
