//! The requests that a running VMM takes on its control socket.
//!
//! One JSON document a line in each direction; a request is answered before the next one is read. The
//! descriptor of [`Request::AttachBlock`] and [`Request::AttachNetwork`] travels with the request's first byte (`SCM_RIGHTS`).

mod client;
pub mod server;

use serde::{Deserialize, Serialize};

pub use crate::devices::virtio::net::MacAddress;

/// What can be asked of a running VMM. Requests without fields have braces all the same: serde would let a unit variant
/// have unknown fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Stop every virtual processor until [`Request::Resume`]. Pausing twice is no error.
    Pause {},
    /// Let the virtual processors run again. Resuming twice is no error.
    Resume {},
    /// End the VMM without asking the guest.
    Stop {},
    /// Counters since the start.
    Metrics {},
    /// The last lines of the guest's console.
    Console {},
    /// Make virtual processors until there are `count`, or [`crate::config::VmConfig::max_vcpus`] if that is less, for the
    /// guest to bring online. There are never fewer than before.
    AddVcpus {
        /// How many there are to be.
        count: u8,
    },
    /// Say how much memory there is.
    Memory {},
    /// Have the guest take memory until it has `mib`, or [`crate::config::VmConfig::max_memory_mib`] if that is less. It is
    /// never to have less than before. Answered before it has any of it.
    AddMemory {
        /// How much there is to be, in MiB. The guest gets it in blocks of 2 MiB.
        mib: u32,
    },
    /// Wait until the guest has more memory than the client knows of, or all that it is to have.
    AwaitMemory {
        /// How much the client knows of, in MiB.
        known_mib: u32,
    },
    /// Put a disk over the raw image whose descriptor is attached into a free slot. A disk of that name that is there already
    /// is the answer, if the guest may do with it what is asked for.
    AttachBlock {
        /// Its [`crate::config::BlockConfig::id`].
        id: String,
        /// Whether the guest may only read it.
        read_only: bool,
    },
    /// Take a disk out of its slot that [`Request::AttachBlock`] has put there. The guest's driver has let go of it before, or
    /// meets errors.
    DetachBlock {
        /// Its name.
        id: String,
    },
    /// Put a network device on the tap whose descriptor is attached into a free slot. The tap is set up with
    /// `IFF_TAP`, `IFF_NO_PI` and `IFF_VNET_HDR`, and is attached to an interface.
    AttachNetwork {
        /// The address of the guest's interface.
        mac: MacAddress,
        /// The largest packet in bytes that the network takes, at least 68.
        mtu: u16,
    },
}

/// Of [`Response::Metrics`]: the names of the disks that are there because of [`Request::AttachBlock`].
pub const ATTACHED_DISKS: &str = "attached_disks";

/// What a VMM answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "snake_case", deny_unknown_fields)]
pub enum Response {
    /// It is done.
    Done,
    /// To [`Request::Metrics`].
    Metrics(serde_json::Map<String, serde_json::Value>),
    /// To [`Request::Console`], oldest line first.
    Console {
        /// The lines, without their ends.
        lines: Vec<String>,
    },
    /// To [`Request::AttachBlock`] and [`Request::AttachNetwork`].
    Attached {
        /// The slot's number. The device is there when the guest's driver looks again: at the platform device
        /// `virtio-mmio.N` of that number.
        slot: usize,
    },
    /// To [`Request::AddVcpus`].
    VcpusAdded {
        /// How many there are now.
        count: u8,
    },
    /// To the requests that are about memory.
    Memory {
        /// How much the guest has, in MiB.
        present_mib: u32,
        /// How much it is to have.
        wanted_mib: u32,
        /// How much it can have.
        most_mib: u32,
        /// The slot of the memory device, once there is one: as of [`Response::Attached`].
        slot: Option<usize>,
    },
    /// It could not be done; nothing has changed.
    Error {
        /// Why.
        message: String,
    },
}
