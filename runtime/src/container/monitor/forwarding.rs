//! A pod's programs listen in the guest; who wants to reach them by the loopback interface of the pod's network namespace, as
//! containerd does for `kubectl port-forward`, is connected to the same port of the guest's.

use std::{io, sync::Arc};

use tokio::{
    io::copy_bidirectional_with_sizes,
    net::TcpStream,
    task::{JoinHandle, JoinSet},
};

use crate::{
    container::streams,
    sandbox::{Agent, AgentError, GuestSocket, LoopbackError, LoopbackListener},
};

/// How many connections there may be at a time; others wait.
const MAX_CONNECTIONS: usize = 256;

/// How much is copied at once.
const CHUNK: usize = 64 * 1024;

/// Goes on until it is dropped, and breaks its connections then.
#[derive(Debug)]
pub struct Forwarding(JoinHandle<()>);

/// Why a connection is not forwarded.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    /// The agent said why.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// A stream to the guest could not be opened.
    #[error("a stream to the guest: {0}")]
    Stream(#[from] io::Error),
}

impl Forwarding {
    /// Starts it in the network namespace of the calling thread. Called inside a tokio runtime.
    ///
    /// # Errors
    /// The namespace cannot be listened in.
    pub fn start(agent: Agent, guest: Arc<GuestSocket>) -> Result<Self, LoopbackError> {
        let listener = LoopbackListener::new()?;
        Ok(Self(tokio::spawn(accept(listener, agent, guest))))
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn accept(listener: LoopbackListener, agent: Agent, guest: Arc<GuestSocket>) {
    let mut connections = JoinSet::new();
    for number in 0_u64.. {
        while connections.len() >= MAX_CONNECTIONS {
            connections.join_next().await;
        }
        let (connection, port) = loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => break accepted,
                    Err(error) => return tracing::error!(%error, "ports are not forwarded any more"),
                },
                Some(_) = connections.join_next() => {}
            }
        };
        let (agent, guest) = (agent.clone(), Arc::clone(&guest));
        connections.spawn(async move {
            if let Err(error) = forward(connection, port, &format!("port-{number}"), &agent, &guest).await {
                tracing::debug!(port, %error, "connection not forwarded");
            }
        });
    }
}

/// Connects it to the guest, and carries bytes both ways until both have ended.
async fn forward(
    mut connection: TcpStream,
    port: u16,
    name: &str,
    agent: &Agent,
    guest: &GuestSocket,
) -> Result<(), ForwardError> {
    connection.set_nodelay(true)?;
    let connected = async {
        let stream = streams::open(guest, name).await?;
        agent.connect_port(port, streams::name(name)).await?;
        Ok(stream)
    };
    match connected.await {
        Ok(mut stream) => {
            copy_bidirectional_with_sizes(&mut connection, &mut stream, CHUNK, CHUNK).await?;
            Ok(())
        }
        Err(error) => {
            // It has been accepted already; a reset is as near to a refusal as can be.
            connection.set_zero_linger()?;
            Err(error)
        }
    }
}
