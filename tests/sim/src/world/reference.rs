//! The same fold, run at the log itself: says of each record what place it has and whom the session names from then on. What
//! workers and persistence make of the log is held against it by the checker.

use std::collections::BTreeMap;

use conversation::{Folded, SessionChange, State};
use wire::codec::decode;
use wire::record::{Session, SessionState};
use wire::{ConversationKey, Epoch, Offset, Partition, Position};

use super::EPOCH;
use super::env::Env;
use super::input::LogRecord;
use crate::checker::history::{Kind, Op};

#[derive(Default)]
pub struct Reference {
    states: BTreeMap<ConversationKey, State>,
    /// Where the open span of a member began.
    spans: BTreeMap<(ConversationKey, String), u64>,
}

fn names(session: &Session) -> Vec<&str> {
    let one = std::iter::once(session.agent.as_str()).filter(|a| !a.is_empty());
    one.chain(session.joined.iter().map(String::as_str))
        .chain(session.watching.iter().map(String::as_str))
        .collect()
}

/// A record of `messages` has landed.
pub fn logged(env: &mut Env, partition: u32, record: &LogRecord) {
    let partitions = env.log.partitions;
    let Ok(decoded) = decode(
        record.key.as_ref(),
        record.value.as_ref(),
        Partition(partition),
        partitions,
    ) else {
        return;
    };
    let Some(key) = decoded.key else { return };
    let mut reference = std::mem::take(&mut env.reference);
    let position = Position::new(Epoch(EPOCH), Offset(record.offset));
    let state = reference.states.entry(key.clone()).or_default();
    let folded = state.fold(&key, position, record.at_ms, &decoded.record);
    let last_seq = state.last_seq().0;
    let (seq, change) = match folded {
        Folded::Event(event) => (Some(event.seq.0), event.session),
        Folded::Session(change) => (None, Some(*change)),
        _ => (None, None),
    };
    let from = decoded.record.from.clone().unwrap_or_default();
    let (shown, agent) = (shown(state.session_state()), state.agent().to_owned());
    let op = Op::Record {
        partition,
        offset: record.offset,
        tenant: key.tenant.as_str().into(),
        conversation: key.customer.as_str().into(),
        id: decoded.record.id.clone(),
        from_user: from.user,
        hash: String::new(),
        seq,
        state: shown.into(),
        agent,
    };
    env.record("log", Kind::Ok, op);
    if let Some(change) = change {
        members(env, &mut reference, &key, &change, seq.unwrap_or(last_seq));
    }
    env.reference = reference;
}

fn shown(state: SessionState) -> &'static str {
    match state {
        SessionState::SessionIdle => "idle",
        SessionState::SessionWanted => "wanted",
        SessionState::SessionQueued => "queued",
        SessionState::SessionActive => "active",
        SessionState::SessionLeft => "left",
    }
}

fn members(env: &mut Env, reference: &mut Reference, key: &ConversationKey, change: &SessionChange, seq: u64) {
    let (before, after) = (names(&change.before), names(&change.after));
    let mut write = |user: &str, from_seq: u64, to_seq: Option<u64>| {
        let op = Op::Member {
            tenant: key.tenant.as_str().into(),
            conversation: key.customer.as_str().into(),
            user: user.into(),
            from_seq,
            to_seq,
        };
        env.record("log", Kind::Note, op);
    };
    for user in before.iter().filter(|u| !after.contains(u)) {
        let from_seq = reference.spans.remove(&(key.clone(), (*user).to_owned())).unwrap_or(1);
        write(user, from_seq, Some(seq));
    }
    for user in after.iter().filter(|u| !before.contains(u)) {
        let from_seq = change.span.first_seq.0.max(1);
        reference.spans.insert((key.clone(), (*user).to_owned()), from_seq);
        write(user, from_seq, None);
    }
}
