//! I13: `sent` comes after the log has it.

use std::collections::BTreeMap;

use super::history::Op;
use super::{Facts, Invariant, Tally, Verdict};

pub const I13: Invariant = Invariant {
    id: "I13",
    name: "`sent` behind the log",
    statement: "`sent` only after the delivery report with acks=all; SIGKILL of every app process at t loses nothing that was `sent` before t",
    decide,
};

fn decide(facts: &Facts) -> Verdict {
    let mut tally = Tally::default();
    let mut logged: BTreeMap<(&str, &str, &str, &str), usize> = BTreeMap::new();
    for (at, entry) in facts.entries.iter().enumerate() {
        match &entry.op {
            Op::Record {
                tenant,
                conversation,
                id,
                from_user,
                ..
            } => {
                logged.entry((tenant, conversation, from_user, id)).or_insert(at);
            }
            Op::Sent { conn, conversation, id } => {
                let Some((conn, (tenant, conversation))) = facts.whose(conn, conversation) else {
                    continue;
                };
                let there = logged.contains_key(&(tenant, conversation, conn.user, id.as_str()));
                tally.case(there, &[at], || {
                    format!("{id} of {} is `sent` and not in the log", conn.user)
                });
            }
            _ => {}
        }
    }
    if logged.is_empty() {
        Verdict::Undecided("no records of the log in the history; I1 decides what a kill loses")
    } else {
        tally.verdict()
    }
}
