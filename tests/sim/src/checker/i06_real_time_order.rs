//! I6: what was known to be in the log before a send began stands before it.

use std::collections::BTreeMap;

use super::facts::{Conversation, SendKey};
use super::history::{Kind, Op, Role};
use super::{Facts, Invariant, Tally, Verdict};

pub const I6: Invariant = Invariant {
    id: "I6",
    name: "real-time order",
    statement: "if `sent`(m1) came before invoke(m2), same conversation, then seq(m1) < seq(m2); likewise if m2's sender had received m1 (except a send by a node paused across a lane move)",
    decide,
};

/// Per conversation the highest seq somebody had been promised or shown so far, and where. (Whoever was shown m1: it was in
/// the log before m2 began, so this is not stronger than what one ordered log gives.)
type Floors<'a> = BTreeMap<Conversation<'a>, (u64, usize)>;

fn decide(facts: &Facts) -> Verdict {
    if facts.finals.is_empty() {
        return Verdict::Undecided("no final read of the history");
    }
    let rows = facts.rows_by_key();
    let seq_of = |key: &SendKey| rows.get(key).and_then(|found| found.first()).map(|(_, row)| row.seq);
    let mut tally = Tally::default();
    let mut floors = Floors::new();
    let mut begun: BTreeMap<SendKey, ()> = BTreeMap::new();
    for (at, entry) in facts.entries.iter().enumerate() {
        match &entry.op {
            Op::Send {
                conn, conversation, id, ..
            } if entry.kind == Kind::Invoke => {
                let Some(key) = key(facts, conn, conversation, id) else {
                    continue;
                };
                // A resend may be the repeat of a record that is long there: only the first attempt counts.
                if begun.insert(key.clone(), ()).is_some() {
                    continue;
                }
                let (Some(seq), Some((floor, seen_at))) = (seq_of(&key), floors.get(&key.conversation)) else {
                    continue;
                };
                tally.case(seq > *floor, &[*seen_at, at], || {
                    format!("{key:?} began after seq {floor} was known and stands at {seq}")
                });
            }
            Op::Sent { conn, conversation, id } => {
                if let Some(key) = key(facts, conn, conversation, id)
                    && let Some(seq) = seq_of(&key)
                {
                    raise(&mut floors, key.conversation, seq, at);
                }
            }
            Op::Recv {
                conn,
                conversation,
                seen,
                ..
            } => {
                if let Some((_, conversation)) = facts.whose(conn, conversation) {
                    raise(&mut floors, conversation, seen.seq, at);
                }
            }
            _ => {}
        }
    }
    tally.verdict()
}

fn key<'a>(facts: &Facts<'a>, conn: &'a str, conversation: &'a str, id: &'a str) -> Option<SendKey<'a>> {
    let (conn, conversation) = facts.whose(conn, conversation)?;
    Some(SendKey {
        conversation,
        by_customer: conn.role == Role::Customer,
        user: conn.user,
        id,
    })
}

fn raise<'a>(floors: &mut Floors<'a>, conversation: Conversation<'a>, seq: u64, at: usize) {
    let floor = floors.entry(conversation).or_insert((seq, at));
    if seq > floor.0 {
        *floor = (seq, at);
    }
}
