//! The event loop's side of the device: when to look at the rings and the sockets, and when to tell the driver.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::rings::{Next, RxRing, TxPacket, TxRing};
use super::streams::{Sent, Streams};
use crate::devices::virtio::{ActiveQueue, Interrupt};
use crate::memory::GuestMemory;

/// The most packets taken from the guest before others get a turn on the event loop.
const RECEIVE_BUDGET: usize = 256;

/// The running device.
pub struct VsockHandler {
    memory: GuestMemory,
    rx: RxRing,
    rx_kick: EventFd,
    tx: TxRing,
    tx_kick: EventFd,
    interrupt: Arc<Interrupt>,
    pub(super) streams: Streams,
}

impl VsockHandler {
    /// The device on its two data queues. The event queue has no part in it: its only event tells the guest that its
    /// connections are gone.
    pub fn new(
        memory: GuestMemory,
        rx: ActiveQueue,
        tx: ActiveQueue,
        interrupt: Arc<Interrupt>,
        streams: Streams,
    ) -> Self {
        VsockHandler {
            memory,
            rx: RxRing::new(rx.queue),
            rx_kick: rx.kick,
            tx: TxRing::new(tx.queue),
            tx_kick: tx.kick,
            interrupt,
            streams,
        }
    }

    /// Handles what has happened to the sockets.
    pub fn on_sockets(&mut self) {
        self.streams.on_events();
        self.run();
    }

    /// Handles what the guest has sent and sends what is due, until both sides rest or others should get a turn; then
    /// tells the driver once.
    pub fn run(&mut self) {
        self.tx.hush(&self.memory);
        self.rx.hush(&self.memory);
        let received_all = self.receive();
        let sent = self.streams.send(&mut self.rx, &self.memory);
        // With answers waiting for buffers, the driver's kick for those buffers is what goes on with the packets.
        let more_to_receive = !received_all && self.streams.accept_packets();
        if more_to_receive || sent == Sent::More {
            // The write fails only when the counter is about to overflow, and then the event is raised already.
            let _ = self.tx_kick.write(1);
        }
        let tx = self.tx.wants_interrupt(&self.memory);
        let rx = self.rx.wants_interrupt(&self.memory);
        if tx || rx {
            self.interrupt.used_ring();
        }
    }

    /// Takes packets from the guest. Returns whether the ring was seen empty, so that the driver will kick.
    fn receive(&mut self) -> bool {
        let mut packet = TxPacket::default();
        for _ in 0..RECEIVE_BUDGET {
            if !self.streams.accept_packets() {
                return false;
            }
            match self.tx.next(&self.memory, &mut packet) {
                None => return true,
                Some(Next::Packet) => self.streams.on_packet(packet.header(), packet.payload()),
                Some(Next::BadPayload) => self.streams.on_bad_packet(packet.header()),
                Some(Next::Garbage) => {}
            }
            self.tx.give_back(&self.memory, &packet);
        }
        false
    }
}

impl MutEventSubscriber for VsockHandler {
    fn init(&mut self, ops: &mut EventOps) {
        // The counters of the kicks are never read: with edges, every write to them counts.
        let kick = EventSet::IN | EventSet::EDGE_TRIGGERED;
        for events in [
            Events::new(&self.rx_kick, kick),
            Events::new(&self.tx_kick, kick),
            Events::new(&self.streams, EventSet::IN),
        ] {
            if let Err(error) = ops.add(events) {
                eprintln!("virtio-vsock: descriptor {} is not watched: {error}", events.fd());
            }
        }
        self.run();
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.fd() == self.streams.as_raw_fd() {
            self.on_sockets();
        } else {
            self.run();
        }
    }
}
