//! WebSocket framing, by raw frames. Numbers are those of Autobahn's cases; texts are frames of ours, blank-padded to the
//! case's size, so that the right answer is a `pong`, and garbage where the case wants garbage.

use wire::limits::FRAME_BYTES_MAX;

use crate::rows::Row;
use crate::token;
use crate::ws::{BINARY, CLOSE, CONTINUATION, FIN, Length, PING, PONG, TEXT, Ws, close, frame, frame_with, text};

/// RFC 6455, section 7.4.1.
pub const PROTOCOL_ERROR: u16 = 1002;
const TOO_LARGE: u16 = 3505;

/// What a connected client must hear.
#[derive(Clone)]
enum Want {
    /// This many of our own pongs.
    Pongs(usize),
    /// WebSocket pongs with these payloads.
    Ponged(Vec<Vec<u8>>),
    Error(&'static str),
    Closed(u16),
    /// Our close comes back so.
    Goodbye(Option<u16>),
    /// Nothing; it goes on.
    Nothing,
}

/// Sends bytes, in pieces if `piece` is not 0, to a connected customer's socket.
fn row(name: &str, bytes: Vec<u8>, piece: usize, want: Want) -> Row {
    Row::new(format!("websocket {name}"), move |place| {
        let mut ws = Ws::customer(place, &token::somebody("mallory"))?;
        if piece == 0 {
            ws.raw.send(&bytes);
        } else {
            ws.raw.send_in_pieces(&bytes, piece);
        }
        match &want {
            Want::Pongs(n) => {
                for _ in 0..*n {
                    ws.until(&["pong", "error"]).and_then(|v| {
                        let pong = v.get("pong").is_some();
                        pong.then_some(()).ok_or_else(|| format!("{v} where a pong is right"))
                    })?;
                }
            }
            Want::Ponged(payloads) => payloads.iter().try_for_each(|p| ws.ponged(p))?,
            Want::Error(code) => ws.refused(code)?,
            Want::Closed(code) => return ws.closed(*code),
            Want::Goodbye(code) => return ws.said_goodbye(*code),
            Want::Nothing => {}
        }
        ws.lives()
    })
}

/// Our ping, blank-padded to so many bytes.
fn padded(len: usize) -> String {
    let ping = r#"{"ping":{}}"#;
    format!("{ping}{}", " ".repeat(len.saturating_sub(ping.len())))
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    sizes(&mut rows);
    pings(&mut rows);
    reserved(&mut rows);
    fragments(&mut rows);
    closes(&mut rows);
    limits(&mut rows);
    masks_and_lengths(&mut rows);
    rows
}

fn sizes(rows: &mut Vec<Row>) {
    rows.push(row("1.1.1 empty text", text(""), 0, Want::Error("bad_frame")));
    for (case, len) in [(2, 125), (3, 126), (4, 127), (5, 128), (6, 65_535), (7, 65_536)] {
        let name = format!("1.1.{case} text of {len}");
        rows.push(row(&name, text(&padded(len)), 0, Want::Pongs(1)));
    }
    rows.push(row(
        "1.1.8 text of 65536 in chops of 997",
        text(&padded(65_536)),
        997,
        Want::Pongs(1),
    ));
    let binary = |len| frame(FIN | BINARY, padded(len).as_bytes());
    rows.push(row(
        "1.2.1 empty binary",
        frame(FIN | BINARY, b""),
        0,
        Want::Error("bad_frame"),
    ));
    for (case, len) in [(2, 125), (3, 126), (4, 127), (5, 128), (6, 65_535), (7, 65_536)] {
        let name = format!("1.2.{case} binary of {len}");
        rows.push(row(&name, binary(len), 0, Want::Error("bad_frame")));
    }
    rows.push(row(
        "1.2.8 binary of 65536 in chops of 997",
        binary(65_536),
        997,
        Want::Error("bad_frame"),
    ));
}

fn pings(rows: &mut Vec<Row>) {
    let ping = |payload: &[u8]| frame(FIN | PING, payload);
    let answered = |payload: &[u8]| Want::Ponged(vec![payload.to_vec()]);
    rows.push(row("2.1 ping without payload", ping(b""), 0, answered(b"")));
    rows.push(row(
        "2.2 ping with text",
        ping(b"Hello, world!"),
        0,
        answered(b"Hello, world!"),
    ));
    let binary = [0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff];
    rows.push(row("2.3 ping with binary", ping(&binary), 0, answered(&binary)));
    rows.push(row("2.4 ping of 125", ping(&[0xfe; 125]), 0, answered(&[0xfe; 125])));
    rows.push(row(
        "2.5 ping of 126",
        ping(&[0xfe; 126]),
        0,
        Want::Closed(PROTOCOL_ERROR),
    ));
    rows.push(row(
        "2.6 ping of 125 in octets",
        ping(&[0xfe; 125]),
        1,
        answered(&[0xfe; 125]),
    ));
    rows.push(row(
        "2.7 pong nobody asked for, empty",
        frame(FIN | PONG, b""),
        0,
        Want::Nothing,
    ));
    rows.push(row(
        "2.8 pong nobody asked for",
        frame(FIN | PONG, b"unsolicited"),
        0,
        Want::Nothing,
    ));
    let both = [frame(FIN | PONG, b"unsolicited"), ping(b"ping")].concat();
    rows.push(row(
        "2.9 pong nobody asked for, then a ping",
        both,
        0,
        answered(b"ping"),
    ));
    let ten: Vec<Vec<u8>> = (0..10).map(|i| format!("payload-{i}").into_bytes()).collect();
    let bytes: Vec<u8> = ten.iter().flat_map(|p| ping(p)).collect();
    rows.push(row(
        "2.10 ten pings at once",
        bytes.clone(),
        0,
        Want::Ponged(ten.clone()),
    ));
    rows.push(row("2.11 ten pings in octets", bytes, 1, Want::Ponged(ten)));
}

fn reserved(rows: &mut Vec<Row>) {
    for rsv in 1..8u8 {
        let first = FIN | rsv << 4;
        let name = format!("3.{rsv} reserved bits {rsv:03b}");
        let after_a_good_one = [text(&padded(20)), frame(first | TEXT, padded(20).as_bytes())].concat();
        rows.push(row(&name, after_a_good_one, 0, Want::Closed(PROTOCOL_ERROR)));
        let name = format!("3.{rsv} reserved bits {rsv:03b} of a ping, in octets");
        rows.push(row(&name, frame(first | PING, b""), 1, Want::Closed(PROTOCOL_ERROR)));
    }
    for (class, opcodes) in [(1, 3..8u8), (2, 11..16u8)] {
        for (case, opcode) in opcodes.enumerate() {
            let name = format!("4.{class}.{} opcode {opcode}", case + 1);
            let payload: &[u8] = if case % 2 == 0 { b"" } else { b"reserved" };
            rows.push(row(
                &name,
                frame(FIN | opcode, payload),
                0,
                Want::Closed(PROTOCOL_ERROR),
            ));
        }
    }
}

/// A text message in these pieces, as fragments.
fn in_fragments(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
    let last = pieces.len() - 1;
    let each = pieces.iter().enumerate().map(|(i, piece)| {
        let opcode = if i == 0 { TEXT } else { CONTINUATION };
        frame(if i == last { FIN | opcode } else { opcode }, piece)
    });
    each.collect()
}

fn fragments(rows: &mut Vec<Row>) {
    let two = in_fragments(&[br#"{"pin"#, br#"g":{}}"#]);
    let all = two.concat();
    let with_ping = [two[0].clone(), frame(FIN | PING, b"between"), two[1].clone()].concat();
    let violated = Want::Closed(PROTOCOL_ERROR);
    rows.push(row(
        "5.1 a ping in fragments",
        [frame(PING, b"a"), frame(FIN, b"b")].concat(),
        0,
        violated.clone(),
    ));
    rows.push(row(
        "5.2 a pong in fragments",
        [frame(PONG, b"a"), frame(FIN, b"b")].concat(),
        0,
        violated.clone(),
    ));
    rows.push(row("5.3 text in two fragments", all.clone(), 0, Want::Pongs(1)));
    rows.push(row(
        "5.4 text in two fragments, frame by frame",
        all.clone(),
        two[0].len(),
        Want::Pongs(1),
    ));
    rows.push(row("5.5 text in two fragments, in octets", all, 1, Want::Pongs(1)));
    let between = Want::Ponged(vec![b"between".to_vec()]);
    rows.push(row(
        "5.6 a ping between fragments is answered",
        with_ping.clone(),
        0,
        between.clone(),
    ));
    rows.push(row(
        "5.7 a ping between fragments does not end the message",
        with_ping.clone(),
        9,
        Want::Pongs(1),
    ));
    rows.push(row("5.8 a ping between fragments, in octets", with_ping, 1, between));
    for (case, (first, what)) in [
        (FIN, "a continuation of nothing"),
        (CONTINUATION, "an open continuation of nothing"),
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = [frame(first, b"fragment"), text(&padded(20))].concat();
        for (i, (how, piece)) in [("", 0), (", frame by frame", 14), (", in octets", 1)]
            .into_iter()
            .enumerate()
        {
            let name = format!("5.{} {what}{how}", 9 + 3 * case + i);
            rows.push(row(&name, bytes.clone(), piece, violated.clone()));
        }
    }
    let good = in_fragments(&[br#"{"pin"#, br#"g":{}}"#]).concat();
    let then_open = [good.clone(), frame(CONTINUATION, b"x"), frame(FIN | TEXT, b"y")].concat();
    rows.push(row(
        "5.15 a good message, then a continuation of nothing",
        then_open,
        0,
        violated.clone(),
    ));
    for case in [16, 17] {
        let first = if case == 16 { CONTINUATION } else { FIN };
        let bytes = [frame(first, b"a"), frame(TEXT, b"b"), frame(FIN, b"c")].concat();
        let name = format!("5.{case} a continuation of nothing before a message in fragments");
        rows.push(row(&name, bytes.repeat(2), 0, violated.clone()));
    }
    let twice_text = [frame(TEXT, br#"{"pin"#), frame(FIN | TEXT, br#"g":{}}"#)].concat();
    rows.push(row("5.18 a new text inside a message", twice_text, 0, violated.clone()));
    let five = in_fragments(&[b"{", b"\"pi", b"ng", b"\":{", b"}}"]);
    let many = [
        &five[0][..],
        &five[1],
        &frame(FIN | PING, b"1"),
        &five[2],
        &five[3],
        &frame(FIN | PING, b"2"),
        &five[4],
    ]
    .concat();
    let two_pings = Want::Ponged(vec![b"1".to_vec(), b"2".to_vec()]);
    rows.push(row(
        "5.19 five fragments with two pings between",
        many.clone(),
        0,
        two_pings.clone(),
    ));
    rows.push(row(
        "5.20 five fragments with two pings between, in octets",
        many,
        1,
        two_pings,
    ));
    let binary_in_text = [frame(TEXT, br#"{"pin"#), frame(FIN | BINARY, br#"g":{}}"#)].concat();
    rows.push(row("5.x binary inside a text", binary_in_text, 0, violated));
    let empties = [
        frame(TEXT, b"{\"ping\""),
        frame(CONTINUATION, b"").repeat(100_000),
        frame(FIN, b":{}}"),
    ]
    .concat();
    rows.push(row(
        "5.x a hundred thousand empty fragments",
        empties,
        0,
        Want::Pongs(1),
    ));
}

fn closes(rows: &mut Vec<Row>) {
    let normal = close(1000, b"");
    let goodbye = Want::Goodbye(Some(1000));
    let violated = Want::Closed(PROTOCOL_ERROR);
    rows.push(row(
        "7.1.1 a message, then a close",
        [text(&padded(20)), normal.clone()].concat(),
        0,
        goodbye.clone(),
    ));
    rows.push(row("7.1.2 two closes", normal.repeat(2), 0, goodbye.clone()));
    rows.push(row(
        "7.1.3 a ping behind the close",
        [normal.clone(), frame(FIN | PING, b"")].concat(),
        0,
        goodbye.clone(),
    ));
    rows.push(row(
        "7.1.4 a text behind the close",
        [normal.clone(), text("late")].concat(),
        0,
        goodbye.clone(),
    ));
    let open = [frame(TEXT, b"fragment"), normal.clone(), frame(FIN, b"late")].concat();
    rows.push(row("7.1.5 a close between fragments", open, 0, goodbye.clone()));
    let much = [text(&padded(65_000)), normal.clone(), frame(FIN | PING, b"")].concat();
    rows.push(row("7.1.6 a large text, a close, a ping", much, 0, goodbye.clone()));
    rows.push(row(
        "7.3.1 a close without payload",
        frame(FIN | CLOSE, b""),
        0,
        Want::Goodbye(None),
    ));
    rows.push(row(
        "7.3.2 a close with 1 byte",
        frame(FIN | CLOSE, b"a"),
        0,
        violated.clone(),
    ));
    rows.push(row("7.3.3 a close with a code", normal, 0, goodbye.clone()));
    rows.push(row(
        "7.3.4 a close with a reason",
        close(1000, b"Hello World!"),
        0,
        goodbye.clone(),
    ));
    rows.push(row(
        "7.3.5 a close with a reason of 123",
        close(1000, &[b'*'; 123]),
        0,
        goodbye,
    ));
    rows.push(row(
        "7.3.6 a close with a reason of 124",
        close(1000, &[b'*'; 124]),
        0,
        violated.clone(),
    ));
    let not_utf8 = close(1000, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited");
    rows.push(row(
        "7.5.1 a close with a reason that is not UTF-8",
        not_utf8,
        0,
        Want::Closed(1007),
    ));
    let legal = [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999,
    ];
    for (case, code) in legal.into_iter().enumerate() {
        let name = format!("7.7.{} a close with {code}", case + 1);
        rows.push(row(&name, close(code, b""), 0, Want::Goodbye(Some(code))));
    }
    let illegal = [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999];
    for (case, code) in illegal.into_iter().enumerate() {
        let name = format!("7.9.{} a close with {code}", case + 1);
        rows.push(row(&name, close(code, b""), 0, violated.clone()));
    }
    rows.push(row("7.9.x a close with 1015", close(1015, b""), 0, violated.clone()));
    for (case, code) in [5_000, 65_535].into_iter().enumerate() {
        let name = format!("7.13.{} a close with {code}", case + 1);
        rows.push(row(&name, close(code, b""), 0, violated.clone()));
    }
}

/// 9.x and 10.x, scaled: the largest frame is `FRAME_BYTES_MAX`.
fn limits(rows: &mut Vec<Row>) {
    let max = FRAME_BYTES_MAX;
    rows.push(row("9.1.x a text of the limit", text(&padded(max)), 0, Want::Pongs(1)));
    rows.push(row(
        "9.1.x a text of the limit and 1",
        text(&padded(max + 1)),
        0,
        Want::Closed(TOO_LARGE),
    ));
    rows.push(row(
        "9.2.x a binary of the limit and 1",
        frame(FIN | BINARY, &vec![0; max + 1]),
        0,
        Want::Closed(TOO_LARGE),
    ));
    let chops = |len: usize, size: usize| {
        let message = padded(len).into_bytes();
        in_fragments(&message.chunks(size).collect::<Vec<_>>()).concat()
    };
    for (case, size) in [64, 256, 1_024, 4_096, 16_384, 65_536].into_iter().enumerate() {
        let name = format!("9.3.{} the limit in fragments of {size}", case + 1);
        rows.push(row(&name, chops(max, size), 0, Want::Pongs(1)));
    }
    rows.push(row(
        "9.4.x the limit and 1 in fragments of 64",
        chops(max + 1, 64),
        0,
        Want::Closed(TOO_LARGE),
    ));
    for (case, size) in [64, 512, 2_048].into_iter().enumerate() {
        let name = format!("9.5.{} the limit in segments of {size}", case + 1);
        rows.push(row(&name, text(&padded(max)), size, Want::Pongs(1)));
    }
    let many = [text(&padded(64)).repeat(100), frame(FIN | PING, b"done")].concat();
    rows.push(row("9.7.x a hundred messages at once", many, 0, Want::Pongs(100)));
    rows.push(row(
        "10.1.1 a large message in frames of 1300",
        chops(65_536, 1_300),
        0,
        Want::Pongs(1),
    ));
    for (what, said) in [
        ("the limit and 1", max as u64 + 1),
        ("4 GiB", 1 << 32),
        ("2^63 - 1", u64::MAX >> 1),
        ("the top bit", 1 << 63),
        ("2^64 - 1", u64::MAX),
    ] {
        for (kind, first) in [("a text", FIN | TEXT), ("a fragment", TEXT)] {
            let bytes = frame_with(first, b"x", Some([1, 2, 3, 4]), Length::Said(said));
            let name = format!("9.x {kind} that announces {what}");
            rows.push(row(&name, bytes, 0, Want::Closed(TOO_LARGE)));
        }
    }
    let ping = frame_with(FIN | PING, b"", Some([1, 2, 3, 4]), Length::Said(1 << 40));
    rows.push(row("9.x a ping that announces 1 TiB", ping, 0, Want::Closed(TOO_LARGE)));
}

fn masks_and_lengths(rows: &mut Vec<Row>) {
    let ping = padded(20);
    let bare = frame_with(FIN | TEXT, ping.as_bytes(), None, Length::Shortest);
    rows.push(row("mask: none", bare, 0, Want::Closed(PROTOCOL_ERROR)));
    let bare = frame_with(FIN | PING, b"", None, Length::Shortest);
    rows.push(row("mask: a ping without", bare, 0, Want::Closed(PROTOCOL_ERROR)));
    let zero = frame_with(FIN | TEXT, ping.as_bytes(), Some([0; 4]), Length::Shortest);
    rows.push(row("mask: zero is legal", zero, 0, Want::Pongs(1)));
    for wide in [2, 8] {
        let long = frame_with(FIN | TEXT, ping.as_bytes(), Some([9, 8, 7, 6]), Length::Wide(wide));
        let name = format!("length: 20 in {wide} bytes is read");
        rows.push(row(&name, long, 0, Want::Pongs(1)));
    }
    rows.push(Row::new("websocket violations before connect close alike", |place| {
        for (bytes, code) in [
            (frame(FIN | 0x40 | TEXT, b"{}"), PROTOCOL_ERROR),
            (frame(FIN | TEXT, b"\xff"), 1007),
            (
                frame_with(FIN | TEXT, b"", Some([1; 4]), Length::Said(u64::MAX)),
                TOO_LARGE,
            ),
        ] {
            let mut ws = Ws::open(place)?;
            ws.raw.send(&bytes);
            ws.closed(code)?;
        }
        Ok(())
    }));
    rows.push(Row::new(
        "websocket a frame that never ends is cut off with the handshake's time",
        |place| {
            let mut ws = Ws::open(place)?;
            ws.raw.send(&text(r#"{"connect":{"token":"x"}}"#)[..9]);
            ws.closed(3504)
        },
    ));
}
