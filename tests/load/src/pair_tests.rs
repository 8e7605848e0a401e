//! The checks themselves, checked: a good exchange is clean, and each kind of fault is seen.

use wire::Seq;
use wire::event::{event_frame, placed_frame, sent_frame};
use wire::record::{Role, Sender};

use super::*;

fn pair() -> (Pair, Stats) {
    let mut pair = Pair::new("cy", "bo", ["t".into(), "t".into()], "run", 64);
    let mut stats = Stats::default();
    for who in [Who::Customer, Who::Agent] {
        pair.connect(who, 0);
        pair.heard(
            who,
            br#"{"connected":{"session":"s","user":"u","role":"r","node":"n","term":1,"ping_s":25}}"#,
            0,
            &mut stats,
        );
        pair.heard(
            who,
            br#"{"conversation":{"conversation":"cy","last_seq":0,"recv":0,"read":0,"state":"active","agent":"bo"}}"#,
            0,
            &mut stats,
        );
        pair.side(who).out.clear();
    }
    (pair, stats)
}

/// The customer's messages begin, and their frames are taken off the wire.
fn customer_sends(pair: &mut Pair, many: usize) -> Vec<(String, String)> {
    pair.side(Who::Customer).intended.extend(vec![1; many]);
    pair.pump(1);
    frames(&std::mem::take(&mut pair.side(Who::Customer).out))
}

/// (id, body) of each `send` in client frames as written.
fn frames(mut out: &[u8]) -> Vec<(String, String)> {
    let mut all = Vec::new();
    while out.len() > 2 {
        let (len, head) = match out[1] & 0x7f {
            126 => (usize::from(u16::from_be_bytes([out[2], out[3]])), 8),
            short => (usize::from(short), 6),
        };
        let frame = &out[head..head + len];
        if let Ok(wire::frames::ClientFrame::Send(send)) = serde_json::from_slice(frame) {
            all.push((send.id.to_string(), send.body.get().to_owned()));
        }
        out = &out[head + len..];
    }
    all
}

fn event(seq: u64, (id, body): &(String, String)) -> Vec<u8> {
    let from = Sender {
        role: Role::Customer.into(),
        user: "cy".into(),
    };
    event_frame("cy", Seq(seq), 1, id, &from, format!("\"message\":{body}").as_bytes()).to_vec()
}

#[test]
fn a_slot_frees_when_its_message_is_sent_and_delivered() {
    let (mut pair, mut stats) = pair();
    assert!(pair.active());
    let sent = customer_sends(&mut pair, 2);
    assert_eq!(sent.len(), 2);
    pair.heard(Who::Customer, &sent_frame(&sent[0].0), 2, &mut stats);
    assert_eq!(pair.sides[0].open(), 2);
    pair.heard(Who::Agent, &event(1, &sent[0]), 3, &mut stats);
    assert_eq!(pair.sides[0].open(), 1);
    pair.heard(Who::Customer, &placed_frame("cy", Seq(1), 1, &sent[0].0), 3, &mut stats);
    pair.heard(Who::Customer, &placed_frame("cy", Seq(2), 1, &sent[1].0), 3, &mut stats);
    pair.heard(Who::Agent, &event(2, &sent[1]), 3, &mut stats);
    assert!(pair.quiet());
    pair.settle(&mut stats);
    assert!(!stats.faults.any(), "{:?}", stats.faults);
    assert_eq!(stats.delivered_all, 2);
}

#[test]
fn every_kind_of_fault_is_seen() {
    type Fault = fn(&Stats) -> u64;
    type Deed = fn(&mut Pair, &mut Stats, &[(String, String)]);
    let cases: [(&str, Deed, Fault); 6] = [
        (
            "repeated seq",
            |p, s, m| {
                p.heard(Who::Agent, &event(1, &m[0]), 2, s);
                p.heard(Who::Agent, &event(1, &m[0]), 2, s);
            },
            |s| s.faults.repeated,
        ),
        (
            "repeated message",
            |p, s, m| {
                p.heard(Who::Agent, &event(1, &m[0]), 2, s);
                p.heard(Who::Agent, &event(2, &m[0]), 2, s);
            },
            |s| s.faults.repeated,
        ),
        (
            "hole",
            |p, s, m| {
                p.heard(Who::Agent, &event(1, &m[0]), 2, s);
                p.heard(Who::Agent, &event(3, &m[1]), 2, s);
            },
            |s| s.faults.holes,
        ),
        (
            "order",
            |p, s, m| {
                p.heard(Who::Agent, &event(1, &m[1]), 2, s);
                p.heard(Who::Agent, &event(2, &m[0]), 2, s);
            },
            |s| s.faults.out_of_order,
        ),
        (
            "changed",
            |p, s, m| {
                let body = m[0].1.replace("Monday", "monday").replace("parcel", "Parcel");
                p.heard(Who::Agent, &event(1, &(m[0].0.clone(), body)), 2, s);
            },
            |s| s.faults.changed,
        ),
        (
            "lost",
            |p, s, m| {
                p.heard(Who::Customer, &sent_frame(&m[0].0), 2, s);
                p.settle(s);
            },
            |s| s.faults.lost,
        ),
    ];
    for (name, deed, count) in cases {
        let (mut pair, mut stats) = pair();
        let sent = customer_sends(&mut pair, 3);
        deed(&mut pair, &mut stats, &sent);
        assert!(count(&stats) > 0, "{name}: {:?}", stats.faults);
        assert!(stats.faults.any(), "{name}");
    }
}

#[test]
fn after_a_cut_what_has_no_sent_goes_again_once_it_has_caught_up() {
    let (mut pair, mut stats) = pair();
    let sent = customer_sends(&mut pair, 3);
    pair.heard(Who::Customer, &sent_frame(&sent[0].0), 2, &mut stats);
    pair.cut(Who::Customer);
    pair.connect(Who::Customer, 0);
    pair.side(Who::Customer).out.clear();
    pair.heard(
        Who::Customer,
        br#"{"connected":{"session":"s","user":"u","role":"r","node":"n","term":1,"ping_s":25}}"#,
        3,
        &mut stats,
    );
    pair.heard(
        Who::Customer,
        br#"{"conversation":{"conversation":"cy","last_seq":2,"recv":0,"read":0,"state":"active","agent":"bo"}}"#,
        3,
        &mut stats,
    );
    assert!(frames(&pair.sides[0].out).is_empty());
    pair.heard(Who::Customer, &event(1, &sent[0]), 4, &mut stats);
    pair.heard(Who::Customer, &event(2, &sent[1]), 4, &mut stats);
    let again = frames(&pair.sides[0].out);
    assert_eq!(again, [sent[2].clone()], "the second came back and is in the log");
    assert!(!stats.faults.any());
}

#[test]
fn a_refused_message_goes_again_after_the_time_it_was_told() {
    let (mut pair, mut stats) = pair();
    let sent = customer_sends(&mut pair, 1);
    let error = format!(
        r#"{{"error":{{"id":"{}","code":"rate_limited","message":"m","retry_after_ms":5}}}}"#,
        sent[0].0
    );
    pair.heard(Who::Customer, error.as_bytes(), 1_000_000, &mut stats);
    pair.tick(2_000_000, &mut stats);
    assert!(frames(&pair.sides[0].out).is_empty());
    pair.tick(6_000_000, &mut stats);
    assert_eq!(frames(&pair.sides[0].out), sent);
    assert_eq!(stats.errors.get("rate_limited"), Some(&1));
}
