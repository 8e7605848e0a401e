//! One file per target: what its bytes mean, and what must hold. Each says whether the input got to what must hold.

pub mod desk;
pub mod envelope;
pub mod history;
pub mod records;
pub mod routes;
pub mod tcp_frames;
#[cfg(feature = "tokens")]
pub mod tokens;
pub mod ws_frames;

use ingress_core::buckets::RetryAfterMs;
use ingress_core::{Claims, Quota};
use wire::record::Role;
use wire::{Tenant, User};

/// No limit is reached: what is judged is the frame.
pub struct Plenty;
impl Quota for Plenty {
    fn take_send(&self, _: u64, _: usize) -> Result<(), RetryAfterMs> {
        Ok(())
    }
}

/// What a good token of this user says.
pub fn claims_of(user: &str, role: Role) -> Claims {
    Claims {
        tenant: Tenant::new("demo").expect("a tenant's name"),
        user: User::new(user).expect("a user's name"),
        role,
        expires_at_ms: 1,
        issued_at_ms: 0,
        device: None,
        groups: Vec::new(),
        priority: 1,
    }
}

/// Bytes taken from the front; zeros when there are no more.
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// 0 … n − 1.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    /// Small numbers mostly, and the ones at the edges.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::MAX,
            254 => i64::MAX as u64,
            253 => 1 << 53,
            252 => u64::from(u32::MAX),
            small => u64::from(small),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The bytes in pieces: as many as the cuts say, round and round, none of them empty.
pub fn pieces<'a>(mut bytes: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for cut in cuts.iter().map(|c| usize::from(*c).max(1)).cycle() {
        if bytes.is_empty() {
            break;
        }
        let (piece, rest) = bytes.split_at(cut.min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// `[number of cuts][cuts …][stream …]`.
pub fn cuts_and_stream(input: &[u8]) -> (Vec<u8>, &[u8]) {
    let Some((count, rest)) = input.split_first() else {
        return (vec![1], &[]);
    };
    let (cuts, stream) = rest.split_at(usize::from(count % 16).min(rest.len()));
    let cuts = if cuts.is_empty() { vec![1] } else { cuts.to_vec() };
    (cuts, stream)
}
