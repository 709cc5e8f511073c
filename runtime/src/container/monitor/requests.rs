//! The monitor's socket: requests come in one after the other, whoever asks.

use std::{io, os::unix::net::UnixListener as StdUnixListener};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

use crate::container::control::{LONGEST_LINE, Request, Response};

/// A request, and the way back.
pub struct Asked {
    /// What is asked for.
    pub request: Request,
    answer: oneshot::Sender<Response>,
}

impl Asked {
    /// Answers it. A client that has gone misses the answer.
    pub fn answer(self, response: Response) {
        let _ = self.answer.send(response);
    }
}

/// Takes requests from now on. Called inside a tokio runtime.
///
/// # Errors
/// epoll cannot watch the socket.
pub fn take(listener: StdUnixListener) -> io::Result<mpsc::Receiver<Asked>> {
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((client, _)) => drop(tokio::spawn(serve(client, sender.clone()))),
                Err(error) => {
                    tracing::error!(%error, "monitor socket");
                    return;
                }
            }
        }
    });
    Ok(receiver)
}

async fn serve(client: UnixStream, requests: mpsc::Sender<Asked>) {
    if let Err(error) = exchange(client, requests).await {
        tracing::debug!(%error, "client of the monitor socket");
    }
}

async fn exchange(mut client: UnixStream, requests: mpsc::Sender<Asked>) -> io::Result<()> {
    let (from, mut to) = client.split();
    let mut from = BufReader::new(from);
    loop {
        let mut line = String::new();
        if (&mut from).take(LONGEST_LINE).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let response = match serde_json::from_str(&line) {
            Ok(request) => {
                let (answer, answered) = oneshot::channel();
                // Without a receiver the container has ended.
                let sent = requests.send(Asked { request, answer }).await;
                match (sent, answered.await) {
                    (Ok(()), Ok(response)) => response,
                    _ => return Ok(()),
                }
            }
            Err(error) => Response::Error {
                message: format!("not a request: {error}"),
            },
        };
        let mut line = serde_json::to_vec(&response)?;
        line.push(b'\n');
        to.write_all(&line).await?;
    }
}
