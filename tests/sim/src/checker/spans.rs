//! Which seqs of a conversation a member of staff is pushed: from `member` lines, or from the session events of the final read.

use std::collections::BTreeMap;

use super::Facts;
use super::facts::Conversation;
use super::history::{Op, Role, Seen};

/// `to: None`: still a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: u64,
    pub to: Option<u64>,
    pub since: Since,
}

/// When a span began: with this entry, or with the event of this seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    Entry(usize),
    Seq(u64),
}

impl Span {
    /// It had begun by then: `entry`, and the last row known at that time.
    pub fn had_begun(&self, entry: usize, last_row: u64) -> bool {
        match self.since {
            Since::Entry(at) => at <= entry,
            Since::Seq(seq) => seq <= last_row,
        }
    }
}

pub type Spans<'a> = BTreeMap<(Conversation<'a>, &'a str), Vec<Span>>;

pub fn spans<'a>(facts: &Facts<'a>) -> Spans<'a> {
    let mut spans = Spans::new();
    for (at, entry) in facts.entries.iter().enumerate() {
        if let Op::Member {
            tenant,
            conversation,
            user,
            from_seq,
            to_seq,
        } = &entry.op
        {
            let of = spans.entry(((tenant, conversation), user)).or_default();
            // A later line about the same span says how it ended.
            let known = of.iter().position(|s| s.from == *from_seq).map(|i| of.remove(i));
            of.push(Span {
                from: *from_seq,
                to: *to_seq,
                since: known.map_or(Since::Entry(at), |k| k.since),
            });
        }
    }
    if spans.is_empty() {
        for conversation in facts.finals.keys() {
            if let Some(read) = facts.rows(*conversation) {
                derive(*conversation, read.rows.iter().map(|(_, row)| *row), &mut spans);
            }
        }
    }
    spans
}

fn derive<'a>(conversation: Conversation<'a>, rows: impl Iterator<Item = &'a Seen>, spans: &mut Spans<'a>) {
    let mut first_of_session = None;
    let mut open: BTreeMap<&str, ()> = BTreeMap::new();
    let mut assigned = "";
    for row in rows {
        let end = |spans: &mut Spans<'a>, user: &'a str| {
            if let Some(span) = spans.get_mut(&(conversation, user)).and_then(|s| s.last_mut()) {
                span.to = Some(row.seq);
            }
        };
        match row.what.as_str() {
            "message" if row.from_role == Some(Role::Customer) => {
                first_of_session.get_or_insert(row.seq);
            }
            "opened" => {
                first_of_session.get_or_insert(row.seq);
            }
            "queued" | "left" if row.agent.is_empty() || row.agent == assigned => {
                first_of_session.get_or_insert(row.seq);
                if !assigned.is_empty() && open.remove(assigned).is_some() {
                    end(spans, assigned);
                }
                assigned = "";
            }
            "left" if open.remove(row.agent.as_str()).is_some() => end(spans, &row.agent),
            "assigned" | "transferred" | "joined" | "watching" | "taken_over" if !row.agent.is_empty() => {
                let from = *first_of_session.get_or_insert(row.seq);
                if row.what != "joined" && row.what != "watching" {
                    if assigned != row.agent && !assigned.is_empty() && open.remove(assigned).is_some() {
                        end(spans, assigned);
                    }
                    assigned = &row.agent;
                }
                if open.insert(&row.agent, ()).is_none() {
                    spans.entry((conversation, &row.agent)).or_default().push(Span {
                        from,
                        to: None,
                        since: Since::Seq(row.seq),
                    });
                }
            }
            "closed" => {
                for user in std::mem::take(&mut open).into_keys() {
                    end(spans, user);
                }
                assigned = "";
                first_of_session = None;
            }
            _ => {}
        }
    }
}
