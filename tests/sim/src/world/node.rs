//! A modelled ingress process: the real session core per connection, and around it what a node's shell does: links to the
//! owners, registrations, reports, questions, presence.

mod control;
mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use ingress_core::session::parse;
use ingress_core::{
    Claims, Connected, ConnectionLimits, Greeting, Handshaking, Heard, NewRecord, Quota, Reported, Step, Tick,
};
use prost::Message;
use wire::codec::{self, RECORD_VERSION};
use wire::frames::{Connected as ConnectedFrame, ServerFrame, Since};
use wire::link::from_node::Item;
use wire::link::from_worker::Item as From;
use wire::link::{
    Access, Acked, Answer, Ask, FromNode, FromWorker, Heartbeat, NodeHello, Place, Push, Register, Typing, Unregister,
    WorkerHello,
};
use wire::record::{
    Act, AgentConnection, Alive, Audience, DeskRecord, Kind, Origin, Owner, Presence, Record, Role, Sender,
    desk_record::Input as DeskInput,
};
use wire::{CloseCode, ConnectionId, ConversationKey, Device, Generation, Partition, Seq, Tenant, User, limits};

use super::bugs::Bug;
use super::env::{Env, MS, ProcId};
use super::input::{Input, LogRecord, Report};
use super::log::{ToAppend, Topic};
use super::{LANE, partition_of, proc_of_address};
use control::{Control, Token};

use crate::checker::history::{Generation as Shown, Kind as Outcome, Op};

const DIAL_AGAIN_US: u64 = 200 * MS;
const ASK_TIMEOUT_US: u64 = 1_000 * MS;

struct Unlimited;

impl Quota for Unlimited {
    fn take_send(&self, _: u64, _: usize) -> Result<(), ingress_core::buckets::RetryAfterMs> {
        Ok(())
    }
}

enum Conn {
    Handshaking(Handshaking),
    Open(Box<Open>),
}

struct Open {
    session: Connected,
    id: u64,
    tenant: Tenant,
    user: User,
    device: String,
    /// When its token was issued, by true time.
    issued_ms: u64,
    /// A customer's; staff belong to all.
    partition: Option<u32>,
    rank: u64,
    registered: bool,
    ticked_ms: u64,
}

struct OwnerEntry {
    worker: u64,
    generation: Generation,
}

/// The link to one worker, by its incarnation.
struct NodeLink {
    to: ProcId,
    link: Option<u64>,
    up: bool,
    heard_us: u64,
    sent_us: u64,
    register_at_us: u64,
    dial_at_us: u64,
    register: Vec<(u32, u64)>,
    register_later: Vec<(u32, u64)>,
    items: Vec<FromNode>,
}

struct Asked {
    wire: u64,
    frame: Bytes,
    conversation: User,
    until_us: u64,
}

pub struct Node {
    id: ProcId,
    incarnation: u64,
    name: String,
    conns: BTreeMap<u64, Conn>,
    by_id: BTreeMap<u64, u64>,
    owners: BTreeMap<u32, OwnerEntry>,
    links: BTreeMap<u64, NodeLink>,
    heard: Heard,
    reports: BTreeMap<u64, (u64, u32)>,
    next_report: u64,
    asks: BTreeMap<u64, Asked>,
    next_ask: u64,
    last_connection: ConnectionId,
    alive_at_us: u64,
    told_alive: BTreeSet<Tenant>,
    control: Control,
    /// For a seeded bug: partitions whose connections were registered once.
    registered_once: BTreeSet<u32>,
}

impl Node {
    pub fn start(env: &mut Env, id: ProcId) -> Self {
        let life = env.start(id);
        env.tail_owners(id);
        env.tail_control(id);
        control::begun(env, id);
        env.tell(id, env.knobs.tick_us, Input::Tick);
        Node {
            id,
            incarnation: env.pick(1..u64::MAX),
            name: format!("{}#{life}", id.name()),
            conns: BTreeMap::new(),
            by_id: BTreeMap::new(),
            owners: BTreeMap::new(),
            links: BTreeMap::new(),
            heard: Heard::new(env.log.partitions),
            reports: BTreeMap::new(),
            next_report: 0,
            asks: BTreeMap::new(),
            next_ask: 0,
            last_connection: ConnectionId(0),
            alive_at_us: 0,
            told_alive: BTreeSet::new(),
            control: Control::default(),
            registered_once: BTreeSet::new(),
        }
    }

    /// Told to leave: its clients are sent elsewhere.
    pub fn stop(&mut self, env: &mut Env) {
        let now_ms = env.now_ms(self.id);
        let wires: Vec<u64> = self.conns.keys().copied().collect();
        for wire in wires {
            self.with(wire, |open| {
                open.session.close(CloseCode::GoingAway);
                true
            });
            self.flush(env, now_ms, wire);
        }
        self.send_links(env);
    }

    pub fn handle(&mut self, env: &mut Env, input: Input) {
        let now_ms = env.now_ms(self.id);
        match input {
            Input::Tick => self.tick(env, now_ms),
            Input::ClientFrame { wire, frame } => self.client_frame(env, now_ms, wire, frame, None),
            Input::ClientGone { wire } => self.gone(env, wire),
            Input::Reported { token, report } => self.reported(env, now_ms, token, report),
            Input::Tailed(record) => self.learn(env, &record),
            Input::Control(record) => self.controlled(env, now_ms, &record),
            Input::LinkAccepted { link } => self.link_accepted(env, link),
            Input::LinkClosed { link } => self.link_down(env, link),
            Input::FromWorker { link, items } => self.hear_worker(env, now_ms, link, items),
            _ => {}
        }
        self.send_links(env);
    }

    // ---- clients ----

    /// `learnt`: the frame was held back until the owner had said what its sender may do.
    fn client_frame(&mut self, env: &mut Env, now_ms: u64, wire: u64, frame: Bytes, learnt: Option<Access>) {
        let conn = self
            .conns
            .entry(wire)
            .or_insert_with(|| Conn::Handshaking(Handshaking::default()));
        match conn {
            Conn::Handshaking(handshaking) => match handshaking.handle_frame(now_ms, &frame) {
                Greeting::Verify(connect) => {
                    let token = Token::read(&connect.token);
                    if let Err(code) = self.control.admits(&token, env) {
                        env.node_closes(wire, Some(code.number()));
                        self.conns.remove(&wire);
                        return;
                    }
                    let claims = token.claims(env, now_ms);
                    let device = connect.device.as_deref().unwrap_or_default().to_owned();
                    let since = connect.since.clone();
                    self.connect(env, now_ms, wire, (claims, token.issued_ms), device, since);
                }
                Greeting::Answer(bytes) => env.node_writes(wire, bytes),
                Greeting::Close(code) => env.node_closes(wire, Some(code.number())),
            },
            Conn::Open(open) => {
                let step = open.session.handle_frame(now_ms, parse(&frame), &Unlimited);
                match step {
                    Step::Nothing | Step::Close(_) | Step::Refresh { .. } => {}
                    Step::Typing { conversation } => {
                        let key = key_of(open, &conversation);
                        let connection = open.id;
                        if self.control.is_on("typing") {
                            let partition = partition_of(&key, env.log.partitions);
                            self.send_to_owner(partition, |_| {
                                Item::Typing(Typing {
                                    partition,
                                    connection,
                                    conversation: conversation.as_str().to_owned(),
                                    ..Typing::default()
                                })
                            });
                        }
                    }
                    Step::Answer(bytes) => {
                        open.session.write(now_ms, bytes);
                    }
                    Step::Produce(new) => {
                        let (record, partition) = record_of(open, self.incarnation, now_ms, &new, env.log.partitions);
                        self.next_report += 1;
                        let token = self.next_report;
                        self.reports.insert(token, (wire, new.token));
                        if env.has(Bug::AckBeforeLog) {
                            open.session.handle_report(now_ms, new.token, Reported::Logged);
                        }
                        let record = ToAppend {
                            topic: Topic::Messages,
                            partition,
                            key: Some(key_of(open, &new.conversation).to_key()),
                            value: Some(codec::encode(&record)),
                        };
                        env.produce(self.id, record, token);
                    }
                    Step::Desk(act) => {
                        let deed = Act {
                            from: Some(sender(open)),
                            id: act.id.as_ref().map_or(String::new(), |id| id.as_str().to_owned()),
                            origin: Some(origin(open, self.incarnation)),
                            customer: act.customer.map_or(String::new(), |c| c.as_str().to_owned()),
                            deed: act.deed,
                            seen_seq: act.seen_seq,
                            groups: Vec::new(),
                            priority: 1,
                            received_at_ms: now_ms as i64,
                        };
                        self.next_report += 1;
                        let token = self.next_report;
                        self.reports.insert(token, (wire, act.token));
                        let tenant = open.tenant.clone();
                        self.to_desk(env, &tenant, DeskInput::Act(deed), token);
                    }
                    Step::Acked { conversation, acks } => {
                        let partition = partition_of(&key_of(open, &conversation), env.log.partitions);
                        let connection = open.id;
                        let item = |generation: Generation| {
                            Item::Acked(Acked {
                                partition,
                                generation: Some(generation.into()),
                                connection,
                                conversation: conversation.as_str().to_owned(),
                                recv: acks.recv.0,
                                read: acks.read.0,
                                ..Acked::default()
                            })
                        };
                        self.send_to_owner(partition, item);
                    }
                    Step::Ask { conversation, id, .. } => {
                        if learnt.is_some() {
                            let answer = ingress_core::error_frame(
                                Some(id.as_str()),
                                wire::ErrorCode::NotAssigned,
                                "you are neither assigned nor joined",
                                None,
                            );
                            open.session.write(now_ms, answer);
                        } else {
                            self.ask(env, wire, frame.clone(), conversation);
                        }
                    }
                }
            }
        }
        self.flush(env, now_ms, wire);
    }

    fn connect(
        &mut self,
        env: &mut Env,
        now_ms: u64,
        wire: u64,
        (claims, issued_ms): (Claims, u64),
        device: String,
        since: Option<Since>,
    ) {
        let since = match since {
            Some(Since::Own(seq)) if env.has(Bug::SinceOffByOne) => Some(Since::Own(seq + 1)),
            other => other,
        };
        let mut session = Connected::new(now_ms, &claims, since, Arc::new(ConnectionLimits::default()));
        self.last_connection = ConnectionId::next(self.last_connection, now_ms);
        let id = self.last_connection.0;
        let connected = ServerFrame::Connected(ConnectedFrame {
            session: format!("{id:x}").into(),
            user: claims.user.as_str().into(),
            role: wire::event::role_name(claims.role).into(),
            node: self.name.as_str().into(),
            term: 1,
            ping_s: limits::PING_INTERVAL_S,
        });
        session.write(now_ms, connected.encode());
        let key = ConversationKey::new(claims.tenant.clone(), claims.user.clone());
        let customer = claims.role == Role::Customer;
        let open = Open {
            session,
            id,
            tenant: claims.tenant,
            user: claims.user,
            device,
            issued_ms,
            partition: customer.then(|| partition_of(&key, env.log.partitions)),
            rank: id,
            registered: false,
            ticked_ms: now_ms,
        };
        self.by_id.insert(id, wire);
        let partition = open.partition;
        self.presence(env, &open, true);
        self.conns.insert(wire, Conn::Open(Box::new(open)));
        for (owned, entry) in &self.owners {
            if partition.is_none_or(|p| p == *owned)
                && let Some(link) = self.links.get_mut(&entry.worker).filter(|l| l.up)
            {
                link.register.push((*owned, id));
            }
        }
    }

    /// What the session has to write; and its end, when it is closing.
    fn flush(&mut self, env: &mut Env, now_ms: u64, wire: u64) {
        let Some(Conn::Open(open)) = self.conns.get_mut(&wire) else {
            return;
        };
        for frame in open.session.take_output(now_ms, usize::MAX) {
            env.node_writes(wire, frame);
        }
        if let Some(code) = open.session.closing() {
            env.node_closes(wire, Some(code.number()));
            self.gone(env, wire);
        }
    }

    fn gone(&mut self, env: &mut Env, wire: u64) {
        let Some(Conn::Open(open)) = self.conns.remove(&wire) else {
            return;
        };
        self.by_id.remove(&open.id);
        let mut connection = open.id;
        if env.has(Bug::WrongRouteRemoved) {
            // By user instead of by connection: hits the one that took its place.
            let other = self.conns.values().find_map(|c| match c {
                Conn::Open(o) if o.user == open.user && o.id > open.id => Some(o.id),
                _ => None,
            });
            connection = other.unwrap_or(connection);
        }
        let item = FromNode {
            item: Some(Item::Unregister(Unregister { connection })),
        };
        for (worker, link) in &mut self.links {
            let owns = |p: u32| self.owners.get(&p).is_some_and(|o| o.worker == *worker);
            if link.up && open.partition.is_none_or(owns) {
                link.items.push(item.clone());
            }
        }
        self.presence(env, &open, false);
    }

    fn presence(&mut self, env: &mut Env, open: &Open, connected: bool) {
        if open.partition.is_some() {
            return;
        }
        let presence = Presence {
            node: self.incarnation,
            connection: open.id,
            agent: open.user.as_str().to_owned(),
            connected,
            role: open.session.role.into(),
            groups: Vec::new(),
        };
        self.to_desk(env, &open.tenant, DeskInput::Presence(presence), 0);
    }

    fn to_desk(&self, env: &mut Env, tenant: &Tenant, input: DeskInput, token: u64) {
        let record = DeskRecord {
            version: RECORD_VERSION,
            input: Some(input),
        };
        let key = Bytes::copy_from_slice(tenant.as_str().as_bytes());
        let record = ToAppend {
            topic: Topic::Desk,
            partition: wire::topics::partition_of(&key, env.log.partitions).0,
            key: Some(key),
            value: Some(record.encode_to_vec().into()),
        };
        env.produce(self.id, record, token);
    }

    fn reported(&mut self, env: &mut Env, now_ms: u64, token: u64, report: Report) {
        let Some((wire, token)) = self.reports.remove(&token) else {
            return;
        };
        let reported = match report {
            Report::Logged { .. } => Reported::Logged,
            Report::Unavailable => Reported::Unavailable,
            Report::Unknown if env.has(Bug::TimeoutIsSuccess) => Reported::Logged,
            Report::Unknown if env.has(Bug::UnknownIsUnavailable) => Reported::Unavailable,
            Report::Unknown => Reported::Unknown,
        };
        if let Some(Conn::Open(open)) = self.conns.get_mut(&wire) {
            open.session.handle_report(now_ms, token, reported);
        }
        self.flush(env, now_ms, wire);
    }

    fn ask(&mut self, env: &mut Env, wire: u64, frame: Bytes, conversation: User) {
        let Some(Conn::Open(open)) = self.conns.get(&wire) else {
            return;
        };
        let key = key_of(open, &conversation);
        let partition = partition_of(&key, env.log.partitions);
        self.next_ask += 1;
        let ask = self.next_ask;
        self.asks.insert(
            ask,
            Asked {
                wire,
                frame,
                conversation: conversation.clone(),
                until_us: env.now_us + ASK_TIMEOUT_US,
            },
        );
        self.send_to_owner(partition, |_| {
            Item::Ask(Ask {
                ask,
                partition,
                tenant: key.tenant.as_str().to_owned(),
                conversation: conversation.as_str().to_owned(),
            })
        });
    }

    fn answered(&mut self, env: &mut Env, now_ms: u64, answer: Answer) {
        let Some(asked) = self.asks.remove(&answer.ask) else {
            return;
        };
        let Some(Conn::Open(open)) = self.conns.get_mut(&asked.wire) else {
            return;
        };
        let session = answer.session.unwrap_or_default();
        let user = open.user.as_str();
        let access = if session.agent == user || session.joined.iter().any(|j| j == user) {
            Access::Full
        } else if session.watching.iter().any(|w| w == user) {
            Access::Watch
        } else {
            Access::None
        };
        if answer.known {
            open.session.learn(asked.conversation.as_str(), access);
        }
        self.client_frame(env, now_ms, asked.wire, asked.frame, Some(access));
        if let Some(Conn::Open(open)) = self.conns.get_mut(&asked.wire) {
            open.session.unlearn(asked.conversation.as_str());
        }
    }

    fn wires(&self, connections: &[u64]) -> Vec<u64> {
        connections.iter().filter_map(|c| self.by_id.get(c)).copied().collect()
    }

    fn with(&mut self, wire: u64, change: impl FnOnce(&mut Open) -> bool) {
        if let Some(Conn::Open(open)) = self.conns.get_mut(&wire) {
            change(open);
        }
    }

    // ---- time ----

    fn tick(&mut self, env: &mut Env, now_ms: u64) {
        env.tell(self.id, env.knobs.tick_us, Input::Tick);
        let wires: Vec<u64> = self.conns.keys().copied().collect();
        for wire in wires {
            let Some(Conn::Open(open)) = self.conns.get_mut(&wire) else {
                continue;
            };
            if now_ms < open.ticked_ms + 1_000 {
                continue;
            }
            open.ticked_ms = now_ms;
            if open.session.handle_tick(now_ms) == Tick::Ping {
                env.node_writes(wire, Bytes::from_static(b"ping"));
            }
            self.flush(env, now_ms, wire);
        }
        self.tick_links(env);
        self.dial(env);
        let late: Vec<u64> = self
            .asks
            .iter()
            .filter(|(_, a)| a.until_us <= env.now_us)
            .map(|(ask, _)| *ask)
            .collect();
        for ask in late {
            // The row is read instead; the model answers from the store at once.
            let known = false;
            self.answered(
                env,
                now_ms,
                Answer {
                    ask,
                    known,
                    ..Answer::default()
                },
            );
        }
        if env.now_us >= self.alive_at_us {
            self.alive_at_us = env.now_us + limits::ALIVE_INTERVAL_MS * MS;
            self.alive(env);
        }
    }

    fn tick_links(&mut self, env: &mut Env) {
        let now_us = env.now_us;
        let mut silent = Vec::new();
        for l in self.links.values_mut() {
            let Some(link) = l.link else { continue };
            if now_us > l.heard_us + limits::LINK_TIMEOUT_MS * MS {
                silent.push(link);
                continue;
            }
            // Whatever else passes over the link: who was told `NotOwner` asks again after a heartbeat's time.
            if l.up && now_us >= l.register_at_us {
                l.register_at_us = now_us + limits::LINK_HEARTBEAT_MS * MS;
                let later = std::mem::take(&mut l.register_later);
                l.register.extend(later);
            }
            if l.up && now_us >= l.sent_us + limits::LINK_HEARTBEAT_MS * MS {
                l.sent_us = now_us;
                l.items.push(FromNode {
                    item: Some(Item::Heartbeat(Heartbeat {})),
                });
            }
        }
        for link in silent {
            env.close_link(link, true);
            self.link_down(env, link);
        }
    }

    fn alive(&mut self, env: &mut Env) {
        let mut present: BTreeMap<Tenant, Vec<AgentConnection>> = std::mem::take(&mut self.told_alive)
            .into_iter()
            .map(|t| (t, Vec::new()))
            .collect();
        for conn in self.conns.values() {
            if let Conn::Open(open) = conn
                && open.partition.is_none()
            {
                present.entry(open.tenant.clone()).or_default().push(AgentConnection {
                    connection: open.id,
                    agent: open.user.as_str().to_owned(),
                    role: open.session.role.into(),
                    groups: Vec::new(),
                });
            }
        }
        for (tenant, connections) in present {
            if !connections.is_empty() {
                self.told_alive.insert(tenant.clone());
            }
            let alive = Alive {
                node: self.incarnation,
                connections,
            };
            self.to_desk(env, &tenant, DeskInput::Alive(alive), 0);
        }
    }
}

/// Who is to be registered at a partition's owner: its customers, and all staff.
fn belonging<'a>(conns: impl Iterator<Item = &'a Conn>, partition: u32) -> Vec<(u32, u64)> {
    conns
        .filter_map(|conn| match conn {
            Conn::Open(open) if open.partition.is_none_or(|p| p == partition) => Some((partition, open.id)),
            _ => None,
        })
        .collect()
}

fn key_of(open: &Open, conversation: &User) -> ConversationKey {
    ConversationKey::new(open.tenant.clone(), conversation.clone())
}

fn sender(open: &Open) -> Sender {
    Sender {
        role: open.session.role.into(),
        user: open.user.as_str().to_owned(),
    }
}

fn origin(open: &Open, node: u64) -> Origin {
    Origin {
        node,
        connection: open.id,
    }
}

fn record_of(open: &Open, node: u64, now_ms: u64, new: &NewRecord, partitions: u32) -> (Record, u32) {
    let record = Record {
        version: RECORD_VERSION,
        kind: Kind::Message.into(),
        numbered: true,
        wants_agent: new.wants_agent,
        audience: if new.staff_only {
            Audience::Staff
        } else {
            Audience::Everyone
        }
        .into(),
        from: Some(sender(open)),
        id: new.id.as_str().to_owned(),
        origin: Some(origin(open, node)),
        member: new.member_bytes(),
        received_at_ms: now_ms as i64,
        ..Record::default()
    };
    (record, partition_of(&key_of(open, &new.conversation), partitions))
}
