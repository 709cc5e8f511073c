//! The sandbox's network: the interfaces of the network namespace in which the monitor is, joined to the guest.
//!
//! For each interface a tap is made beside it. Whatever arrives at one of the two is sent out by the other, by a pair of
//! `mirred` redirects at their ingress; the tap's other side is a virtio-net device of the guest, which gets the
//! interface's name, hardware address, MTU, addresses, routes and neighbours. The tap is not persistent: it goes with the
//! VMM, which holds its only descriptor. What stays is the interface's ingress qdisc, which [`Network::detach`] removes,
//! or [`remove_redirects`] when the monitor could not.
//!
//! - `scan`: which interfaces are joined
//! - `tap`: the tap
//! - `redirect`: the pair of redirects
//! - `guest`: what the agent is told
//! - `netlink`: dumps, and errors that name their step
//! - `loopback`: connections to the namespace's loopback interface, for the monitor to pass on
//! - `bpf`: what decides about these

mod bpf;
mod guest;
mod loopback;
mod netlink;
mod redirect;
mod scan;
mod tap;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd,
    path::Path,
    thread,
};

use bulkhead_vmm::control::{MacAddress, Request, Response};
use nix::sched::{CloneFlags, setns};

use self::{
    netlink::{Dumps, NetlinkError},
    scan::{Interface, Refusal},
};
use super::{Agent, AgentError, VmmControl};
pub use loopback::{LoopbackError, LoopbackListener};

/// How many interfaces a guest can be joined to. Each slot costs the guest's boot 0.2 % of its instructions, also one that
/// stays empty.
pub const NETWORK_SLOTS: u8 = 4;

/// The guest's ties to the network namespace of the calling thread.
pub struct Network {
    control: VmmControl,
    agent: Agent,
    /// The interfaces that the VMM has taps for, by their numbers, with their slots.
    slots: BTreeMap<u32, u32>,
    /// Those of them that the agent has configured.
    configured: BTreeSet<u32>,
    /// Whether anything in the namespace may have been changed.
    touched: bool,
}

/// Why the guest cannot be joined to its networks.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// An interface is of a kind that cannot be joined.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The kernel refused a step.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A tap cannot be made.
    #[error("interface {interface}: make a tap (/dev/net/tun): {source}")]
    Tap {
        /// The interface that it is for.
        interface: String,
        /// Why.
        source: io::Error,
    },
    /// The interface's arriving packets are somebody else's.
    #[error(
        "interface {0}: it has an ingress or clsact qdisc already (`tc qdisc show dev {0}`), so its packets cannot be \
         redirected to the virtual machine"
    )]
    Occupied(String),
    /// No slot is left for it.
    #[error(
        "interface {0}: a virtual machine can be joined to {NETWORK_SLOTS} interfaces, and this is one more: take it \
         out of the namespace, or down and its addresses away"
    )]
    TooMany(String),
    /// The VMM did not take the tap.
    #[error("interface {interface}: {message}")]
    Vmm {
        /// The interface.
        interface: String,
        /// What the VMM, or the connection to it, said.
        message: String,
    },
    /// The agent could not configure the guest's side.
    #[error("configure the guest's network: {0}")]
    Agent(#[from] AgentError),
    /// A network namespace cannot be entered.
    #[error("network namespace {path}: {source}")]
    Namespace {
        /// Its file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl Network {
    /// Of a guest that is joined to nothing yet.
    pub fn new(control: VmmControl, agent: Agent) -> Self {
        Self {
            control,
            agent,
            slots: BTreeMap::new(),
            configured: BTreeSet::new(),
            touched: false,
        }
    }

    /// Joins the guest to every interface of the namespace that it is not joined to yet. Called inside a tokio runtime of
    /// one thread.
    ///
    /// # Errors
    /// The first thing that went wrong. What went right stays, and another call goes on from there.
    pub async fn attach(&mut self) -> Result<(), AttachError> {
        let handle = netlink::connect()?;
        let dumps = Dumps::take(&handle).await?;
        let mut new = scan::select(&dumps)?;
        new.retain(|interface| !self.configured.contains(&interface.index));
        if new.is_empty() {
            return Ok(());
        }
        let mut without_slot = new
            .iter()
            .filter(|interface| !self.slots.contains_key(&interface.index));
        let free = usize::from(NETWORK_SLOTS).saturating_sub(self.slots.len());
        if let Some(interface) = without_slot.nth(free) {
            return Err(AttachError::TooMany(interface.name.clone()));
        }
        self.touched = true;
        let mut slots = Vec::with_capacity(new.len());
        for interface in &new {
            let slot = match self.slots.get(&interface.index) {
                Some(slot) => *slot,
                None => self.join(&handle, interface).await?,
            };
            self.slots.insert(interface.index, slot);
            slots.push(slot);
        }
        let request = guest::describe(&new, &slots, &dumps);
        self.agent.configure_network(request).await?;
        self.configured
            .extend(new.iter().map(|interface| interface.index));
        Ok(())
    }

    /// Makes a tap for an interface and gives it to the VMM. Returns the slot in which the guest finds it.
    async fn join(&self, handle: &rtnetlink::Handle, interface: &Interface) -> Result<u32, AttachError> {
        let tap = tap::create(handle, interface).await?;
        redirect::join(handle, interface, &tap).await?;
        let refused = |message: String| AttachError::Vmm {
            interface: interface.name.clone(),
            message,
        };
        let request = Request::AttachNetwork {
            mac: MacAddress::new(interface.mac).map_err(|error| refused(error.to_string()))?,
            mtu: interface.mtu,
        };
        match self.control.ask_with(&request, Some(tap.file.as_fd())).await {
            Ok(Response::Attached { slot }) => {
                tracing::debug!(interface = interface.name, slot, "network attached");
                u32::try_from(slot).map_err(|error| refused(error.to_string()))
            }
            Ok(Response::Error { message }) => Err(refused(message)),
            Ok(other) => Err(refused(format!("the VMM answered {other:?}"))),
            Err(error) => Err(refused(format!("the VMM does not answer: {error}"))),
        }
    }

    /// Takes away what the namespace's interfaces have got. Called when the VMM has ended.
    ///
    /// # Errors
    /// What could not be removed.
    pub async fn detach(&mut self) -> Result<(), AttachError> {
        if !self.touched {
            return Ok(());
        }
        let handle = netlink::connect()?;
        redirect::remove_stale(&handle).await?;
        self.touched = false;
        Ok(())
    }
}

/// Takes away what the interfaces of a namespace have got, when the monitor that did it was killed. It is no error if the
/// namespace has gone.
///
/// # Errors
/// What could not be removed.
pub fn remove_redirects(namespace: &Path) -> Result<(), AttachError> {
    let failed = |source: io::Error| AttachError::Namespace {
        path: namespace.display().to_string(),
        source,
    };
    let file = match std::fs::File::open(namespace) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    // A namespace is entered by a thread; this one's ends with it.
    let removed = thread::spawn(move || {
        match setns(file.as_fd(), CloneFlags::CLONE_NEWNET) {
            // What is left of a namespace's file when the namespace has gone.
            Err(nix::errno::Errno::EINVAL) => return Ok(Ok(())),
            entered => entered?,
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        Ok(runtime.block_on(async { redirect::remove_stale(&netlink::connect()?).await }))
    });
    let removed: io::Result<Result<(), AttachError>> = removed
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that entered it has panicked")));
    removed.map_err(failed)?
}
