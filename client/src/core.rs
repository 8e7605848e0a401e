//! The session core: what a client says and hears over any number of connections, one after the other. Pure: time and randomness come in,
//! [`Action`]s come out of [`Core::poll_action`].
//!
//! Order of calls: `opened` when a connection stands (its first frame is `connect_frame`), `frame` for each frame heard, `closed` when it has ended;
//! `send`, `act`, `read` … at any time; `timer` when [`Core::next_timer`] is due. After each call, actions until there are none.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;
use wire::frames::{AgentState, ServerFrame, Since};
use wire::{CloseCode, ErrorCode};

use crate::frames;
use crate::history::{Observation, Remembered};
use crate::incoming::{Event, Incoming, entry_of, plain};
use crate::outbox::{Entry, Kind, Outbox};
use crate::places::{Place, Places, Step};
use crate::policy::{Backoff, Ended, wait_ms};

/// Frames in flight without answer: half of the window in which a repeat is known, so that whatever is sent once more is dropped.
pub const WINDOW: usize = wire::limits::REPEAT_WINDOW_EVENTS / 2;
/// A conversation nobody tells us about any more (an agent was detached) holds back its resends no longer than this.
const HOLD_MS: u64 = 5_000;
/// What goes away waits this long for the answers to what is in flight.
const GOAWAY_LINGER_MS: u64 = 1_000;
/// A refusal that names no time.
const RETRY_MS: u64 = 250;

#[derive(Debug)]
pub enum Action {
    Write(Bytes),
    Deliver(Incoming),
    Observe(Observation),
    /// Close the connection that is up, then call `closed` with this.
    Disconnect(Ended),
    /// Open the next connection after this long; to the next node if `elsewhere`.
    Open {
        after_ms: u64,
        elsewhere: bool,
    },
    /// Do not come back.
    Stop,
}

#[derive(Debug)]
enum Link {
    Down,
    /// Open, and no `connected` yet.
    Opened,
    Live,
    /// Asked to close; what still comes is not listened to.
    Closing,
}

/// What a client begins with.
#[derive(Debug, Clone, Default)]
pub struct Start {
    pub token: String,
    pub device: Option<String>,
    pub since: Option<Since>,
    pub term: Option<u64>,
    pub backoff: Backoff,
    /// Whether [`Action::Observe`] is wanted; then `user` must be given.
    pub observe: bool,
    /// The token's user, if it is known before the server says so.
    pub user: Option<String>,
}

pub struct Core {
    start: Start,
    link: Link,
    user: Option<String>,
    role: Option<String>,
    customer: bool,
    term: Option<u64>,
    /// The server must be heard this often.
    silence_ms_max: u64,
    heard_ms: u64,
    held_until_ms: u64,
    quiet_until_ms: u64,
    leave_at_ms: Option<u64>,
    goaway_retry_ms: Option<u64>,
    failures: u32,
    retries: u32,
    status: Option<(AgentState, Option<u32>)>,
    outbox: Outbox,
    places: Places,
    actions: VecDeque<Action>,
    /// Only when observing.
    remembered: Remembered,
}

impl Core {
    pub fn new(start: Start) -> Self {
        let mut places = Places::default();
        if let Some(Since::Conversations(all)) = &start.since {
            for (name, last) in all {
                places.at(name).last = Some(*last);
            }
        }
        Self {
            term: start.term,
            link: Link::Down,
            user: start.user.clone(),
            role: None,
            customer: false,
            silence_ms_max: 2_000 * wire::limits::PING_INTERVAL_S,
            heard_ms: 0,
            held_until_ms: 0,
            quiet_until_ms: 0,
            leave_at_ms: None,
            goaway_retry_ms: None,
            failures: 0,
            retries: 0,
            status: None,
            outbox: Outbox::default(),
            places,
            actions: VecDeque::new(),
            remembered: Remembered::default(),
            start,
        }
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Messages and acts not known to be in the log.
    pub fn pending(&self) -> usize {
        self.outbox.len()
    }

    pub fn token(&self) -> &str {
        &self.start.token
    }

    /// The first frame of the next connection.
    pub fn connect_frame(&mut self) -> Bytes {
        let since = match (&self.user, &self.role) {
            (Some(user), Some(_)) if self.customer => self.places.get(user).and_then(|p| p.last).map(Since::Own),
            (Some(_), Some(_)) => frames::since_of(self.places.since()),
            // Not yet told who this is.
            _ => self.start.since.clone(),
        };
        self.observe_connect(since.as_ref());
        frames::connect(&self.start.token, self.start.device.as_deref(), since, self.term)
    }

    pub fn opened(&mut self, now_ms: u64) {
        self.link = Link::Opened;
        self.heard_ms = now_ms;
    }

    /// The connection is gone, or could not be opened.
    pub fn closed(&mut self, ended: Ended, random: u64) {
        let was_live = matches!(self.link, Link::Live | Link::Closing);
        self.link = Link::Down;
        self.outbox.disconnected();
        self.places.disconnected();
        self.leave_at_ms = None;
        let ended = Ended {
            retry_after_ms: ended.retry_after_ms.or(self.goaway_retry_ms.take()),
            ..ended
        };
        self.failures = if was_live { 0 } else { self.failures.saturating_add(1) };
        let retry_in_ms = ended
            .comes_back()
            .then(|| wait_ms(self.start.backoff, self.failures, &ended, random));
        self.observe("info", "close", || json!({ "code": ended.code }));
        self.deliver(Incoming::Disconnected {
            code: ended.code,
            reason: ended.reason,
            retry_in_ms,
        });
        self.actions.push_back(match retry_in_ms {
            Some(after_ms) => Action::Open {
                after_ms,
                elsewhere: ended.code == Some(CloseCode::GoingAway.number()) || !was_live,
            },
            None => Action::Stop,
        });
    }

    pub fn send(&mut self, now_ms: u64, id: String, conversation: Option<String>, body: &RawValue) {
        let frame = frames::send(&id, conversation.as_deref(), body);
        if self.start.observe {
            let name = conversation.as_deref().or(self.user.as_deref()).unwrap_or_default();
            self.remembered.put(&id, name, body.get());
        }
        self.ask(now_ms, id, conversation, frame, Kind::Send);
    }

    pub fn act(&mut self, now_ms: u64, id: String, conversation: Option<String>, deed: &str, value: &RawValue) {
        let frame = frames::act(&id, conversation.as_deref(), deed, value);
        self.ask(now_ms, id, conversation, frame, Kind::Act);
    }

    fn ask(&mut self, now_ms: u64, id: String, conversation: Option<String>, frame: Bytes, kind: Kind) {
        self.outbox.push(Entry {
            id,
            conversation,
            frame,
            kind,
            written: false,
            ever_written: false,
        });
        self.flush(now_ms);
    }

    /// The user has seen everything up to `seq`.
    pub fn read(&mut self, now_ms: u64, conversation: Option<&str>, seq: u64) {
        let Some(name) = conversation.or(self.user.as_deref()).map(str::to_owned) else {
            return;
        };
        let place = self.places.at(&name);
        place.read = place.read.max(seq.min(place.last.unwrap_or(0)));
        self.acks(now_ms);
    }

    pub fn typing(&mut self, conversation: Option<&str>) {
        if matches!(self.link, Link::Live) {
            self.write(frames::typing(conversation));
        }
    }

    /// The agent's chosen state; said again on each new connection, so it is never lost with one.
    pub fn status(&mut self, state: AgentState, capacity: Option<u32>) {
        self.status = Some((state, capacity));
        if matches!(self.link, Link::Live) {
            self.write(frames::status(state, capacity));
        }
    }

    /// A new token: for this connection and all later ones.
    pub fn refresh(&mut self, token: String) {
        if matches!(self.link, Link::Live) {
            self.write(frames::refresh(&token));
        }
        self.start.token = token;
    }

    /// Something came that is no frame of the protocol: a ping of the transport.
    pub fn heard(&mut self, now_ms: u64) {
        self.heard_ms = now_ms;
    }

    pub fn ping(&mut self) {
        self.write(frames::ping());
    }

    /// One frame from the server. What it does not understand it leaves alone: a newer server may say more.
    pub fn frame(&mut self, now_ms: u64, bytes: &Bytes) {
        self.heard_ms = now_ms;
        if matches!(self.link, Link::Closing) {
            return;
        }
        let Ok(frame) = serde_json::from_slice::<ServerFrame<'_>>(bytes) else {
            return;
        };
        match frame {
            ServerFrame::Connected(c) => {
                self.link = Link::Live;
                self.user = Some(c.user.to_string());
                self.role = Some(c.role.to_string());
                self.customer = c.role == "customer";
                if let (true, Some(Since::Own(n))) = (self.customer, self.start.since.take()) {
                    self.places.at(&c.user).last.get_or_insert(n);
                }
                self.term = Some(c.term);
                self.silence_ms_max = 2_000 * c.ping_s.max(1);
                self.held_until_ms = now_ms + HOLD_MS;
                self.quiet_until_ms = 0;
                self.observe("ok", "connect", || json!({ "node": c.node }));
                self.deliver(Incoming::Connected {
                    user: c.user.into(),
                    role: c.role.into(),
                    node: c.node.into(),
                    session: c.session.into(),
                    term: c.term,
                });
                if let Some((state, capacity)) = self.status {
                    self.write(frames::status(state, capacity));
                }
            }
            ServerFrame::Conversation(c) => {
                let customer = self.customer;
                self.observe("info", "conversation", || {
                    json!({ "conversation": c.conversation, "last_seq": c.last_seq, "recv": c.recv, "read": c.read,
                            "state": c.state, "agent": c.agent })
                });
                let place = self.places.at(&c.conversation);
                let begins = place.target.is_none() && place.last.is_none();
                if place.target.is_none() {
                    place.target = Some(c.last_seq);
                    if customer {
                        place.last.get_or_insert(c.last_seq);
                    }
                    place.recv_acked = c.recv.min(place.last.unwrap_or(0));
                    place.read_acked = c.read.min(place.last.unwrap_or(0));
                    place.read = place.read.max(place.read_acked);
                }
                if begins {
                    self.observe(
                        "info",
                        "begin",
                        || json!({ "conversation": c.conversation, "from": c.last_seq }),
                    );
                }
                self.deliver(Incoming::Conversation {
                    conversation: c.conversation.into(),
                    last_seq: c.last_seq,
                    recv: c.recv,
                    read: c.read,
                    state: c.state,
                    agent: c.agent.map(Into::into),
                });
            }
            ServerFrame::Event(_) => self.event(bytes),
            ServerFrame::Placed(p) => {
                self.observe(
                    "ok",
                    "placed",
                    || json!({ "conversation": p.conversation, "id": p.id, "seq": p.seq }),
                );
                self.observe_placed("raw", &p.conversation, &p.id, p.seq);
                match self.places.at(&p.conversation).step(p.seq) {
                    Step::Gap => return self.gap(&p.conversation, p.seq),
                    Step::Next => self.observe_placed("app", &p.conversation, &p.id, p.seq),
                    Step::Repeat => {}
                }
                self.in_the_log(&p.id);
                self.deliver(Incoming::Placed {
                    id: p.id.into(),
                    conversation: p.conversation.into(),
                    seq: p.seq,
                    at: p.at,
                });
            }
            ServerFrame::Sent(s) => {
                self.observe_answer("ok", "sent", &s.id, "");
                self.in_the_log(&s.id);
            }
            ServerFrame::Done(d) => {
                self.outbox.remove(&d.id);
                self.deliver(Incoming::Done { id: d.id.into() });
            }
            ServerFrame::Error(e) => {
                self.refused(now_ms, e.id.map(Into::into), e.code, e.message.into(), e.retry_after_ms);
            }
            ServerFrame::Reset(r) => {
                let place = self.places.at(&r.conversation);
                let had = place.last.unwrap_or(0);
                // One that names less than we have leaves nothing out: what is pushed again behind it is a repeat.
                place.last = Some(r.last_seq.max(had));
                self.observe(
                    "info",
                    "reset",
                    || json!({ "conversation": r.conversation, "last_seq": r.last_seq }),
                );
                if r.last_seq > had {
                    self.deliver(Incoming::Reset {
                        conversation: r.conversation.into(),
                        had,
                        last_seq: r.last_seq,
                    });
                }
            }
            ServerFrame::Rewind(r) => {
                self.places.at(&r.conversation).rewind(r.last_seq);
                self.observe(
                    "info",
                    "rewind",
                    || json!({ "conversation": r.conversation, "last_seq": r.last_seq }),
                );
                self.deliver(Incoming::Rewind {
                    conversation: r.conversation.into(),
                    last_seq: r.last_seq,
                });
            }
            ServerFrame::Goaway(g) => {
                self.goaway_retry_ms = Some(g.retry_after_ms);
                self.leave_at_ms = Some(now_ms + GOAWAY_LINGER_MS);
            }
            ServerFrame::Close(c) => {
                self.link = Link::Closing;
                self.actions
                    .push_back(Action::Disconnect(Ended::closed(c.code, c.reason)));
            }
            other => {
                if let ServerFrame::Receipt(r) = &other {
                    self.observe(
                        "info",
                        "receipt",
                        || json!({ "conversation": r.conversation, "side": r.side, "recv": r.recv, "read": r.read }),
                    );
                }
                if let Some(incoming) = plain(other) {
                    self.deliver(incoming);
                }
            }
        }
        self.flush(now_ms);
        self.acks(now_ms);
    }

    /// When [`Self::timer`] wants to be called.
    pub fn next_timer(&self) -> Option<u64> {
        if !matches!(self.link, Link::Live | Link::Opened) {
            return None;
        }
        let mut due = self.heard_ms + self.silence_ms_max;
        if matches!(self.link, Link::Live) {
            let resend = (self.outbox.len() > 0 && self.quiet_until_ms > 0).then_some(self.quiet_until_ms);
            let held = (self.outbox.len() > 0 && self.held_until_ms > 0).then_some(self.held_until_ms);
            for at in [self.places.next_ack_ms(), self.leave_at_ms, resend, held]
                .into_iter()
                .flatten()
            {
                due = due.min(at);
            }
        }
        Some(due)
    }

    pub fn timer(&mut self, now_ms: u64) {
        if now_ms >= self.held_until_ms {
            self.held_until_ms = 0;
        }
        if now_ms >= self.quiet_until_ms {
            self.quiet_until_ms = 0;
        }
        if !matches!(self.link, Link::Live | Link::Opened) {
            return;
        }
        if now_ms >= self.heard_ms + self.silence_ms_max {
            return self.disconnect(Ended::lost("nothing heard for two pings"));
        }
        if self.leave_at_ms.is_some_and(|t| now_ms >= t) {
            return self.disconnect(Ended::of(CloseCode::GoingAway));
        }
        self.flush(now_ms);
        self.acks(now_ms);
    }

    fn event(&mut self, bytes: &Bytes) {
        let Some(event) = entry_of(bytes).and_then(|raw| Event::from_entry(raw).ok()) else {
            return;
        };
        self.observe_recv("raw", &event);
        match self.places.at(&event.conversation).step(event.seq) {
            Step::Gap => return self.gap(&event.conversation, event.seq),
            Step::Repeat => return,
            Step::Next => {}
        }
        // One's own message that came back whole is in the log, whatever became of its `sent`.
        if let (Some(id), true) = (&event.id, event.user == self.user)
            && self.outbox.contains(id)
        {
            self.in_the_log(&id.clone());
        }
        self.observe_recv("app", &event);
        self.deliver(Incoming::Event(event));
    }

    /// Something is missing: what came is not handed over, and a new connection fetches all of it.
    fn gap(&mut self, conversation: &str, seq: u64) {
        let last = self.places.get(conversation).and_then(|p| p.last).unwrap_or(0);
        self.disconnect(Ended::lost(format!(
            "a hole in {conversation}: {seq} came after {last}"
        )));
    }

    fn disconnect(&mut self, ended: Ended) {
        self.link = Link::Closing;
        self.actions.push_back(Action::Disconnect(ended));
    }

    fn in_the_log(&mut self, id: &str) {
        if self.outbox.remove(id).is_some() {
            self.retries = 0;
            self.deliver(Incoming::Sent { id: id.to_owned() });
        }
    }

    fn refused(&mut self, now_ms: u64, id: Option<String>, code: ErrorCode, message: String, after_ms: Option<u64>) {
        let pending = id.clone().filter(|id| self.outbox.contains(id));
        let Some(id) = pending else {
            return self.deliver(Incoming::Error {
                id,
                code,
                message,
                retry_after_ms: after_ms,
            });
        };
        let again = match code {
            ErrorCode::RateLimited
            | ErrorCode::Overloaded
            | ErrorCode::Unavailable
            | ErrorCode::Unknown
            | ErrorCode::Closing => true,
            // A switch with an end is waited for; one without is an answer.
            ErrorCode::Degraded => after_ms.is_some(),
            ErrorCode::BadFrame
            | ErrorCode::InvalidBody
            | ErrorCode::TooLarge
            | ErrorCode::Forbidden
            | ErrorCode::NotAssigned
            | ErrorCode::NotFound
            | ErrorCode::Conflict => false,
        };
        // `unknown` says that it may appear; every other code that it will not.
        let kind = if code == ErrorCode::Unknown { "info" } else { "fail" };
        self.observe_answer(kind, "send", &id, code.as_str());
        if again {
            self.outbox.again_from(&id);
            let wait_ms = after_ms.unwrap_or(RETRY_MS << self.retries.min(6));
            self.retries = self.retries.saturating_add(1);
            self.quiet_until_ms = self.quiet_until_ms.max(now_ms + wait_ms.max(1));
        } else {
            self.outbox.remove(&id);
            self.deliver(Incoming::Refused { id, code, message });
        }
    }

    fn flush(&mut self, now_ms: u64) {
        if !matches!(self.link, Link::Live) || self.leave_at_ms.is_some() || now_ms < self.quiet_until_ms {
            return;
        }
        let Self {
            outbox,
            places,
            user,
            actions,
            held_until_ms,
            remembered,
            start,
            ..
        } = self;
        let held = |conversation: Option<&str>| {
            let place = conversation.or(user.as_deref()).and_then(|name| places.get(name));
            now_ms < *held_until_ms && !place.is_some_and(Place::caught_up)
        };
        outbox.flush(WINDOW, held, |entry| {
            if let (true, Some((conversation, hash))) = (start.observe, remembered.get(&entry.id)) {
                let fields = json!({ "conversation": conversation, "id": entry.id, "hash": hash });
                actions.push_back(Action::Observe(Observation::new("invoke", "send", fields)));
            }
            actions.push_back(Action::Write(entry.frame.clone()));
        });
    }

    fn acks(&mut self, now_ms: u64) {
        if !matches!(self.link, Link::Live) {
            return;
        }
        let Self {
            places, actions, start, ..
        } = self;
        for (name, place) in places.iter_mut() {
            if place.ack_due_ms().is_some_and(|due| due <= now_ms) {
                let (recv, read) = place.take_ack(now_ms);
                if start.observe {
                    let fields = json!({ "conversation": name, "recv": recv, "read": read });
                    actions.push_back(Action::Observe(Observation::new("invoke", "ack", fields)));
                }
                actions.push_back(Action::Write(frames::ack(Some(name), recv, read)));
            }
        }
    }

    fn write(&mut self, frame: Bytes) {
        self.actions.push_back(Action::Write(frame));
    }

    fn deliver(&mut self, incoming: Incoming) {
        self.actions.push_back(Action::Deliver(incoming));
    }

    fn observe(&mut self, kind: &'static str, op: &'static str, fields: impl FnOnce() -> serde_json::Value) {
        if self.start.observe {
            let what = Observation::new(kind, op, fields());
            self.actions.push_back(Action::Observe(what));
        }
    }

    /// A new connection, and from where on it expects events.
    fn observe_connect(&mut self, since: Option<&Since>) {
        self.observe("invoke", "connect", || json!({}));
        let begins: Vec<(String, u64)> = match since {
            Some(Since::Own(n)) => self.user.iter().map(|u| (u.clone(), *n)).collect(),
            Some(Since::Conversations(all)) => all.iter().map(|(c, n)| (c.clone(), *n)).collect(),
            None => Vec::new(),
        };
        for (conversation, from) in begins {
            self.observe(
                "info",
                "begin",
                || json!({ "conversation": conversation, "from": from, "resume": true }),
            );
        }
    }

    fn observe_recv(&mut self, layer: &str, event: &Event) {
        if self.start.observe {
            self.actions.push_back(Action::Observe(Observation::recv(layer, event)));
        }
    }

    fn observe_placed(&mut self, layer: &str, conversation: &str, id: &str, seq: u64) {
        let hash = self.remembered.get(id).map(|(_, hash)| hash);
        let (user, role) = (self.user.clone(), self.role.clone());
        self.observe("info", "recv", || {
            json!({ "conversation": conversation, "layer": layer, "via": "placed", "seq": seq, "id": id,
                    "hash": hash, "what": "message", "from_role": role, "from_user": user })
        });
    }

    /// An answer to a send; the frame names only the id.
    fn observe_answer(&mut self, kind: &'static str, op: &'static str, id: &str, code: &str) {
        if let Some((conversation, _)) = self.remembered.get(id) {
            self.observe(
                kind,
                op,
                || json!({ "conversation": conversation, "id": id, "code": code }),
            );
        }
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
