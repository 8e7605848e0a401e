//! A worker's routes: the same log handed over record by record, and in batches between what the nodes say, pushes the same
//! events to the same connections in the same order; and no node, however absurd, makes it panic.

use std::collections::BTreeMap;

use delivery_core::{Action, Entry, LinkId, Loaded, Options, Worker};
use wire::codec::{self, RECORD_VERSION};
use wire::link::from_worker::Item;
use wire::link::{Acked, FromNode, NodeHello, Place, Register, Since, Unregister, from_node};
use wire::record::{Kind, Origin, Record, Role, Sender};
use wire::{ConversationKey, Epoch, Generation, Lane, LaneTopics, Offset, Partition, Tenant, User, WorkerId};

use super::Bytes;

const P: Partition = Partition(0);
const LINK: LinkId = LinkId(1);
const NODE: u64 = 7;
const CUSTOMERS: [&str; 3] = ["alice", "bob", "carol"];
const NOW_MS: u64 = 1_000_000;

/// What comes to the worker.
enum Input {
    Log(Entry),
    Node(from_node::Item),
    Tick,
}

/// (connection, conversation) → the pushes it got.
type Pushed = BTreeMap<(u64, String), Vec<(u64, bytes::Bytes)>>;

/// True: something was pushed.
pub fn run(input: &[u8]) -> bool {
    let single = play(&mut Bytes(input), false);
    let batched = play(&mut Bytes(input), true);
    assert_eq!(single, batched, "in batches it pushes otherwise");
    !single.is_empty()
}

fn play(bytes: &mut Bytes<'_>, in_batches: bool) -> Pushed {
    let topics = LaneTopics {
        lane: Lane::new("core").expect("a lane's name"),
        epoch: Epoch(1),
        partitions: 1,
    };
    let mut worker = Worker::new(Options {
        worker: WorkerId(1),
        name: "w".into(),
        topics,
        bytes_budget: 1 << 24,
    });
    let (mut pushed, mut batch, mut end, mut clock) = (Pushed::new(), Vec::new(), 0, NOW_MS);
    worker.handle_link_up(LINK);
    let hello = from_node::Item::Hello(NodeHello {
        version: 1,
        node: NODE,
        name: "n".into(),
        lane: "core".into(),
    });
    worker.handle_from_node(clock, LINK, FromNode { item: Some(hello) });
    worker.handle_assigned(clock, P, generation(), Offset(0));
    while !bytes.is_empty() && end < 300 {
        match draw(bytes, end) {
            Input::Log(entry) => {
                end += 1;
                batch.push(entry);
                if !in_batches {
                    worker.handle_records(clock, P, std::mem::take(&mut batch));
                    carry_out(&mut worker, clock, end, &mut pushed);
                }
                continue;
            }
            other => {
                worker.handle_records(clock, P, std::mem::take(&mut batch));
                carry_out(&mut worker, clock, end, &mut pushed);
                match other {
                    Input::Node(item) => worker.handle_from_node(clock, LINK, FromNode { item: Some(item) }),
                    _ => {
                        clock += 1_500;
                        worker.handle_tick(clock);
                    }
                }
            }
        }
        carry_out(&mut worker, clock, end, &mut pushed);
    }
    worker.handle_records(clock, P, batch);
    carry_out(&mut worker, clock, end, &mut pushed);
    pushed
}

fn generation() -> Generation {
    Generation { group: 1, announced: 1 }
}

/// Answers whatever the worker asks for, at once, and takes what it sends. Its own records count as appended and never read.
fn carry_out(worker: &mut Worker, now_ms: u64, end: u64, pushed: &mut Pushed) {
    loop {
        let mut moved = false;
        while let Some(action) = worker.poll_action() {
            moved = true;
            match action {
                Action::Load {
                    partition,
                    instance,
                    key,
                } => worker.handle_loaded(now_ms, (partition, instance), &key, Loaded::default()),
                // Nothing is ever committed here: all there is is in memory.
                Action::ReadPage { token, .. } => worker.handle_page(now_ms, token, &[]),
                Action::AskEnd { partition, instance } => {
                    worker.handle_end(now_ms, (partition, instance), Offset(end));
                }
                Action::Stop { why, .. } => panic!("it stopped: {why}"),
                _ => {}
            }
        }
        for link in worker.ready_links() {
            for item in worker.take_sends(now_ms, link, usize::MAX) {
                moved = true;
                if let Some(Item::Push(push)) = item.item {
                    for connection in push.connections {
                        let key = (connection, push.conversation.clone());
                        pushed.entry(key).or_default().push((push.seq, push.frame.clone()));
                    }
                }
            }
        }
        if !moved {
            return;
        }
    }
}

fn draw(bytes: &mut Bytes<'_>, offset: u64) -> Input {
    let customer = CUSTOMERS[bytes.below(CUSTOMERS.len())];
    match bytes.below(16) {
        0..=7 => Input::Log(message(bytes, customer, offset)),
        8 => Input::Log(Entry {
            offset: Offset(offset),
            at_ms: -1,
            key: None,
            value: Some(vec![bytes.byte(); bytes.below(40)].into()),
        }),
        9 | 10 => Input::Node(from_node::Item::Register(register(bytes, customer))),
        11 => Input::Node(from_node::Item::Unregister(Unregister {
            connection: bytes.below(4) as u64,
        })),
        12..=14 => Input::Node(from_node::Item::Acked(Acked {
            partition: bytes.below(16) as u32 / 15,
            generation: (bytes.below(8) > 0).then(|| generation().into()),
            connection: bytes.below(4) as u64,
            conversation: customer.into(),
            recv: bytes.number(),
            read: bytes.number(),
            node: bytes.below(16) as u64 / 14,
            ..Acked::default()
        })),
        _ => Input::Tick,
    }
}

fn message(bytes: &mut Bytes<'_>, customer: &str, offset: u64) -> Entry {
    let key = ConversationKey::new(
        Tenant::new("demo").expect("a tenant's name"),
        User::new(customer).expect("a user's name"),
    );
    let record = Record {
        version: RECORD_VERSION,
        kind: Kind::Message.into(),
        numbered: true,
        audience: bytes.below(3) as i32 / 2,
        from: Some(Sender {
            role: Role::Customer.into(),
            user: customer.into(),
        }),
        id: format!("{}", bytes.below(200)),
        origin: Some(Origin {
            node: NODE,
            connection: bytes.below(4) as u64,
        }),
        member: format!("\"message\":{{\"text\":\"{offset}\"}}").into(),
        received_at_ms: bytes.number() as i64,
        ..Record::default()
    };
    Entry {
        offset: Offset(offset),
        at_ms: NOW_MS as i64,
        key: Some(key.to_key()),
        value: Some(codec::encode(&record)),
    }
}

fn register(bytes: &mut Bytes<'_>, customer: &str) -> Register {
    let connection = bytes.below(4) as u64;
    let place = |bytes: &mut Bytes<'_>| Place {
        conversation: customer.into(),
        written: bytes.number(),
        recv: bytes.number(),
        read: bytes.number(),
        attached: bytes.below(2) > 0,
    };
    Register {
        connection,
        rank: bytes.number(),
        fresh: bytes.below(2) > 0,
        partition: 0,
        generation: Some(generation().into()),
        tenant: "demo".into(),
        user: customer.into(),
        role: [Role::Customer, Role::Customer, Role::Agent, Role::Unknown][bytes.below(4)].into(),
        device: ["", "phone"][bytes.below(2)].into(),
        places: (0..bytes.below(3) / 2).map(|_| place(bytes)).collect(),
        since: (0..bytes.below(2))
            .map(|_| Since {
                conversation: customer.into(),
                seq: bytes.number(),
            })
            .collect(),
        ..Register::default()
    }
}
