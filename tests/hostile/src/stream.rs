//! Raw TCP: a length before each frame, and every lie about it. (goim died of a negative one, before any token: its issue 327.)

use std::time::Instant;

use serde_json::{Value, json};
use wire::limits::FRAME_BYTES_MAX;

use crate::rows::Row;
use crate::server::Place;
use crate::socket::{Found, PATIENCE, Raw};
use crate::{Outcome, expect, same, token};

pub struct Tcp(pub Raw);

/// What the server sent.
#[derive(Debug, PartialEq)]
enum Heard {
    Frame(Value),
    /// A frame of length 0.
    Ping,
    End,
}

/// A frame with its length.
fn framed(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[..], payload].concat()
}

fn said(value: &Value) -> Vec<u8> {
    framed(value.to_string().as_bytes())
}

impl Tcp {
    fn customer(place: &Place) -> Result<Self, String> {
        let user = token::somebody("mallory");
        let mut tcp = Tcp(Raw::open(place.tcp)?);
        tcp.0
            .send(&said(&json!({ "connect": { "token": token::of("customer", &user) } })));
        let hello = tcp.until(&["connected"])?;
        same("the user", &hello["connected"]["user"].as_str(), &Some(user.as_str()))?;
        Ok(tcp)
    }

    fn next(&mut self) -> Result<Heard, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let heard = &mut self.0.heard;
            if let Some(head) = heard.first_chunk::<4>() {
                let length = u32::from_be_bytes(*head) as usize;
                if heard.len() >= 4 + length {
                    let payload: Vec<u8> = heard.drain(..4 + length).skip(4).collect();
                    if payload.is_empty() {
                        return Ok(Heard::Ping);
                    }
                    return serde_json::from_slice(&payload)
                        .map(Heard::Frame)
                        .map_err(|e| e.to_string());
                }
            }
            match self.0.read_more(deadline) {
                Found::Bytes => {}
                Found::End => return Ok(Heard::End),
                Found::Nothing => return Err("no answer in time".into()),
            }
        }
    }

    fn until(&mut self, keys: &[&str]) -> Result<Value, String> {
        loop {
            match self.next()? {
                Heard::Frame(value) if keys.iter().any(|key| value.get(key).is_some()) => return Ok(value),
                Heard::End => return Err(format!("it ended where one of {keys:?} is right")),
                _ => {}
            }
        }
    }

    fn refused(&mut self, code: &str) -> Outcome {
        let value = self.until(&["error", "sent", "pong", "close"])?;
        expect(value["error"]["code"] == code, || {
            format!("{value} where the error {code} is right")
        })
    }

    /// The last frame says so, and then the socket ends.
    fn closed(&mut self, code: u16) -> Outcome {
        let value = self.until(&["close"])?;
        same("the close", &value["close"]["code"].as_u64(), &Some(u64::from(code)))?;
        expect(self.0.ends(), || "the socket stays open".into())
    }

    fn lives(&mut self) -> Outcome {
        self.0.send(&said(&json!({ "ping": {} })));
        self.until(&["pong"]).map(|_| ())
    }
}

#[derive(Clone, Copy)]
enum Want {
    Pongs(usize),
    Error(&'static str),
    Closed(u16),
    Nothing,
    /// The socket ends without a word.
    End,
}

fn hold(tcp: &mut Tcp, want: Want) -> Outcome {
    match want {
        Want::Pongs(n) => {
            for _ in 0..n {
                let value = tcp.until(&["pong", "error", "close"])?;
                expect(value.get("pong").is_some(), || format!("{value} where a pong is right"))?;
            }
        }
        Want::Error(code) => tcp.refused(code)?,
        Want::Closed(code) => return tcp.closed(code),
        Want::Nothing => {}
        Want::End => {
            return expect(tcp.0.ends(), || "the socket stays open".into());
        }
    }
    tcp.lives()
}

/// After a good `connect`.
fn row(name: &str, bytes: Vec<u8>, piece: usize, want: Want) -> Row {
    Row::new(format!("tcp {name}"), move |place| {
        let mut tcp = Tcp::customer(place)?;
        tcp.0
            .send_in_pieces(&bytes, if piece == 0 { bytes.len() } else { piece });
        hold(&mut tcp, want)
    })
}

/// Before any `connect`.
fn stranger(name: &str, bytes: Vec<u8>, want: Want) -> Row {
    Row::new(format!("tcp before connect: {name}"), move |place| {
        let mut tcp = Tcp(Raw::open(place.tcp)?);
        tcp.0.send(&bytes);
        hold(&mut tcp, want)
    })
}

pub fn rows() -> Vec<Row> {
    let ping = said(&json!({ "ping": {} }));
    let padded = |len: usize| {
        let ping = r#"{"ping":{}}"#;
        format!("{ping}{}", " ".repeat(len - ping.len())).into_bytes()
    };
    let max = FRAME_BYTES_MAX;
    let mut rows = vec![
        row("length 0 is a ping", framed(b""), 0, Want::Nothing),
        row("length 0, fifty times", framed(b"").repeat(50), 0, Want::Nothing),
        row("length 1", framed(b"x"), 0, Want::Error("bad_frame")),
        row("length 3", framed(b"{}x"), 0, Want::Error("bad_frame")),
        row("the limit", framed(&padded(max)), 0, Want::Pongs(1)),
        row("the limit and 1", framed(&padded(max + 1)), 0, Want::Closed(3505)),
        row("one octet at a time", ping.clone(), 1, Want::Pongs(1)),
        row(
            "the length in octets, then the frame",
            [ping.clone(), ping.clone()].concat(),
            3,
            Want::Pongs(2),
        ),
        row("two frames in one segment", ping.repeat(2), 0, Want::Pongs(2)),
        row("a hundred frames in one segment", ping.repeat(100), 0, Want::Pongs(100)),
        row(
            "not UTF-8",
            framed(b"{\"ping\":{\"x\":\"\xff\"}}"),
            0,
            Want::Error("bad_frame"),
        ),
        row("a WebSocket frame", crate::ws::text("hello"), 0, Want::Closed(3505)),
        row(
            "an HTTP request",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            0,
            Want::Closed(3505),
        ),
        row(
            "garbage behind a good frame",
            [&ping[..], &[0xff; 64]].concat(),
            0,
            Want::Closed(3505),
        ),
        stranger(
            "a send",
            said(&json!({"send":{"id":"1","body":{"text":"x"}}})),
            Want::Closed(3503),
        ),
        stranger("a ping of ours", ping.clone(), Want::Closed(3503)),
        stranger(
            "a bad token",
            said(&json!({"connect":{"token":"x"}})),
            Want::Closed(3500),
        ),
        stranger("garbage ten times", framed(b"x").repeat(10), Want::Closed(3503)),
        stranger("pings only are cut off", framed(b"").repeat(5), Want::Closed(3504)),
        stranger("a TLS hello", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc], Want::Closed(3505)),
        stranger("nothing at all is cut off", Vec::new(), Want::End),
        stranger("half a length is cut off", vec![0, 0], Want::Closed(3504)),
        stranger(
            "a frame shorter than said is cut off",
            [&[0, 0, 1, 0][..], b"{"].concat(),
            Want::Closed(3504),
        ),
    ];
    for (name, length) in [
        ("the limit and 1 announced", max as u32 + 1),
        ("2^31 - 1 announced", i32::MAX as u32),
        ("-2147483648 announced", i32::MIN as u32),
        ("-1 announced", u32::MAX),
    ] {
        let bytes = length.to_be_bytes().to_vec();
        rows.push(row(name, bytes.clone(), 0, Want::Closed(3505)));
        rows.push(stranger(name, [&bytes[..], &[0; 100]].concat(), Want::Closed(3505)));
    }
    rows.push(Row::new(
        "tcp a frame whose end never comes, and a peer that goes",
        |place| {
            let mut tcp = Tcp::customer(place)?;
            tcp.0.send(&[&[0, 0, 1, 0][..], b"{\"ping\""].concat());
            tcp.0.finish();
            expect(tcp.0.ends(), || "the socket stays open".into())
        },
    ));
    rows
}
