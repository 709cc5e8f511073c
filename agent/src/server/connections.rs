//! The agent's vsock connections: the one that it opens to the host when it is ready, and those that the host opens.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bulkhead_agent_protocol::{AGENT_PORT, STREAM_PORT};
use futures_util::{StreamExt, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};
use ttrpc::r#async::transport::Listener;

use crate::sandbox::Sandbox;

/// Starts to take streams, and gives the clients: first the host itself, to which this connects, then whoever connects.
/// That the connection exists is how the host knows that the agent is ready, so it is opened last.
///
/// # Errors
/// Says which port could not be listened on. Without the host listening there is an answer to later clients.
pub async fn listen(sandbox: &Arc<Sandbox>) -> Result<Listener, String> {
    let clients = bind(AGENT_PORT)?;
    let streams = bind(STREAM_PORT)?;
    tokio::spawn({
        let sandbox = Arc::clone(sandbox);
        async move {
            loop {
                let connection = accept(&streams).await;
                let sandbox = Arc::clone(&sandbox);
                tokio::spawn(async move { sandbox.streams.admit(connection).await });
            }
        }
    });
    let host = match VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, AGENT_PORT)).await {
        Ok(connection) => Some(connection),
        Err(error) => {
            eprintln!("bulkhead-agent: connect to the host's port {AGENT_PORT}: {error}");
            None
        }
    };
    let later = stream::unfold(clients, |clients| async {
        Some((accept(&clients).await, clients))
    });
    let sandbox = Arc::clone(sandbox);
    Ok(Listener::new(stream::iter(host).chain(later).map(
        move |connection| {
            Ok::<_, io::Error>(Client {
                connection,
                sandbox: Arc::clone(&sandbox),
            })
        },
    )))
}

fn bind(port: u32) -> Result<VsockListener, String> {
    VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port))
        .map_err(|error| format!("listen on port {port}: {error}"))
}

/// The next connection from the host. Containers share the guest's vsock, and theirs are closed.
async fn accept(listener: &VsockListener) -> VsockStream {
    loop {
        match listener.accept().await {
            Ok((connection, peer)) if peer.cid() == VMADDR_CID_HOST => return connection,
            Ok((_, peer)) => eprintln!("bulkhead-agent: a connection from {peer} closed"),
            Err(error) => eprintln!("bulkhead-agent: accept a connection: {error}"),
        }
    }
}

/// A client's connection, which tells of its end.
struct Client {
    connection: VsockStream,
    sandbox: Arc<Sandbox>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.sandbox.disconnected.notify_waiters();
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(cx, buf)
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}
