//! The session core, frame by frame: what a client may do, and what reaches it.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

use std::sync::Arc;

use bytes::Bytes;
use ingress_core::buckets::RetryAfterMs;
use ingress_core::session::parse;
use ingress_core::{Claims, Connected, Greeting, Handshaking, Quota, Reported, Step, Tick};
use proptest::prelude::*;
use wire::link::{Access, Conversation};
use wire::record::Role;
use wire::{CloseCode, Seq, Tenant, User, limits};

struct Plenty;
impl Quota for Plenty {
    fn take_send(&self, _: u64, _: usize) -> Result<(), RetryAfterMs> {
        Ok(())
    }
}

struct Nothing;
impl Quota for Nothing {
    fn take_send(&self, _: u64, _: usize) -> Result<(), RetryAfterMs> {
        Err(RetryAfterMs(7))
    }
}

fn claims(user: &str, role: Role) -> Claims {
    Claims {
        tenant: Tenant::new("demo").unwrap(),
        user: User::new(user).unwrap(),
        role,
        expires_at_ms: 10_000_000,
        issued_at_ms: 0,
        device: None,
        groups: vec![],
        priority: 1,
    }
}

fn customer() -> Connected {
    Connected::new(0, &claims("alice", Role::Customer), None, Arc::default())
}

fn agent() -> Connected {
    Connected::new(0, &claims("bo", Role::Agent), None, Arc::default())
}

fn frame<'a>(session: &mut Connected, text: &'a str) -> Step<'a> {
    session.handle_frame(0, parse(text.as_bytes()), &Plenty)
}

/// The code of the error that `text` is answered with.
fn refused(session: &mut Connected, text: &str) -> String {
    match frame(session, text) {
        Step::Answer(answer) => {
            let value: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            value["error"]["code"].as_str().unwrap_or("no error").to_owned()
        }
        other => format!("{other:?}"),
    }
}

fn output(session: &mut Connected) -> Vec<String> {
    let frames = session.take_output(0, usize::MAX);
    frames.iter().map(|f| String::from_utf8(f.to_vec()).unwrap()).collect()
}

fn attach(session: &mut Connected, conversation: &str, from: u64, access: Access) {
    session.handle_conversation(
        0,
        &Conversation {
            conversation: conversation.into(),
            begin: true,
            from,
            access: access.into(),
            frame: Bytes::from_static(b"C"),
            ..Conversation::default()
        },
    );
}

#[test]
fn the_first_frame_is_connect_any_other_closes_and_so_does_the_tenth_that_is_none() {
    for early in [
        r#"{"ping":{}}"#,
        r#"{"send":{"id":"1","body":{"text":"x"}}}"#,
        r#"{"refresh":{"token":"t"}}"#,
    ] {
        let greeting = Handshaking::default().handle_frame(0, early.as_bytes()).is_close();
        assert_eq!(greeting, Some(CloseCode::BadFrame), "{early}");
    }
    let mut hello = Handshaking::default();
    for _ in 0..9 {
        assert!(matches!(hello.handle_frame(0, b"{"), Greeting::Answer(_)));
    }
    assert!(matches!(
        hello.handle_frame(0, b"{"),
        Greeting::Close(CloseCode::BadFrame)
    ));
    let connect = Handshaking::default()
        .handle_frame(0, br#"{"connect":{"token":"t","since":3}}"#)
        .is_verify();
    assert!(connect);
}

trait IsVerify {
    fn is_verify(&self) -> bool;
    fn is_close(&self) -> Option<CloseCode>;
}
impl IsVerify for Greeting<'_> {
    fn is_verify(&self) -> bool {
        matches!(self, Greeting::Verify(c) if c.token == "t")
    }

    fn is_close(&self) -> Option<CloseCode> {
        match self {
            Greeting::Close(code) => Some(*code),
            _ => None,
        }
    }
}

#[test]
fn a_customers_send_becomes_a_record_and_its_report_becomes_sent() {
    let mut session = customer();
    let Step::Produce(record) = frame(&mut session, r#"{"send":{"id":"1","body":{"text": "hé"}}}"#) else {
        panic!()
    };
    assert_eq!(record.conversation.as_str(), "alice");
    assert!(record.wants_agent && !record.staff_only);
    assert_eq!(record.member_bytes(), Bytes::from("\"message\":{\"text\": \"hé\"}"));
    let token = record.token;
    assert!(session.handle_report(0, token, Reported::Logged));
    assert!(
        !session.handle_report(0, token, Reported::Logged),
        "a second report of one record is none"
    );
    assert_eq!(output(&mut session), [r#"{"sent":{"id":"1"}}"#]);
}

#[test]
fn a_failed_report_says_whether_the_message_may_appear() {
    for (reported, code) in [
        (Reported::Unavailable, "unavailable"),
        (Reported::Unknown, "unknown"),
        (Reported::TooLarge, "too_large"),
    ] {
        let mut session = customer();
        let Step::Produce(record) = frame(&mut session, r#"{"send":{"id":"1","body":{"text":""}}}"#) else {
            panic!()
        };
        session.handle_report(0, record.token, reported);
        assert!(output(&mut session)[0].contains(code));
    }
}

#[test]
fn a_customer_speaks_in_its_own_conversation_only_and_has_no_staff_verbs() {
    let mut session = customer();
    for (text, code) in [
        (
            r#"{"send":{"id":"1","conversation":"bob","body":{"text":""}}}"#,
            "forbidden",
        ),
        (r#"{"act":{"id":"1","conversation":"bob","close":{}}}"#, "forbidden"),
        (r#"{"act":{"id":"1","accept":{}}}"#, "forbidden"),
        (r#"{"act":{"id":"1","note":{"text":"x"}}}"#, "forbidden"),
        (r#"{"act":{"id":"1","join":{}}}"#, "forbidden"),
        (r#"{"status":{"state":"available"}}"#, "forbidden"),
        (r#"{"act":{"id":"1"}}"#, "bad_frame"),
        (r#"{"act":{"id":"1","close":{},"rate":{}}}"#, "bad_frame"),
        (r#"{"act":{"id":"1","close":[]}}"#, "invalid_body"),
        (r#"{"send":{"id":"1","body":{"nope":1}}}"#, "invalid_body"),
        (r#"{"send":{"id":"","body":{"text":""}}}"#, "bad_frame"),
        (r#"{"send":{"id":"a\nb","body":{"text":""}}}"#, "bad_frame"),
        (r#"{"connect":{"token":"t"}}"#, "bad_frame"),
        (r#"{"send":{"id":"1","id":"2","body":{"text":""}}}"#, "bad_frame"),
    ] {
        assert_eq!(refused(&mut session, text), code, "{text}");
    }
    assert!(matches!(
        frame(&mut session, r#"{"typing":{"conversation":"bob"}}"#),
        Step::Nothing
    ));
    assert!(matches!(frame(&mut session, r#"{"typing":{}}"#), Step::Typing { .. }));
}

#[test]
fn an_agent_speaks_where_it_is_assigned_and_asks_where_nobody_told_it() {
    let mut session = agent();
    let send = r#"{"send":{"id":"1","conversation":"alice","body":{"text":"hi"}}}"#;
    assert!(matches!(
        frame(&mut session, send),
        Step::Ask {
            needs: Access::Full,
            ..
        }
    ));
    session.learn("alice", Access::Full);
    assert!(matches!(frame(&mut session, send), Step::Produce(_)));
    session.unlearn("alice");
    assert!(matches!(frame(&mut session, send), Step::Ask { .. }));

    attach(&mut session, "alice", 0, Access::Watch);
    assert_eq!(refused(&mut session, send), "not_assigned");
    let note = r#"{"act":{"id":"2","conversation":"alice","note":{"text":"psst"}}}"#;
    let Step::Produce(record) = frame(&mut session, note) else {
        panic!()
    };
    assert!(record.staff_only && !record.wants_agent);
    assert_eq!(record.member_bytes(), Bytes::from_static(br#""note":{"text":"psst"}"#));

    attach(&mut session, "alice", 0, Access::None);
    assert_eq!(refused(&mut session, note), "not_assigned");
    assert_eq!(
        refused(&mut session, r#"{"send":{"id":"1","body":{"text":"hi"}}}"#),
        "bad_frame"
    );
}

#[test]
fn a_close_names_what_its_author_has_seen() {
    let mut session = agent();
    attach(&mut session, "alice", 4, Access::Full);
    assert!(session.handle_push(0, "alice", Seq(5), Bytes::from_static(b"5")));
    let Step::Desk(act) = frame(
        &mut session,
        r#"{"act":{"id":"9","conversation":"alice","close":{"x":1}}}"#,
    ) else {
        panic!()
    };
    assert_eq!((act.seen_seq, &act.deed[..]), (5, &br#"{"close":{"x":1}}"#[..]));
    assert!(
        !session.handle_report(0, act.token, Reported::Logged),
        "the desk answers"
    );

    let mut session = customer();
    let Step::Desk(act) = frame(&mut session, r#"{"act":{"id":"9","close":{}}}"#) else {
        panic!()
    };
    assert_eq!(act.seen_seq, u64::MAX);
    assert!(session.handle_report(0, act.token, Reported::Unknown));
    assert!(output(&mut session)[0].contains("unknown"));
}

#[test]
fn a_status_is_a_deed_without_a_conversation() {
    let Step::Desk(act) = frame(
        &mut agent(),
        r#"{"status":{"id":"s","state":"available","capacity":8}}"#,
    ) else {
        panic!()
    };
    assert_eq!(&act.deed[..], br#"{"status":{"state":"available","capacity":8}}"#);
    assert_eq!(act.customer, None);
}

#[test]
fn the_tenth_bad_frame_of_a_minute_closes_and_not_the_tenth_of_two() {
    let mut session = customer();
    let mut at = |now: u64| session.handle_frame(now, parse(b"[]"), &Plenty);
    for i in 0..9 {
        assert!(matches!(at(i), Step::Answer(_)));
    }
    assert!(matches!(at(60_001), Step::Answer(_)));
    for i in 0..8 {
        assert!(matches!(at(60_100 + i), Step::Answer(_)));
    }
    assert!(matches!(at(60_200), Step::Close(CloseCode::BadFrame)));
    assert!(matches!(at(60_201), Step::Nothing));
}

#[test]
fn too_many_frames_are_refused_with_a_time_and_then_closed() {
    let mut session = customer();
    let send = r#"{"typing":{}}"#;
    let steps: Vec<Step> = (0..1000)
        .map(|_| session.handle_frame(0, parse(send.as_bytes()), &Plenty))
        .collect();
    let typed = steps.iter().filter(|s| matches!(s, Step::Typing { .. })).count();
    let told = steps.iter().filter(|s| matches!(s, Step::Answer(_))).count();
    assert_eq!(typed, limits::CONNECTION_FRAMES_BURST as usize);
    assert_eq!(told, limits::CONNECTION_FRAMES_BURST as usize);
    assert_eq!(session.closing(), Some(CloseCode::RateLimited));
}

#[test]
fn a_user_without_quota_is_told_when_to_come_back_and_in_flight_sends_are_bounded() {
    let mut session = customer();
    let send = r#"{"send":{"id":"1","body":{"text":""}}}"#;
    let Step::Answer(answer) = session.handle_frame(0, parse(send.as_bytes()), &Nothing) else {
        panic!()
    };
    assert!(std::str::from_utf8(&answer).unwrap().contains(r#""retry_after_ms":7"#));
    assert_eq!(session.outstanding(), 0);
    for _ in 0..limits::SENDS_IN_FLIGHT_PER_CONNECTION {
        assert!(matches!(frame(&mut session, send), Step::Produce(_)));
    }
    assert_eq!(refused(&mut session, send), "rate_limited");
}

#[test]
fn acks_are_clamped_and_told_only_when_they_rise() {
    let mut session = customer();
    let ack = r#"{"ack":{"recv":9,"read":2}}"#;
    assert!(matches!(frame(&mut session, ack), Step::Nothing));
    attach(&mut session, "alice", 3, Access::Full);
    let Step::Acked { acks, .. } = frame(&mut session, ack) else {
        panic!()
    };
    assert_eq!((acks.recv, acks.read), (Seq(3), Seq(2)));
    assert!(matches!(frame(&mut session, ack), Step::Nothing));
    assert!(matches!(
        frame(&mut session, r#"{"ack":{"conversation":"bob","recv":1}}"#),
        Step::Nothing
    ));
}

#[test]
fn a_reset_moves_the_place_and_pushing_goes_on_from_there() {
    let mut session = customer();
    attach(&mut session, "alice", 3, Access::Full);
    session.handle_moved(0, "alice", Seq(9000), false);
    assert!(!session.handle_push(0, "alice", Seq(4), Bytes::new()));
    assert!(session.handle_push(0, "alice", Seq(9001), Bytes::from_static(b"E")));
    assert_eq!(
        output(&mut session),
        ["C", r#"{"reset":{"conversation":"alice","last_seq":9000}}"#, "E"]
    );
    session.handle_moved(0, "alice", Seq(10), true);
    assert!(output(&mut session)[0].starts_with(r#"{"rewind""#));
    assert!(
        !session.handle_push(0, "bob", Seq(11), Bytes::new()),
        "not this customer's"
    );
}

#[test]
fn a_reader_that_is_too_slow_is_closed_and_holds_no_memory() {
    let mut session = customer();
    let big = Bytes::from(vec![b'x'; limits::FRAME_BYTES_MAX]);
    for _ in 0..100 {
        session.handle_loose(0, big.clone());
        assert!(session.output_bytes() <= limits::OUTBOUND_BYTES_PER_CONNECTION_MAX);
    }
    assert_eq!(session.closing(), Some(CloseCode::TooSlow));
    assert_eq!(session.output_bytes(), 0);
}

#[test]
fn time_pings_the_silent_and_closes_the_dead_the_stalled_and_the_expired() {
    let s = 1000;
    let mut session = customer();
    assert_eq!(session.handle_tick(24 * s), Tick::Nothing);
    assert_eq!(session.handle_tick(25 * s), Tick::Ping);
    assert_eq!(session.handle_tick(26 * s), Tick::Nothing);
    session.handle_heard(30 * s);
    assert_eq!(session.handle_tick(51 * s), Tick::Nothing);
    assert_eq!(session.handle_tick(55 * s), Tick::Ping);
    assert_eq!(session.handle_tick(81 * s), Tick::Close(CloseCode::PingTimeout));

    let mut session = customer();
    session.handle_loose(0, Bytes::from_static(b"x"));
    session.handle_heard(31 * s);
    assert_eq!(session.handle_tick(31 * s), Tick::Close(CloseCode::TooSlow));

    let mut session = Connected::new(
        0,
        &Claims {
            expires_at_ms: 5 * s,
            ..claims("alice", Role::Customer)
        },
        None,
        Arc::default(),
    );
    assert_eq!(session.handle_tick(10 * s), Tick::Nothing);
    assert_eq!(session.handle_tick(10 * s + 1), Tick::Close(CloseCode::TokenExpired));
}

#[test]
fn a_refresh_keeps_who_it_is() {
    let mut session = customer();
    let later = |user, role| Claims {
        expires_at_ms: 99_000_000,
        ..claims(user, role)
    };
    assert!(session.handle_refreshed(true, &later("bob", Role::Customer)).is_err());
    assert!(session.handle_refreshed(true, &later("alice", Role::Agent)).is_err());
    assert!(
        session
            .handle_refreshed(false, &later("alice", Role::Customer))
            .is_err()
    );
    session.handle_heard(20_000_000);
    assert_eq!(session.handle_tick(20_000_000), Tick::Close(CloseCode::TokenExpired));
    let mut session = customer();
    assert!(session.handle_refreshed(true, &later("alice", Role::Customer)).is_ok());
    session.handle_heard(20_000_000);
    assert_eq!(session.handle_tick(20_000_000), Tick::Nothing);
}

#[test]
fn an_idle_session_is_small() {
    assert!(size_of::<Connected>() <= 320, "{}", size_of::<Connected>());
}

proptest! {
    #[test]
    fn whatever_is_pushed_the_client_sees_consecutive_seqs(
        pushes in proptest::collection::vec((0u64..40, any::<bool>()), 0..300), from in 0u64..10,
    ) {
        let mut session = customer();
        attach(&mut session, "alice", from, Access::Full);
        for (seq, again) in pushes {
            for _ in 0..=u8::from(again) {
                session.handle_push(0, "alice", Seq(seq), Bytes::from(seq.to_string()));
            }
        }
        let seen: Vec<u64> = output(&mut session).iter().skip(1).map(|s| s.parse().unwrap()).collect();
        let expected: Vec<u64> = (from + 1..).take(seen.len()).collect();
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn garbage_never_panics_and_never_becomes_a_record(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut session = customer();
        let produced = matches!(session.handle_frame(0, parse(&bytes), &Plenty), Step::Produce(_));
        prop_assert!(!produced);
    }
}
