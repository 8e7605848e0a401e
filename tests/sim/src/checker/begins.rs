//! Where a conversation really began on a connection of staff. A recorder writes the `last_seq` of the first `conversation`
//! frame, which is all it knows then; but a conversation that is attached to a connected agent begins before the open session's
//! first event (DESIGN.md §6), so the first event says it. A `reset` before any event leaves it unsaid: all of the history up to
//! there is read. Customers begin where the frame says.

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
            Op::Reset { conn, conversation, .. } => {
                if let Some((begun, _)) = open.remove(&(conn.as_str(), conversation.as_str())) {
                    right.push((begun, 0));
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

#[cfg(test)]
mod tests {
    use crate::checker::history::read_lines;
    use crate::checker::{VoidLimits, check};

    /// Attached at a `last_seq` of 20 and, before any event, sent to the history; its app is handed `read` of it. Does I8 hold?
    fn reset_first(role: &str, last_seq: u64, read: std::ops::RangeInclusive<u64>) -> bool {
        let of = r#""proc":"p","conn":"c","conversation":"alice""#;
        let recv = |layer: &str, via: &str, seq: u64| {
            format!(r#"{{"t_mono_us":3,{of},"kind":"info","op":"recv","layer":"{layer}","via":"{via}","seq":{seq}}}"#)
        };
        let mut lines = vec![
            format!(
                r#"{{"t_mono_us":1,"proc":"p","kind":"ok","op":"connect","conn":"c","tenant":"t","user":"alice","role":"{role}"}}"#
            ),
            format!(r#"{{"t_mono_us":2,{of},"kind":"info","op":"begin","from":20}}"#),
            format!(r#"{{"t_mono_us":2,{of},"kind":"info","op":"reset","last_seq":{last_seq}}}"#),
        ];
        lines.extend(read.map(|seq| recv("app", "page", seq)));
        for seq in [last_seq + 1, last_seq + 2] {
            lines.extend([recv("raw", "event", seq), recv("app", "event", seq)]);
        }
        let limits = VoidLimits {
            sends_during_faults_min: 0,
        };
        let report = check(&read_lines(&lines.join("\n")).unwrap(), limits);
        !report.broken().any(|(i, _)| i.id == "I8")
    }

    #[test]
    fn an_agent_that_is_reset_before_its_first_event_reads_all_of_the_history() {
        assert!(reset_first("agent", 18, 1..=18));
        assert!(!reset_first("agent", 18, 18..=18));
        assert!(reset_first("agent", 22, 1..=22));
        assert!(reset_first("customer", 22, 21..=22));
        assert!(!reset_first("customer", 22, 1..=22));
    }
}
