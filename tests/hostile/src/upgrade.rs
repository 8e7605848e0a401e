//! The way to a WebSocket: requests that are no requests, upgrades that are no upgrades, pages that may not connect.

use std::time::Duration;

use serde_json::json;

use crate::rows::Row;
use crate::server::Place;
use crate::socket::{Answer, Raw, request};
use crate::ws::{Ws, text, upgrade};
use crate::{Outcome, expect, same, token};

/// The tenant of the tests' configuration that lists its pages.
pub const SHOP: &str = "shop";
pub const SHOP_PAGE: &str = "https://shop.example";

/// What stands in the configuration for it.
pub fn shop_config() -> String {
    format!(
        "[tenants.{SHOP}]\norigins = [\"{SHOP_PAGE}\"]\n[[tenants.{SHOP}.keys]]\nkid = \"dev\"\nalg = \"HS256\"\nsecret = \"{}\"\n",
        token::SECRET
    )
}

/// One request on a socket of its own; an answer with this status, or with `0` a socket that ends without one.
fn row(name: &str, bytes: impl Into<Vec<u8>>, status: u16) -> Row {
    let bytes = bytes.into();
    Row::new(format!("handshake {name}"), move |place| {
        if status != 0 {
            return same("the status", &request(place.http, &bytes)?.status, &status);
        }
        let mut raw = Raw::open(place.http)?;
        raw.send(&bytes);
        expect(raw.ends(), || "the socket stays open".into())?;
        expect(!raw.heard.starts_with(b"HTTP/1.1 1"), || {
            format!("it was let in: {}", raw.text())
        })
    })
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    requests(&mut rows);
    upgrades(&mut rows);
    origins(&mut rows);
    slow_ones(&mut rows);
    rows.push(Row::new(
        "handshake frames right behind the upgrade are read",
        |place| {
            let mut raw = Raw::open(place.http)?;
            let connect = json!({ "connect": { "token": token::of("customer", &token::somebody("early")) } });
            raw.send(&[upgrade("").into_bytes(), text(&connect.to_string())].concat());
            same("the status", &raw.answer()?.status, &101)?;
            let mut ws = Ws { raw };
            ws.until(&["connected"])?;
            ws.lives()
        },
    ));
    rows
}

fn requests(rows: &mut Vec<Row>) {
    let many = (0..2_000).map(|i| format!("X-{i}: 1\r\n")).collect::<String>();
    rows.push(row("2,000 headers", upgrade(&many), 431));
    let large = format!("X-Large: {}\r\n", "x".repeat(1 << 20));
    rows.push(row("one header of 1 MiB", upgrade(&large), 431));
    let uri = upgrade("").replace("/v1/connect", &format!("/v1/connect?{}", "x".repeat(70_000)));
    rows.push(row("an address of 70,000 bytes", uri, 431));
    let host = upgrade("Host: elsewhere\r\n");
    rows.push(row("two Hosts", host, 400));
    rows.push(row("no Host", upgrade("").replace("Host: localhost\r\n", ""), 400));
    rows.push(row("a folded header", upgrade("X-A: b\r\n c\r\n"), 400));
    rows.push(row("a header without a colon", upgrade("nonsense\r\n"), 400));
    rows.push(row("a blank before the colon", upgrade("X-A : b\r\n"), 400));
    rows.push(row("a NUL in a header", upgrade("X-A: b\0c\r\n"), 400));
    rows.push(row("a bare CR in a header", upgrade("X-A: b\rc\r\n"), 400));
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
    rows.push(row("two lengths, of which the chunks count", upgrade(both), 101));
    rows.push(row(
        "two different Content-Lengths",
        upgrade("Content-Length: 4\r\nContent-Length: 5\r\n"),
        400,
    ));
    rows.push(row("a negative Content-Length", upgrade("Content-Length: -1\r\n"), 400));
    rows.push(row(
        "a Transfer-Encoding nobody knows",
        upgrade("Transfer-Encoding: cow\r\n"),
        400,
    ));
    for (name, target) in [
        ("a path with a NUL", "/v1/connect%00"),
        ("a path with dots", "/v1/../v1/connect"),
        ("a path with coded dots", "/v1/%2e%2e/v1/connect"),
        ("a path in capitals", "/V1/CONNECT"),
        ("two slashes", "//v1//connect"),
        ("a slash behind", "/v1/connect/"),
    ] {
        rows.push(row(name, upgrade("").replace("/v1/connect", target), 404));
    }
    rows.push(row(
        "the absolute form",
        upgrade("").replace("/v1/connect", "http://localhost/v1/connect"),
        101,
    ));
    rows.push(row("another method", upgrade("").replace("GET", "POST"), 405));
    rows.push(row("a method nobody knows", upgrade("").replace("GET", "BREW"), 405));
    rows.push(row("HTTP/3.0", upgrade("").replace("HTTP/1.1", "HTTP/3.0"), 400));
    rows.push(row("no version", "GET /v1/connect\r\n\r\n", 400));
    rows.push(row("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0));
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[0x42; 506]].concat();
    rows.push(row("a TLS hello", hello, 400));
    rows.push(row(
        "binary garbage",
        (0..=255u8).rev().cycle().take(4_096).collect::<Vec<u8>>(),
        400,
    ));
    rows.push(row("blank lines only", "\r\n".repeat(20_000), 0));
}

fn upgrades(rows: &mut Vec<Row>) {
    rows.push(row(
        "websocket in capitals",
        upgrade("").replace("Upgrade: websocket", "UPGRADE: WebSocket"),
        101,
    ));
    let list = upgrade("").replace("Connection: Upgrade", "Connection: keep-alive, Upgrade");
    rows.push(row("an upgrade among others", list, 101));
    rows.push(row(
        "no upgrade",
        upgrade("").replace("Upgrade: websocket\r\n", ""),
        400,
    ));
    rows.push(row(
        "an upgrade to something else",
        upgrade("").replace("Upgrade: websocket", "Upgrade: h2c"),
        400,
    ));
    rows.push(row(
        "no Connection",
        upgrade("").replace("Connection: Upgrade\r\n", ""),
        400,
    ));
    rows.push(row(
        "no key",
        upgrade("").replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""),
        400,
    ));
    for (name, key) in [
        ("an empty key", ""),
        ("a key of 15 bytes", "dGhlIHNhbXBsZSBub25j"),
        ("a key of 17 bytes", "dGhlIHNhbXBsZSBub25jZWE="),
        ("a key that is not base64", "dGhlIHNhbXBsZSBub25!ZQ=="),
    ] {
        rows.push(row(name, upgrade("").replace("dGhlIHNhbXBsZSBub25jZQ==", key), 400));
    }
    rows.push(row(
        "two keys",
        upgrade("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"),
        400,
    ));
    rows.push(Row::new(
        "handshake another version is told which one would do",
        |place| {
            for version in ["12", "8", "0", "", "13, 8", "x"] {
                let bytes = upgrade("").replace("Version: 13", &format!("Version: {version}"));
                let answer = request(place.http, bytes.as_bytes())?;
                same("the status", &answer.status, &426)?;
                same("the version", &answer.header("sec-websocket-version"), &Some("13"))?;
            }
            Ok(())
        },
    ));
    rows.push(Row::new("handshake compression is never agreed to", |place| {
        let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
        let answer = request(place.http, upgrade(offer).as_bytes())?;
        same("the status", &answer.status, &101)?;
        same("the extensions", &answer.header("sec-websocket-extensions"), &None)
    }));
}

/// The upgrade from this page, then `connect` with a token of the tenant that lists its pages.
fn from_page(place: &Place, origin: &str) -> Result<(Answer, Option<Ws>), String> {
    let mut raw = Raw::open(place.http)?;
    raw.send(upgrade(origin).as_bytes());
    let answer = raw.answer()?;
    if answer.status != 101 {
        return Ok((answer, None));
    }
    let user = token::somebody("page");
    let claims = json!({ "tenant": SHOP, "sub": user, "role": "customer", "exp": 4_102_444_800u64 });
    let mut ws = Ws { raw };
    ws.say(&json!({ "connect": { "token": token::sign(&claims) } }));
    Ok((answer, Some(ws)))
}

fn origins(rows: &mut Vec<Row>) {
    let good: fn(&Place) -> Outcome = |place| {
        for origin in [String::new(), format!("Origin: {SHOP_PAGE}\r\n")] {
            let (_, ws) = from_page(place, &origin)?;
            ws.ok_or("no upgrade")?.until(&["connected"])?;
        }
        Ok(())
    };
    rows.push(Row::new(
        "origin the tenant's own page, and no browser, may connect",
        good,
    ));
    for origin in [
        "null",
        "",
        "https://shop.example.evil.com",
        "https://evilshop.example",
        "https://shop.example@evil.com",
        "http://shop.example",
        "https://shop.example:444",
        "https://SHOP.EXAMPLE",
        "https://shop.example/",
        "https://shop.example, https://evil.com",
        "https://shop.exam\u{440}le",
    ] {
        rows.push(Row::new(
            format!("origin {origin:?} is not the tenant's page"),
            move |place| {
                let (_, ws) = from_page(place, &format!("Origin: {origin}\r\n"))?;
                ws.ok_or("no upgrade")?.closed(3506)
            },
        ));
    }
    rows.push(Row::new("origin two of them are none", |place| {
        let two = format!("Origin: {SHOP_PAGE}\r\nOrigin: https://evil.com\r\n");
        let (_, ws) = from_page(place, &two)?;
        ws.ok_or("no upgrade")?.closed(3506)
    }));
}

/// Ten seconds for everything up to a good token, however the bytes come.
fn slow_ones(rows: &mut Vec<Row>) {
    let ends = |raw: &mut Raw| expect(raw.ends(), || "the socket stays open".into());
    rows.push(Row::new("slow: a socket that says nothing is cut off", move |place| {
        ends(&mut Raw::open(place.http)?)
    }));
    rows.push(Row::new("slow: headers that never end are cut off", move |place| {
        let mut raw = Raw::open(place.http)?;
        let head = upgrade("");
        for byte in head.as_bytes()[..head.len() - 2].chunks(8) {
            raw.send(byte);
            std::thread::sleep(Duration::from_millis(300));
        }
        ends(&mut raw)
    }));
    rows.push(Row::new(
        "slow: an upgrade without connect is closed with connect_timeout",
        |place| Ws::open(place)?.closed(3504),
    ));
    rows.push(Row::new("slow: pings do not prolong the time for connect", |place| {
        let mut ws = Ws::open(place)?;
        for _ in 0..16 {
            ws.raw.send(&crate::ws::frame(0x89, b"still here"));
            std::thread::sleep(Duration::from_millis(500));
        }
        ws.closed(3504)
    }));
    rows.push(Row::new("slow: a body that never comes is given up", |place| {
        let mut raw = Raw::open(place.http)?;
        let bearer = token::of("customer", &token::somebody("slow"));
        raw.send(
            format!(
                "POST /v1/frames HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\nContent-Length: 900\r\n\r\n{{"
            )
            .as_bytes(),
        );
        expect(raw.ends() || raw.text().starts_with("HTTP/1.1 504"), || {
            format!("it waits for ever: {}", raw.text())
        })
    }));
}
