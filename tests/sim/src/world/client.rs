//! A modelled client: one device of one user. Follows the protocol (outbox, resend, `since`, acks), behaves like people do
//! (comes, goes, talks, closes), and writes down what it did and saw as any recorder must (`checker::history`).

mod heard;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use serde_json::json;
use wire::ErrorCode;
use wire::frames::{ConversationState, ServerFrame};
use wire::limits::ACK_EVERY_EVENTS;

use super::env::{EPOCH_MS, Env, Event, MS, ProcId, S};
use super::seen;
use super::store::Row;
use crate::checker::history::{Kind, Layer, Op, Role, Seen, Side, Via, body_hash};

/// After a resume: how long something that may be in the log waits to be seen.
const HOLD_US: u64 = 5 * S;

#[derive(Debug)]
pub enum ClientInput {
    Tick,
    Frame { wire: u64, frame: Bytes },
    Closed { wire: u64, code: Option<u16> },
}

struct Pending {
    id: String,
    conversation: String,
    frame: Bytes,
    hash: String,
    /// A message or note: recorded, ends with `sent`, `placed` or its event. Otherwise an act: ends with `done` or an error.
    send: bool,
    written: bool,
    ever_written: bool,
    not_before_us: u64,
}

#[derive(Default)]
struct Place {
    /// The last seq handed to the app.
    last: Option<u64>,
    /// What the first `conversation` frame of this connection said.
    target: Option<u64>,
    /// Nothing came yet on this connection since that frame.
    untouched: bool,
    acked: u64,
    unacked: u64,
    ack_due_us: u64,
    serving: bool,
    /// `reset`: history is read up to here before pushes go on.
    read_until: Option<u64>,
    held: VecDeque<(Seen, Via)>,
}

enum Link {
    Away { until_us: u64 },
    Connecting { wire: u64, since_us: u64 },
    Up { wire: u64, since_us: u64 },
}

/// Who a client is.
#[derive(Clone, Debug)]
pub struct Person {
    pub tenant: &'static str,
    pub user: &'static str,
    pub role: Role,
    pub device: &'static str,
}

pub struct Client {
    index: usize,
    person: Person,
    link: Link,
    conns: u64,
    conn: String,
    outbox: VecDeque<Pending>,
    places: BTreeMap<String, Place>,
    next_id: u64,
    /// The hash of everything sent, by id: a client knows its own words.
    said: BTreeMap<String, String>,
    hold_until_us: u64,
    /// Comes without `since` now and then, like a page that was reloaded.
    forgets: bool,
    pub talking: bool,
    /// Stays connected while true.
    pub settled: bool,
    available: bool,
    /// Came with a bad token, and sent this on it.
    bad: Option<(String, String)>,
}

impl Client {
    /// `here`: it takes part.
    pub fn new(env: &mut Env, index: usize, person: Person, here: bool) -> Self {
        let first = env.pick(0..2 * S);
        let tick = Event::Client {
            to: index,
            input: ClientInput::Tick,
        };
        if here {
            env.after(first, tick);
        }
        Client {
            index,
            person,
            link: Link::Away { until_us: 0 },
            conns: 0,
            conn: String::new(),
            outbox: VecDeque::new(),
            places: BTreeMap::new(),
            next_id: 0,
            said: BTreeMap::new(),
            hold_until_us: 0,
            forgets: false,
            talking: true,
            settled: false,
            available: false,
            bad: None,
        }
    }

    fn is_customer(&self) -> bool {
        self.person.role == Role::Customer
    }

    fn name(&self) -> String {
        format!("{}/{}/{}", self.person.tenant, self.person.user, self.person.device)
    }

    fn record(&self, env: &mut Env, kind: Kind, op: Op) {
        env.record(&self.name(), kind, op);
    }

    fn wire(&self) -> Option<u64> {
        match self.link {
            Link::Connecting { wire, .. } | Link::Up { wire, .. } => Some(wire),
            Link::Away { .. } => None,
        }
    }

    pub fn handle(&mut self, env: &mut Env, input: ClientInput) {
        match input {
            ClientInput::Tick => {
                let next = env.pick(40 * MS..200 * MS);
                env.after(
                    next,
                    Event::Client {
                        to: self.index,
                        input: ClientInput::Tick,
                    },
                );
                self.tick(env);
            }
            ClientInput::Frame { wire, frame } if self.wire() == Some(wire) => self.frame(env, &frame),
            ClientInput::Closed { wire, code } if self.wire() == Some(wire) => {
                let told_off = [wire::CloseCode::Replaced, wire::CloseCode::Revoked].map(|c| Some(c.number()));
                self.disconnected(env, code);
                // Whoever was replaced or revoked does not come back by itself; a person does, later, with a new token.
                let wait = if told_off.contains(&code) {
                    3 * S
                } else {
                    env.pick(20 * MS..800 * MS)
                };
                self.link = Link::Away {
                    until_us: env.now_us + wait,
                };
            }
            _ => {}
        }
    }

    // ---- connecting ----

    fn tick(&mut self, env: &mut Env) {
        match self.link {
            Link::Away { until_us } if env.now_us >= until_us => self.connect(env),
            Link::Connecting { since_us, .. } if env.now_us > since_us + 4 * S => self.leave(env, 200 * MS, true),
            Link::Up { since_us, .. } => {
                self.read_history(env);
                if self.talking {
                    self.talk(env);
                }
                self.flush(env);
                self.ack(env);
                let bored = !self.settled && env.now_us > since_us + 500 * MS && env.pick(0..120) == 0;
                if bored {
                    let told = env.chance(60);
                    let away = env.pick(50 * MS..4 * S);
                    self.forgets = self.is_customer() && env.chance(10);
                    self.leave(env, away, told);
                }
            }
            _ => {}
        }
    }

    /// Closes, and stays away for a while. Not told: the node finds out by itself.
    pub fn leave(&mut self, env: &mut Env, away_us: u64, told: bool) {
        let Some(wire) = self.wire() else { return };
        env.client_closes(wire, told);
        self.disconnected(env, None);
        self.link = Link::Away {
            until_us: env.now_us + away_us,
        };
    }

    fn disconnected(&mut self, env: &mut Env, code: Option<u16>) {
        let conn = self.conn.clone();
        if let Some((conversation, id)) = self.bad.take() {
            // Nothing is taken from whoever was never let in.
            let refused = Op::Send {
                conn: conn.clone(),
                conversation,
                id,
                hash: String::new(),
                code: "bad_token".into(),
            };
            self.record(env, Kind::Fail, refused);
        }
        self.record(env, Kind::Info, Op::Close { conn, code });
        for p in &mut self.outbox {
            p.written = false;
        }
        for place in self.places.values_mut() {
            place.target = None;
            place.serving = false;
            // Told again from the place that was reached.
            place.read_until = None;
            place.held.clear();
        }
        self.available = false;
    }

    fn connect(&mut self, env: &mut Env) {
        let nodes: Vec<ProcId> = env
            .procs
            .keys()
            .copied()
            .filter(|p| matches!(p, ProcId::Node(_)) && env.life(*p).is_some())
            .collect();
        if nodes.is_empty() {
            return;
        }
        let node = nodes[env.pick(0..nodes.len() as u64) as usize];
        let Some(wire) = env.open_wire(self.index, node) else {
            return;
        };
        self.conns += 1;
        self.conn = format!("{}#{}", self.name(), self.conns);
        self.link = Link::Connecting {
            wire,
            since_us: env.now_us,
        };
        if std::mem::take(&mut self.forgets) {
            self.places.clear();
        }
        let Person {
            tenant,
            user,
            role,
            device,
        } = self.person.clone();
        let bad = self.talking && env.chance(3);
        let expires_us = (self.talking && env.chance(15)).then(|| env.now_us + env.pick(2 * S..30 * S));
        let expires_ms = expires_us.map_or(0, |us| EPOCH_MS + us / MS);
        let connect = Op::Connect {
            conn: self.conn.clone(),
            tenant: tenant.into(),
            user: user.into(),
            role,
            device: Some(device.into()),
            node: String::new(),
            expires_us,
            bad_token: bad,
        };
        self.record(env, Kind::Invoke, connect);
        let since: BTreeMap<String, u64> = self
            .places
            .iter()
            .filter_map(|(c, p)| Some((c.clone(), p.last?)))
            .collect();
        for (conversation, from) in &since {
            let begin = Op::Begin {
                conn: self.conn.clone(),
                conversation: conversation.clone(),
                from: *from,
                resume: true,
            };
            self.record(env, Kind::Info, begin);
        }
        let role = match role {
            Role::Customer => "customer",
            Role::Supervisor => "supervisor",
            _ => "agent",
        };
        let token = format!(
            "{}{tenant}:{role}:{user}:{}:{expires_ms}",
            if bad { "bad" } else { "" },
            env.true_ms()
        );
        let mut frame = json!({ "token": token, "device": device });
        if self.is_customer() {
            if let Some(last) = since.get(user) {
                frame["since"] = json!(last);
            }
        } else if !since.is_empty() {
            frame["since"] = json!(since);
        }
        env.client_sends(wire, json!({ "connect": frame }).to_string().into());
        if bad {
            self.intrude(env, wire);
        }
        self.hold_until_us = env.now_us + HOLD_US;
    }

    /// Does not wait to be let in.
    fn intrude(&mut self, env: &mut Env, wire: u64) {
        let (id, conversation) = (self.fresh_id(), self.person.user.to_owned());
        let body = json!({ "text": id }).to_string();
        let op = Op::Send {
            conn: self.conn.clone(),
            conversation: conversation.clone(),
            id: id.clone(),
            hash: body_hash(body.as_bytes()),
            code: String::new(),
        };
        self.record(env, Kind::Invoke, op);
        let frame = format!(r#"{{"send":{{"id":"{id}","conversation":"{conversation}","body":{body}}}}}"#);
        env.client_sends(wire, frame.into());
        self.said.insert(id.clone(), body_hash(body.as_bytes()));
        self.bad = Some((conversation, id));
    }

    // ---- talking ----

    fn talk(&mut self, env: &mut Env) {
        if !self.is_customer() && !self.available {
            self.available = true;
            let capacity = env.pick(1..5);
            let state = if env.chance(90) { "available" } else { "busy" };
            let status = json!({ "status": { "id": self.fresh_id(), "state": state, "capacity": capacity } });
            self.put(env, String::new(), status, None);
        }
        let every = env.knobs.talk_every;
        if env.pick(0..every) != 0 {
            return;
        }
        if env.pick(0..8) == 0 {
            return self.typing(env);
        }
        if self.is_customer() {
            let own = self.person.user.to_owned();
            match env.pick(0..40) {
                0 => self.act(env, own, "close", json!({})),
                1 => self.act(env, own, "request", json!({})),
                _ => self.say(env, own),
            }
        } else {
            let mine: Vec<String> = self
                .places
                .iter()
                .filter(|(_, p)| p.serving)
                .map(|(c, _)| c.clone())
                .collect();
            if mine.is_empty() {
                return;
            }
            let conversation = mine[env.pick(0..mine.len() as u64) as usize].clone();
            match env.pick(0..30) {
                0 => self.act(env, conversation, "close", json!({})),
                1 => self.act(env, conversation, "transfer", json!({})),
                2 | 3 => self.note(env, conversation),
                _ => self.say(env, conversation),
            }
        }
    }

    fn typing(&mut self, env: &mut Env) {
        let Link::Up { wire, .. } = self.link else { return };
        let own = self.person.user.to_owned();
        let mine = self.places.iter().find(|(_, p)| p.serving).map(|(c, _)| c.clone());
        let conversation = if self.is_customer() { Some(own) } else { mine };
        if let Some(conversation) = conversation {
            let frame = json!({ "typing": { "conversation": conversation } });
            env.client_sends(wire, frame.to_string().into());
        }
    }

    fn fresh_id(&mut self) -> String {
        self.next_id += 1;
        format!("{}-{}", self.name(), self.next_id)
    }

    fn say(&mut self, env: &mut Env, conversation: String) {
        let id = self.fresh_id();
        let length = match env.pick(0..50) {
            0 => env.pick(1_000..30_000),
            _ => env.pick(0..40),
        };
        let text = format!("{id}{}", "x".repeat(length as usize));
        let body = json!({ "text": text }).to_string();
        // Spliced by hand: bodies are kept byte for byte.
        let frame = format!(r#"{{"send":{{"id":"{id}","conversation":"{conversation}","body":{body}}}}}"#);
        self.put_send(env, id, conversation, frame, &body);
    }

    fn note(&mut self, env: &mut Env, conversation: String) {
        let id = self.fresh_id();
        let body = json!({ "text": format!("between us: {id}") }).to_string();
        let frame = format!(r#"{{"act":{{"id":"{id}","conversation":"{conversation}","note":{body}}}}}"#);
        self.put_send(env, id, conversation, frame, &body);
    }

    fn put_send(&mut self, env: &Env, id: String, conversation: String, frame: String, body: &str) {
        let hash = body_hash(body.as_bytes());
        self.said.insert(id.clone(), hash.clone());
        self.outbox.push_back(Pending {
            id,
            conversation,
            frame: frame.into(),
            hash,
            send: true,
            written: false,
            ever_written: false,
            not_before_us: env.now_us,
        });
    }

    fn act(&mut self, env: &mut Env, conversation: String, deed: &str, value: serde_json::Value) {
        let id = self.fresh_id();
        let act = json!({ "act": { "id": id, "conversation": conversation, deed: value } });
        self.put(env, conversation, act, Some(id));
    }

    fn put(&mut self, env: &mut Env, conversation: String, frame: serde_json::Value, id: Option<String>) {
        let id = id.unwrap_or_else(|| frame["status"]["id"].as_str().unwrap_or_default().to_owned());
        self.outbox.push_back(Pending {
            id,
            conversation,
            frame: frame.to_string().into(),
            hash: String::new(),
            send: false,
            written: false,
            ever_written: false,
            not_before_us: env.now_us,
        });
    }

    /// Writes what may go, in order per conversation. What may be in the log already waits until this connection has caught up.
    fn flush(&mut self, env: &mut Env) {
        let Link::Up { wire, .. } = self.link else { return };
        let mut blocked: BTreeSet<String> = BTreeSet::new();
        let window = env.knobs.window;
        // What a desk is asked may go unanswered: it counts for nothing.
        let mut in_flight = self.outbox.iter().filter(|p| p.written && p.send).count();
        let mut out = Vec::new();
        for p in &mut self.outbox {
            if p.written || blocked.contains(&p.conversation) {
                continue;
            }
            let place = self.places.get(&p.conversation);
            let caught_up = place.is_some_and(|pl| pl.target.is_some_and(|t| pl.last.unwrap_or(0) >= t));
            let held = p.ever_written && p.send && !caught_up && env.now_us < self.hold_until_us;
            if held || env.now_us < p.not_before_us || (p.send && in_flight >= window) {
                blocked.insert(p.conversation.clone());
                continue;
            }
            p.written = true;
            p.ever_written = true;
            in_flight += usize::from(p.send);
            let op = p.send.then(|| Op::Send {
                conn: self.conn.clone(),
                conversation: p.conversation.clone(),
                id: p.id.clone(),
                hash: p.hash.clone(),
                code: String::new(),
            });
            out.push((op, p.frame.clone()));
        }
        for (op, frame) in out {
            if let Some(op) = op {
                self.record(env, Kind::Invoke, op);
            }
            env.client_sends(wire, frame);
        }
    }

    // ---- hearing ----

    fn error(&mut self, env: &mut Env, id: &str, code: ErrorCode) {
        let Some(at) = self.outbox.iter().position(|p| p.id == id) else {
            return;
        };
        let again = matches!(
            code,
            ErrorCode::Unknown
                | ErrorCode::Unavailable
                | ErrorCode::RateLimited
                | ErrorCode::Overloaded
                | ErrorCode::Closing
        );
        let p = &mut self.outbox[at];
        p.written = false;
        p.not_before_us = env.now_us + 300 * MS;
        let op = p.send.then(|| Op::Send {
            conn: self.conn.clone(),
            conversation: p.conversation.clone(),
            id: p.id.clone(),
            hash: String::new(),
            code: code.as_str().into(),
        });
        // A person may think better of what was refused; of what may have been sent nobody can.
        let dropped = code == ErrorCode::Unavailable && env.chance(30);
        if !again || dropped {
            self.outbox.remove(at);
        }
        if let Some(op) = op {
            let kind = if code == ErrorCode::Unknown {
                Kind::Info
            } else {
                Kind::Fail
            };
            self.record(env, kind, op);
        }
    }

    /// After a `reset`: history by HTTP up to its place, then what was pushed meanwhile.
    fn read_history(&mut self, env: &mut Env) {
        let waiting: Vec<(String, u64)> = self
            .places
            .iter()
            .filter_map(|(c, p)| Some((c.clone(), p.read_until?)))
            .collect();
        for (conversation, until) in waiting {
            let last = self.places.get(&conversation).and_then(|p| p.last).unwrap_or(0);
            let rows = env.read_rows(self.person.tenant, &conversation, last, until);
            let Some(rows) = rows else { continue };
            for row in rows {
                let seen = self.shown(&conversation, &row);
                self.hand_over(env, &conversation, seen, Via::Page);
            }
            let place = self.places.entry(conversation.clone()).or_default();
            place.read_until = None;
            for (seen, via) in std::mem::take(&mut place.held) {
                self.hand_over(env, &conversation, seen, via);
            }
        }
    }

    fn shown(&self, conversation: &str, row: &Row) -> Seen {
        if self.is_customer() && row.staff_only {
            let stub = wire::event::hidden_frame(conversation, wire::Seq(row.seq), row.at_ms);
            return seen::of_entry(&wire::event::entry_of(&stub));
        }
        seen::of_entry(&row.entry)
    }

    fn ack(&mut self, env: &mut Env) {
        let Link::Up { wire, .. } = self.link else { return };
        let mut acks = Vec::new();
        for (conversation, place) in &mut self.places {
            let last = place.last.unwrap_or(0);
            // Where nothing came yet there is nothing to ack: an agent's first events may still be on their way.
            if place.target.is_none() || place.untouched || last <= place.acked || place.read_until.is_some() {
                continue;
            }
            if place.unacked >= ACK_EVERY_EVENTS || env.now_us >= place.ack_due_us {
                place.acked = last;
                place.unacked = 0;
                place.ack_due_us = env.now_us + env.knobs.ack_us;
                acks.push((conversation.clone(), last));
            }
        }
        for (conversation, recv) in acks {
            let read = if env.chance(50) {
                recv
            } else {
                recv.saturating_sub(env.pick(0..4))
            };
            let frame = json!({ "ack": { "conversation": conversation, "recv": recv, "read": read } });
            let conn = self.conn.clone();
            self.record(
                env,
                Kind::Invoke,
                Op::Ack {
                    conn,
                    conversation,
                    recv,
                    read,
                },
            );
            env.client_sends(wire, frame.to_string().into());
        }
    }
}
