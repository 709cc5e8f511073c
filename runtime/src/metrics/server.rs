//! `metrics.sock` in a sandbox's state folder: an HTTP server with one page, for a scraper that can use a Unix socket.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use crate::sandbox::{StateError, StateFolder};

/// The longest request in bytes.
const LONGEST_REQUEST: u64 = 16 << 10;

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What scrapers are told that the page is.
const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers until the calling process ends. Called inside a tokio runtime.
///
/// # Errors
/// The socket cannot be made.
pub fn start(folder: &StateFolder) -> Result<(), StateError> {
    let listener = folder.listen(StateFolder::METRICS)?;
    let failed = |source| StateError::io("listen on", &folder.path().join(StateFolder::METRICS))(source);
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = UnixListener::from_std(listener).map_err(failed)?;
    let folder = folder.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let folder = folder.clone();
            tokio::spawn(async move {
                // A client that goes, or says nothing, is not missed.
                let _ = tokio::time::timeout(PATIENCE, serve(client, &folder)).await;
            });
        }
    });
    Ok(())
}

async fn serve(mut client: UnixStream, folder: &StateFolder) -> io::Result<()> {
    let (from, mut to) = client.split();
    let mut from = BufReader::new(from).take(LONGEST_REQUEST);
    let mut request = String::new();
    from.read_line(&mut request).await?;
    let mut header = String::new();
    while from.read_line(&mut header).await? > 2 {
        header.clear();
    }
    let (status, body) = match request.split(' ').collect::<Vec<_>>()[..] {
        ["GET", "/metrics" | "/", _] => match super::text(folder.root(), Some(folder)).await {
            Ok(text) => ("200 OK", text),
            Err(error) => ("500 Internal Server Error", format!("{error}\n")),
        },
        ["GET", ..] => ("404 Not Found", "the figures are at /metrics\n".to_owned()),
        _ => (
            "405 Method Not Allowed",
            "the figures can only be read: GET /metrics\n".to_owned(),
        ),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {TYPE}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    to.write_all(head.as_bytes()).await?;
    to.write_all(body.as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Id;

    async fn answer(request: &str) -> String {
        let root = tempfile::tempdir().expect("temporary folder");
        let id: Id = "pod".parse().expect("valid id");
        let folder = StateFolder::create(root.path(), &id).expect("free");
        let (mut client, server) = UnixStream::pair().expect("descriptors");
        let mut text = String::new();
        let ask = async {
            // The server need not read all of it.
            let _ = client.write_all(request.as_bytes()).await;
            let _ = client.shutdown().await;
            client.read_to_string(&mut text).await
        };
        let (served, read) = tokio::join!(serve(server, &folder), ask);
        served.expect("answered");
        read.expect("text");
        text
    }

    #[tokio::test(flavor = "current_thread")]
    async fn there_is_one_page_which_can_be_read() {
        let page = answer("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(
            page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("# EOF\n"),
            "{page}"
        );
        assert!(
            answer("GET /other HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 404 ")
        );
        assert!(
            answer("POST /metrics HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 405 ")
        );
        assert!(answer("\r\n").await.starts_with("HTTP/1.1 405 "));
        assert!(answer(&"x".repeat(16 << 10)).await.starts_with("HTTP/1.1 405 "));
    }
}
