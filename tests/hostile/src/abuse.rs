//! Too much of what is right: floods are refused with a code that says when to come back, and then closed; nobody else notices.

use std::time::{Duration, Instant};

use serde_json::json;
use wire::limits::{BODY_BYTES_MAX, CONNECTION_FRAMES_BURST, CONNECTIONS_PER_USER_MAX, USER_BYTES_BURST};

use crate::envelope::taken;
use crate::rows::Row;
use crate::server::Place;
use crate::socket::{Found, PATIENCE, Raw};
use crate::ws::{FIN, Heard, PING, PONG, Ws, frame, text};
use crate::{Outcome, expect, same, token};

const RATE_LIMITED: u16 = 3013;

/// What became of a flood.
#[derive(Default, Debug)]
struct Fate {
    sent: usize,
    refused: usize,
    /// Of a refusal: when to come back, at least.
    retry_after_ms: Option<u64>,
    closed: Option<u16>,
}

/// Reads until so many answers have come, or the connection was closed.
fn fate(ws: &mut Ws, answers: usize) -> Result<Fate, String> {
    let (mut fate, deadline) = (Fate::default(), Instant::now() + PATIENCE);
    while fate.sent + fate.refused < answers {
        match ws.next(deadline)? {
            Heard::Text(v) if v.get("sent").is_some() => {
                fate.sent += 1;
                taken();
            }
            Heard::Text(v) if v["error"]["code"] == "rate_limited" => {
                fate.refused += 1;
                let wait = v["error"]["retry_after_ms"]
                    .as_u64()
                    .ok_or_else(|| format!("no retry_after_ms: {v}"))?;
                fate.retry_after_ms = fate.retry_after_ms.max(Some(wait));
            }
            Heard::Text(v) if v.get("error").is_some() => return Err(format!("refused with {v}")),
            Heard::Close(code) => {
                fate.closed = code;
                return Ok(fate);
            }
            Heard::End => return Err(format!("it ended without a close: {fate:?}")),
            _ => {}
        }
    }
    Ok(fate)
}

fn send(id: usize, body: &str) -> Vec<u8> {
    text(&format!(r#"{{"send":{{"id":"{id}","body":{{"text":"{body}"}}}}}}"#))
}

fn flood(frames: Vec<u8>) -> impl Fn(&Place) -> Outcome {
    move |place| {
        let mut ws = Ws::customer(place, &token::somebody("flood"))?;
        ws.raw.send(&frames);
        ws.closed(RATE_LIMITED)
    }
}

pub fn rows() -> Vec<Row> {
    let twice = 3 * CONNECTION_FRAMES_BURST as usize;
    vec![
        Row::new("abuse: 600 sends at once are taken or told to wait", |place| {
            let mut ws = Ws::customer(place, &token::somebody("flood"))?;
            ws.raw.send(&(0..600).flat_map(|i| send(i, "x")).collect::<Vec<u8>>());
            let fate = fate(&mut ws, 600)?;
            // On a busy machine many of them come when there is room again.
            expect(fate.sent >= 100 && fate.refused >= 1, || format!("{fate:?}"))?;
            expect(fate.retry_after_ms.is_some_and(|ms| (1..60_000).contains(&ms)), || {
                format!("{fate:?}")
            })?;
            std::thread::sleep(Duration::from_millis(500));
            ws.lives()
        }),
        Row::new("abuse: sends beyond every patience are closed", move |place| {
            let mut ws = Ws::customer(place, &token::somebody("flood"))?;
            ws.raw
                .send(&(0..2 * twice).flat_map(|i| send(i, "x")).collect::<Vec<u8>>());
            same("the close", &fate(&mut ws, usize::MAX)?.closed, &Some(RATE_LIMITED))
        }),
        Row::new("abuse: full bodies are taken up to the user's bytes", |place| {
            let mut ws = Ws::customer(place, &token::somebody("heavy"))?;
            let body = "x".repeat(BODY_BYTES_MAX - 11);
            let fits = USER_BYTES_BURST as usize / BODY_BYTES_MAX;
            let asked = fits + 60;
            for i in 0..asked {
                ws.raw.send(&send(i, &body));
            }
            let fate = fate(&mut ws, asked)?;
            expect(fate.sent >= fits && fate.refused > 0, || format!("{fate:?}"))
        }),
        Row::new(
            "abuse: a typing flood is closed",
            flood(text(r#"{"typing":{}}"#).repeat(twice)),
        ),
        Row::new(
            "abuse: a flood of our pings is closed",
            flood(text(r#"{"ping":{}}"#).repeat(twice)),
        ),
        Row::new(
            "abuse: a ping flood is closed",
            flood(frame(FIN | PING, b"x").repeat(twice)),
        ),
        Row::new(
            "abuse: a pong flood is closed",
            flood(frame(FIN | PONG, b"x").repeat(twice)),
        ),
        Row::new(
            "abuse: an ack flood is closed",
            flood(text(r#"{"ack":{"recv":1}}"#).repeat(twice)),
        ),
        Row::new("abuse: as many connections as a user may have, and no more", |place| {
            let user = token::somebody("many");
            let mut held = Vec::new();
            for _ in 0..CONNECTIONS_PER_USER_MAX {
                held.push(Ws::customer(place, &user)?);
            }
            let mut more = Ws::open(place)?;
            more.say(&json!({ "connect": { "token": token::of("customer", &user) } }));
            more.closed(RATE_LIMITED)?;
            held.pop();
            let began = Instant::now();
            while began.elapsed() < PATIENCE {
                if Ws::customer(place, &user).is_ok() {
                    return held.iter_mut().try_for_each(Ws::lives);
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            Err("the place of one that went is not given again".into())
        }),
        Row::new("abuse: a hundred reconnects in a row", |place| {
            let user = token::somebody("restless");
            (0..100).try_for_each(|_| Ws::customer(place, &user).map(drop))
        }),
        Row::new("abuse: an agent that tries a thousand conversations", |place| {
            let mut ws = Ws::connected(place, "agent", &token::somebody("curious"))?;
            for round in 0..5 {
                for i in 0..200 {
                    ws.say(&json!({ "send": { "id": "1", "conversation": format!("c{round}-{i}"), "body": { "text": "x" } } }));
                }
                for _ in 0..200 {
                    let value = ws.until(&["error", "sent"])?;
                    let code = value["error"]["code"].as_str().unwrap_or("sent");
                    let right = ["not_assigned", "rate_limited", "unavailable"].contains(&code);
                    expect(right, || format!("{value}"))?;
                }
                // As fast as a connection may, and no faster: a frame whose owner is asked counts twice.
                std::thread::sleep(Duration::from_millis(2_200));
            }
            ws.lives()
        }),
        Row::new("abuse: a hundred sockets that say nothing hold up nobody", |place| {
            // Served before the first of them is cut off after 10 s; on a busy machine that may take a second try.
            for _ in 0..5 {
                let mute: Result<Vec<_>, _> = (0..100).map(|_| Raw::open(place.http)).collect();
                let mut mute = mute?;
                place.serves()?;
                if mute[0].read_more(Instant::now() + Duration::from_millis(1)) == Found::Nothing {
                    return Ok(());
                }
            }
            Err("a good client is served only when those who say nothing are cut off".into())
        }),
    ]
}
