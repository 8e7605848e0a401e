//! WebSocket texts that are, and are not, UTF-8: Autobahn's cases 6.x, by their classes. A good text is a `ping` with an
//! unknown member that holds it.

use crate::rows::Row;
use crate::token;
use crate::ws::{CONTINUATION, FIN, TEXT, Ws, frame};

/// RFC 6455: data that is not what its type says.
const INVALID_DATA: u16 = 1007;

/// A ping of ours around these bytes.
fn around(bytes: &[u8]) -> Vec<u8> {
    [br#"{"ping":{"x":""#, bytes, br#""}}"#].concat()
}

/// Whole, in two fragments with every cut inside the sequence, and in octets.
fn row(name: &str, bytes: &[u8], good: bool) -> Row {
    let message = around(bytes);
    let len = bytes.len();
    Row::new(format!("websocket {name}"), move |place| {
        let inside = 14..14 + len.min(6) + 1;
        for cut in std::iter::once(0).chain(inside) {
            let mut ws = Ws::customer(place, &token::somebody("mallory"))?;
            let frames = match cut {
                0 => frame(FIN | TEXT, &message),
                cut => [frame(TEXT, &message[..cut]), frame(FIN | CONTINUATION, &message[cut..])].concat(),
            };
            ws.raw.send_in_pieces(&frames, if cut == 14 { 1 } else { frames.len() });
            let outcome = if good {
                ws.until(&["pong", "error"]).and_then(|v| {
                    v.get("pong")
                        .map(|_| ())
                        .ok_or_else(|| format!("{v} where a pong is right"))
                })
            } else {
                ws.closed(INVALID_DATA)
            };
            outcome.map_err(|why| format!("cut at {cut}: {why}"))?;
        }
        Ok(())
    })
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, text) in GOOD {
        rows.push(row(&format!("{name} is UTF-8"), text.as_bytes(), true));
    }
    for (name, bytes) in BAD {
        rows.push(row(&format!("{name} is not UTF-8"), bytes, false));
    }
    // 6.14: every lonely continuation byte, and 6.13: every byte that can begin nothing.
    for byte in (0x80..=0xc1).step_by(9).chain(0xf5..=0xff) {
        rows.push(row(
            &format!("6.13/6.14 a lonely {byte:#x} is not UTF-8"),
            &[byte],
            false,
        ));
    }
    // 6.3/6.4: good text around the bad byte.
    let long = [&"κόσμε".repeat(20).into_bytes()[..], b"\xed\xa0\x80", b"edited"].concat();
    rows.push(row("6.4.x a surrogate inside a long text is not UTF-8", &long, false));
    rows.push(Row::new(
        "websocket 6.1.2 three empty fragments are no frame",
        |place| {
            let mut ws = Ws::customer(place, &token::somebody("mallory"))?;
            let bytes = [frame(TEXT, b""), frame(CONTINUATION, b""), frame(FIN, b"")].concat();
            ws.raw.send(&bytes);
            ws.refused("bad_frame")?;
            ws.lives()
        },
    ));
    rows.push(Row::new(
        "websocket 6.15.x a text that ends inside a character is not UTF-8",
        |place| {
            for whole in ["é", "€", "𝄞"] {
                let bytes = whole.as_bytes();
                for end in 1..bytes.len() {
                    let mut ws = Ws::customer(place, &token::somebody("mallory"))?;
                    ws.raw
                        .send(&frame(FIN | TEXT, &[b"{\"ping\":{\"x\":\"", &bytes[..end]].concat()));
                    ws.closed(INVALID_DATA)?;
                }
            }
            Ok(())
        },
    ));
    rows
}

const GOOD: [(&str, &str); 17] = [
    ("6.2.1 a text in many scripts", "Hello-µ@ßöäüàá-UTF-8!!"),
    ("6.5.1 Greek", "κόσμε"),
    ("6.6.2 U+0080", "\u{80}"),
    ("6.6.5 U+0800", "\u{800}"),
    ("6.6.7 U+10000", "\u{10000}"),
    ("6.7.1 U+007F", "\u{7f}"),
    ("6.7.2 U+07FF", "\u{7ff}"),
    ("6.7.3 U+FFFF", "\u{ffff}"),
    ("6.7.4 U+10FFFF", "\u{10ffff}"),
    ("6.9.1 U+D7FF", "\u{d7ff}"),
    ("6.9.2 U+E000", "\u{e000}"),
    ("6.9.3 U+FFFD", "\u{fffd}"),
    ("6.22.1 U+FFFE", "\u{fffe}"),
    ("6.22.2 U+1FFFE", "\u{1fffe}"),
    ("6.22.3 U+FDD0", "\u{fdd0}"),
    ("6.23.1 replacement characters", "\u{fffd}\u{fffd}\u{fffc}"),
    ("6.x right-to-left override and zero width", "\u{202e}\u{200b}\u{feff}"),
];

const BAD: [(&str, &[u8]); 26] = [
    ("6.3.1 a surrogate", b"\xed\xa0\x80"),
    ("6.8.1 five bytes", b"\xf8\x88\x80\x80\x80"),
    ("6.8.2 six bytes", b"\xfc\x84\x80\x80\x80\x80"),
    ("6.10.1 U+110000", b"\xf4\x90\x80\x80"),
    ("6.10.2 the highest of five bytes", b"\xfb\xbf\xbf\xbf\xbf"),
    ("6.10.3 the highest of six bytes", b"\xfd\xbf\xbf\xbf\xbf\xbf"),
    ("6.12.1 two continuation bytes", b"\x80\xbf"),
    ("6.12.8 eight continuation bytes", b"\x80\xbf\x80\xbf\x80\xbf\x80\xbf"),
    ("6.14.1 a first byte and a blank", b"\xc3 "),
    ("6.14.2 a first byte of three and a blank", b"\xe2\x82 "),
    ("6.14.3 a first byte of four and a blank", b"\xf0\x9d\x84 "),
    ("6.16.1 two that end too early", b"\xe2\x82\xe2\x82"),
    ("6.17.1 a slash overlong in two", b"\xc0\xaf"),
    ("6.17.2 a slash overlong in three", b"\xe0\x80\xaf"),
    ("6.17.3 a slash overlong in four", b"\xf0\x80\x80\xaf"),
    ("6.18.1 U+007F overlong", b"\xc1\xbf"),
    ("6.18.2 U+07FF overlong", b"\xe0\x9f\xbf"),
    ("6.18.3 U+FFFF overlong", b"\xf0\x8f\xbf\xbf"),
    ("6.19.1 a zero overlong in two", b"\xc0\x80"),
    ("6.19.2 a zero overlong in three", b"\xe0\x80\x80"),
    ("6.20.1 U+D800", b"\xed\xa0\x80"),
    ("6.20.2 U+DB7F", b"\xed\xad\xbf"),
    ("6.20.5 U+DC00", b"\xed\xb0\x80"),
    ("6.20.7 U+DFFF", b"\xed\xbf\xbf"),
    ("6.21.1 a pair of surrogates", b"\xed\xa0\x80\xed\xb0\x80"),
    ("6.21.8 the highest pair of surrogates", b"\xed\xaf\xbf\xed\xbf\xbf"),
];
