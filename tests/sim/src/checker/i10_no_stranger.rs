//! I10: nobody sees a conversation that is not theirs.

use super::facts::Conversation;
use super::history::{Op, Role};
use super::spans::{Spans, spans};
use super::{Facts, Invariant, Tally, Verdict};

pub const I10: Invariant = Invariant {
    id: "I10",
    name: "no stranger",
    statement: "every recv or page by user u of conversation c: u is its customer, or an agent or watcher of it at that time (who may then read all of it; pushes begin there), same tenant; hidden events only as stubs",
    decide,
};

fn decide(facts: &Facts) -> Verdict {
    let spans = spans(facts);
    // Without final rows and without `member` lines nothing is known of the agents' conversations.
    let staff_known = !spans.is_empty() || !facts.finals.is_empty();
    let mut tally = Tally::default();
    for (at, entry) in facts.entries.iter().enumerate() {
        let (conn, conversation, seq, what) = match &entry.op {
            Op::Recv {
                conn,
                conversation,
                seen,
                ..
            } => (conn, conversation, seen.seq, seen.what.as_str()),
            Op::Receipt { conn, conversation, .. } | Op::Conversation { conn, conversation, .. } => {
                (conn, conversation, 0, "")
            }
            Op::Page {
                user,
                role,
                conversation,
                rows,
                ..
            } => {
                let own = *role != Role::Customer || user == conversation;
                tally.case(own, &[at], || format!("{user} reads the history of {conversation}"));
                let stubs = *role != Role::Customer || rows.iter().all(|row| row.what != "note");
                tally.case(stubs, &[at], || format!("{user} reads a private note"));
                continue;
            }
            _ => continue,
        };
        let Some((c, conversation)) = facts.whose(conn, conversation) else {
            continue;
        };
        if c.role == Role::Customer {
            tally.case(c.user == conversation.1, &[at], || {
                format!("{} is told of {conversation:?}", c.user)
            });
            tally.case(what != "note", &[at], || format!("{} is shown a private note", c.user));
        } else if staff_known {
            tally.case(may_see(&spans, conversation, c.user, seq), &[at], || {
                format!(
                    "{} is told of {conversation:?} seq {seq} and is no part of it there",
                    c.user
                )
            });
        }
    }
    tally.verdict()
}

/// Below its span a member may be shown everything; above it, nothing.
fn may_see(spans: &Spans, conversation: Conversation, user: &str, seq: u64) -> bool {
    spans
        .get(&(conversation, user))
        .is_some_and(|of| of.iter().any(|s| s.to.is_none_or(|to| seq <= to)))
}
