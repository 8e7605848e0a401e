//! The JSON of frames: what is none, and what is odd but legal and must come back byte for byte. The same rows over a WebSocket
//! and in `POST /v1/frames`.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use wire::limits::{BODY_BYTES_MAX, BODY_DEPTH_MAX};

use crate::rows::Row;
use crate::server::Place;
use crate::socket::{Answer, request};
use crate::ws::{Ws, text};
use crate::{Outcome, expect, same, token};

/// Sends of the tables that were right to be taken: the process must have accepted so many, and no more.
pub static TAKEN: AtomicU64 = AtomicU64::new(0);

pub fn taken() {
    TAKEN.fetch_add(1, Ordering::Relaxed);
}

/// `POST /v1/frames` with one frame.
pub fn post(place: &Place, role: &str, user: &str, frame: &str) -> Result<Answer, String> {
    let body = format!(r#"{{"frames":[{frame}]}}"#);
    let bearer = token::of(role, user);
    let head = format!(
        "POST /v1/frames HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    request(place.http, format!("{head}{body}").as_bytes())
}

/// Refused with this code, over both transports.
fn refused(rows: &mut Vec<Row>, name: &str, frame: impl Into<String>, code: &'static str) {
    let frame = frame.into();
    let posted = frame.clone();
    rows.push(Row::new(format!("json over a websocket: {name}"), move |place| {
        let mut ws = Ws::customer(place, &token::somebody("mallory"))?;
        ws.raw.send(&text(&frame));
        ws.refused(code)?;
        ws.lives()
    }));
    if posted.trim().is_empty() {
        return;
    }
    // In a POST what is no JSON spoils the whole body.
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&posted).is_ok();
    rows.push(Row::new(format!("json by POST: {name}"), move |place| {
        let answer = post(place, "customer", &token::somebody("mallory"), &posted)?;
        if is_json {
            same("the status", &answer.status, &200)?;
            return same("the code", &answer.json()[0]["error"]["code"].as_str(), &Some(code));
        }
        same("the status", &answer.status, &400)?;
        same("the code", &answer.json()["code"].as_str(), &Some("bad_frame"))
    }));
}

/// Taken, and answered with nothing.
fn ignored(rows: &mut Vec<Row>, name: &str, frame: &str) {
    let frame = frame.to_owned();
    rows.push(Row::new(format!("json that changes nothing: {name}"), move |place| {
        let mut ws = Ws::customer(place, &token::somebody("mallory"))?;
        ws.raw.send(&text(&frame));
        ws.say(&json!({ "ping": {} }));
        let value = ws.until(&["pong", "error", "sent", "done"])?;
        expect(value.get("pong").is_some(), || {
            format!("{value} where nothing is right")
        })
    }));
}

fn send(id: &str, body: &str) -> String {
    format!(r#"{{"send":{{"id":{id},"body":{body}}}}}"#)
}

/// Nothing of these may reach the log.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    shapes(&mut rows);
    ids_and_names(&mut rows);
    numbers(&mut rows);
    bodies(&mut rows);
    connects(&mut rows);
    rows
}

fn shapes(rows: &mut Vec<Row>) {
    for (name, frame) in [
        ("blanks", "   "),
        ("null", "null"),
        ("a number", "1"),
        ("a string", "\"ping\""),
        ("an array", "[]"),
        ("an array of a frame", r#"[{"ping":{}}]"#),
        ("an empty object", "{}"),
        ("an unknown key", r#"{"nope":{}}"#),
        ("a key in capitals", r#"{"PING":{}}"#),
        ("a server's frame", r#"{"sent":{"id":"1"}}"#),
        ("two keys", r#"{"ping":{},"typing":{}}"#),
        ("one key twice", r#"{"ping":{},"ping":{}}"#),
        ("two values", r#"{"ping":{}}{"ping":{}}"#),
        ("a comma behind", r#"{"ping":{},}"#),
        ("half a frame", r#"{"ping":{"#),
        ("single quotes", "{'ping':{}}"),
        ("a comment", r#"{"ping":{}/**/}"#),
        ("a byte order mark", "\u{feff}{\"ping\":{}}"),
        ("NaN", r#"{"ping":{"x":NaN}}"#),
        ("Infinity", r#"{"ping":{"x":-Infinity}}"#),
        ("a number with a zero in front", r#"{"ping":{"x":01}}"#),
        ("a raw line break in a string", "{\"ping\":{\"x\":\"a\nb\"}}"),
        ("a raw NUL in a string", "{\"ping\":{\"x\":\"a\0b\"}}"),
        ("an escape nobody knows", r#"{"ping":{"x":"\q"}}"#),
        ("a frame that is null", r#"{"ping":null}"#),
        ("a frame that is an array", r#"{"ping":[]}"#),
        ("a send that is an array", r#"{"send":["1",null,{"text":"x"}]}"#),
        ("an ack that is an array", r#"{"ack":[null,1,1]}"#),
        ("a send that is a string", r#"{"send":"hello"}"#),
        ("a control verb of ours", r#"{"revoke":{"tenant":"demo","user":"bo"}}"#),
        ("a link's frame", r#"{"push":{"connections":[1]}}"#),
    ] {
        refused(rows, name, frame, "bad_frame");
    }
    let open = format!(r#"{{"ping":{{"x":{}"#, "[".repeat(10_000));
    refused(rows, "10,000 open brackets", open, "bad_frame");
    let nested = format!(r#"{{"nope":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    refused(rows, "an unknown key 10,000 deep", nested, "bad_frame");
    ignored(rows, "typing", r#"{"typing":{}}"#);
    ignored(rows, "typing elsewhere", r#"{"typing":{"conversation":"bob"}}"#);
    ignored(
        rows,
        "typing in no conversation",
        r#"{"typing":{"conversation":"\u0000"}}"#,
    );
    let deep = format!(r#"{{"typing":{{"x":{}{}}}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    ignored(rows, "an unknown member 10,000 deep", &deep);
}

fn ids_and_names(rows: &mut Vec<Row>) {
    let body = r#"{"text":"x"}"#;
    for (name, id) in [
        ("an empty id", "\"\"".to_owned()),
        ("an id of 65 bytes", format!("\"{}\"", "x".repeat(65))),
        ("an id of 1 KB", format!("\"{}\"", "x".repeat(1_024))),
        ("an id with a line break", r#""a\nb""#.into()),
        ("an id with a NUL", r#""a\u0000b""#.into()),
        ("an id with an escape sequence", r#""\u001b[31m""#.into()),
        ("an id with half a surrogate", r#""\ud800""#.into()),
        ("an id that is a number", "1".into()),
        ("an id that is null", "null".into()),
        ("an id that is an array", "[]".into()),
    ] {
        refused(rows, name, send(&id, body), "bad_frame");
    }
    refused(rows, "no id", r#"{"send":{"body":{"text":"x"}}}"#, "bad_frame");
    refused(
        rows,
        "two ids",
        r#"{"send":{"id":"1","id":"2","body":{"text":"x"}}}"#,
        "bad_frame",
    );
    refused(rows, "no body", r#"{"send":{"id":"1"}}"#, "bad_frame");
    for conversation in [
        "bob",
        "",
        "../bob",
        "demo/bob",
        "other/bob",
        "demo:bob",
        "\\u0000",
        "bob\\n",
        "\\u202ebob",
    ] {
        let frame = format!(r#"{{"send":{{"id":"1","conversation":"{conversation}","body":{body}}}}}"#);
        refused(rows, &format!("the conversation {conversation:?}"), frame, "forbidden");
    }
    refused(
        rows,
        "a conversation that is a number",
        r#"{"send":{"id":"1","conversation":1,"body":{"text":"x"}}}"#,
        "bad_frame",
    );
    for (name, act, code) in [
        ("an act without a deed", r#"{"id":"1"}"#, "bad_frame"),
        (
            "an act with two deeds",
            r#"{"id":"1","close":{},"rate":{}}"#,
            "bad_frame",
        ),
        (
            "an act with a deed nobody knows",
            r#"{"id":"1","dance":{}}"#,
            "bad_frame",
        ),
        ("an act without an id", r#"{"close":{}}"#, "bad_frame"),
        (
            "an act whose deed is a string",
            r#"{"id":"1","close":"now"}"#,
            "invalid_body",
        ),
        (
            "an act whose deed is an array",
            r#"{"id":"1","rate":[5]}"#,
            "invalid_body",
        ),
        (
            "an act on another's conversation",
            r#"{"id":"1","conversation":"bob","close":{}}"#,
            "forbidden",
        ),
    ] {
        refused(rows, name, format!(r#"{{"act":{act}}}"#), code);
    }
    for deed in ["accept", "transfer", "note", "tag", "join", "leave", "watch"] {
        refused(
            rows,
            &format!("a customer's {deed}"),
            format!(r#"{{"act":{{"id":"1","{deed}":{{}}}}}}"#),
            "forbidden",
        );
    }
    refused(
        rows,
        "a customer's status",
        r#"{"status":{"state":"available"}}"#,
        "forbidden",
    );
    refused(
        rows,
        "a status nobody knows",
        r#"{"status":{"state":"asleep"}}"#,
        "bad_frame",
    );
    refused(
        rows,
        "a negative capacity",
        r#"{"status":{"state":"busy","capacity":-1}}"#,
        "bad_frame",
    );
    refused(
        rows,
        "a capacity beyond 2^32",
        r#"{"status":{"state":"busy","capacity":4294967296}}"#,
        "bad_frame",
    );
    refused(
        rows,
        "a capacity that is a fraction",
        r#"{"status":{"state":"busy","capacity":1.5}}"#,
        "bad_frame",
    );
}

fn numbers(rows: &mut Vec<Row>) {
    for number in [
        "-1",
        "-0.5",
        "1.5",
        "1e999",
        "18446744073709551616",
        "\"1\"",
        "null",
        "true",
        "[]",
        "{}",
    ] {
        refused(
            rows,
            &format!("an ack of {number}"),
            format!(r#"{{"ack":{{"recv":{number}}}}}"#),
            "bad_frame",
        );
    }
    for number in ["0", "1", "9007199254740993", "18446744073709551615"] {
        ignored(
            rows,
            &format!("an ack of {number}"),
            &format!(r#"{{"ack":{{"recv":{number},"read":{number}}}}}"#),
        );
    }
    ignored(
        rows,
        "an ack in a conversation never seen",
        r#"{"ack":{"conversation":"bob","recv":1}}"#,
    );
    ignored(rows, "an ack and its taking back", r#"{"ack":{"recv":0,"read":0}}"#);
}

fn bodies(rows: &mut Vec<Row>) {
    let nested = |n: usize| format!(r#"{{"custom":{{"a":{}{}}}}}"#, "[".repeat(n), "]".repeat(n));
    for (name, body) in [
        ("a body that is null", "null".to_owned()),
        ("a body that is a string", "\"text\"".into()),
        ("a body that is an array", "[{\"text\":\"x\"}]".into()),
        ("an empty body", "{}".into()),
        ("a body of no known kind", r#"{"video":{}}"#.into()),
        ("a body of two kinds", r#"{"text":"x","card":{}}"#.into()),
        ("a body whose kind stands twice", r#"{"text":"x","text":"y"}"#.into()),
        (
            "a body whose kind stands twice, once escaped",
            r#"{"text":"x","te\u0078t":"y"}"#.into(),
        ),
        ("a text that is a number", r#"{"text":1}"#.into()),
        ("a text that is null", r#"{"text":null}"#.into()),
        ("an image that is a string", r#"{"image":"x"}"#.into()),
        ("a body nested too deep", nested(BODY_DEPTH_MAX - 1)),
        ("a body nested 10,000 deep", nested(10_000)),
    ] {
        refused(rows, name, send("\"1\"", &body), "invalid_body");
    }
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(BODY_BYTES_MAX - 10));
    refused(rows, "a body 1 byte too large", send("\"1\"", &large), "too_large");
}

/// `connect` frames: rights are checked elsewhere, here it is their shape.
fn connects(rows: &mut Vec<Row>) {
    let mut with = |name: &str, more: &str, want: Result<&'static str, u16>| {
        let more = more.to_owned();
        rows.push(Row::new(format!("json connect with {name}"), move |place| {
            let user = token::somebody("mallory");
            let mut ws = Ws::open(place)?;
            let frame = format!(r#"{{"connect":{{"token":"{}"{more}}}}}"#, token::of("customer", &user));
            ws.raw.send(&text(&frame));
            match want {
                Ok("error") => ws.refused("bad_frame"),
                Ok(key) => {
                    ws.until(&[key])?;
                    ws.lives()
                }
                Err(code) => ws.closed(code),
            }
        }));
    };
    for since in [
        "-1",
        "1.5",
        "\"41\"",
        "[1]",
        "true",
        "{\"alice\":-1}",
        "{\"alice\":\"1\"}",
        "18446744073709551616",
    ] {
        with(&format!("since {since}"), &format!(r#","since":{since}"#), Ok("error"));
    }
    for since in ["1", "9007199254740993", "18446744073709551615"] {
        with(
            &format!("since {since}, which is in the future"),
            &format!(r#","since":{since}"#),
            Ok("rewind"),
        );
    }
    with("since null", r#","since":null"#, Ok("connected"));
    with("since 0", r#","since":0"#, Ok("connected"));
    with("since of others", r#","since":{"bob":7}"#, Ok("connected"));
    with("two tokens", r#","token":"x""#, Ok("error"));
    with(
        "a device of 65 bytes",
        &format!(r#","device":"{}""#, "x".repeat(65)),
        Err(3503),
    );
    with("an empty device", r#","device":"""#, Err(3503));
    with("a device with a line break", r#","device":"a\nb""#, Err(3503));
    with("a device that is a number", r#","device":1"#, Ok("error"));
    with(
        "a term of the future",
        r#","term":18446744073709551615"#,
        Ok("connected"),
    );
    with("a negative term", r#","term":-1"#, Ok("error"));
    with(
        "unknown members",
        r#","role":"agent","tenant":"other","admin":true"#,
        Ok("connected"),
    );
}

/// Odd but legal: taken, and kept byte for byte.
pub fn legal_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut keeps = |name: &str, body: String| {
        rows.push(Row::new(format!("json kept byte for byte: {name}"), move |place| {
            keeps_bytes(place, &body)
        }));
    };
    keeps(
        "numbers",
        r#"{"custom":{"a":9007199254740993,"b":18446744073709551616,"c":1e999,"d":-0,"e":1.0E+2,"f":-1}}"#.into(),
    );
    keeps("numbers as strings", r#"{"custom":{"a":"1","b":"1.0"}}"#.into());
    keeps("escapes", r#"{"text":"\u0041\/\b\f\n\r\t\"\\"}"#.into());
    keeps("U+0000 escaped", r#"{"text":"a\u0000b"}"#.into());
    keeps("half a surrogate, escaped", r#"{"text":"\ud800"}"#.into());
    keeps("a pair of surrogates, escaped", r#"{"text":"\ud83d\ude00"}"#.into());
    keeps("right to left", "{\"text\":\"\u{202e}abc\u{202c}\"}".into());
    keeps(
        "zero width and a byte order mark",
        "{\"text\":\"a\u{200b}\u{feff}b\u{2028}\u{2029}\"}".into(),
    );
    keeps("four bytes a character", "{\"text\":\"𝄞👩‍👩‍👧‍👦\"}".into());
    keeps(
        "a hundred combining marks",
        format!("{{\"text\":\"a{}\"}}", "\u{301}".repeat(100)),
    );
    keeps("blanks", "{ \"text\" :\t\"x\" ,  \"y\": [ 1 , 2 ] }".into());
    keeps("line breaks between members", "{\r\n\"text\":\n\"x\"\r\n}".into());
    keeps(
        "unknown members, some twice",
        r#"{"text":"x","a":1,"a":2,"b":{"text":[]}}"#.into(),
    );
    keeps(
        "a key that needs escapes",
        r#"{"text":"x","\u0000\"\\":{"\ud800":1}}"#.into(),
    );
    keeps("an escaped kind", r#"{"te\u0078t":"x"}"#.into());
    keeps(
        "markup",
        r#"{"text":"<script>alert(1)</script>'; DROP TABLE events;--"}"#.into(),
    );
    keeps("terminal escapes", r#"{"text":"\u001b[2J\u001b]0;x\u0007"}"#.into());
    keeps("the largest depth", {
        let n = BODY_DEPTH_MAX - 2;
        format!(r#"{{"custom":{{"a":{}{}}}}}"#, "[".repeat(n), "]".repeat(n))
    });
    keeps(
        "the largest body",
        format!(r#"{{"text":"{}"}}"#, "x".repeat(BODY_BYTES_MAX - 11)),
    );
    keeps("the smallest text", r#"{"text":""}"#.into());
    rows
}

fn keeps_bytes(place: &Place, body: &str) -> Outcome {
    let user = token::somebody("keeper");
    // From the beginning: without `since` what is logged before the owner knows of us is history, and never placed here.
    let mut ws = Ws::open(place)?;
    ws.say(&json!({ "connect": { "token": token::of("customer", &user), "since": 0 } }));
    ws.until(&["connected"])?;
    ws.raw.send(&text(&send("\"1\"", body)));
    let seq = ws.place_of("1")?;
    same("its place", &seq, &1)?;
    taken();
    // From another device, as pushed.
    let mut other = Ws::open(place)?;
    other.say(&json!({ "connect": { "token": token::of("customer", &user), "device": "other", "since": 0 } }));
    let pushed = raw_event(&mut other)?;
    let wanted = format!("\"message\":{body}}}");
    let shown = |what: &str| what.chars().take(200).collect::<String>();
    expect(pushed.contains(&wanted), || {
        format!("pushed as {} where it was {}", shown(&pushed), shown(body))
    })?;
    // And as history.
    for _ in 0..100 {
        let bearer = token::of("customer", &user);
        let get = format!(
            "GET /v1/conversations/{user}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\nConnection: close\r\n\r\n"
        );
        let page = request(place.http, get.as_bytes())?;
        same("the page's status", &page.status, &200)?;
        if page.body.contains(&wanted) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    Err("history never shows it".into())
}

/// The bytes of the first `event` frame.
fn raw_event(ws: &mut Ws) -> Result<String, String> {
    let deadline = std::time::Instant::now() + crate::socket::PATIENCE;
    loop {
        if let Some(text) = ws.next_raw(deadline)?
            && text.starts_with("{\"event\"")
        {
            return Ok(text);
        }
    }
}

/// The answers of a POST, which must be 200.
pub fn answers(answer: &Answer) -> Result<Vec<Value>, String> {
    same("the status", &answer.status, &200)?;
    Ok(answer.json().as_array().cloned().unwrap_or_default())
}
