//! Where a conversation really began on a connection of staff. A recorder writes the `last_seq` of the first `conversation`
//! frame, which is all it knows then; but a conversation that is attached to a connected agent begins before the open session's
//! first event (DESIGN.md §6), so the first event says it. A `reset` before any event leaves it unsaid: all of the history up to
//! there is read, on a later connection of the device too if none before had an event. Customers begin where the frame says.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::facts::{DeviceKey, device_of};
use super::history::{Entry, Layer, Op, Role};

/// Beginnings of a conversation on a device that has had no event of it yet.
struct Open<'a> {
    /// The first: only there an event says where it began.
    conn: &'a str,
    from: u64,
    at: Vec<usize>,
}

/// The history with every such beginning put right; entries keep their numbers.
pub fn settled(entries: &[Entry]) -> Cow<'_, [Entry]> {
    let mut staff: BTreeMap<&str, DeviceKey> = BTreeMap::new();
    let mut open: BTreeMap<(DeviceKey, &str), Open> = BTreeMap::new();
    let mut right: Vec<(usize, u64)> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        match &entry.op {
            Op::Connect {
                conn,
                tenant,
                user,
                role,
                device,
                ..
            } if *role != Role::Customer => {
                staff.insert(conn, device_of(conn, tenant, user, device.as_deref()));
            }
            Op::Begin {
                conn,
                conversation,
                from,
                resume,
            } => {
                let Some(device) = staff.get(conn.as_str()) else {
                    continue;
                };
                let of = (*device, conversation.as_str());
                if !*resume {
                    let (conn, from) = (conn.as_str(), *from);
                    open.insert(
                        of,
                        Open {
                            conn,
                            from,
                            at: vec![at],
                        },
                    );
                } else if let Some(open) = open.get_mut(&of) {
                    open.at.push(at);
                }
            }
            Op::Recv {
                conn,
                conversation,
                layer: Layer::Raw,
                seen,
                ..
            } => {
                let Some(device) = staff.get(conn.as_str()) else {
                    continue;
                };
                if let Some(open) = open.remove(&(*device, conversation.as_str()))
                    && open.conn == conn
                    && seen.seq <= open.from
                {
                    right.extend(open.at.iter().map(|begun| (*begun, seen.seq.saturating_sub(1))));
                }
            }
            Op::Reset { conn, conversation, .. } => {
                let Some(device) = staff.get(conn.as_str()) else {
                    continue;
                };
                if let Some(open) = open.remove(&(*device, conversation.as_str())) {
                    right.extend(open.at.iter().map(|begun| (*begun, 0)));
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
    use std::ops::RangeInclusive;

    use crate::checker::history::read_lines;
    use crate::checker::{VoidLimits, check};

    /// Attached at a `last_seq` of 20 and, before any event, sent to the history; its app is handed `read` of it. Does I8 hold?
    fn reset_first(role: &str, last_seq: u64, read: RangeInclusive<u64>) -> bool {
        reset_behind(&[], role, last_seq, read)
    }

    /// The same behind what went before.
    fn reset_behind(before: &[String], role: &str, last_seq: u64, read: RangeInclusive<u64>) -> bool {
        let resume = !before.is_empty();
        let of = r#""proc":"p","conn":"c","conversation":"alice""#;
        let recv = |layer: &str, via: &str, seq: u64| {
            format!(r#"{{"t_mono_us":3,{of},"kind":"info","op":"recv","layer":"{layer}","via":"{via}","seq":{seq}}}"#)
        };
        let mut lines = before.to_vec();
        lines.extend([
            connect("c", role),
            format!(r#"{{"t_mono_us":2,{of},"kind":"info","op":"begin","from":20,"resume":{resume}}}"#),
            format!(r#"{{"t_mono_us":2,{of},"kind":"info","op":"reset","last_seq":{last_seq}}}"#),
        ]);
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

    fn connect(conn: &str, role: &str) -> String {
        format!(
            r#"{{"t_mono_us":1,"proc":"p","kind":"ok","op":"connect","conn":"{conn}","tenant":"t","user":"alice","role":"{role}","device":"d"}}"#
        )
    }

    #[test]
    fn an_agent_that_had_nothing_on_its_connection_before_reads_all_of_the_history_too() {
        let of = r#""proc":"p","conn":"b","conversation":"alice","kind":"info""#;
        let begun = |role: &str| {
            vec![
                connect("b", role),
                format!(r#"{{"t_mono_us":1,{of},"op":"begin","from":20}}"#),
            ]
        };
        assert!(reset_behind(&begun("agent"), "agent", 22, 1..=22));
        assert!(!reset_behind(&begun("agent"), "agent", 22, 21..=22));
        assert!(reset_behind(&begun("customer"), "customer", 22, 21..=22));
        // One that had an event there began where that says.
        let mut had_one = begun("agent");
        for layer in ["raw", "app"] {
            had_one.push(format!(
                r#"{{"t_mono_us":1,{of},"op":"recv","layer":"{layer}","via":"event","seq":20}}"#
            ));
        }
        assert!(reset_behind(&had_one, "agent", 22, 21..=22));
        assert!(!reset_behind(&had_one, "agent", 22, 1..=22));
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
