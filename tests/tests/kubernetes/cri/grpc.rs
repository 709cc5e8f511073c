//! gRPC, of which a request with one message, answered by one, is all that is needed.

use std::path::Path;

use bulkhead_tests::harness::LIMIT;
use http::{HeaderMap, Request};
use protobuf::Message;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// What a server answers if it does not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[error("gRPC status {code}: {message}")]
pub struct Status {
    /// One of gRPC's status codes.
    pub code: u32,
    /// What went wrong, in the server's words.
    pub message: String,
}

/// Length and flag in front of each message.
const PREFIX: usize = 5;

/// Calls `method`, as `/PACKAGE.SERVICE/METHOD`, of the server at `socket`.
///
/// # Panics
/// There is no server, it does not speak gRPC, or it takes longer than [`LIMIT`].
#[track_caller]
pub fn call<Q: Message, A: Message>(socket: &Path, method: &str, request: &Q) -> Result<A, Status> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let (trailers, body) = runtime
        .block_on(async { timeout(LIMIT, exchange(socket, method, request)).await })
        .unwrap_or_else(|_| panic!("no answer to {method}"))
        .unwrap_or_else(|error| panic!("{method}: {error}"));
    let text = |name| trailers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status").map(str::parse) {
        Some(Ok(0)) => {
            let message = body.get(PREFIX..).expect("a message with its prefix");
            Ok(A::parse_from_bytes(message).expect("the message that was asked for"))
        }
        Some(Ok(code)) => Err(Status {
            code,
            message: decode(text("grpc-message").unwrap_or_default()),
        }),
        _ => panic!("{method}: no status in {trailers:?}"),
    }
}

/// One request on a connection of its own; gives the trailers and the body.
async fn exchange(
    socket: &Path,
    method: &str,
    request: &impl Message,
) -> Result<(HeaderMap, Vec<u8>), Box<dyn std::error::Error>> {
    let (client, connection) = h2::client::handshake(UnixStream::connect(socket).await?).await?;
    let connection = tokio::spawn(connection);
    let head = Request::post(format!("http://localhost{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut stream) = client.ready().await?.send_request(head, false)?;
    let message = request.write_to_bytes()?;
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len())?.to_be_bytes());
    frame.extend(message);
    stream.send_data(frame.into(), true)?;
    let response = response.await?;
    // An answer without a message has its trailers for headers.
    let head = response.headers().clone();
    let mut stream = response.into_body();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data?;
        body.extend_from_slice(&data);
        stream.flow_control().release_capacity(data.len())?;
    }
    let trailers = stream.trailers().await?.unwrap_or(head);
    connection.abort();
    Ok((trailers, body))
}

/// Undoes gRPC's percent-encoding.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let code = others
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match code.map(|digits| u8::from_str_radix(digits, 16)) {
            Some(Ok(byte)) if *first == b'%' => {
                bytes.push(byte);
                rest = &others[2..];
            }
            _ => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
