//! The kernel's network configuration: what is there, and errors that name their step.

use std::io;

use futures_util::{TryStream, TryStreamExt};
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        address::AddressMessage, link::LinkMessage, neighbour::NeighbourMessage, route::RouteMessage,
    },
};

/// A request to the kernel failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct NetlinkError {
    /// What was to be done.
    step: String,
    /// The kernel's answer.
    source: io::Error,
}

impl NetlinkError {
    /// Of that step.
    pub fn new(step: impl Into<String>, source: io::Error) -> Self {
        Self {
            step: step.into(),
            source,
        }
    }

    /// Whether the kernel said that something exists already.
    pub fn is_exists(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }
}

/// Names the step that an answer belongs to.
pub trait Step<T> {
    /// Turns the error into one of the step.
    fn step(self, name: impl FnOnce() -> String) -> Result<T, NetlinkError>;
}

impl<T> Step<T> for Result<T, rtnetlink::Error> {
    fn step(self, name: impl FnOnce() -> String) -> Result<T, NetlinkError> {
        self.map_err(|error| {
            let source = match error {
                rtnetlink::Error::NetlinkError(message) => message.to_io(),
                other => io::Error::other(other),
            };
            NetlinkError::new(name(), source)
        })
    }
}

/// A connection to the kernel, for the namespace that the calling thread is in. It ends with its last handle.
pub fn connect() -> Result<Handle, NetlinkError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| NetlinkError::new("open a netlink socket", error))?;
    tokio::spawn(connection);
    Ok(handle)
}

/// All that a namespace has.
#[derive(Debug, Default)]
pub struct Dumps {
    /// Interfaces.
    pub links: Vec<LinkMessage>,
    /// Addresses.
    pub addresses: Vec<AddressMessage>,
    /// Routes of all tables.
    pub routes: Vec<RouteMessage>,
    /// Neighbours.
    pub neighbours: Vec<NeighbourMessage>,
}

impl Dumps {
    /// Asks the kernel.
    pub async fn take(handle: &Handle) -> Result<Self, NetlinkError> {
        let mut routes = Vec::new();
        // A kernel without a family answers with nothing.
        for any in [
            RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        ] {
            routes.extend(all(handle.route().get(any).execute(), "routes").await?);
        }
        Ok(Self {
            links: links(handle).await?,
            addresses: all(handle.address().get().execute(), "addresses").await?,
            routes,
            neighbours: all(handle.neighbours().get().execute(), "neighbours").await?,
        })
    }
}

/// The interfaces.
pub async fn links(handle: &Handle) -> Result<Vec<LinkMessage>, NetlinkError> {
    all(handle.link().get().execute(), "interfaces").await
}

/// Reads a dump to its end.
pub async fn all<T>(
    dump: impl TryStream<Ok = T, Error = rtnetlink::Error>,
    what: &str,
) -> Result<Vec<T>, NetlinkError> {
    dump.try_collect().await.step(|| format!("list {what}"))
}
