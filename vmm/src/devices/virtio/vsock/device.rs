//! What the transport sees of the device.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use vm_memory::Le64;

use super::handler::VsockHandler;
use super::streams::Streams;
use crate::devices::virtio::buffers::read_config_space;
use crate::devices::virtio::{ActivateError, Activation, VirtioDevice};
use crate::event_loop::LoopHandle;

/// The sizes of the queues for receiving, transmitting and events. Linux fills the receive queue with pages when it
/// starts, which costs every guest time and memory: 128 of them hold two default buffers of a socket.
const QUEUE_SIZES: [u16; 3] = [128, 256, 16];

/// The virtio-vsock device.
pub struct VsockDevice {
    guest_cid: u64,
    /// The host's sockets, until the driver is ready.
    sockets: Option<(UnixListener, Option<OwnedFd>)>,
    event_loop: LoopHandle,
}

impl VsockDevice {
    /// A device for the guest with this CID, 3 or more; see [`crate::config::VsockConfig`] for the two sockets. It
    /// works on `event_loop`, which must be run by another thread than the one that activates the device.
    pub fn new(guest_cid: u32, listener: OwnedFd, uplink: Option<OwnedFd>, event_loop: LoopHandle) -> Self {
        VsockDevice {
            guest_cid: u64::from(guest_cid),
            sockets: Some((UnixListener::from(listener), uplink)),
            event_loop,
        }
    }
}

impl VirtioDevice for VsockDevice {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config_space(&Le64::from(self.guest_cid), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let count = activation.queues.len();
        let Ok([rx, tx, _events]) = <[_; QUEUE_SIZES.len()]>::try_from(activation.queues) else {
            return Err(ActivateError::Queues(count, QUEUE_SIZES.len()));
        };
        let Some((listener, uplink)) = self.sockets.take() else {
            let error = std::io::Error::other("its sockets are in use");
            return Err(ActivateError::Host("virtio-vsock was started before", error));
        };
        let streams = Streams::new(self.guest_cid, listener, uplink)
            .map_err(|error| ActivateError::Host("virtio-vsock's sockets cannot be watched", error))?;
        let handler = VsockHandler::new(activation.memory, rx, tx, activation.interrupt, streams);
        self.event_loop.add(Box::new(handler)).map_err(|error| {
            ActivateError::Host(
                "virtio-vsock's handler was not taken",
                std::io::Error::other(error),
            )
        })?;
        Ok(())
    }
}
