//! What waits to be written to one connection. Bounded in bytes; empty, it has no heap.

use std::collections::VecDeque;

use bytes::Bytes;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    frames: VecDeque<Bytes>,
    bytes: usize,
    /// Since when something waits, in milliseconds; moved by every take.
    waiting_since_ms: u64,
}

/// The reader is slower than what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Outbox {
    pub fn push(&mut self, now_ms: u64, frame: Bytes, bytes_max: usize) -> Result<(), Full> {
        if self.bytes + frame.len() > bytes_max {
            return Err(Full);
        }
        if self.frames.is_empty() {
            self.waiting_since_ms = now_ms;
        }
        self.bytes += frame.len();
        self.frames.push_back(frame);
        Ok(())
    }

    /// Frames in order, until `bytes_max` is reached; at least one if there is one.
    pub fn take(&mut self, now_ms: u64, bytes_max: usize) -> VecDeque<Bytes> {
        self.waiting_since_ms = now_ms;
        if self.bytes <= bytes_max {
            self.bytes = 0;
            return std::mem::take(&mut self.frames);
        }
        let (mut taken, mut bytes) = (VecDeque::new(), 0);
        while let Some(frame) = self.frames.pop_front() {
            bytes += frame.len();
            self.bytes -= frame.len();
            taken.push_back(frame);
            if bytes >= bytes_max {
                break;
            }
        }
        taken
    }

    pub fn clear(&mut self) {
        *self = Outbox::default();
    }

    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How long the oldest frame has waited without any being taken.
    pub fn stalled_ms(&self, now_ms: u64) -> u64 {
        if self.frames.is_empty() {
            0
        } else {
            now_ms.saturating_sub(self.waiting_since_ms)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_order_in_pieces_of_the_size_asked_for() {
        let mut outbox = Outbox::default();
        for i in 0..5u8 {
            outbox.push(0, Bytes::from(vec![i; 10]), 50).unwrap();
        }
        assert_eq!(outbox.take(0, 15).len(), 2);
        assert_eq!(outbox.bytes(), 30);
        let rest = outbox.take(0, 1000);
        assert_eq!(rest.iter().map(|f| f[0]).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!((outbox.bytes(), outbox.is_empty()), (0, true));
    }

    #[test]
    fn it_is_bounded_in_bytes_and_tells_how_long_it_stands_still() {
        let mut outbox = Outbox::default();
        let frame = Bytes::from(vec![0; 50]);
        outbox.push(100, frame.clone(), 100).unwrap();
        outbox.push(200, frame.clone(), 100).unwrap();
        assert_eq!(outbox.push(300, Bytes::from_static(b"x"), 100), Err(Full));
        assert_eq!(outbox.stalled_ms(1100), 1000);
        outbox.take(1100, 1);
        assert_eq!(outbox.stalled_ms(1150), 50);
        outbox.take(1150, 1);
        assert_eq!(outbox.stalled_ms(9999), 0);
    }
}
