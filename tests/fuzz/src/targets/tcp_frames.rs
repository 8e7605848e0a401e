//! The TCP framing, whole and in pieces: the same frames, the same refusal.

use bytes::BytesMut;
use ingress_core::framing::{Framed, TooLarge, take_frame};
use wire::limits::FRAME_BYTES_MAX;

use super::{cuts_and_stream, pieces};

pub const WORDS: &[&[u8]] = &[
    b"\x00\x00\x00\x00",
    b"\x00\x00\x00\x01",
    b"\x00\x01\x20\x00",
    b"\x00\x01\x20\x01",
    b"\x80\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
];

/// True: a frame with something in it came out.
pub fn run(input: &[u8]) -> bool {
    let (cuts, stream) = cuts_and_stream(input);
    let whole = parse(&[stream]);
    assert_eq!(whole, parse(&pieces(stream, &cuts)), "cut at {cuts:?}");
    let taken: usize = whole.0.iter().map(|f| 4 + length_of(f)).sum();
    assert!(taken <= stream.len(), "more came out than went in");
    assert!(whole.0.iter().all(|f| length_of(f) <= FRAME_BYTES_MAX));
    whole.0.iter().any(|f| length_of(f) > 0)
}

fn length_of(frame: &Framed) -> usize {
    match frame {
        Framed::Ping => 0,
        Framed::Frame(bytes) => bytes.len(),
    }
}

fn parse(pieces: &[&[u8]]) -> (Vec<Framed>, Option<TooLarge>) {
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match take_frame(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(too_large) => return (frames, Some(too_large)),
            }
        }
    }
    (frames, None)
}
