//! A long outage of the store: bodies leave memory, offsets stay, and what is needed is read back from the log.

use crate::net::{Net, seqs};
use wire::record::Role;

const BUDGET: usize = 200_000;

/// One device of alice's, and a store that answered once and then never again.
fn alice_before_the_outage() -> (Net, usize) {
    let mut net = Net::with_budget(BUDGET);
    let phone = net.device(1, "alice", Role::Customer, "phone");
    net.take_over(0);
    net.register(phone);
    net.settle();
    (net, phone)
}

fn fold_all(net: &mut Net) {
    for _ in 0..100 {
        net.read(100);
        net.take_actions();
        net.tick(50);
        net.take_actions();
    }
}

#[test]
fn bodies_leave_memory_and_a_slow_reader_still_gets_every_event_in_order() {
    let (mut net, phone) = alice_before_the_outage();
    for _ in 0..3_000 {
        net.say("alice", Role::Agent, "bo", None);
    }
    // Nobody acks: all but the first window waits.
    fold_all(&mut net);
    assert!(!net.paused);
    let (count, bytes) = net.workers[0].residents();
    assert!(count == 1 && bytes <= BUDGET, "{bytes}");
    net.settle();
    assert_eq!(seqs(&net, phone, "alice"), (1..=3_000).collect::<Vec<_>>());
    assert!(net.read_back > 1_000, "{}", net.read_back);
    let truth = net.truth("alice");
    let seen: Vec<String> = net.seen(phone, "alice").events.into_iter().map(|e| e.1).collect();
    assert_eq!(seen, truth);
    // The store is back: nothing is kept any more.
    net.unregister(phone);
    for _ in 0..4 {
        net.settle();
        net.persist(usize::MAX / 2);
        net.hear_committed();
        net.tick(130_000);
    }
    assert_eq!(net.workers[0].residents().0, 0);
}

#[test]
fn what_is_stored_between_asking_and_answering_is_read_from_the_store() {
    let (mut net, phone) = alice_before_the_outage();
    for _ in 0..3_000 {
        net.say("alice", Role::Agent, "bo", None);
    }
    fold_all(&mut net);
    for _ in 0..3 {
        net.take_sends();
        net.ack(phone, 0);
    }
    net.take_actions();
    net.persist(usize::MAX / 2);
    net.hear_committed();
    net.tick(50);
    net.settle();
    assert_eq!(seqs(&net, phone, "alice"), (1..=3_000).collect::<Vec<_>>());
    assert!(net.devices[phone].frames.iter().all(|f| !f.starts_with("reset")));
}

#[test]
fn a_cold_conversation_waits_as_offsets_and_is_folded_in_order_when_the_store_is_back() {
    let (mut net, _) = alice_before_the_outage();
    let bert = net.device(2, "bert", Role::Customer, "phone");
    net.register(bert);
    net.take_actions();
    // Bert's row is asked for and not answered.
    let staff = || ("bert", Role::Agent, "bo");
    for _ in 0..1_500 {
        let (to, role, user) = staff();
        net.say(to, role, user, None);
    }
    fold_all(&mut net);
    assert!(!net.paused, "{:?}", net.workers[0].residents());
    assert!(net.workers[0].parked() == 1_500 && net.workers[0].residents().1 <= BUDGET);
    assert!(seqs(&net, bert, "bert").is_empty());
    net.settle();
    assert_eq!(net.workers[0].parked(), 0);
    let begun_at = net.devices[bert]
        .frames
        .iter()
        .find(|f| f.contains("last_seq"))
        .unwrap()
        .clone();
    assert!(begun_at.contains(r#""last_seq":1500"#), "{begun_at}");
    assert_eq!(net.truth("bert").len(), 1_500);
    net.say("bert", Role::Agent, "bo", None);
    net.settle();
    assert_eq!(seqs(&net, bert, "bert"), [1_501]);
}
