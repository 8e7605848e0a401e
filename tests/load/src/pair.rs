//! A customer and an agent who talk to each other, without any socket: bytes heard in, bytes to write out. Every event is checked:
//! its seq is the next, its message is one that was sent, came once and in order, and has exactly the bytes it was sent with.

use std::collections::{BTreeMap, VecDeque};

use wire::frames::{ConversationState, ServerFrame, Since};
use wire::limits::{ACK_EVERY_EVENTS, ACK_INTERVAL_MS};

use crate::body::Sample;
use crate::scan::{self, Seen};
use crate::socket;
use crate::stats::Stats;

/// Messages of one connection without answer, as many as a client may have (the server allows more): what goes again after a cut
/// is known as a repeat only that far back.
pub const OPEN_MAX: usize = client::core::WINDOW;
/// Room for whoever waits already on the system under test: they come first, and this pair's customer must still find a place.
pub const AGENT_CAPACITY: u32 = 1_000;
/// A refusal that names no time.
const RETRY_MS: u64 = 250;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Customer = 0,
    Agent = 1,
}

impl Who {
    pub fn other(self) -> Who {
        match self {
            Who::Customer => Who::Agent,
            Who::Agent => Who::Customer,
        }
    }

    pub fn role(self) -> &'static str {
        match self {
            Who::Customer => "customer",
            Who::Agent => "agent",
        }
    }
}

/// A message that is not both acknowledged and delivered yet.
#[derive(Debug)]
struct Slot {
    intended_ns: u64,
    sent: bool,
    delivered: bool,
    resent: bool,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Phase {
    Down,
    /// The socket stands, `connect` is sent.
    Greeted,
    Connected,
    /// Has everything that its first `conversation` frame spoke of.
    CaughtUp,
}

#[derive(Debug)]
pub struct Side {
    pub who: Who,
    pub name: String,
    pub token: String,
    sample: Sample,
    scan: scan::Heads,
    pub phase: Phase,
    pub state: Option<(ConversationState, Option<String>)>,
    /// The last seq this side has; `None` before the conversation has begun for it.
    pub last_seq: Option<u64>,
    /// The highest seq this side has ever had: what it asks for once more is checked again, not counted again.
    seen_max: u64,
    pub caught_up_ns: Option<u64>,
    target: Option<u64>,
    acked: u64,
    acked_ns: u64,
    pub out: Vec<u8>,
    pub done: bool,
    pub refused: Option<String>,
    pub closed: Option<(Option<u16>, String)>,
    // The messages it sends.
    slots: VecDeque<Slot>,
    base: u64,
    open: usize,
    unsent: usize,
    retries: Vec<(u64, u64)>,
    pub intended: VecDeque<u64>,
    delivered_max: Option<u64>,
}

impl Side {
    fn new(who: Who, name: String, peer: &str, customer: &str, token: String, run: &str, body_bytes: usize) -> Self {
        let letter = &who.role()[..1];
        Self {
            sample: Sample::new(format!("{run}-{letter}-"), body_bytes),
            scan: scan::Heads::new(customer, who, &name, peer),
            who,
            name,
            token,
            phase: Phase::Down,
            state: None,
            last_seq: None,
            seen_max: 0,
            caught_up_ns: None,
            target: None,
            acked: 0,
            acked_ns: 0,
            out: Vec::new(),
            done: false,
            refused: None,
            closed: None,
            slots: VecDeque::new(),
            base: 0,
            open: 0,
            unsent: 0,
            retries: Vec::new(),
            intended: VecDeque::new(),
            delivered_max: None,
        }
    }

    /// Messages not yet acknowledged and delivered.
    #[cfg(test)]
    pub fn open(&self) -> usize {
        self.open
    }

    /// Everything that was asked for is in the log.
    pub fn all_sent(&self) -> bool {
        self.unsent == 0 && self.intended.is_empty()
    }

    /// Nothing is on its way or waits to be sent.
    pub fn quiet(&self) -> bool {
        self.open == 0 && self.intended.is_empty() && self.retries.is_empty()
    }

    /// The number of messages begun.
    pub fn begun(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    fn slot(&mut self, n: u64) -> Option<&mut Slot> {
        let at = usize::try_from(n.checked_sub(self.base)?).ok()?;
        self.slots.get_mut(at)
    }

    fn finish(&mut self) {
        while self.slots.front().is_some_and(|s| s.sent && s.delivered) {
            self.slots.pop_front();
            self.base += 1;
        }
    }

    fn write_message(&mut self, n: u64, customer: &str) {
        let at = socket::begin(&mut self.out);
        self.out.extend_from_slice(br#"{"send":{"id":""#);
        self.sample.push_id(n, &mut self.out);
        if self.who == Who::Agent {
            self.out.extend_from_slice(br#"","conversation":""#);
            self.out.extend_from_slice(customer.as_bytes());
        }
        self.out.extend_from_slice(br#"","body":"#);
        self.sample.push_body(n, &mut self.out);
        self.out.extend_from_slice(b"}}");
        socket::end(&mut self.out, at);
    }

    fn write_ack(&mut self, customer: &str, now_ns: u64) {
        self.acked = self.last_seq.unwrap_or(0);
        self.acked_ns = now_ns;
        let frame = format!(r#"{{"ack":{{"conversation":"{customer}","recv":{}}}}}"#, self.acked);
        socket::text(&mut self.out, frame.as_bytes());
    }
}

pub struct Pair {
    pub customer: String,
    pub sides: [Side; 2],
    /// Closed loop: messages each side keeps under way; 0 does nothing by itself.
    pub in_flight: usize,
}

impl Pair {
    /// `run` makes the ids unique; names are plain ASCII without anything JSON would escape.
    pub fn new(customer: &str, agent: &str, tokens: [String; 2], run: &str, body_bytes: usize) -> Self {
        let [customer_token, agent_token] = tokens;
        let side = |who, name: &str, peer: &str, token| {
            Side::new(who, name.to_owned(), peer, customer, token, run, body_bytes)
        };
        Self {
            sides: [
                side(Who::Customer, customer, agent, customer_token),
                side(Who::Agent, agent, customer, agent_token),
            ],
            customer: customer.to_owned(),
            in_flight: 0,
        }
    }

    pub fn side(&mut self, who: Who) -> &mut Side {
        &mut self.sides[who as usize]
    }

    /// The first frame of a connection. `behind`: how many events it claims not to have.
    pub fn connect(&mut self, who: Who, behind: u64) {
        let customer = self.customer.clone();
        let side = self.side(who);
        side.last_seq = side.last_seq.map(|s| s.saturating_sub(behind));
        let since = side.last_seq.map(|last| match who {
            Who::Customer => Since::Own(last),
            Who::Agent => Since::Conversations(BTreeMap::from([(customer, last)])),
        });
        side.phase = Phase::Greeted;
        side.target = None;
        side.caught_up_ns = None;
        side.closed = None;
        side.acked = 0;
        side.out.clear();
        let frame = client::frames::connect(&side.token, None, since, None);
        socket::text(&mut side.out, &frame);
    }

    /// The connection is gone: what got no `sent` goes again when the next one has caught up.
    pub fn cut(&mut self, who: Who) {
        let side = self.side(who);
        side.phase = Phase::Down;
        side.out.clear();
        side.retries.clear();
    }

    pub fn available(&mut self) {
        let frame = client::frames::status(wire::frames::AgentState::Available, Some(AGENT_CAPACITY));
        socket::text(&mut self.side(Who::Agent).out, &frame);
    }

    pub fn request(&mut self, id: &str) {
        let agent = self.sides[1].name.clone();
        let frame = format!(r#"{{"act":{{"id":"{id}","request":{{"agent":"{agent}","only":true}}}}}}"#);
        socket::text(&mut self.side(Who::Customer).out, frame.as_bytes());
    }

    /// The customer says good-bye, if it is there.
    pub fn close(&mut self, id: &str) {
        if self.side(Who::Customer).phase >= Phase::Connected {
            let frame = format!(r#"{{"act":{{"id":"{id}","close":{{}}}}}}"#);
            socket::text(&mut self.side(Who::Customer).out, frame.as_bytes());
        }
    }

    /// The customer has heard that it is over, or is not there to hear it.
    pub fn closed(&self) -> bool {
        let side = &self.sides[Who::Customer as usize];
        side.phase < Phase::Connected || matches!(&side.state, Some((ConversationState::Idle, _)))
    }

    /// Both sides have been told that they are talking to each other.
    pub fn active(&self) -> bool {
        self.sides.iter().all(|s| {
            s.phase >= Phase::Connected
                && matches!(&s.state, Some((ConversationState::Active, Some(agent))) if *agent == self.sides[1].name)
        })
    }

    /// Messages under way on both sides.
    pub fn quiet(&self) -> bool {
        self.sides.iter().all(Side::quiet)
    }

    /// One frame heard by `who`.
    pub fn heard(&mut self, who: Who, frame: &[u8], now_ns: u64, stats: &mut Stats) {
        self.hear(who, frame, now_ns, stats);
        // Only after the frame has done its work: what it brought back must not go again.
        self.caught_up(who, now_ns, stats);
    }

    fn hear(&mut self, who: Who, frame: &[u8], now_ns: u64, stats: &mut Stats) {
        let side = &mut self.sides[who as usize];
        match side.scan.frame(frame) {
            Seen::Sent(id) => match side.sample.number(id) {
                Some(n) => self.on_sent(who, n, now_ns, stats),
                None => stats
                    .faults
                    .case(|| format!("{}: sent for an unknown id", self.sides[who as usize].name)),
            },
            Seen::Placed { id, seq } => {
                self.on_seq(who, seq, now_ns, stats);
                if let Some(n) = self.sides[who as usize].sample.number(id) {
                    self.on_sent(who, n, now_ns, stats);
                }
            }
            Seen::Message { own, id, seq, body } => {
                let once_more = seq <= side.seen_max;
                if !self.on_seq(who, seq, now_ns, stats) {
                    return;
                }
                let sender = if own { who } else { who.other() };
                let Some(n) = self.sides[sender as usize].sample.number(id) else {
                    stats.faults.changed += 1;
                    let name = &self.sides[who as usize].name;
                    return stats
                        .faults
                        .case(|| format!("{name}: seq {seq} has an id that was never sent"));
                };
                if !self.sides[sender as usize].sample.is_body(n, body) {
                    stats.faults.changed += 1;
                    let name = &self.sides[who as usize].name;
                    stats
                        .faults
                        .case(|| format!("{name}: seq {seq}, message {n} has other bytes than were sent"));
                }
                if own {
                    self.on_sent(who, n, now_ns, stats);
                } else if !once_more {
                    self.on_delivered(sender, n, now_ns, stats);
                }
            }
            Seen::Other => self.slow(who, frame, now_ns, stats),
            Seen::Nothing => {}
        }
    }

    /// Whether the seq is the next; anything else is a fault, and what was handed over twice is not counted again.
    fn on_seq(&mut self, who: Who, seq: u64, now_ns: u64, stats: &mut Stats) -> bool {
        let side = &mut self.sides[who as usize];
        let fine = match side.last_seq {
            Some(last) if seq <= last => {
                stats.faults.repeated += 1;
                stats
                    .faults
                    .case(|| format!("{}: seq {seq} came again after {last}", side.name));
                return false;
            }
            Some(last) if seq > last + 1 => {
                stats.faults.holes += 1;
                stats
                    .faults
                    .case(|| format!("{}: seq {seq} came after {last}", side.name));
                false
            }
            _ => true,
        };
        side.last_seq = Some(seq);
        side.seen_max = side.seen_max.max(seq);
        if seq - side.acked.min(seq) >= ACK_EVERY_EVENTS {
            side.write_ack(&self.customer, now_ns);
        }
        fine
    }

    fn on_sent(&mut self, who: Who, n: u64, now_ns: u64, stats: &mut Stats) {
        let side = &mut self.sides[who as usize];
        let Some(slot) = side.slot(n).filter(|s| !s.sent) else {
            return;
        };
        slot.sent = true;
        let (intended_ns, both) = (slot.intended_ns, slot.delivered);
        side.unsent -= 1;
        side.open -= usize::from(both);
        side.finish();
        stats.on_acked(intended_ns, now_ns);
    }

    fn on_delivered(&mut self, sender: Who, n: u64, now_ns: u64, stats: &mut Stats) {
        let side = &mut self.sides[sender as usize];
        let delivered_max = side.delivered_max;
        let Some(slot) = side.slot(n).filter(|s| !s.delivered) else {
            stats.faults.repeated += 1;
            return stats
                .faults
                .case(|| format!("message {n} of {} came twice", self.sides[sender as usize].name));
        };
        slot.delivered = true;
        let (intended_ns, both, resent) = (slot.intended_ns, slot.sent, slot.resent);
        if delivered_max.is_some_and(|max| n < max) && !resent {
            stats.faults.out_of_order += 1;
            let name = &side.name;
            stats
                .faults
                .case(|| format!("message {n} of {name} came after {delivered_max:?}"));
        }
        side.delivered_max = side.delivered_max.max(Some(n));
        side.open -= usize::from(both);
        side.finish();
        stats.on_delivered(intended_ns, now_ns);
    }

    fn caught_up(&mut self, who: Who, now_ns: u64, stats: &mut Stats) {
        let side = &mut self.sides[who as usize];
        if side.phase == Phase::Connected && side.target.is_some_and(|t| side.last_seq.unwrap_or(0) >= t) {
            side.phase = Phase::CaughtUp;
            side.caught_up_ns = Some(now_ns);
            // What got no `sent` on the old connection and did not come back goes again, under its old id.
            let again: Vec<u64> = (side.base..)
                .zip(&side.slots)
                .filter(|(_, s)| !s.sent && !s.delivered)
                .map(|(n, _)| n)
                .collect();
            for n in again {
                self.again(who, n, stats);
            }
        }
    }

    fn again(&mut self, who: Who, n: u64, stats: &mut Stats) {
        let side = &mut self.sides[who as usize];
        if let Some(slot) = side.slot(n).filter(|s| !s.sent) {
            slot.resent = true;
            stats.resent += 1;
            side.write_message(n, &self.customer);
        }
    }

    /// Everything that is not on the hot path, read as the vocabulary says.
    fn slow(&mut self, who: Who, frame: &[u8], now_ns: u64, stats: &mut Stats) {
        let side = &mut self.sides[who as usize];
        let Ok(frame) = serde_json::from_slice::<ServerFrame<'_>>(frame) else {
            let text = String::from_utf8_lossy(frame).chars().take(200).collect::<String>();
            return stats
                .faults
                .case(|| format!("{}: a frame nobody knows: {text}", side.name));
        };
        match frame {
            ServerFrame::Connected(_) => side.phase = Phase::Connected,
            ServerFrame::Conversation(c) if c.conversation == self.customer => {
                side.state = Some((c.state, c.agent.map(Into::into)));
                side.target.get_or_insert(c.last_seq);
                if who == Who::Customer {
                    side.last_seq.get_or_insert(c.last_seq);
                }
            }
            ServerFrame::Done(_) => side.done = true,
            // Somebody who waited before this run: not ours, and acked so that its window never fills.
            ServerFrame::Event(e) if e.conversation != self.customer => {
                socket::text(&mut side.out, &client::frames::ack(Some(&e.conversation), e.seq, 0));
            }
            // An event that is no message of ours, or written with other spacing.
            ServerFrame::Event(e) => {
                let own = e.from.as_ref().and_then(|p| p.user.as_deref()) == Some(side.name.as_str());
                let once_more = e.seq <= side.seen_max;
                let message = e.id.as_deref().zip(e.message).filter(|_| own || !once_more);
                if !self.on_seq(who, e.seq, now_ns, stats) {
                    return;
                }
                if let Some((id, body)) = message {
                    self.on_slow_message(who, own, id, body.get(), now_ns, stats);
                }
            }
            ServerFrame::Placed(p) => {
                self.on_seq(who, p.seq, now_ns, stats);
                if let Some(n) = self.sides[who as usize].sample.number(p.id.as_bytes()) {
                    self.on_sent(who, n, now_ns, stats);
                }
            }
            ServerFrame::Sent(s) => {
                if let Some(n) = side.sample.number(s.id.as_bytes()) {
                    self.on_sent(who, n, now_ns, stats);
                }
            }
            ServerFrame::Error(e) => {
                *stats.errors.entry(e.code.as_str().to_owned()).or_insert(0) += 1;
                let n = e.id.as_ref().and_then(|id| side.sample.number(id.as_bytes()));
                match n {
                    Some(n) if side.slot(n).is_some() => {
                        let at_ns = now_ns + e.retry_after_ms.unwrap_or(RETRY_MS).max(1) * 1_000_000;
                        side.retries.push((at_ns, n));
                    }
                    _ => {
                        side.refused = Some(format!("{}: {}", e.code.as_str(), e.message));
                        stats
                            .faults
                            .case(|| format!("{}: error {}: {}", side.name, e.code.as_str(), e.message));
                    }
                }
            }
            ServerFrame::Reset(r) => {
                stats.faults.case(|| format!("{}: reset to {}", side.name, r.last_seq));
                side.last_seq = Some(r.last_seq);
            }
            ServerFrame::Rewind(r) => {
                stats.faults.holes += 1;
                stats.faults.case(|| format!("{}: rewind to {}", side.name, r.last_seq));
                side.last_seq = Some(r.last_seq);
            }
            _ => {}
        }
    }

    fn on_slow_message(&mut self, who: Who, own: bool, id: &str, body: &str, now_ns: u64, stats: &mut Stats) {
        let sender = if own { who } else { who.other() };
        let Some(n) = self.sides[sender as usize].sample.number(id.as_bytes()) else {
            stats.faults.changed += 1;
            return stats
                .faults
                .case(|| format!("a message with an id that was never sent: {id}"));
        };
        if !self.sides[sender as usize].sample.is_body(n, body.as_bytes()) {
            stats.faults.changed += 1;
            stats
                .faults
                .case(|| format!("message {n} has other bytes than were sent"));
        }
        if own {
            self.on_sent(who, n, now_ns, stats);
        } else {
            self.on_delivered(sender, n, now_ns, stats);
        }
    }

    /// Begins what may begin: the closed loop's free slots, the open loop's due messages.
    pub fn pump(&mut self, now_ns: u64) {
        for side in &mut self.sides {
            if side.phase < Phase::CaughtUp {
                continue;
            }
            while side.open < self.in_flight {
                side.begin_message(now_ns, &self.customer);
            }
            while side.unsent < OPEN_MAX
                && let Some(intended_ns) = side.intended.pop_front()
            {
                side.begin_message(intended_ns, &self.customer);
            }
        }
    }

    /// What time brings: acks and second tries.
    pub fn tick(&mut self, now_ns: u64, stats: &mut Stats) {
        for who in [Who::Customer, Who::Agent] {
            let side = &mut self.sides[who as usize];
            if side.phase < Phase::Connected {
                continue;
            }
            if side.last_seq.unwrap_or(0) > side.acked && now_ns >= side.acked_ns + ACK_INTERVAL_MS * 1_000_000 {
                side.write_ack(&self.customer, now_ns);
            }
            if side.retries.is_empty() {
                continue;
            }
            let mut due: Vec<u64> = Vec::new();
            side.retries.retain(|(at_ns, n)| {
                let later = *at_ns > now_ns;
                if !later {
                    due.push(*n);
                }
                later
            });
            due.sort_unstable();
            for n in due {
                self.again(who, n, stats);
            }
        }
    }

    /// After the last patience: what is still missing.
    pub fn settle(&self, stats: &mut Stats) {
        for side in &self.sides {
            for (n, slot) in (side.base..).zip(&side.slots) {
                if slot.sent && !slot.delivered {
                    stats.faults.lost += 1;
                    stats
                        .faults
                        .case(|| format!("message {n} of {} got its sent and never arrived", side.name));
                } else if !slot.sent {
                    stats.faults.unanswered += 1;
                    stats
                        .faults
                        .case(|| format!("message {n} of {} never got an answer", side.name));
                }
            }
        }
    }
}

impl Side {
    fn begin_message(&mut self, intended_ns: u64, customer: &str) {
        let n = self.begun();
        self.slots.push_back(Slot {
            intended_ns,
            sent: false,
            delivered: false,
            resent: false,
        });
        self.open += 1;
        self.unsent += 1;
        self.write_message(n, customer);
    }
}

#[cfg(test)]
#[path = "pair_tests.rs"]
mod tests;
