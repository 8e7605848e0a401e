//! I2: nothing appears that nobody sent, and nothing that was refused.

use super::facts::{Conversation, SendKey};
use super::history::{Kind, Op, Seen, Via};
use super::{Facts, Invariant, Tally, Verdict};

pub const I2: Invariant = Invariant {
    id: "I2",
    name: "no phantom",
    statement: "every row and every `recv` matches an invoked send that ended ok or info, with equal hash, sender and conversation; a send that ended `fail` appears nowhere",
    decide,
};

fn decide(facts: &Facts) -> Verdict {
    let mut tally = Tally::default();
    for (at, entry) in facts.entries.iter().enumerate() {
        match &entry.op {
            Op::Recv {
                conn,
                conversation,
                via,
                seen,
                ..
            } => {
                let Some((conn, conversation)) = facts.whose(conn, conversation) else {
                    tally.case(false, &[at], || "received on a connection that was never opened".into());
                    continue;
                };
                if *via == Via::Placed {
                    let by_customer = conn.role == super::history::Role::Customer;
                    let (user, id) = (conn.user, seen.id.as_str());
                    let key = SendKey {
                        conversation,
                        by_customer,
                        user,
                        id,
                    };
                    matches_a_send(facts, &mut tally, at, &key, seen);
                } else {
                    matches(facts, &mut tally, at, conversation, seen);
                }
            }
            Op::Page {
                tenant,
                conversation,
                rows,
                ..
            } if entry.kind == Kind::Ok => {
                for row in rows {
                    matches(facts, &mut tally, at, (tenant, conversation), row);
                }
            }
            Op::Row {
                tenant,
                conversation,
                seen,
            } => matches(facts, &mut tally, at, (tenant, conversation), seen),
            _ => {}
        }
    }
    tally.verdict()
}

fn matches<'a>(facts: &Facts<'a>, tally: &mut Tally, at: usize, conversation: Conversation<'a>, seen: &'a Seen) {
    if let Some(key) = Facts::key_of(conversation, seen) {
        matches_a_send(facts, tally, at, &key, seen);
    }
}

fn matches_a_send(facts: &Facts, tally: &mut Tally, at: usize, key: &SendKey, seen: &Seen) {
    let Some(send) = facts.sends.get(key) else {
        tally.case(false, &[at], || format!("{key:?} was never sent"));
        return;
    };
    let sent_before = send.invoked.iter().any(|(i, hash)| *i < at && *hash == seen.hash);
    let mut entries: Vec<usize> = send.invoked.iter().map(|(i, _)| *i).collect();
    entries.push(at);
    tally.case(sent_before, &entries, || {
        format!("{key:?} appears with hash {}, which nobody had sent", seen.hash)
    });
    tally.case(!send.refused(), &entries, || format!("{key:?} was refused and appears"));
}
