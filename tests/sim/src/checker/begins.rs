//! Where a conversation really began on a connection of staff. A recorder writes the `last_seq` of the first `conversation`
//! frame, which is all it knows then; but a conversation that is attached to a connected agent begins before the open session's
//! first event (DESIGN.md §6), so the first event says it. Customers begin where the frame says.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::history::{Entry, Layer, Op, Role};

/// The history with every such beginning put right; entries keep their numbers.
pub fn settled(entries: &[Entry]) -> Cow<'_, [Entry]> {
    let mut staff: BTreeMap<&str, ()> = BTreeMap::new();
    let mut open: BTreeMap<(&str, &str), (usize, u64)> = BTreeMap::new();
    let mut right: Vec<(usize, u64)> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        match &entry.op {
            Op::Connect { conn, role, .. } if *role != Role::Customer => {
                staff.insert(conn, ());
            }
            Op::Begin {
                conn,
                conversation,
                from,
                resume: false,
            } if staff.contains_key(conn.as_str()) => {
                open.insert((conn, conversation), (at, *from));
            }
            Op::Recv {
                conn,
                conversation,
                layer: Layer::Raw,
                seen,
                ..
            } => {
                if let Some((begun, from)) = open.remove(&(conn.as_str(), conversation.as_str()))
                    && seen.seq <= from
                {
                    right.push((begun, seen.seq.saturating_sub(1)));
                }
            }
            _ => {}
        }
    }
    if right.is_empty() {
        return Cow::Borrowed(entries);
    }
    let mut settled = entries.to_vec();
    for (at, seq) in right {
        if let Op::Begin { from, .. } = &mut settled[at].op {
            *from = seq;
        }
    }
    Cow::Owned(settled)
}
