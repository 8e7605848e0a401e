//! The fold's properties: any chunking, any repeats, replay from any offset give the same events and the same state.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

use std::collections::HashSet;

use conversation::{Folded, State};
use proptest::prelude::*;
use wire::record::{Decision, Effect, Kind, Record, Role, Sender, Session, SessionState};
use wire::{ConversationKey, Epoch, Offset, Position, Seq, Tenant, User};

fn key() -> ConversationKey {
    ConversationKey::new(Tenant::new("demo").unwrap(), User::new("alice").unwrap())
}

fn at(offset: u64) -> Position {
    Position::new(Epoch(1), Offset(offset))
}

fn message(customer: bool, id: u32) -> Record {
    let (role, user) = if customer {
        (Role::Customer, "alice")
    } else {
        (Role::Agent, "bo")
    };
    Record {
        version: 1,
        kind: Kind::Message.into(),
        numbered: true,
        wants_agent: customer,
        from: Some(Sender {
            role: role.into(),
            user: user.into(),
        }),
        id: format!("id-{id}"),
        member: format!("\"message\":{{\"text\":\"{id}\"}}").into(),
        ..Record::default()
    }
}

fn effect(offset: u64, number: u32, state: SessionState, closed_at_seq: u64, numbered: bool) -> Record {
    let closes = state == SessionState::SessionIdle;
    Record {
        version: 1,
        kind: Kind::Effect.into(),
        numbered,
        from: Some(Sender {
            role: Role::System.into(),
            user: String::new(),
        }),
        member: "\"assigned\":{}".into(),
        effect: Some(Effect {
            decision: Some(Decision {
                epoch: 1,
                offset,
                number,
            }),
            session: Some(Session {
                state: state.into(),
                agent: if closes { String::new() } else { "bo".into() },
                ..Session::default()
            }),
            closed_at_seq,
            closes,
        }),
        ..Record::default()
    }
}

fn any_record() -> impl Strategy<Value = Record> {
    let state = prop_oneof![
        Just(SessionState::SessionActive),
        Just(SessionState::SessionQueued),
        Just(SessionState::SessionIdle)
    ];
    prop_oneof![
        4 => (any::<bool>(), 0u32..40).prop_map(|(c, id)| message(c, id)),
        1 => (0u64..30, 0u32..3, state, 0u64..30, any::<bool>()).prop_map(|(o, n, s, c, num)| effect(o, n, s, c, num)),
    ]
}

fn fold_all(state: &mut State, log: &[Record], from: usize) -> Vec<Folded> {
    log[from..]
        .iter()
        .enumerate()
        .map(|(i, r)| state.fold(&key(), at((from + i) as u64), 1000 + (from + i) as i64, r))
        .collect()
}

proptest! {
    #[test]
    fn seqs_have_no_holes_and_ids_stand_once_in_any_window(log in prop::collection::vec(any_record(), 0..200)) {
        let mut state = State::default();
        let mut next = 1;
        let mut recent: Vec<String> = Vec::new();
        for (folded, record) in fold_all(&mut state, &log, 0).into_iter().zip(&log) {
            if let Folded::Event(event) = folded {
                prop_assert_eq!(event.seq, Seq(next));
                next += 1;
                if !record.id.is_empty() {
                    let who = format!("{:?}{}", record.from, record.id);
                    let window: HashSet<_> = recent.iter().rev().take(64).collect();
                    prop_assert!(!window.contains(&who));
                    recent.push(who);
                }
            }
        }
        prop_assert_eq!(state.last_seq(), Seq(next - 1));
    }

    #[test]
    fn stored_and_loaded_between_any_two_records_changes_nothing(log in prop::collection::vec(any_record(), 0..120), cuts in prop::collection::vec(0usize..120, 0..6)) {
        let mut whole = State::default();
        let want = fold_all(&mut whole, &log, 0);
        let mut state = State::default();
        let mut got = Vec::new();
        for (i, record) in log.iter().enumerate() {
            if cuts.contains(&i) {
                state = State::decode(state.encode()).unwrap();
            }
            got.push(state.fold(&key(), at(i as u64), 1000 + i as i64, record));
        }
        prop_assert_eq!(got, want);
        prop_assert_eq!(state.encode(), whole.encode());
    }

    #[test]
    fn replay_from_any_earlier_offset_changes_nothing(log in prop::collection::vec(any_record(), 1..120), stop in 0usize..120, back in 0usize..120) {
        let stop = stop.min(log.len());
        let back = back.min(stop);
        let mut state = State::default();
        fold_all(&mut state, &log[..stop], 0);
        let mut replayed = state.clone();
        for folded in fold_all(&mut replayed, &log[..stop], back) {
            // What changed the state is skipped; what did not is answered alike: nothing new appears.
            prop_assert!(!matches!(folded, Folded::Event(_) | Folded::Session(_)));
        }
        prop_assert_eq!(&replayed, &state);
        prop_assert_eq!(fold_all(&mut replayed, &log, stop), fold_all(&mut state, &log, stop));
    }

    #[test]
    fn a_broken_cell_is_refused_or_read_but_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = State::decode(bytes.into());
    }
}

#[test]
fn a_repeat_is_answered_with_its_first_place() {
    let mut state = State::default();
    fold_all(&mut state, &[message(true, 1), message(true, 2)], 0);
    let again = state.fold(&key(), at(2), 9999, &message(true, 1));
    assert_eq!(
        again,
        Folded::Repeat {
            seq: Seq(1),
            at_ms: 1000
        }
    );
    assert_eq!(state.last_seq(), Seq(2));
}

#[test]
fn the_same_id_of_the_other_side_is_another_message() {
    let mut state = State::default();
    let folded = fold_all(&mut state, &[message(true, 1), message(false, 1)], 0);
    assert!(folded.iter().all(|f| matches!(f, Folded::Event(_))));
}

#[test]
fn a_customers_message_makes_an_idle_session_wanted_and_an_agents_does_not() {
    let mut state = State::default();
    fold_all(&mut state, &[message(false, 1)], 0);
    assert_eq!(state.session_state(), SessionState::SessionIdle);
    state.fold(&key(), at(1), 1, &message(true, 2));
    assert_eq!(state.session_state(), SessionState::SessionWanted);
    assert_eq!(state.span().first_seq, Seq(2));
}

#[test]
fn a_close_that_had_not_seen_the_last_message_leaves_the_session_wanted() {
    let mut state = State::default();
    state.fold(&key(), at(0), 1, &message(true, 1));
    state.fold(&key(), at(1), 1, &effect(5, 0, SessionState::SessionActive, 0, true));
    state.fold(&key(), at(2), 1, &message(true, 2));
    let mut seen = state.clone();
    state.fold(&key(), at(3), 1, &effect(6, 0, SessionState::SessionIdle, 2, true));
    assert_eq!(state.session_state(), SessionState::SessionWanted);
    assert_eq!(state.span().first_seq, Seq(3));
    seen.fold(&key(), at(3), 1, &effect(6, 0, SessionState::SessionIdle, 3, true));
    assert_eq!(seen.session_state(), SessionState::SessionIdle);
}

#[test]
fn an_older_decision_changes_nothing() {
    let mut state = State::default();
    state.fold(&key(), at(0), 1, &effect(5, 1, SessionState::SessionActive, 0, true));
    let before = state.clone();
    for (offset, number) in [(5, 1), (5, 0), (4, 9)] {
        let old = effect(offset, number, SessionState::SessionIdle, 0, true);
        assert_eq!(state.fold(&key(), at(1), 1, &old), Folded::Superseded);
    }
    assert_eq!(state, before);
}

#[test]
fn a_numbered_record_of_an_unknown_kind_takes_a_seq() {
    let mut record = message(true, 1);
    record.kind = 99;
    assert!(matches!(State::default().fold(&key(), at(0), 1, &record), Folded::Event(e) if e.seq == Seq(1)));
}

#[test]
fn what_a_node_reads_of_a_cell_is_what_the_fold_put_there() {
    let mut state = State::default();
    fold_all(
        &mut state,
        &[
            message(true, 1),
            effect(7, 0, SessionState::SessionActive, 0, true),
            message(false, 2),
        ],
        0,
    );
    let read = wire::row::PublicState::of_cell(&state.encode()).unwrap();
    assert_eq!((read.last_seq, &read.session), (state.last_seq(), &state.session()));
    assert_eq!(read.session.agent, "bo");
}
