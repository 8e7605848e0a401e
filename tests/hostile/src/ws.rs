//! A WebSocket client that may send any bytes: frames are made by hand, and what the server sends is read strictly.

use std::time::Instant;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::server::Place;
use crate::socket::{Found, PATIENCE, Raw};
use crate::{Outcome, expect, same, token};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The first byte of a whole message.
pub const FIN: u8 = 0x80;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// How the payload's length is written.
#[derive(Clone, Copy)]
pub enum Length {
    Shortest,
    /// In so many bytes behind the second one: 2 or 8, whatever it is.
    Wide(usize),
    /// A lie.
    Said(u64),
}

/// One frame, masked as a client must. `first`: FIN, reserved bits, opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    frame_with(first, payload, Some(MASK), Length::Shortest)
}

pub fn frame_with(first: u8, payload: &[u8], mask: Option<[u8; 4]>, length: Length) -> Vec<u8> {
    let mask_bit = if mask.is_some() { 0x80 } else { 0 };
    let real = payload.len() as u64;
    let mut out = vec![first];
    match (length, real) {
        (Length::Said(n), _) => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&n.to_be_bytes());
        }
        (Length::Wide(8), n) | (Length::Shortest, n @ 65_536..) => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&n.to_be_bytes());
        }
        (Length::Wide(_), n) | (Length::Shortest, n @ 126..) => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        (Length::Shortest, n) => out.push(mask_bit | n as u8),
    }
    match mask {
        Some(mask) => {
            out.extend_from_slice(&mask);
            out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        }
        None => out.extend_from_slice(payload),
    }
    out
}

pub fn text(payload: &str) -> Vec<u8> {
    frame(FIN | TEXT, payload.as_bytes())
}

pub fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes()[..], reason].concat())
}

/// What the server sent.
#[derive(Debug, PartialEq)]
pub enum Heard {
    Text(Value),
    Ping,
    Pong(Vec<u8>),
    Close(Option<u16>),
    /// The socket has ended.
    End,
}

/// What says where something stands. The rest of a frame is passed over unread: it may be what no `Value` can hold.
#[derive(Deserialize)]
struct Placing {
    placed: Option<Standing>,
    event: Option<Standing>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Standing {
    id: Option<String>,
    seq: u64,
}

pub struct Ws {
    pub raw: Raw,
}

impl Ws {
    /// The upgrade, and nothing said yet.
    pub fn open(place: &Place) -> Result<Self, String> {
        let mut raw = Raw::open(place.http)?;
        raw.send(upgrade("").as_bytes());
        let answer = raw.answer()?;
        same("the upgrade's status", &answer.status, &101)?;
        Ok(Ws { raw })
    }

    /// With a good token, after `connected`.
    pub fn connected(place: &Place, role: &str, user: &str) -> Result<Self, String> {
        let mut ws = Self::open(place)?;
        ws.say(&json!({ "connect": { "token": token::of(role, user) } }));
        let hello = ws.next_text()?;
        expect(hello["connected"]["user"] == user, || format!("not connected: {hello}"))?;
        Ok(ws)
    }

    pub fn customer(place: &Place, user: &str) -> Result<Self, String> {
        Self::connected(place, "customer", user)
    }

    pub fn say(&mut self, value: &Value) {
        self.raw.send(&text(&value.to_string()));
    }

    /// The next frame of the server, which must keep the protocol itself.
    pub fn next(&mut self, deadline: Instant) -> Result<Heard, String> {
        loop {
            if let Some((first, payload)) = self.take_frame()? {
                return match first {
                    0x81 => {
                        serde_json::from_slice::<IgnoredAny>(&payload).map_err(|e| format!("not JSON: {e}"))?;
                        // Numbers and halves of surrogates that no `Value` can hold are JSON all the same.
                        let value = serde_json::from_slice(&payload).unwrap_or_default();
                        Ok(Heard::Text(value))
                    }
                    0x89 => Ok(Heard::Ping),
                    0x8a => Ok(Heard::Pong(payload)),
                    0x88 => Ok(Heard::Close(
                        payload.first_chunk::<2>().map(|code| u16::from_be_bytes(*code)),
                    )),
                    other => Err(format!("the server sent a frame beginning {other:#x}")),
                };
            }
            match self.raw.read_more(deadline) {
                Found::Bytes => {}
                Found::End => return Ok(Heard::End),
                Found::Nothing => return Err("no answer in time".into()),
            }
        }
    }

    /// The next text frame's own bytes; `None` for another frame.
    pub fn next_raw(&mut self, deadline: Instant) -> Result<Option<String>, String> {
        loop {
            if let Some((first, payload)) = self.take_frame()? {
                return Ok((first == FIN | TEXT).then(|| String::from_utf8_lossy(&payload).into_owned()));
            }
            match self.raw.read_more(deadline) {
                Found::Bytes => {}
                Found::End => return Err("the socket ended".into()),
                Found::Nothing => return Err("nothing more came in time".into()),
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<(u8, Vec<u8>)>, String> {
        let heard = &self.raw.heard;
        let (Some(&first), Some(&second)) = (heard.first(), heard.get(1)) else {
            return Ok(None);
        };
        expect(second & 0x80 == 0, || "the server masks".into())?;
        let wide = match second {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if heard.len() < 2 + wide {
            return Ok(None);
        }
        let length = match wide {
            0 => u64::from(second),
            _ => heard[2..2 + wide].iter().fold(0, |n, b| n << 8 | u64::from(*b)),
        };
        let (begin, end) = (2 + wide, 2 + wide + length as usize);
        if heard.len() < end {
            return Ok(None);
        }
        let payload = heard[begin..end].to_vec();
        self.raw.heard.drain(..end);
        Ok(Some((first, payload)))
    }

    /// The next text frame; pings are passed over.
    pub fn next_text(&mut self) -> Result<Value, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next(deadline)? {
                Heard::Text(value) => return Ok(value),
                Heard::Ping | Heard::Pong(_) => {}
                other => return Err(format!("{other:?} where a frame was wanted")),
            }
        }
    }

    /// The next frame with one of these keys.
    pub fn until(&mut self, keys: &[&str]) -> Result<Value, String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let value = self.next_text()?;
            if keys.iter().any(|key| value.get(key).is_some()) {
                return Ok(value);
            }
        }
        Err(format!("none of {keys:?} came"))
    }

    /// The place of what was sent under this id, as `placed` says it, or its event: when the conversation is read from
    /// the store, the sender gets that in place of `placed`. A frame `error` is an error here too.
    pub fn place_of(&mut self, id: &str) -> Result<u64, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Some(text) = self.next_raw(deadline)? else {
                continue;
            };
            let shown = || text.chars().take(200).collect::<String>();
            let frame: Placing = serde_json::from_str(&text).map_err(|e| format!("{e}: {}", shown()))?;
            if frame.error.is_some() {
                return Err(format!("{} where the place of {id} is right", shown()));
            }
            let mut found = [frame.placed, frame.event].into_iter().flatten();
            if let Some(standing) = found.find(|s| s.id.as_deref() == Some(id)) {
                return Ok(standing.seq);
            }
        }
    }

    /// An error of this code.
    pub fn refused(&mut self, code: &str) -> Outcome {
        let value = self.until(&["error", "sent", "done", "pong"])?;
        expect(value["error"]["code"] == code, || {
            format!("{value} where the error {code} is right")
        })
    }

    /// The server closes with this code, and then ends the socket.
    pub fn closed(&mut self, code: u16) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next(deadline)? {
                Heard::Close(Some(found)) if found == code => break,
                Heard::Text(_) | Heard::Ping | Heard::Pong(_) => {}
                other => return Err(format!("{other:?} where a close with {code} is right")),
            }
        }
        expect(self.raw.ends(), || "the socket stays open after the close".into())
    }

    /// Our own close was answered alike.
    pub fn said_goodbye(&mut self, code: Option<u16>) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next(deadline)? {
                Heard::Close(found) => {
                    same("the close's answer", &found, &code)?;
                    break;
                }
                Heard::End => return Err("the socket ended without an answer to the close".into()),
                _ => {}
            }
        }
        expect(self.raw.ends(), || "the socket stays open after the close".into())
    }

    /// A WebSocket pong with this payload.
    pub fn ponged(&mut self, payload: &[u8]) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next(deadline)? {
                Heard::Pong(found) => return same("the pong", &found.as_slice(), &payload),
                Heard::Text(_) | Heard::Ping => {}
                other => return Err(format!("{other:?} where a pong is right")),
            }
        }
    }

    /// It is answered still.
    pub fn lives(&mut self) -> Outcome {
        self.say(&json!({ "ping": {} }));
        self.until(&["pong"]).map(|_| ())
    }
}

/// The upgrade's request, with more headers.
pub fn upgrade(more: &str) -> String {
    format!(
        "GET /v1/connect HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}
