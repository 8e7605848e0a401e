//! Random records, registrations, broken links, slow loads, acks and take-overs: every device sees consecutive events, the
//! right ones, and in the end all of them.

use crate::net::Net;
use proptest::prelude::*;
use wire::record::{Audience, Role, Session, SessionState};

#[derive(Clone, Debug)]
enum Op {
    Say {
        customer: usize,
        by: usize,
        from_device: bool,
        again: bool,
    },
    Note {
        customer: usize,
    },
    Decide {
        customer: usize,
        agent: Option<usize>,
    },
    DecideUnseen {
        customer: usize,
        agent: Option<usize>,
        watcher: Option<usize>,
    },
    Persist(usize),
    Read(usize),
    Answer(usize),
    Sends,
    Ack {
        device: usize,
        short: u64,
    },
    Register(usize),
    Unregister(usize),
    Reconnect {
        device: usize,
        node: u64,
    },
    DropLink(u64),
    TakeOver(usize),
    Committed,
    Tick(u64),
}

const CUSTOMERS: [&str; 3] = ["alice", "bert", "carol"];
const AGENTS: [&str; 2] = ["bo", "cy"];

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0..3usize, 0..4usize, any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(customer, by, from_device, again)| Op::Say { customer, by, from_device, again }),
        1 => (0..3usize).prop_map(|customer| Op::Note { customer }),
        3 => (0..3usize, prop::option::weighted(0.7, 0..2usize)).prop_map(|(customer, agent)| Op::Decide { customer, agent }),
        1 => (0..3usize, prop::option::weighted(0.7, 0..2usize), prop::option::weighted(0.5, 0..2usize))
            .prop_map(|(customer, agent, watcher)| Op::DecideUnseen { customer, agent, watcher }),
        4 => (1..20usize).prop_map(Op::Persist),
        8 => (1..20usize).prop_map(Op::Read),
        8 => (0..8usize).prop_map(Op::Answer),
        6 => Just(Op::Sends),
        5 => (0..7usize, 0..4u64).prop_map(|(device, short)| Op::Ack { device, short }),
        5 => (0..7usize).prop_map(Op::Register),
        1 => (0..7usize).prop_map(Op::Unregister),
        2 => (0..7usize, 1..3u64).prop_map(|(device, node)| Op::Reconnect { device, node }),
        1 => (1..3u64).prop_map(Op::DropLink),
        1 => (0..2usize).prop_map(Op::TakeOver),
        2 => Just(Op::Committed),
        3 => prop_oneof![Just(50u64), Just(1_100), Just(2_500)].prop_map(Op::Tick),
    ]
}

fn build() -> Net {
    let mut net = Net::with_budget(200_000);
    for (n, customer) in CUSTOMERS.into_iter().enumerate() {
        net.device(1 + n as u64 % 2, customer, Role::Customer, "phone");
    }
    net.device(2, CUSTOMERS[0], Role::Customer, "laptop");
    for agent in AGENTS {
        net.device(1, agent, Role::Agent, "desk");
    }
    net.device(2, AGENTS[0], Role::Agent, "phone");
    net.take_over(0);
    net
}

fn step(net: &mut Net, op: &Op) {
    match *op {
        Op::Say {
            customer,
            by,
            from_device,
            again,
        } => {
            let (role, user) = if by < 2 {
                (Role::Customer, CUSTOMERS[customer])
            } else {
                (Role::Agent, AGENTS[by - 2])
            };
            let device = net
                .devices
                .iter()
                .position(|d| d.user == user && from_device && d.registered);
            let id = net.say(CUSTOMERS[customer], role, user, device);
            if again {
                net.say_with(CUSTOMERS[customer], role, user, device, &id, Audience::Everyone);
            }
        }
        Op::Note { customer } => net.say_with(CUSTOMERS[customer], Role::Agent, "bo", None, "note", Audience::Staff),
        Op::Decide { customer, agent } => net.decide(CUSTOMERS[customer], agent.map(|a| AGENTS[a])),
        Op::DecideUnseen {
            customer,
            agent,
            watcher,
        } => {
            let session = Session {
                state: agent
                    .map_or(SessionState::SessionIdle, |_| SessionState::SessionActive)
                    .into(),
                agent: agent.map_or("", |a| AGENTS[a]).into(),
                watching: watcher
                    .filter(|_| agent.is_some())
                    .map(|w| AGENTS[w].into())
                    .into_iter()
                    .collect(),
                ..Session::default()
            };
            net.decide_unseen(CUSTOMERS[customer], session);
        }
        Op::Persist(n) => net.persist(n),
        Op::Read(n) => net.read(n),
        Op::Answer(n) => {
            net.answer_one(n);
        }
        Op::Sends => {
            net.take_sends();
        }
        Op::Ack { device, short } => net.ack(device, short),
        Op::Register(d) => {
            if !net.devices[d].registered {
                net.register(d);
            }
        }
        Op::Unregister(d) => net.unregister(d),
        Op::Reconnect { device, node } => net.reconnect(device, node),
        Op::DropLink(node) => net.drop_link(node),
        Op::TakeOver(w) => net.take_over(w),
        Op::Committed => net.hear_committed(),
        Op::Tick(ms) => net.tick(ms),
    }
    net.take_actions();
}

/// Everything heals, everybody is registered, and all is delivered.
fn heal(net: &mut Net) {
    for _ in 0..3 {
        for d in 0..net.devices.len() {
            if !net.devices[d].registered {
                net.register(d);
            }
        }
        net.settle();
        net.persist(usize::MAX / 2);
        net.hear_committed();
        net.tick(1_100);
        net.settle();
    }
}

fn check(net: &Net) -> Result<(), TestCaseError> {
    prop_assert_eq!(&net.stopped, &Vec::<String>::new());
    for (n, device) in net.devices.iter().enumerate() {
        prop_assert_eq!(device.closed, None, "device {} was closed", n);
        for (conversation, seen) in &device.seen {
            let truth = net.truth(conversation);
            let mut last = None;
            for (seq, content) in &seen.events {
                if let Some(last) = last {
                    let jumped = seen.jumps.iter().any(|(from, to)| *from == last && *to + 1 == *seq);
                    prop_assert!(
                        *seq == last + 1 || jumped,
                        "device {n}: {seq} after {last} in {conversation}"
                    );
                }
                last = Some(*seq);
                let want = &truth[*seq as usize - 1];
                let hidden = content == "hidden" && device.role == Role::Customer && want == "note";
                prop_assert!(content == want || hidden, "device {n}: {content} at {seq}, not {want}");
                prop_assert!(device.role != Role::Customer || content != "note");
            }
            if device.role == Role::Customer {
                prop_assert_eq!(
                    seen.written as usize,
                    truth.len(),
                    "device {} of {} is behind",
                    n,
                    conversation
                );
                prop_assert!(conversation == &device.user);
            }
        }
        if device.role == Role::Customer {
            prop_assert!(device.seen.get(&device.user).is_some_and(|s| s.begun));
        } else {
            for customer in CUSTOMERS {
                let state = net.state_of(customer);
                if state.serves(&device.user) || state.watches(&device.user) {
                    let seen = net.seen(n, customer);
                    prop_assert!(seen.attached, "{} is not attached to {customer}", device.user);
                    prop_assert_eq!(
                        seen.written,
                        state.last_seq().0,
                        "{} is behind in {}",
                        device.user,
                        customer
                    );
                } else {
                    let mine = state.let_go_at(&device.user).map_or(0, |seq| seq.0);
                    let written = net.seen(n, customer).events.last().map_or(0, |e| e.0);
                    prop_assert!(
                        written <= mine,
                        "{} was let go of {customer} after {mine} and was pushed {written}",
                        device.user
                    );
                    prop_assert!(
                        !net.seen(n, customer).attached,
                        "{} is still attached to {customer}",
                        device.user
                    );
                }
            }
        }
    }
    Ok(())
}

/// More of them with CASES=20000.
fn cases() -> u32 {
    std::env::var("CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_device_sees_the_right_events_in_order_and_all_of_them(ops in prop::collection::vec(any_op(), 0..250), batch in 1..64usize) {
        let mut net = build();
        net.sends_batch = batch;
        for op in &ops {
            step(&mut net, op);
        }
        heal(&mut net);
        check(&net)?;
    }
}
