//! The ids of the last events, so that a message sent twice is one message.

use std::collections::VecDeque;

use sha2::{Digest, Sha256};
use wire::record::{Role, Sender};
use wire::{Seq, limits};

/// Who sent which id: the first 16 bytes of SHA-256 over side, user and id. A collision would drop a message, so the hash
/// must be one that a client cannot steer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IdHash(pub [u8; 16]);

impl IdHash {
    pub fn of(from: &Sender, id: &str) -> Self {
        let side = u8::from(from.role() == Role::Customer);
        let mut hasher = Sha256::new();
        hasher.update([side]);
        hasher.update((from.user.len() as u32).to_be_bytes());
        hasher.update(from.user.as_bytes());
        hasher.update(id.as_bytes());
        let digest = hasher.finalize();
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        Self(hash)
    }
}

/// One remembered id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Remembered {
    pub hash: IdHash,
    pub seq: Seq,
    pub at_ms: i64,
}

/// The newest ids, oldest first; empty (and without memory) for a conversation that was never spoken in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Repeats(VecDeque<Remembered>);

impl Repeats {
    pub fn find(&self, hash: IdHash) -> Option<Remembered> {
        self.0.iter().rev().find(|r| r.hash == hash).copied()
    }

    pub fn remember(&mut self, new: Remembered) {
        if self.0.len() == limits::REPEAT_WINDOW_EVENTS {
            self.0.pop_front();
        }
        self.0.push_back(new);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Remembered> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}
