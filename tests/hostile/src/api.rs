//! HTTP: paths, parameters and bodies. A refusal is a problem of RFC 9457 with one of our codes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wire::limits::{BODY_BYTES_MAX, FRAME_BYTES_MAX};

use crate::rows::Row;
use crate::server::Place;
use crate::socket::{Answer, Found, Raw, request};
use crate::{Outcome, expect, same, token};

/// A request with a token of this user, and its body's right length.
fn ask(place: &Place, method: &str, path: &str, role: &str, user: &str, body: &[u8]) -> Result<Answer, String> {
    let bearer = token::of(role, user);
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    request(place.http, &[head.as_bytes(), body].concat())
}

/// The answer is a problem with this status and code.
fn is_problem(answer: &Answer, status: u16, code: &str) -> Outcome {
    expect(answer.status == status, || {
        format!("{} where {status} is right: {}", answer.status, answer.body)
    })?;
    same(
        "the content type",
        &answer.header("content-type"),
        &Some("application/problem+json"),
    )?;
    let problem = answer.json();
    same("the code", &problem["code"].as_str(), &Some(code))?;
    same(
        "the status inside",
        &problem["status"].as_u64(),
        &Some(u64::from(status)),
    )
}

/// `ME` in path and body is the asking customer.
fn row(name: &str, method: &'static str, path: &str, body: impl Into<Vec<u8>>, status: u16, code: &'static str) -> Row {
    let (path, body) = (path.to_owned(), body.into());
    Row::new(format!("http {name}"), move |place| {
        let user = token::somebody("mallory");
        let answer = ask(place, method, &path.replace("ME", &user), "customer", &user, &body)?;
        match status {
            200 => same("the status", &answer.status, &200),
            _ => is_problem(&answer, status, code),
        }
    })
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    pages(&mut rows);
    paths(&mut rows);
    sends(&mut rows);
    frames(&mut rows);
    streams(&mut rows);
    bearers(&mut rows);
    bodies(&mut rows);
    rows
}

fn pages(rows: &mut Vec<Row>) {
    let page = |query: &str| format!("/v1/conversations/ME/events?{query}");
    for query in [
        "after=-1",
        "after=1.5",
        "after=1e3",
        "after=x",
        "after=",
        "after=18446744073709551616",
        "after=%00",
        "before=-1",
        "before=0x10",
        "limit=-1",
        "limit=ten",
        "limit=4294967296",
        "after=1&before=2",
        "after=1&after=2",
        "after=%ff",
    ] {
        rows.push(row(&format!("page {query}"), "GET", &page(query), "", 400, "bad_frame"));
    }
    for query in [
        "after=0",
        "after=18446744073709551615",
        "after=9007199254740993",
        "before=0",
        "before=1",
        "before=18446744073709551615",
        "limit=0",
        "limit=4294967295",
        "unknown=1",
        "",
    ] {
        rows.push(row(
            &format!("page {query:?} is empty"),
            "GET",
            &page(query),
            "",
            200,
            "",
        ));
    }
}

fn paths(rows: &mut Vec<Row>) {
    for (name, customer) in [
        ("a NUL", "%00"),
        ("a line break", "a%0d%0ab"),
        ("an escape", "%1b%5b31m"),
        ("not UTF-8", "%ff%fe"),
        ("129 bytes", &"x".repeat(129)),
    ] {
        for (method, end) in [("GET", "events"), ("POST", "messages")] {
            let path = format!("/v1/conversations/{customer}/{end}");
            rows.push(row(
                &format!("{method} of a customer with {name}"),
                method,
                &path,
                "{}",
                400,
                "bad_frame",
            ));
        }
    }
    for (name, customer) in [
        ("another's", "bob"),
        ("another tenant's", "other%2fME"),
        ("with dots", "..%2fME"),
        ("with a colon", "demo:ME"),
        ("with a key's separator", "demo%2fME"),
        ("with a blank behind", "ME%20"),
        ("in other letters", "%e2%80%8bME"),
    ] {
        for (method, end) in [("GET", "events"), ("POST", "messages")] {
            let path = format!("/v1/conversations/{customer}/{end}");
            let body = r#"{"id":"1","body":{"text":"x"}}"#;
            rows.push(row(
                &format!("{method} of a conversation {name}"),
                method,
                &path,
                body,
                403,
                "forbidden",
            ));
        }
    }
    for (method, path, status) in [
        ("GET", "/v1/conversations//events", 400),
        ("GET", "/v1/conversations/ME", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/../etc/passwd", 404),
        ("GET", "/v1/%2e%2e/v1/openapi.json", 404),
        ("DELETE", "/v1/conversations/ME/events", 405),
        ("GET", "/v1/frames", 405),
        ("PUT", "/v1/poll", 405),
    ] {
        let code = if status == 404 { "not_found" } else { "bad_frame" };
        rows.push(row(&format!("{method} {path}"), method, path, "", status, code));
    }
}

/// Bodies that are no send; `code` as for the frame of that name.
fn sends(rows: &mut Vec<Row>) {
    let path = "/v1/conversations/ME/messages";
    let large = format!(r#"{{"id":"1","body":{{"text":"{}"}}}}"#, "x".repeat(BODY_BYTES_MAX));
    for (name, body, status, code) in [
        ("nothing", "", 400, "bad_frame"),
        ("blanks", "  \r\n ", 400, "bad_frame"),
        ("half", r#"{"id":"1","body":"#, 400, "bad_frame"),
        (
            "a byte order mark",
            "\u{feff}{\"id\":\"1\",\"body\":{\"text\":\"x\"}}",
            400,
            "bad_frame",
        ),
        ("an array", r#"["1",{"text":"x"}]"#, 400, "bad_frame"),
        ("null", "null", 400, "bad_frame"),
        ("two values", r#"{"id":"1","body":{"text":"x"}} {}"#, 400, "bad_frame"),
        ("no id", r#"{"body":{"text":"x"}}"#, 400, "bad_frame"),
        (
            "two ids",
            r#"{"id":"1","id":"2","body":{"text":"x"}}"#,
            400,
            "bad_frame",
        ),
        (
            "an id that is a number",
            r#"{"id":1,"body":{"text":"x"}}"#,
            400,
            "bad_frame",
        ),
        ("an empty id", r#"{"id":"","body":{"text":"x"}}"#, 400, "bad_frame"),
        (
            "an id with a line break",
            r#"{"id":"a\nb","body":{"text":"x"}}"#,
            400,
            "bad_frame",
        ),
        (
            "an id with half a surrogate",
            r#"{"id":"\ud800","body":{"text":"x"}}"#,
            400,
            "bad_frame",
        ),
        ("no body", r#"{"id":"1"}"#, 400, "bad_frame"),
        ("a null body", r#"{"id":"1","body":null}"#, 400, "invalid_body"),
        ("a body of no kind", r#"{"id":"1","body":{}}"#, 400, "invalid_body"),
        (
            "a body of two kinds",
            r#"{"id":"1","body":{"text":"x","card":{}}}"#,
            400,
            "invalid_body",
        ),
        ("a body 1 byte too large", &large[..], 413, "too_large"),
    ] {
        rows.push(row(&format!("send {name}"), "POST", path, body, status, code));
    }
    rows.push(row(
        "send not UTF-8",
        "POST",
        path,
        &b"{\"id\":\"1\",\"body\":{\"text\":\"\xff\"}}"[..],
        400,
        "bad_frame",
    ));
    let deep = format!(r#"{{"id":"1","body":{{"custom":{}}}}}"#, "[".repeat(50_000));
    rows.push(row("send open brackets", "POST", path, deep, 400, "bad_frame"));
    let id = format!(r#"{{"id":"{}","body":{{"text":"x"}}}}"#, "x".repeat(65));
    rows.push(row("send an id of 65 bytes", "POST", path, id, 400, "bad_frame"));
    rows.push(row(
        "send 10 MB",
        "POST",
        path,
        vec![b'x'; 10_000_000],
        413,
        "too_large",
    ));
}

fn frames(rows: &mut Vec<Row>) {
    let post =
        |name: &str, body: &str, status, code| row(&format!("frames {name}"), "POST", "/v1/frames", body, status, code);
    rows.push(post("nothing", "", 400, "bad_frame"));
    rows.push(post("an array", r#"[null,[{"ping":{}}]]"#, 400, "bad_frame"));
    rows.push(post("no list", r#"{"frames":{}}"#, 400, "bad_frame"));
    rows.push(post("no frames", r#"{"session":null}"#, 400, "bad_frame"));
    rows.push(post(
        "a session that is a number",
        r#"{"session":1,"frames":[]}"#,
        400,
        "bad_frame",
    ));
    rows.push(post("no frame", r#"{"frames":[]}"#, 200, ""));
    rows.push(post("64 pings", &many(64, r#"{"ping":{}}"#), 200, ""));
    rows.push(post("65 pings", &many(65, r#"{"ping":{}}"#), 413, "too_large"));
    let large = format!(r#"{{"ping":{{"x":"{}"}}}}"#, "x".repeat(FRAME_BYTES_MAX));
    rows.push(post("one too large", &many(1, &large), 413, "too_large"));
    rows.push(post(
        "too much in all",
        &many(5, &large[..FRAME_BYTES_MAX]),
        413,
        "too_large",
    ));
    for name in [
        "",
        "x",
        "../../etc",
        "0-0",
        &"f".repeat(33),
        "0000000000000000-zzzzzzzzzzzzzzzz",
    ] {
        let body = json!({ "session": name, "frames": [] }).to_string();
        rows.push(post(&format!("of the session {name:?}"), &body, 404, "not_found"));
    }
    rows.push(Row::new("http frames: each that is none is answered in its place", |place| {
        let user = token::somebody("mallory");
        let body = r#"{"frames":[{"ping":{}},1,null,[],{"nope":{}},{"connect":{"token":"x"}},{"send":{"id":"1","body":{}}}]}"#;
        let answer = ask(place, "POST", "/v1/frames", "customer", &user, body.as_bytes())?;
        same("the status", &answer.status, &200)?;
        let codes: Vec<Value> = answer.json().as_array().cloned().unwrap_or_default();
        let codes: Vec<&str> = codes.iter().map(|f| f["error"]["code"].as_str().unwrap_or("pong")).collect();
        let bad = "bad_frame";
        same("the answers", &codes, &vec!["pong", bad, bad, bad, bad, bad, "invalid_body"])
    }));
    rows.push(Row::new("http frames: another's session is no session", |place| {
        let (alice, bob) = (token::somebody("alice"), token::somebody("bob"));
        let hello = poll(place, &alice)?;
        let body = json!({ "session": hello, "frames": [{ "ping": {} }] }).to_string();
        let of = |role, user: &str| ask(place, "POST", "/v1/frames", role, user, body.as_bytes());
        is_problem(&of("customer", &bob)?, 404, "not_found")?;
        is_problem(&of("agent", &alice)?, 404, "not_found")?;
        same("the owner's", &of("customer", &alice)?.status, &200)
    }));
}

fn many(n: usize, frame: &str) -> String {
    format!(r#"{{"frames":[{}]}}"#, vec![frame; n].join(","))
}

/// Opens a polled session; its name.
fn poll(place: &Place, user: &str) -> Result<String, String> {
    let connect = json!({ "connect": { "token": token::of("customer", user) } }).to_string();
    let answer = ask(place, "POST", "/v1/poll", "customer", user, connect.as_bytes())?;
    let session = answer.json()[0]["connected"]["session"].as_str().map(str::to_owned);
    session.ok_or_else(|| format!("no session: {} {}", answer.status, answer.body))
}

fn streams(rows: &mut Vec<Row>) {
    for path in ["/v1/stream", "/v1/poll"] {
        let post =
            |name: &str, body: &str, status, code| row(&format!("{path} {name}"), "POST", path, body, status, code);
        rows.push(post("nothing", "", 400, "bad_frame"));
        rows.push(post("no frame", "[]", 400, "bad_frame"));
        rows.push(post("another frame", r#"{"ping":{}}"#, 400, "bad_frame"));
        rows.push(post(
            "two frames",
            r#"{"connect":{"token":"x"}}{"ping":{}}"#,
            400,
            "bad_frame",
        ));
        rows.push(post("a bad token", r#"{"connect":{"token":"x"}}"#, 401, "bad_token"));
        rows.push(post(
            "a token that is a number",
            r#"{"connect":{"token":1}}"#,
            400,
            "bad_frame",
        ));
        let large = format!(r#"{{"connect":{{"token":"{}"}}}}"#, "x".repeat(FRAME_BYTES_MAX));
        rows.push(post("a frame too large", &large, 413, "too_large"));
        let token = format!(r#"{{"connect":{{"token":"{}"}}}}"#, "x".repeat(9_000));
        rows.push(post("a token too large", &token, 401, "bad_token"));
        rows.push(Row::new(
            format!("http {path} a since of staff that names too much"),
            move |place| {
                let user = token::somebody("agent");
                let since: serde_json::Map<String, Value> = (0..1_001).map(|i| (format!("c{i}"), json!(1))).collect();
                // A customer's token, so that no agent comes and goes in the log.
                let connect = json!({ "connect": { "token": token::of("customer", &user), "since": since } });
                let answer = ask(place, "POST", path, "customer", &user, connect.to_string().as_bytes())?;
                is_problem(&answer, 413, "too_large")
            },
        ));
    }
    let post = |name: &str, body: &str| {
        row(
            &format!("/v1/poll of {name}"),
            "POST",
            "/v1/poll",
            body,
            404,
            "not_found",
        )
    };
    rows.push(row(
        "/v1/poll of an array",
        "POST",
        "/v1/poll",
        r#"["x"]"#,
        400,
        "bad_frame",
    ));
    rows.push(post("a session that is none", r#"{"session":"nonsense"}"#));
    rows.push(post(
        "a session that is gone",
        r#"{"session":"0000000000000001-0000000000000001"}"#,
    ));
    rows.push(Row::new(
        "http two polls of a session: the older is answered at once",
        |place| {
            let user = token::somebody("twice");
            let body = json!({ "session": poll(place, &user)? }).to_string();
            // What waits at first (its conversation) is fetched.
            ask(place, "POST", "/v1/poll", "customer", &user, body.as_bytes())?;
            let place = *place;
            let (user_too, body_too) = (user.clone(), body.clone());
            let began = Instant::now();
            let older =
                std::thread::spawn(move || ask(&place, "POST", "/v1/poll", "customer", &user_too, body_too.as_bytes()));
            std::thread::sleep(Duration::from_millis(500));
            let newer = std::thread::spawn(move || ask(&place, "POST", "/v1/poll", "customer", &user, body.as_bytes()));
            let answer = older.join().map_err(|_| "the older poll's thread panicked")??;
            // By itself it would wait for 25 s.
            expect(began.elapsed() < Duration::from_secs(24), || {
                "the older poll went on waiting".into()
            })?;
            same("the older poll", &(answer.status, answer.body.as_str()), &(200, "[]"))?;
            drop(newer);
            Ok(())
        },
    ));
    rows.push(Row::new("http another's polled session is no session", |place| {
        let (alice, bob) = (token::somebody("alice"), token::somebody("bob"));
        let body = json!({ "session": poll(place, &alice)? }).to_string();
        is_problem(
            &ask(place, "POST", "/v1/poll", "customer", &bob, body.as_bytes())?,
            404,
            "not_found",
        )
    }));
}

fn bearers(rows: &mut Vec<Row>) {
    let good = token::of("customer", "mallory");
    for (name, header) in [
        ("none", String::new()),
        ("an empty one", "Authorization:\r\n".into()),
        ("another scheme", format!("Authorization: Basic {good}\r\n")),
        ("no scheme", format!("Authorization: {good}\r\n")),
        (
            "two of them",
            format!("Authorization: Bearer {good}\r\nAuthorization: Bearer {good}\r\n"),
        ),
        ("not text", "Authorization: Bearer \u{ff}\u{fe}\r\n".into()),
        ("one in a cookie", format!("Cookie: token={good}\r\n")),
    ] {
        rows.push(Row::new(format!("http bearer {name}"), move |place| {
            for path in [
                "/v1/conversations/mallory/events",
                "/v1/conversations/mallory/events?token=x&access_token=y",
            ] {
                let bytes = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}Connection: close\r\n\r\n");
                let answer = request(place.http, bytes.as_bytes())?;
                is_problem(&answer, 401, "bad_token")?;
                same("how to do it", &answer.header("www-authenticate"), &Some("Bearer"))?;
            }
            Ok(())
        }));
    }
    rows.push(Row::new("http bearer in the query does not count", move |place| {
        let query = format!("/v1/conversations/mallory/events?token={good}&access_token={good}");
        let bytes = format!("GET {query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        is_problem(&request(place.http, bytes.as_bytes())?, 401, "bad_token")
    }));
}

/// Bodies that come in odd ways.
fn bodies(rows: &mut Vec<Row>) {
    let post = |user: &str, headers: &str, body: &str| {
        let bearer = token::of("customer", user);
        format!(
            "POST /v1/frames HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\nContent-Type: application/json\r\n{headers}\r\n{body}"
        )
    };
    rows.push(Row::new("http a body in chunks is read", move |place| {
        let body = "e\r\n{\"frames\":[{\"p\r\nb\r\ning\":{}}]} \r\n0\r\n\r\n";
        let text = post(
            &token::somebody("m"),
            "Transfer-Encoding: chunked\r\nConnection: close\r\n",
            body,
        );
        same("the status", &request(place.http, text.as_bytes())?.status, &200)
    }));
    for (name, body) in [
        ("a chunk's size that is no number", "zz\r\n{}\r\n0\r\n\r\n"),
        ("a chunk's size that overflows", "ffffffffffffffffff\r\n{}\r\n0\r\n\r\n"),
        ("a negative chunk's size", "-1\r\n{}\r\n0\r\n\r\n"),
    ] {
        rows.push(Row::new(format!("http {name}"), move |place| {
            let text = post(
                &token::somebody("m"),
                "Transfer-Encoding: chunked\r\nConnection: close\r\n",
                body,
            );
            let status = request(place.http, text.as_bytes())?.status;
            same("the status", &status, &400)
        }));
    }
    rows.push(Row::new(
        "http of two lengths the chunks count, and nothing is left over",
        move |place| {
            let headers = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n";
            let text = post(&token::somebody("m"), headers, "d\r\n{\"frames\":[]}\r\n0\r\n\r\n");
            let mut raw = Raw::open(place.http)?;
            raw.send(text.as_bytes());
            same("the status", &raw.answer()?.status, &200)?;
            let more = raw.read_more(Instant::now() + Duration::from_millis(500));
            expect(more != Found::Bytes, || format!("a second answer: {}", raw.text()))
        },
    ));
    rows.push(Row::new("http a compressed body is not unpacked", move |place| {
        let bomb = "\u{1f}\u{8b}garbage";
        let headers = format!(
            "Content-Encoding: gzip\r\nContent-Length: {}\r\nConnection: close\r\n",
            bomb.len()
        );
        let text = post(&token::somebody("m"), &headers, bomb);
        is_problem(&request(place.http, text.as_bytes())?, 400, "bad_frame")
    }));
    rows.push(Row::new(
        "http two requests on a socket are answered in order",
        move |place| {
            let user = token::somebody("m");
            let body = r#"{"frames":[{"ping":{}}]}"#;
            let one = post(&user, &format!("Content-Length: {}\r\n", body.len()), body);
            let mut raw = Raw::open(place.http)?;
            raw.send(format!("{one}GET /v1/nothing HTTP/1.1\r\nHost: x\r\n\r\n{one}").as_bytes());
            for status in [200, 404, 200] {
                same("the status", &raw.answer()?.status, &status)?;
            }
            Ok(())
        },
    ));
}
