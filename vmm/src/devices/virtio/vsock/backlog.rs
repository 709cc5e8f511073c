//! Bytes from the guest that the host's socket has not taken yet.

use super::credit::BUFFER_SIZE;
use super::socket::Slice;

/// The most bytes that a backlog holds: what the guest was promised.
const CAPACITY: usize = BUFFER_SIZE as usize;

/// A bounded queue of bytes. It has no memory of its own while it is empty.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: Vec<u8>,
    /// Where the bytes that are still queued begin.
    start: usize,
}

/// The guest sent more than it was allowed to.
#[derive(Debug, PartialEq, Eq)]
pub struct Overrun;

impl Backlog {
    /// The queued bytes, oldest first.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// The number of queued bytes.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Queues what follows the first `skip` bytes of `slices`, or nothing when it does not fit.
    pub fn append(&mut self, slices: &[Slice], skip: usize) -> Result<(), Overrun> {
        let total: usize = slices.iter().map(Slice::len).sum();
        let added = total.saturating_sub(skip);
        if added > CAPACITY - self.len() {
            return Err(Overrun);
        }
        if self.bytes.len() + added > CAPACITY {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let mut skip = skip;
        self.bytes.reserve(added);
        for slice in slices {
            let skipped = skip.min(slice.len());
            skip -= skipped;
            let Ok(rest) = slice.offset(skipped) else { continue };
            let end = self.bytes.len();
            self.bytes.resize(end + rest.len(), 0);
            rest.copy_to(&mut self.bytes[end..]);
        }
        Ok(())
    }

    /// Removes the oldest `bytes` bytes.
    pub fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        if self.is_empty() {
            *self = Backlog::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_what_was_promised_and_not_a_byte_more() {
        let mut memory = vec![7; CAPACITY];
        let mut backlog = Backlog::default();
        backlog.append(&[Slice::from(&mut memory[..])], 0).unwrap();
        assert_eq!(backlog.append(&[Slice::from(&mut [1u8; 1][..])], 0), Err(Overrun));
        assert_eq!(backlog.len(), CAPACITY);
        backlog.consume(1);
        backlog.append(&[Slice::from(&mut [1u8; 1][..])], 0).unwrap();
        assert_eq!(backlog.as_slice().last(), Some(&1));
        backlog.consume(CAPACITY);
        assert_eq!(backlog.bytes.capacity(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn is_a_queue(steps in prop::collection::vec((0usize..70_000, 0usize..80_000, 0usize..80_000), 1..40)) {
            let mut backlog = Backlog::default();
            let mut model = VecDeque::new();
            for (seed, (len, skip, taken)) in steps.into_iter().enumerate() {
                let mut bytes: Vec<u8> = (seed..seed + len).map(|byte| u8::try_from(byte & 0xff).unwrap()).collect();
                let half = bytes.len() / 2;
                let added: Vec<u8> = bytes.iter().copied().skip(skip).collect();
                let (front, back) = bytes.split_at_mut(half);
                let fits = model.len() + added.len() <= CAPACITY;
                let result = backlog.append(&[Slice::from(front), Slice::from(back)], skip);
                prop_assert_eq!(result.is_ok(), fits);
                if fits {
                    model.extend(added);
                }
                let taken = taken.min(model.len());
                model.drain(..taken);
                backlog.consume(taken);
                prop_assert!(backlog.as_slice().iter().eq(model.iter()));
                prop_assert!(backlog.bytes.len() <= CAPACITY);
            }
        }
    }
}
