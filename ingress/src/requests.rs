//! Frames that come in a request and are answered in its response: `POST /v1/frames`, and HTTP send. They go through a session
//! like all others: the stream's own if this node holds it, otherwise one that lives as long as the request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ingress_core::session::parse;
use ingress_core::{Claims, Connected, SessionName, Step, error_frame};
use ordered_log::{Appended, ProduceError, Reports};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use wire::frames::ClientFrame;
use wire::record::Role;
use wire::{ClientId, ErrorCode, Seq, User, limits};

use crate::conn::{Conn, reported};
use crate::links::{From, access_of, is_open};
use crate::node::Node;
use crate::produce::{Author, refused};
use crate::tenants::Account;

/// Whose frames these are.
pub enum Party {
    /// A stream of this node.
    Live(Arc<Conn>),
    /// A stream of another node, or none.
    Once(Box<Once>),
}

pub struct Once {
    session: Mutex<Connected>,
    account: Arc<Account>,
    groups: Vec<String>,
    priority: u32,
    name: Option<SessionName>,
    role: Role,
}

impl Party {
    /// A party for one request.
    pub fn once(node: &Node, claims: &Claims, account: Arc<Account>, name: Option<SessionName>) -> Self {
        let session = Connected::new(node.clock.now_ms(), claims, None, Arc::default());
        Party::Once(Box::new(Once {
            session: Mutex::new(session),
            account,
            groups: claims.groups.clone(),
            priority: claims.priority,
            name,
            role: claims.role,
        }))
    }

    fn session(&self) -> MutexGuard<'_, Connected> {
        match self {
            Party::Live(conn) => conn.session(),
            Party::Once(once) => once.session.lock(),
        }
    }

    fn account(&self) -> &Arc<Account> {
        match self {
            Party::Live(conn) => &conn.account,
            Party::Once(once) => &once.account,
        }
    }

    fn author<'a>(&'a self, node: &Node, role: Role) -> Author<'a> {
        match self {
            Party::Live(conn) => node.author(conn, role),
            Party::Once(once) => Author {
                tenant: &once.account.tenant.tenant,
                user: &once.account.user,
                role,
                groups: &once.groups,
                priority: once.priority,
                origin: once.name.map(|n| (n.node, n.connection)),
            },
        }
    }

    /// Where its acks and typing come from; `None`: it has no stream that anything could be written to.
    fn from(&self) -> Option<From<'_>> {
        match self {
            Party::Live(conn) => Some(From::here(conn.id)),
            Party::Once(once) => once.name.map(|name| From {
                connection: name.connection,
                elsewhere: Some((name.node, &*once.account, once.role)),
            }),
        }
    }
}

/// The answers of one request, some of which wait for the log.
#[derive(Default)]
struct Exchange {
    answers: Mutex<Answers>,
    done: Notify,
}

#[derive(Default)]
struct Answers {
    slots: Vec<Option<Bytes>>,
    waiting: usize,
}

/// One frame's place in the exchange; hears its record's report.
struct Slot {
    exchange: Arc<Exchange>,
    index: usize,
    id: Option<ClientId>,
    act: bool,
    live: Option<Arc<Conn>>,
    node: Arc<Node>,
}

impl Reports for Slot {
    fn report(&self, token: u64, outcome: Result<Appended, ProduceError>) {
        self.node
            .count_report(&outcome, (token >> 32) as u32, self.node.clock.now_ms());
        if let Some(conn) = &self.live {
            conn.session().handle_report_elsewhere(token as u32);
        }
        let id = self.id.as_ref().filter(|_| !self.act || outcome.is_err());
        let answer = id.map(|id| reported(&outcome).answer(id.as_str()));
        let mut answers = self.exchange.answers.lock();
        answers.slots[self.index] = answer;
        answers.waiting -= 1;
        if answers.waiting == 0 {
            self.exchange.done.notify_one();
        }
    }
}

/// Carries out all frames in order, and waits for the log. Answers come in the frames' order.
pub async fn exchange(node: &Arc<Node>, party: &Party, frames: &[Bytes]) -> Vec<Bytes> {
    let exchange = Arc::new(Exchange::default());
    exchange.answers.lock().slots = vec![None; frames.len()];
    for (index, frame) in frames.iter().enumerate() {
        let step = first_step(node, party, frame).await;
        if let Some(answer) = carry_out(node, party, step, &exchange, index) {
            node.count_refusal(&answer);
            exchange.answers.lock().slots[index] = Some(answer);
        }
    }
    let all = async {
        while exchange.answers.lock().waiting > 0 {
            exchange.done.notified().await;
        }
    };
    // The log answers within its own time limit; this one is for a log that broke its word.
    let in_time = Duration::from_millis(limits::PRODUCE_TIMEOUT_MS + 5_000);
    let _ = tokio::time::timeout(in_time, all).await;
    let mut answers = exchange.answers.lock();
    std::mem::take(&mut answers.slots).into_iter().flatten().collect()
}

/// The step of a frame, after the owner was asked if need be.
async fn first_step<'a>(node: &Arc<Node>, party: &Party, frame: &'a Bytes) -> Step<'a> {
    let parsed = parse(frame);
    node.meters.frame(&parsed);
    if let (Ok(ClientFrame::Ack(ack)), Party::Once(_)) = (&parsed, party) {
        ack_elsewhere(node, party, ack);
        return Step::Nothing;
    }
    let account = Arc::clone(party.account());
    let step = party.session().handle_frame(node.clock.now_ms(), parsed, &*account);
    let Step::Ask { conversation, id, .. } = step else {
        return step;
    };
    let Some(heard) = node.ask(&account.tenant.tenant, &conversation).await else {
        let why = "the conversation's owner did not answer; it was not sent";
        return Step::Answer(error_frame(Some(id.as_str()), ErrorCode::Unavailable, why, Some(1_000)));
    };
    let mut session = party.session();
    session.learn(conversation.as_str(), access_of(&heard, &account.user));
    session.learn_open(is_open(&heard));
    let step = session.handle_frame(node.clock.now_ms(), parse(frame), &*account);
    session.unlearn(conversation.as_str());
    step
}

/// What was written to a stream elsewhere only its owner knows: it clamps.
fn ack_elsewhere(node: &Node, party: &Party, ack: &wire::frames::Ack<'_>) {
    let account = party.account();
    let own = party.session().role == Role::Customer;
    let named = ack.conversation.as_deref();
    let conversation = match named {
        None if own => Ok(account.user.clone()),
        Some(other) if own && other != account.user.as_str() => return,
        named => User::new(named.unwrap_or_default()),
    };
    if let (Ok(conversation), Some(from)) = (conversation, party.from()) {
        let partition = node.partition_of(&account.tenant.tenant, &conversation);
        node.links.acked(
            partition,
            from,
            &conversation,
            Seq(ack.recv.max(ack.read)),
            Seq(ack.read),
        );
    }
}

/// What can be answered now; the rest comes with the report.
fn carry_out(node: &Arc<Node>, party: &Party, step: Step<'_>, exchange: &Arc<Exchange>, index: usize) -> Option<Bytes> {
    let role = party.session().role;
    let slot = |id: Option<&ClientId>, act: bool| {
        exchange.answers.lock().waiting += 1;
        Arc::new(Slot {
            exchange: Arc::clone(exchange),
            index,
            id: id.cloned(),
            act,
            live: match party {
                Party::Live(conn) => Some(Arc::clone(conn)),
                Party::Once(_) => None,
            },
            node: Arc::clone(node),
        })
    };
    match step {
        Step::Produce(new) => {
            let reports = slot(Some(&new.id), false);
            let produced = node.produce_record(&party.author(node, role), &new, node.clock.now_ms(), reports);
            produced
                .err()
                .and_then(|error| not_produced(party, exchange, new.token, Some(&new.id), &error))
        }
        Step::Desk(act) => {
            let reports = slot(act.id.as_ref(), true);
            let produced = node.produce_act(&party.author(node, role), &act, reports);
            produced
                .err()
                .and_then(|error| not_produced(party, exchange, act.token, act.id.as_ref(), &error))
        }
        Step::Typing { conversation } => {
            if let Some(from) = party.from() {
                node.typing(&party.account().tenant.tenant, from, &conversation);
            }
            None
        }
        Step::Answer(answer) => Some(answer),
        other => match party {
            Party::Live(conn) => node.carry_out(conn, other),
            // A token is refreshed where its stream is; nothing else is left to do for a request.
            Party::Once(_) => None,
        },
    }
}

/// The producer refused: no report will come.
fn not_produced(
    party: &Party,
    exchange: &Exchange,
    token: u32,
    id: Option<&ClientId>,
    error: &ProduceError,
) -> Option<Bytes> {
    exchange.answers.lock().waiting -= 1;
    party.session().handle_report_elsewhere(token);
    id.map(|id| refused(error).answer(id.as_str()))
}
