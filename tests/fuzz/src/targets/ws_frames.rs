//! A WebSocket's bytes, whole and in pieces: the same messages, the same end, and the same judgement of the session.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;

use ingress_core::buckets::RetryAfterMs;
use ingress_core::session::parse;
use ingress_core::{Claims, Connected, Quota};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};
use wire::{Tenant, User, limits};

use super::{cuts_and_stream, pieces};

pub const WORDS: &[&[u8]] = &[
    b"\x81\x80\x00\x00\x00\x00",
    b"\x89\x80\x00\x00\x00\x00",
    b"\x88\x82\x00\x00\x00\x00\x03\xe8",
    b"\x01\x80\x00\x00\x00\x00",
    b"\x80\x80\x00\x00\x00\x00",
    b"\x81\xfe\x00\x7e",
    b"\x81\xff\x00\x00\x00\x00\x00\x01\x20\x00",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"{\"ping\":{}}",
    b"\xed\xa0\x80",
];

pub fn run(input: &[u8]) {
    let (cuts, stream) = cuts_and_stream(input);
    let whole = heard(vec![stream]);
    let cut = heard(pieces(stream, &cuts));
    assert_eq!(whole, cut, "cut at {cuts:?}");
}

/// Bytes that come piece by piece; between two pieces there is nothing to read for once.
struct Peer<'a> {
    coming: VecDeque<&'a [u8]>,
    pause: bool,
}

impl Read for Peer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.pause) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let Some(piece) = self.coming.front_mut() else {
            return Ok(0);
        };
        let n = piece.len().min(buffer.len());
        buffer[..n].copy_from_slice(&piece[..n]);
        *piece = &piece[n..];
        if piece.is_empty() {
            self.coming.pop_front();
            self.pause = true;
        }
        Ok(n)
    }
}

impl Write for Peer<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Plenty;
impl Quota for Plenty {
    fn take_send(&self, _: u64, _: usize) -> Result<(), RetryAfterMs> {
        Ok(())
    }
}

/// Every message, what the session made of it, and how the stream ended; as the node's edge is configured.
fn heard(coming: Vec<&[u8]>) -> Vec<String> {
    let peer = Peer {
        coming: coming.into_iter().filter(|p| !p.is_empty()).collect(),
        pause: false,
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(1024)
        .max_message_size(Some(limits::FRAME_BYTES_MAX))
        .max_frame_size(Some(limits::FRAME_BYTES_MAX));
    let mut socket = WebSocket::from_raw_socket(peer, Role::Server, Some(config));
    let mut session = session();
    let mut all = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                let step = session.handle_frame(0, parse(text.as_bytes()), &Plenty);
                all.push(format!("{step:?}"));
            }
            Ok(other) => all.push(format!("{other:?}")),
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(end) => {
                all.push(end.to_string());
                return all;
            }
        }
    }
}

fn session() -> Connected {
    let claims = Claims {
        tenant: Tenant::new("demo").expect("a tenant's name"),
        user: User::new("alice").expect("a user's name"),
        role: wire::record::Role::Customer,
        expires_at_ms: 1,
        issued_at_ms: 0,
        device: None,
        groups: Vec::new(),
        priority: 1,
    };
    Connected::new(0, &claims, None, Arc::default())
}
