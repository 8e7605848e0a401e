//! Raw TCP: each frame after its length, u32 big-endian. Length 0 is a ping. A length is checked before anything is allocated.

use bytes::{Buf, Bytes, BytesMut};
use wire::limits;

/// Bytes of the length before a frame.
pub const LENGTH_BYTES: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framed {
    /// A frame of length 0.
    Ping,
    Frame(Bytes),
}

/// The length names more than `limits::FRAME_BYTES_MAX`; nothing behind it can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of {0} bytes is announced; at most {max} are allowed", max = limits::FRAME_BYTES_MAX)]
pub struct TooLarge(pub u32);

/// Takes the next whole frame out of `buffer`; `None` if it has not all come.
pub fn take_frame(buffer: &mut BytesMut) -> Result<Option<Framed>, TooLarge> {
    let Some(head) = buffer.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*head);
    if length as usize > limits::FRAME_BYTES_MAX {
        return Err(TooLarge(length));
    }
    if buffer.len() < LENGTH_BYTES + length as usize {
        return Ok(None);
    }
    buffer.advance(LENGTH_BYTES);
    if length == 0 {
        return Ok(Some(Framed::Ping));
    }
    Ok(Some(Framed::Frame(buffer.split_to(length as usize).freeze())))
}

/// Appends `frame` with its length.
pub fn put_frame(out: &mut Vec<u8>, frame: &[u8]) {
    out.extend_from_slice(&(frame.len() as u32).to_be_bytes());
    out.extend_from_slice(frame);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(chunks: impl Iterator<Item = Vec<u8>>) -> (Vec<Framed>, Option<TooLarge>) {
        let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
        for chunk in chunks {
            buffer.extend_from_slice(&chunk);
            loop {
                match take_frame(&mut buffer) {
                    Ok(Some(frame)) => got.push(frame),
                    Ok(None) => break,
                    Err(e) => return (got, Some(e)),
                }
            }
        }
        (got, None)
    }

    proptest! {
        #[test]
        fn any_chunking_parses_equal(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
            tail in proptest::collection::vec(any::<u8>(), 0..8),
            cuts in proptest::collection::vec(1usize..50, 1..40),
        ) {
            let mut all = Vec::new();
            for frame in &frames { put_frame(&mut all, frame); }
            all.extend_from_slice(&tail);
            let whole = parse(std::iter::once(all.clone()));
            prop_assert!(whole.0.len() >= frames.len());
            let (mut rest, mut chunks, mut i) = (&all[..], Vec::new(), 0);
            while !rest.is_empty() {
                let n = cuts[i % cuts.len()].min(rest.len());
                chunks.push(rest[..n].to_vec());
                rest = &rest[n..];
                i += 1;
            }
            prop_assert_eq!(parse(chunks.into_iter()), whole);
        }
    }

    #[test]
    fn a_length_is_refused_before_its_bytes_have_come() {
        for length in [limits::FRAME_BYTES_MAX as u32 + 1, i32::MIN as u32, u32::MAX] {
            let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
            assert_eq!(take_frame(&mut buffer), Err(TooLarge(length)));
        }
        let mut buffer = BytesMut::from(&(limits::FRAME_BYTES_MAX as u32).to_be_bytes()[..]);
        assert_eq!(take_frame(&mut buffer), Ok(None));
    }

    #[test]
    fn an_empty_frame_is_a_ping() {
        let mut buffer = BytesMut::from(&[0u8, 0, 0, 0, 0][..]);
        assert_eq!(take_frame(&mut buffer), Ok(Some(Framed::Ping)));
        assert_eq!(buffer.len(), 1);
    }
}
