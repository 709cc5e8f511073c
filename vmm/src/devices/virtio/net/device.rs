//! The device as its transport sees it.

use std::io;
use std::os::fd::OwnedFd;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vm_memory::{ByteValued, Le16};

use super::MacAddress;
use super::frame::{HEADER_LEN, MAX_FRAME};
use super::handler::{Handler, Waits};
use super::receive::RxRing;
use super::tap::{Offloads, Tap};
use super::transmit::TxRing;
use crate::devices::virtio::buffers::read_config_space;
use crate::devices::virtio::{ActivateError, Activation, ActiveQueue, VirtioDevice};
use crate::event_loop::LoopHandle;

const QUEUE_SIZES: [u16; 2] = [256, 256];

/// The features offered: what costs neither side a copy or a checksum, and lets TCP segments of 64 KiB pass whole.
const FEATURES: [u32; 13] = [
    VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_ECN,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_RING_F_INDIRECT_DESC,
    VIRTIO_RING_F_EVENT_IDX,
];

/// The least MTU that IPv4 works with (RFC 791).
const LEAST_MTU: u16 = 68;

/// A network device before its driver is ready.
pub struct Net {
    /// Handed to the handler when the driver is ready.
    tap: Option<Tap>,
    mac: MacAddress,
    mtu: u16,
    event_loop: LoopHandle,
}

/// A network device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The descriptor is something else, or the tap is not set up.
    #[error("the descriptor is not that of a tap with virtio headers (IFF_TAP, IFF_NO_PI, IFF_VNET_HDR)")]
    NotATap(#[source] io::Error),
    /// An MTU that no network has.
    #[error("the MTU is {0}, it has to be at least {LEAST_MTU}")]
    Mtu(u16),
}

impl Net {
    /// A device on this tap, whose work will be done on that loop.
    ///
    /// # Errors
    /// When the tap or the MTU cannot be used.
    pub fn new(tap: OwnedFd, mac: MacAddress, mtu: u16, event_loop: LoopHandle) -> Result<Self, NetError> {
        if mtu < LEAST_MTU {
            return Err(NetError::Mtu(mtu));
        }
        let tap = Tap::new(tap).map_err(NetError::NotATap)?;
        tap.use_headers().map_err(NetError::NotATap)?;
        Ok(Net {
            tap: Some(tap),
            mac,
            mtu,
            event_loop,
        })
    }

    /// The most bytes that a frame to a driver with these features can have.
    fn longest_frame(&self, features: u64) -> usize {
        let segments = 1 << VIRTIO_NET_F_GUEST_TSO4 | 1 << VIRTIO_NET_F_GUEST_TSO6;
        if features & segments != 0 {
            MAX_FRAME
        } else {
            // With an Ethernet header and a VLAN tag.
            HEADER_LEN + 18 + usize::from(self.mtu)
        }
    }
}

/// What the tap may leave to a driver with these features.
fn offloads(features: u64) -> Offloads {
    let has = |feature: u32| features >> feature & 1 == 1;
    let checksum = has(VIRTIO_NET_F_GUEST_CSUM);
    let tcp4 = checksum && has(VIRTIO_NET_F_GUEST_TSO4);
    let tcp6 = checksum && has(VIRTIO_NET_F_GUEST_TSO6);
    Offloads {
        checksum,
        tcp4,
        tcp6,
        ecn: (tcp4 || tcp6) && has(VIRTIO_NET_F_GUEST_ECN),
    }
}

/// The configuration space (virtio 1.2, section 5.1.4) as far as the offered features give it a meaning.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ConfigSpace {
    mac: [u8; 6],
    status: Le16,
    max_virtqueue_pairs: Le16,
    mtu: Le16,
}

// SAFETY: integers in an order that leaves no padding (12 bytes); any bytes are a valid value.
unsafe impl ByteValued for ConfigSpace {}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        FEATURES.iter().fold(0, |features, bit| features | 1 << bit)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = ConfigSpace {
            mac: self.mac.bytes(),
            mtu: self.mtu.into(),
            ..ConfigSpace::default()
        };
        read_config_space(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let features = activation.features;
        let queues: [ActiveQueue; 2] = activation
            .queues
            .try_into()
            .map_err(|queues: Vec<_>| ActivateError::Queues(queues.len(), QUEUE_SIZES.len()))?;
        let [rx, tx] = queues;
        let host = |what: &'static str| move |error| ActivateError::Host(what, error);
        let again = || io::Error::other("it was activated before");
        let tap = self.tap.take().ok_or_else(again).map_err(host("tap"))?;
        tap.set_offloads(offloads(features))
            .map_err(host("tap's offloads"))?;
        let mergeable = features >> VIRTIO_NET_F_MRG_RXBUF & 1 == 1;
        let handler = Handler {
            memory: activation.memory,
            interrupt: activation.interrupt,
            tap,
            rx: RxRing::new(rx.queue, mergeable, self.longest_frame(features)),
            rx_kick: rx.kick,
            tx: TxRing::new(tx.queue),
            tx_kick: tx.kick,
            waits: Waits::default(),
        };
        self.event_loop
            .add(Box::new(handler))
            .map(drop)
            .map_err(|error| host("network device")(io::Error::other(error)))
    }
}
