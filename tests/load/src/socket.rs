//! The lean side of WebSocket: just enough of RFC 6455 for a client that measures. Pure: bytes in, bytes out.
//! Frames are masked with the key 0, which is legal and costs nothing.

/// The upgrade request. The key is fixed and the server's answer to it is not checked: the peer is a system under test, not a stranger.
pub fn upgrade(host: &str, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: c3dpdGNoYm9hcmQtbG9hZA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// Begins a text frame; [`end`] with the returned place finishes it. The payload is appended in between, no copy.
pub fn begin(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    // Room for the usual header: 2 bytes, a 16-bit length, the key.
    out.extend_from_slice(&[0x81, 0x80 | 126, 0, 0, 0, 0, 0, 0]);
    at
}

pub fn end(out: &mut Vec<u8>, at: usize) {
    let len = out.len() - at - 8;
    if len < 126 {
        // The short form is required where it fits: lengths are minimal.
        out.copy_within(at + 8.., at + 6);
        out.truncate(out.len() - 2);
        out[at + 1] = 0x80 | len as u8;
        out[at + 2..at + 6].fill(0);
    } else if let Ok(len) = u16::try_from(len) {
        out[at + 2..at + 4].copy_from_slice(&len.to_be_bytes());
    } else {
        let payload = out.split_off(at + 8);
        out.truncate(at);
        out.extend_from_slice(&[0x81, 0x80 | 127]);
        out.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&payload);
    }
}

pub fn text(out: &mut Vec<u8>, payload: &[u8]) {
    let at = begin(out);
    out.extend_from_slice(payload);
    end(out, at);
}

pub fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    out.extend_from_slice(&[0x8a, 0x80 | payload.len() as u8, 0, 0, 0, 0]);
    out.extend_from_slice(payload);
}

#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    Text(&'a [u8]),
    Ping(&'a [u8]),
    Pong,
    Close { code: Option<u16>, reason: String },
}

/// The next whole frame and the bytes it took; `None` if there is none yet.
pub fn take(bytes: &[u8]) -> Result<Option<(Heard<'_>, usize)>, String> {
    let [first, second, ..] = *bytes else { return Ok(None) };
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        return Err(format!(
            "a frame begins with {first:02x} {second:02x}: fragmented, masked or with reserved bits"
        ));
    }
    let (len, head): (usize, usize) = match second {
        126 => match bytes.get(2..4) {
            Some(l) => (usize::from(u16::from_be_bytes([l[0], l[1]])), 4),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|l| l.first_chunk::<8>()) {
            Some(l) => (
                usize::try_from(u64::from_be_bytes(*l)).map_err(|_| "a frame has no end".to_string())?,
                10,
            ),
            None => return Ok(None),
        },
        short => (usize::from(short), 2),
    };
    let Some(payload) = head.checked_add(len).and_then(|end| bytes.get(head..end)) else {
        return Ok(None);
    };
    let heard = match first & 0x0f {
        1 => Heard::Text(payload),
        9 => Heard::Ping(payload),
        10 => Heard::Pong,
        8 => Heard::Close {
            code: payload.first_chunk::<2>().map(|c| u16::from_be_bytes(*c)),
            reason: String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned(),
        },
        other => return Err(format!("a frame with opcode {other}")),
    };
    Ok(Some((heard, head + len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_frame_of_any_length_has_the_shortest_header() {
        for (len, head) in [(0usize, 6usize), (125, 6), (126, 8), (65_535, 8), (65_536, 14)] {
            let mut out = b"before".to_vec();
            text(&mut out, &vec![b'x'; len]);
            assert_eq!(out.len(), 6 + head + len, "{len}");
            assert_eq!(out[6], 0x81);
            assert!(out.ends_with(&vec![b'x'; len]));
            assert_eq!(out[7] & 0x80, 0x80, "masked");
            assert!(out[6 + head - 4..6 + head].iter().all(|b| *b == 0), "with the key 0");
        }
    }

    #[test]
    fn server_frames_are_taken_whole_or_not_at_all() {
        for len in [0usize, 5, 125, 126, 300, 70_000] {
            let mut bytes = vec![0x81];
            match len {
                0..126 => bytes.push(len as u8),
                126..65_536 => {
                    bytes.push(126);
                    bytes.extend_from_slice(&(len as u16).to_be_bytes());
                }
                _ => {
                    bytes.push(127);
                    bytes.extend_from_slice(&(len as u64).to_be_bytes());
                }
            }
            bytes.extend(std::iter::repeat_n(b'y', len));
            let whole = bytes.len();
            for cut in [0, 1, 2, 3, whole - 1] {
                if cut < whole {
                    assert_eq!(take(&bytes[..cut]), Ok(None));
                }
            }
            let (heard, used) = take(&bytes).unwrap().unwrap();
            assert_eq!((heard, used), (Heard::Text(&vec![b'y'; len]), whole));
        }
        assert!(take(&[0x01, 0x00]).is_err());
        let (heard, _) = take(&[0x88, 4, 0x0b, 0xc0, b'h', b'i']).unwrap().unwrap();
        assert_eq!(
            heard,
            Heard::Close {
                code: Some(3008),
                reason: "hi".into()
            }
        );
    }
}
