//! What waits for the writer thread: a vector behind a lock, taken whole at each drain.
//!
//! A push is one lock and one move, and the writer is woken only when it sleeps; under load it takes everything that
//! gathered during its last `fdatasync` at once, which is the group commit.

use parking_lot::{Condvar, Mutex};

/// Why nothing was queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    Full,
    Closed,
}

pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
    items_max: usize,
    bytes_max: usize,
}

struct State<T> {
    items: Vec<T>,
    /// Queued, or taken and not yet `done`.
    items_held: usize,
    bytes_held: usize,
    sleeping: bool,
    closed: bool,
}

impl<T> Queue<T> {
    pub fn new(items_max: usize, bytes_max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                items: Vec::new(),
                items_held: 0,
                bytes_held: 0,
                sleeping: false,
                closed: false,
            }),
            ready: Condvar::new(),
            items_max,
            bytes_max,
        }
    }

    pub fn push(&self, item: T, bytes: usize) -> Result<(), (Refused, T)> {
        let mut state = self.state.lock();
        if state.closed {
            return Err((Refused::Closed, item));
        }
        if state.items_held >= self.items_max || state.bytes_held + bytes > self.bytes_max {
            return Err((Refused::Full, item));
        }
        state.items_held += 1;
        state.bytes_held += bytes;
        state.items.push(item);
        if std::mem::take(&mut state.sleeping) {
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Waits for something and takes all of it into the empty `into`; false when closed and empty.
    pub fn drain(&self, into: &mut Vec<T>) -> bool {
        let mut state = self.state.lock();
        while state.items.is_empty() {
            if state.closed {
                return false;
            }
            state.sleeping = true;
            self.ready.wait(&mut state);
        }
        std::mem::swap(&mut state.items, into);
        true
    }

    /// Gives back the room of what was drained.
    pub fn done(&self, items: usize, bytes: usize) {
        let mut state = self.state.lock();
        state.items_held -= items;
        state.bytes_held -= bytes;
    }

    /// Items queued, or taken and not yet `done`.
    pub fn held(&self) -> usize {
        self.state.lock().items_held
    }

    /// Nothing is taken any more; what is queued is still drained.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.ready.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_counted_in_items_and_bytes_until_done() {
        let queue = Queue::new(2, 10);
        assert!(queue.push('a', 4).is_ok());
        assert_eq!(queue.push('b', 7), Err((Refused::Full, 'b')));
        assert!(queue.push('c', 6).is_ok());
        assert_eq!(queue.push('d', 0), Err((Refused::Full, 'd')));
        let mut taken = Vec::new();
        assert!(queue.drain(&mut taken));
        assert_eq!(taken, ['a', 'c']);
        assert_eq!(queue.push('e', 0), Err((Refused::Full, 'e')));
        queue.done(2, 10);
        assert!(queue.push('f', 10).is_ok());
    }

    #[test]
    fn a_closed_queue_gives_out_what_it_has_and_then_ends() {
        let queue = Queue::new(2, 10);
        assert!(queue.push(1, 0).is_ok());
        queue.close();
        assert_eq!(queue.push(2, 0), Err((Refused::Closed, 2)));
        let mut taken = Vec::new();
        assert!(queue.drain(&mut taken));
        taken.clear();
        assert!(!queue.drain(&mut taken));
    }
}
