//! The session core alone: connections come and go, the server loses and repeats, and the application still sees each thing once.

use std::collections::BTreeMap;

use super::*;

fn customer() -> Core {
    let mut core = Core::new(Start {
        token: "t".into(),
        ..Start::default()
    });
    open(&mut core, 0);
    core
}

fn open(core: &mut Core, now_ms: u64) -> String {
    let first = core.connect_frame();
    core.opened(now_ms);
    say(
        core,
        now_ms,
        r#"{"connected":{"session":"s","user":"alice","role":"customer","node":"n","term":1,"ping_s":25}}"#,
    );
    String::from_utf8(first.to_vec()).unwrap()
}

fn say(core: &mut Core, now_ms: u64, frame: &str) {
    core.frame(now_ms, &Bytes::copy_from_slice(frame.as_bytes()));
}

fn conversation(core: &mut Core, now_ms: u64, last_seq: u64) {
    say(
        core,
        now_ms,
        &format!(
            r#"{{"conversation":{{"conversation":"alice","last_seq":{last_seq},"recv":0,"read":0,"state":"active","agent":"bo"}}}}"#
        ),
    );
}

fn event(core: &mut Core, now_ms: u64, seq: u64, id: &str, user: &str) {
    say(
        core,
        now_ms,
        &format!(
            r#"{{"event":{{"conversation":"alice","seq":{seq},"at":1,"id":"{id}","from":{{"role":"x","user":"{user}"}},"message":{{"text":"t"}}}}}}"#
        ),
    );
}

fn body() -> Box<RawValue> {
    RawValue::from_string(r#"{"text":"hi"}"#.into()).unwrap()
}

#[derive(Default, Debug)]
struct Out {
    written: Vec<String>,
    seqs: Vec<u64>,
    sent: Vec<String>,
    refused: Vec<String>,
    ended: Vec<Ended>,
    open_after_ms: Option<u64>,
    stopped: bool,
}

fn drain(core: &mut Core) -> Out {
    let mut out = Out::default();
    while let Some(action) = core.poll_action() {
        match action {
            Action::Write(frame) => out.written.push(String::from_utf8(frame.to_vec()).unwrap()),
            Action::Deliver(Incoming::Event(e)) => out.seqs.push(e.seq),
            Action::Deliver(Incoming::Placed { seq, .. }) => out.seqs.push(seq),
            Action::Deliver(Incoming::Sent { id }) => out.sent.push(id),
            Action::Deliver(Incoming::Refused { id, .. }) => out.refused.push(id),
            Action::Disconnect(ended) => out.ended.push(ended),
            Action::Open { after_ms, .. } => out.open_after_ms = Some(after_ms),
            Action::Stop => out.stopped = true,
            Action::Deliver(_) | Action::Observe(_) => {}
        }
    }
    out
}

fn sends(out: &Out) -> Vec<&String> {
    out.written.iter().filter(|w| w.starts_with(r#"{"send""#)).collect()
}

#[test]
fn a_message_is_sent_again_under_its_id_until_it_is_in_the_log() {
    let mut core = customer();
    conversation(&mut core, 0, 0);
    core.send(0, "1".into(), None, &body());
    assert_eq!(sends(&drain(&mut core)).len(), 1);
    core.closed(Ended::lost("reset"), 7);
    let out = drain(&mut core);
    assert!(out.open_after_ms.is_some() && out.sent.is_empty());
    open(&mut core, 10);
    assert!(sends(&drain(&mut core)).is_empty(), "not before it has caught up");
    conversation(&mut core, 11, 0);
    let out = drain(&mut core);
    assert_eq!(sends(&out), [r#"{"send":{"id":"1","body":{"text":"hi"}}}"#]);
    say(&mut core, 12, r#"{"sent":{"id":"1"}}"#);
    say(&mut core, 12, r#"{"sent":{"id":"1"}}"#);
    assert_eq!(drain(&mut core).sent, ["1"]);
    assert_eq!(core.pending(), 0);
}

#[test]
fn what_comes_back_while_catching_up_is_not_sent_again() {
    let mut core = customer();
    conversation(&mut core, 0, 0);
    core.send(0, "1".into(), None, &body());
    core.send(0, "2".into(), None, &body());
    core.closed(Ended::lost("reset"), 0);
    drain(&mut core);
    let first = open(&mut core, 1);
    assert!(first.contains(r#""since":0"#), "{first}");
    conversation(&mut core, 1, 1);
    event(&mut core, 1, 1, "1", "alice");
    let out = drain(&mut core);
    assert_eq!(out.sent, ["1"]);
    assert_eq!(sends(&out).len(), 1);
    assert!(sends(&out)[0].contains(r#""id":"2""#));
}

#[test]
fn a_conversation_nobody_tells_about_holds_its_messages_only_for_a_while() {
    let mut core = customer();
    conversation(&mut core, 0, 0);
    core.send(0, "1".into(), Some("bea".into()), &body());
    drain(&mut core);
    core.closed(Ended::lost("reset"), 0);
    open(&mut core, 100);
    assert!(sends(&drain(&mut core)).is_empty());
    let due = core.next_timer().unwrap();
    assert_eq!(due, 100 + HOLD_MS);
    core.timer(due);
    assert_eq!(sends(&drain(&mut core)).len(), 1);
}

#[test]
fn events_reach_the_application_once_and_in_order_and_a_hole_makes_it_come_back() {
    let mut core = customer();
    conversation(&mut core, 0, 4);
    for seq in [5, 6, 6, 5, 7] {
        event(&mut core, 0, seq, "x", "bo");
    }
    assert_eq!(drain(&mut core).seqs, [5, 6, 7]);
    event(&mut core, 0, 9, "x", "bo");
    event(&mut core, 0, 10, "x", "bo");
    let out = drain(&mut core);
    assert!(out.seqs.is_empty());
    assert_eq!(out.ended.len(), 1);
    core.closed(out.ended[0].clone(), 0);
    assert!(open(&mut core, 1).contains(r#""since":7"#));
    conversation(&mut core, 1, 10);
    for seq in 8..=10 {
        event(&mut core, 1, seq, "x", "bo");
    }
    assert_eq!(drain(&mut core).seqs, [8, 9, 10]);
}

#[test]
fn acks_are_few_and_cumulative() {
    let mut core = customer();
    conversation(&mut core, 0, 0);
    drain(&mut core);
    event(&mut core, 1_000, 1, "x", "bo");
    event(&mut core, 1_001, 2, "x", "bo");
    let out = drain(&mut core);
    assert_eq!(out.written, [r#"{"ack":{"conversation":"alice","recv":1,"read":0}}"#]);
    core.read(1_002, None, 99);
    assert!(drain(&mut core).written.is_empty());
    let due = core.next_timer().unwrap();
    assert_eq!(due, 1_300);
    core.timer(due);
    assert_eq!(
        drain(&mut core).written,
        [r#"{"ack":{"conversation":"alice","recv":2,"read":2}}"#]
    );
}

#[test]
fn a_refusal_that_says_when_is_retried_then_and_a_definite_one_never() {
    let mut core = customer();
    conversation(&mut core, 0, 0);
    for id in ["1", "2", "3"] {
        core.send(0, id.into(), None, &body());
    }
    drain(&mut core);
    say(
        &mut core,
        10,
        r#"{"error":{"id":"2","code":"rate_limited","message":"m","retry_after_ms":800}}"#,
    );
    say(&mut core, 10, r#"{"sent":{"id":"1"}}"#);
    assert!(sends(&drain(&mut core)).is_empty());
    assert_eq!(core.next_timer(), Some(810));
    core.timer(810);
    let out = drain(&mut core);
    assert_eq!(sends(&out).len(), 2, "from the first without sent: {out:?}");
    say(
        &mut core,
        820,
        r#"{"error":{"id":"2","code":"invalid_body","message":"m"}}"#,
    );
    let out = drain(&mut core);
    assert_eq!(out.refused, ["2"]);
    assert_eq!(core.pending(), 1);
}

#[test]
fn a_reset_moves_the_place_and_a_rewind_forgets_what_was_above() {
    let mut core = customer();
    conversation(&mut core, 0, 3);
    event(&mut core, 0, 4, "x", "bo");
    say(&mut core, 0, r#"{"reset":{"conversation":"alice","last_seq":9000}}"#);
    event(&mut core, 0, 9001, "x", "bo");
    assert_eq!(drain(&mut core).seqs, [4, 9001]);
    say(&mut core, 0, r#"{"reset":{"conversation":"alice","last_seq":9000}}"#);
    event(&mut core, 0, 9001, "x", "bo");
    assert!(drain(&mut core).seqs.is_empty(), "a repeat");
    say(&mut core, 0, r#"{"rewind":{"conversation":"alice","last_seq":8999}}"#);
    event(&mut core, 0, 9000, "y", "bo");
    assert_eq!(drain(&mut core).seqs, [9000]);
}

/// The frame's `last_seq` is no place of an agent's: it begins below it, and only an event says where.
#[test]
fn an_agent_that_is_reset_before_its_first_event_had_nothing() {
    let mut core = Core::new(Start::default());
    core.opened(0);
    say(
        &mut core,
        0,
        r#"{"connected":{"session":"s","user":"bo","role":"agent","node":"n","term":1,"ping_s":25}}"#,
    );
    conversation(&mut core, 0, 20);
    say(&mut core, 0, r#"{"reset":{"conversation":"alice","last_seq":18}}"#);
    let resets = std::iter::from_fn(|| core.poll_action()).filter_map(|action| match action {
        Action::Deliver(Incoming::Reset { had, last_seq, .. }) => Some((had, last_seq)),
        _ => None,
    });
    assert_eq!(resets.collect::<Vec<_>>(), [(0, 18)]);
    for seq in [19, 20, 21] {
        event(&mut core, 0, seq, "x", "alice");
    }
    assert_eq!(drain(&mut core).seqs, [19, 20, 21]);
}

#[test]
fn a_silent_server_is_left_and_a_final_code_ends_it() {
    let mut core = customer();
    assert_eq!(core.next_timer(), Some(50_000));
    core.heard(40_000);
    core.timer(50_000);
    assert!(drain(&mut core).ended.is_empty());
    core.timer(90_000);
    assert_eq!(drain(&mut core).ended.len(), 1);
    core.closed(Ended::of(CloseCode::Replaced), 0);
    let out = drain(&mut core);
    assert!(out.stopped && out.open_after_ms.is_none());
}

#[test]
fn told_to_go_away_it_lets_answers_arrive_and_comes_back_no_sooner_than_told() {
    let mut core = customer();
    conversation(&mut core, 0, 0);
    core.send(0, "1".into(), None, &body());
    say(&mut core, 5, r#"{"goaway":{"retry_after_ms":3000}}"#);
    core.send(6, "2".into(), None, &body());
    let out = drain(&mut core);
    assert_eq!(sends(&out).len(), 1);
    core.timer(5 + GOAWAY_LINGER_MS);
    let out = drain(&mut core);
    core.closed(out.ended[0].clone(), 1);
    assert!(drain(&mut core).open_after_ms.unwrap() >= 3_000);
}

#[test]
fn an_agent_names_all_its_places_and_begins_a_new_one_wherever_it_begins() {
    let mut core = Core::new(Start {
        since: Some(Since::Conversations(BTreeMap::from([("alice".into(), 41)]))),
        ..Start::default()
    });
    assert!(
        String::from_utf8(core.connect_frame().to_vec())
            .unwrap()
            .contains(r#""since":{"alice":41}"#)
    );
    core.opened(0);
    say(
        &mut core,
        0,
        r#"{"connected":{"session":"s","user":"bo","role":"agent","node":"n","term":1,"ping_s":25}}"#,
    );
    say(
        &mut core,
        0,
        r#"{"conversation":{"conversation":"cy","last_seq":9,"recv":0,"read":0,"state":"active","agent":"bo"}}"#,
    );
    for seq in [7u64, 8, 9] {
        say(
            &mut core,
            0,
            &format!(
                r#"{{"event":{{"conversation":"cy","seq":{seq},"at":1,"from":{{"role":"system"}},"assigned":{{"agent":"bo"}}}}}}"#
            ),
        );
    }
    event(&mut core, 0, 42, "x", "alice");
    assert_eq!(drain(&mut core).seqs, [7, 8, 9, 42]);
    core.closed(Ended::lost(""), 0);
    assert!(
        String::from_utf8(core.connect_frame().to_vec())
            .unwrap()
            .contains(r#""since":{"alice":42,"cy":9}"#)
    );
}

proptest::proptest! {
    /// A server that pushes any seqs in any order, with cuts in between: the application sees 1, 2, 3 … and nothing else.
    #[test]
    fn the_application_sees_consecutive_seqs_whatever_is_pushed(steps in proptest::collection::vec((0u64..12, proptest::bool::weighted(0.1)), 1..120)) {
        let mut core = customer();
        conversation(&mut core, 0, 0);
        let mut seen = Vec::new();
        for (seq, cut) in steps {
            event(&mut core, 0, seq + 1, "x", "bo");
            let out = drain(&mut core);
            seen.extend(out.seqs);
            if cut || !out.ended.is_empty() {
                core.closed(out.ended.first().cloned().unwrap_or_default(), 0);
                open(&mut core, 0);
                conversation(&mut core, 0, seen.len() as u64);
                drain(&mut core);
            }
        }
        let expected: Vec<u64> = (1..=seen.len() as u64).collect();
        proptest::prop_assert_eq!(seen, expected);
    }
}
