//! One POST of JSON, on a connection of its own.

use std::io;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

use super::destination::Destination;

/// Why something was not delivered.
#[derive(Debug, Error)]
pub(super) enum PostError {
    /// Nobody there.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// It ended amid the talk.
    #[error("the connection broke: {0}")]
    Broke(#[from] hyper::Error),
    /// The request can't be sent.
    #[error("the request makes no sense: {0}")]
    Request(#[from] hyper::http::Error),
    /// It said no.
    #[error("it answered with status {0}")]
    Refused(StatusCode),
    /// It said nothing.
    #[error("no answer within {0} s")]
    Silent(u64),
}

impl PostError {
    /// Whether the same would be refused again. The rest may be better later, as may what RFC 9110
    /// (15.5.9) and RFC 6585 (4) say of 408 and 429.
    pub(super) fn is_final(&self) -> bool {
        match self {
            PostError::Request(_) => true,
            PostError::Refused(status) => {
                let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
                !status.is_server_error() && !later.contains(status)
            }
            PostError::Connect(_) | PostError::Broke(_) | PostError::Silent(_) => false,
        }
    }
}

/// Sends it; where it is redirected to is not followed.
pub(super) async fn post(to: &Destination, body: Bytes) -> Result<(), PostError> {
    let stream = TcpStream::connect(to.address())
        .await
        .map_err(PostError::Connect)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // the request's own error says what went wrong
    let talk = tokio::spawn(async move {
        let _ = connection.await;
    });
    let request = Request::post(to.target())
        .header(header::HOST, to.authority())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .header(
            header::USER_AGENT,
            concat!("tracer/", env!("CARGO_PKG_VERSION")),
        )
        .body(Full::new(body))?;
    let answer = sender.send_request(request).await;
    // what else it has to say is not read
    talk.abort();
    match answer?.status() {
        status if status.is_success() => Ok(()),
        status => Err(PostError::Refused(status)),
    }
}
