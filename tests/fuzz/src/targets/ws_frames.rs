//! A WebSocket's bytes, whole and in pieces: the same messages, the same end, and the same judgement of the session.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;

use ingress_core::Connected;
use ingress_core::session::parse;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, WebSocket};
use wire::limits;

use super::{Plenty, claims_of, cuts_and_stream, pieces};

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

/// True: the session was given a frame it could read.
pub fn run(input: &[u8]) -> bool {
    let (cuts, stream) = cuts_and_stream(input);
    let whole = heard(vec![stream]);
    let cut = heard(pieces(stream, &cuts));
    assert_eq!(whole, cut, "cut at {cuts:?}");
    whole.1
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

/// Every message, what the session made of it, and how the stream ended; as the node's edge is configured. And whether
/// the session could read one of them.
fn heard(coming: Vec<&[u8]>) -> (Vec<String>, bool) {
    let peer = Peer {
        coming: coming.into_iter().filter(|p| !p.is_empty()).collect(),
        pause: false,
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(1024)
        .max_message_size(Some(limits::FRAME_BYTES_MAX))
        .max_frame_size(Some(limits::FRAME_BYTES_MAX));
    let mut socket = WebSocket::from_raw_socket(peer, Role::Server, Some(config));
    let claims = claims_of("alice", wire::record::Role::Customer);
    let mut session = Connected::new(0, &claims, None, Arc::default());
    let (mut all, mut is_read) = (Vec::new(), false);
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                let frame = parse(text.as_bytes());
                is_read |= frame.is_ok();
                let step = session.handle_frame(0, frame, &Plenty);
                all.push(format!("{step:?}"));
            }
            Ok(other) => all.push(format!("{other:?}")),
            Err(Error::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(end) => {
                all.push(end.to_string());
                return (all, is_read);
            }
        }
    }
}
