//! The event loop's side of the device.
//!
//! Its system calls there are readv and writev (frames), read (kicks), write (the interrupt, and its own kick when it
//! lets others have their turn) and `epoll_ctl`.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_queue::Error;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use super::receive::RxRing;
use super::tap::{Moved, Tap};
use super::transmit::{Sent, TxRing};
use crate::devices::virtio::Interrupt;
use crate::memory::GuestMemory;

/// The most frames that are moved in one direction before the loop's other users have their turn.
const MOST_FRAMES: usize = 64;

/// The device at work.
pub struct Handler {
    /// The guest's memory.
    pub memory: GuestMemory,
    /// How it gets the driver's attention.
    pub interrupt: Arc<Interrupt>,
    /// The host's side.
    pub tap: Tap,
    /// Frames to the guest.
    pub rx: RxRing,
    /// Readable when there are new buffers for them.
    pub rx_kick: EventFd,
    /// Frames from the guest.
    pub tx: TxRing,
    /// Readable when there are new ones.
    pub tx_kick: EventFd,
    /// What keeps frames from moving.
    pub waits: Waits,
}

/// What keeps frames from moving.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Waits {
    /// The guest has too few buffers.
    pub for_buffers: bool,
    /// The tap takes no frame.
    pub for_tap: bool,
    /// The tap has been removed: there is nothing to wait for.
    pub for_nothing: bool,
}

impl Handler {
    /// What of the tap is waited for.
    fn interest(&self) -> EventSet {
        let mut interest = EventSet::empty();
        interest.set(EventSet::IN, !self.waits.for_buffers);
        interest.set(EventSet::OUT, self.waits.for_tap);
        interest
    }

    /// Moves frames from the tap to the guest.
    fn receive(&mut self) -> Result<(), Error> {
        self.rx.hush(&self.memory)?;
        for _ in 0..MOST_FRAMES {
            self.waits.for_buffers = !self.rx.has_room(&self.memory)?;
            if self.waits.for_buffers {
                break;
            }
            match self.rx.receive(&self.memory, &self.tap)? {
                Moved::Frame(_) | Moved::Refused => {}
                Moved::Nothing => break,
                Moved::Gone => {
                    self.waits.for_nothing = true;
                    break;
                }
            }
        }
        if self.rx.wants_interrupt(&self.memory)? {
            self.interrupt.used_ring();
        }
        Ok(())
    }

    /// Moves frames from the guest to the tap. A tap that has gone takes and drops them.
    fn send(&mut self) -> Result<(), Error> {
        let sent = self.tx.send(&self.memory, &self.tap, MOST_FRAMES)?;
        self.waits.for_tap = sent == Sent::Blocked;
        if sent == Sent::Some {
            // The counter cannot be full: it was read just before.
            let _ = self.tx_kick.write(1);
        }
        if self.tx.wants_interrupt(&self.memory)? {
            self.interrupt.used_ring();
        }
        Ok(())
    }

    fn serve(&mut self, events: Events) -> Result<(), Error> {
        let (fd, set) = (events.fd(), events.event_set());
        if fd == self.tap.as_raw_fd() {
            if set.contains(EventSet::OUT) {
                self.send()?;
            }
            if set.contains(EventSet::IN) {
                self.receive()?;
            }
            self.waits.for_nothing |= set.intersects(EventSet::ERROR | EventSet::HANG_UP);
        } else if fd == self.rx_kick.as_raw_fd() {
            let _ = self.rx_kick.read();
            if self.waits.for_buffers && !self.waits.for_nothing {
                self.receive()?;
            }
        } else {
            let _ = self.tx_kick.read();
            if !self.waits.for_tap || self.waits.for_nothing {
                self.send()?;
            }
        }
        Ok(())
    }

    fn stop(&self, ops: &mut EventOps) {
        for fd in [self.rx_kick.as_raw_fd(), self.tx_kick.as_raw_fd()] {
            let _ = ops.remove(Events::empty_raw(fd));
        }
        self.leave_tap(ops);
    }

    fn leave_tap(&self, ops: &mut EventOps) {
        // It is in the set, or has been taken out before, or the set is gone with the loop.
        let _ = ops.remove(Events::empty(&self.tap));
    }
}

impl MutEventSubscriber for Handler {
    fn init(&mut self, ops: &mut EventOps) {
        // They fail when the process is out of memory or epoll watches; the device then stays silent.
        let _ = ops.add(Events::new(&self.rx_kick, EventSet::IN));
        let _ = ops.add(Events::new(&self.tx_kick, EventSet::IN));
        let _ = ops.add(Events::new(&self.tap, self.interest()));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let before = self.waits;
        if self.serve(events).is_err() {
            // The rings are not what they were when the driver handed them over: nothing more to be done for it.
            self.stop(ops);
        } else if self.waits.for_nothing {
            self.leave_tap(ops);
        } else if self.waits != before {
            let _ = ops.modify(Events::new(&self.tap, self.interest()));
        }
    }
}
