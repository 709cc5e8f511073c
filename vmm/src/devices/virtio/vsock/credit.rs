//! Credit-based flow control of one connection, both ways (virtio 1.2, section 5.10.6.3).

use std::num::Wrapping;

use super::packet::Header;

/// The size in bytes of the receive buffer that the guest is promised. Linux uses no more than its own socket's
/// buffer size, which is 256 KiB unless a program changes it.
pub const BUFFER_SIZE: u32 = 256 * 1024;

/// The guest is told of freed space when it knows of less than half of the buffer: late enough to keep such packets
/// few, early enough that a guest that keeps sending does not run dry.
const UPDATE_THRESHOLD: u32 = BUFFER_SIZE / 2;

/// What each side may still send.
#[derive(Debug, Default)]
pub struct Credit {
    /// The guest's receive buffer, as it last said.
    peer_buf_alloc: u32,
    /// What the guest has taken out of it, as it last said.
    peer_fwd_cnt: Wrapping<u32>,
    /// Bytes sent to the guest.
    sent: Wrapping<u32>,
    /// Bytes from the guest that have left our buffer.
    forwarded: Wrapping<u32>,
    /// The value of `forwarded` that the guest was last told.
    told: Wrapping<u32>,
}

impl Credit {
    /// Takes over what the guest says about its buffer.
    pub fn observe(&mut self, header: &Header) {
        self.peer_buf_alloc = header.buf_alloc;
        self.peer_fwd_cnt = Wrapping(header.fwd_cnt);
    }

    /// How many bytes may be sent to the guest now. A guest that claims to have taken more than it was sent gets
    /// nothing.
    pub fn available(&self) -> u32 {
        self.peer_buf_alloc
            .saturating_sub((self.sent - self.peer_fwd_cnt).0)
    }

    /// Notes bytes sent to the guest. `bytes` is at most [`Credit::available`].
    pub fn spend(&mut self, bytes: u32) {
        self.sent += bytes;
    }

    /// Notes bytes of the guest that do not occupy our buffer, or do not any more.
    pub fn forward(&mut self, bytes: u32) {
        self.forwarded += bytes;
    }

    /// Whether the guest should be told of the space that it has.
    pub fn update_due(&self) -> bool {
        (self.forwarded - self.told).0 >= UPDATE_THRESHOLD
    }

    /// Puts our side into a header that is about to be sent.
    pub fn stamp(&mut self, header: &mut Header) {
        header.buf_alloc = BUFFER_SIZE;
        header.fwd_cnt = self.forwarded.0;
        self.told = self.forwarded;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counters_wrap() {
        let mut credit = Credit {
            sent: Wrapping(u32::MAX - 10),
            ..Credit::default()
        };
        credit.observe(&Header {
            buf_alloc: 100,
            fwd_cnt: u32::MAX - 10,
            ..Header::default()
        });
        assert_eq!(credit.available(), 100);
        credit.spend(60);
        assert_eq!(credit.available(), 40);
        credit.observe(&Header {
            buf_alloc: 100,
            fwd_cnt: 49,
            ..Header::default()
        });
        assert_eq!(credit.available(), 100);
    }

    #[test]
    fn a_shrunk_buffer_stops_the_sender() {
        let mut credit = Credit::default();
        credit.observe(&Header {
            buf_alloc: 100,
            ..Header::default()
        });
        credit.spend(80);
        credit.observe(&Header {
            buf_alloc: 50,
            ..Header::default()
        });
        assert_eq!(credit.available(), 0);
    }

    #[test]
    fn the_guest_hears_of_space_once() {
        let mut credit = Credit::default();
        credit.forward(UPDATE_THRESHOLD - 1);
        assert!(!credit.update_due());
        credit.forward(1);
        assert!(credit.update_due());
        let mut header = Header::default();
        credit.stamp(&mut header);
        assert_eq!(
            (header.buf_alloc, header.fwd_cnt),
            (BUFFER_SIZE, UPDATE_THRESHOLD)
        );
        assert!(!credit.update_due());
    }

    proptest! {
        #[test]
        fn never_more_than_the_guest_has(buf_alloc: u32, fwd_cnt: u32, sent: u32) {
            let mut credit = Credit { sent: Wrapping(sent), ..Credit::default() };
            credit.observe(&Header { buf_alloc, fwd_cnt, ..Header::default() });
            let available = credit.available();
            prop_assert!(available <= buf_alloc);
            credit.spend(available);
            prop_assert_eq!(credit.available(), 0);
        }
    }
}
