//! A history made searchable: connections, sends and their answers, and the rows of the final read. Decides nothing.

use std::collections::BTreeMap;

use super::Deadlines;
use super::history::{Entry, Kind, Op, Phase, Role, Seen, Side};

/// (tenant, customer).
pub type Conversation<'a> = (&'a str, &'a str);
/// (tenant, user, device); a connection without a device is its own.
pub type DeviceKey<'a> = (&'a str, &'a str, &'a str);

pub fn device_of<'a>(conn: &'a str, tenant: &'a str, user: &'a str, device: Option<&'a str>) -> DeviceKey<'a> {
    (tenant, user, device.unwrap_or(conn))
}

#[derive(Clone, Debug)]
pub struct Conn<'a> {
    pub tenant: &'a str,
    pub user: &'a str,
    pub role: Role,
    pub device: DeviceKey<'a>,
    pub invoked: usize,
    pub connected: Option<usize>,
    pub closed: Option<usize>,
}

impl Conn<'_> {
    pub fn open_at(&self, entry: usize) -> bool {
        self.connected.is_some_and(|c| c <= entry) && self.closed.is_none_or(|c| c > entry)
    }

    pub fn side(&self) -> Side {
        if self.role == Role::Customer {
            Side::Customer
        } else {
            Side::Agent
        }
    }
}

/// What a client did or heard in one conversation: the connection's name, the connection, the conversation.
pub type About<'a, 'f> = (&'a str, &'f Conn<'a>, Conversation<'a>);

/// A message by (conversation, side, sender, id).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SendKey<'a> {
    pub conversation: Conversation<'a>,
    pub by_customer: bool,
    pub user: &'a str,
    pub id: &'a str,
}

/// Everything known about one message from its sender's side.
#[derive(Clone, Debug, Default)]
pub struct SendFacts<'a> {
    /// Every attempt: (entry, hash).
    pub invoked: Vec<(usize, &'a str)>,
    pub sent: Vec<usize>,
    /// (entry, seq).
    pub placed: Vec<(usize, u64)>,
    pub failed: Vec<usize>,
    pub unknown: Vec<usize>,
}

impl SendFacts<'_> {
    /// Every attempt was definitely refused.
    pub fn refused(&self) -> bool {
        self.sent.is_empty()
            && self.placed.is_empty()
            && self.unknown.is_empty()
            && self.failed.len() >= self.invoked.len()
    }

    /// The first line that promised it.
    pub fn promised(&self) -> Option<usize> {
        let placed = self.placed.iter().map(|(at, _)| *at);
        self.sent.iter().copied().chain(placed).min()
    }
}

/// The final read of one conversation by one user.
#[derive(Clone, Debug)]
pub struct FinalRead<'a> {
    pub role: Role,
    pub rows: Vec<(usize, &'a Seen)>,
    pub last_seq: u64,
    pub entry: usize,
}

pub struct Facts<'a> {
    pub entries: &'a [Entry],
    pub conns: BTreeMap<&'a str, Conn<'a>>,
    pub sends: BTreeMap<SendKey<'a>, SendFacts<'a>>,
    /// By conversation, then by reader.
    pub finals: BTreeMap<Conversation<'a>, BTreeMap<&'a str, FinalRead<'a>>>,
    /// How long things may take after the heal, where the run keeps to that.
    pub deadlines: Option<Deadlines>,
    phases: BTreeMap<Phase, usize>,
}

impl<'a> Facts<'a> {
    pub fn new(entries: &'a [Entry], deadlines: Option<Deadlines>) -> Self {
        let mut facts = Facts {
            entries,
            deadlines,
            conns: BTreeMap::new(),
            sends: BTreeMap::new(),
            finals: BTreeMap::new(),
            phases: BTreeMap::new(),
        };
        for (at, entry) in entries.iter().enumerate() {
            facts.take(at, entry);
        }
        facts
    }

    fn take(&mut self, at: usize, entry: &'a Entry) {
        match &entry.op {
            Op::Connect {
                conn,
                tenant,
                user,
                role,
                device,
                ..
            } => {
                let known = self.conns.entry(conn).or_insert(Conn {
                    tenant,
                    user,
                    role: *role,
                    device: device_of(conn, tenant, user, device.as_deref()),
                    invoked: at,
                    connected: None,
                    closed: None,
                });
                if entry.kind == Kind::Ok {
                    known.connected.get_or_insert(at);
                }
            }
            Op::Close { conn, .. } => {
                if let Some(conn) = self.conns.get_mut(conn.as_str()) {
                    conn.closed.get_or_insert(at);
                }
            }
            Op::Send {
                conn,
                conversation,
                id,
                hash,
                ..
            } => {
                let Some(send) = self.send(conn, conversation, id) else {
                    return;
                };
                match entry.kind {
                    Kind::Invoke => send.invoked.push((at, hash)),
                    Kind::Fail => send.failed.push(at),
                    _ => send.unknown.push(at),
                }
            }
            Op::Sent { conn, conversation, id } => {
                if let Some(send) = self.send(conn, conversation, id) {
                    send.sent.push(at);
                }
            }
            Op::Placed {
                conn,
                conversation,
                id,
                seq,
            } => {
                if let Some(send) = self.send(conn, conversation, id) {
                    send.placed.push((at, *seq));
                }
            }
            Op::Page {
                tenant,
                user,
                role,
                conversation,
                rows,
                last_seq,
                last: true,
            } => {
                let read = self
                    .finals
                    .entry((tenant, conversation))
                    .or_default()
                    .entry(user)
                    .or_insert(FinalRead {
                        role: *role,
                        rows: Vec::new(),
                        last_seq: 0,
                        entry: at,
                    });
                read.rows.extend(rows.iter().map(|row| (at, row)));
                read.last_seq = read.last_seq.max(*last_seq);
            }
            Op::Phase { phase } => {
                self.phases.insert(*phase, at);
            }
            _ => {}
        }
    }

    fn send(&mut self, conn: &'a str, conversation: &'a str, id: &'a str) -> Option<&mut SendFacts<'a>> {
        let conn = self.conns.get(conn)?;
        let key = SendKey {
            conversation: (conn.tenant, conversation),
            by_customer: conn.role == Role::Customer,
            user: conn.user,
            id,
        };
        Some(self.sends.entry(key).or_default())
    }

    pub fn phase(&self, phase: Phase) -> Option<usize> {
        self.phases.get(&phase).copied()
    }

    /// Of an op that is about a connection and a conversation, on a connection that was opened.
    pub fn about(&self, op: &'a Op) -> Option<About<'a, '_>> {
        let (name, conversation) = op.about()?;
        let conn = self.conns.get(name)?;
        Some((name, conn, (conn.tenant, conversation)))
    }

    /// The connection of an entry and the conversation it names, in the connection's tenant.
    pub fn whose(&self, conn: &str, conversation: &'a str) -> Option<(&Conn<'a>, Conversation<'a>)> {
        let conn = self.conns.get(conn)?;
        Some((conn, (conn.tenant, conversation)))
    }

    /// The fullest final read of a conversation: staff's if there is one, since customers are shown stubs.
    pub fn rows(&self, conversation: Conversation<'a>) -> Option<&FinalRead<'a>> {
        let reads = self.finals.get(&conversation)?;
        reads
            .values()
            .max_by_key(|read| (read.role != Role::Customer, read.rows.len()))
    }

    /// The message a seen event claims to be; `None` for the system's events, stubs, and what has no id.
    pub fn key_of(conversation: Conversation<'a>, seen: &'a Seen) -> Option<SendKey<'a>> {
        let role = seen.from_role.filter(|role| *role != Role::System)?;
        // What a person did at the desk (`rated`, `tagged` …) has the person's name and the desk's own id.
        if !["message", "note", "recall"].contains(&seen.what.as_str()) {
            return None;
        }
        (!seen.id.is_empty()).then_some(SendKey {
            conversation,
            by_customer: role == Role::Customer,
            user: &seen.from_user,
            id: &seen.id,
        })
    }

    /// Rows of the final read by message.
    pub fn rows_by_key(&self) -> BTreeMap<SendKey<'a>, Vec<(usize, &'a Seen)>> {
        let mut by_key: BTreeMap<SendKey<'a>, Vec<(usize, &'a Seen)>> = BTreeMap::new();
        for conversation in self.finals.keys() {
            let Some(read) = self.rows(*conversation) else {
                continue;
            };
            for (at, row) in &read.rows {
                if let Some(key) = Self::key_of(*conversation, row) {
                    by_key.entry(key).or_default().push((*at, row));
                }
            }
        }
        by_key
    }
}
