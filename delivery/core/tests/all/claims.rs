//! A take-over as nodes see it: they register with a worker that has announced itself and not begun.

use crate::net::{P, one_customer, seqs};
use wire::link::Acked;
use wire::link::from_node::Item as In;
use wire::record::Role;

#[test]
fn whoever_registers_before_the_owner_has_begun_waits_and_is_sent_nowhere() {
    let (mut net, phone) = one_customer();
    let bo = net.device(2, "bo", Role::Agent, "desk");
    net.register(bo);
    net.settle();
    net.claim(1);
    net.register(phone);
    net.register(bo);
    net.take_sends();
    assert!(net.sent_away.is_empty() && net.workers[1].routes() == 0);
    net.take_over(1);
    assert_eq!(net.workers[1].routes(), 2);
    net.say("alice", Role::Agent, "bo", None);
    net.settle();
    assert_eq!(seqs(&net, phone, "alice"), [1]);
    assert!(net.sent_away.is_empty());
}

#[test]
fn a_claim_that_comes_to_nothing_sends_those_who_waited_away() {
    let (mut net, phone) = one_customer();
    let laptop = net.device(1, "alice", Role::Customer, "laptop");
    let tablet = net.device(2, "alice", Role::Customer, "tablet");
    net.claim(1);
    for d in [laptop, phone, tablet] {
        net.register(d);
    }
    net.unregister(laptop);
    net.drop_link(2);
    let now_ms = net.now_ms;
    net.workers[1].handle_lost(now_ms, P);
    net.take_sends();
    assert_eq!(net.sent_away, [net.devices[phone].connection]);
    // Nothing is kept: another word about it is answered at once.
    net.register(phone);
    net.take_sends();
    assert_eq!(net.sent_away.len(), 2);
}

#[test]
fn an_ack_that_comes_while_the_registration_waits_counts() {
    let (mut net, phone) = one_customer();
    net.say("alice", Role::Agent, "bo", None);
    net.read(10);
    net.take_sends();
    net.claim(1);
    net.register(phone);
    let acked = Acked {
        partition: 0,
        generation: Some(net.generation().into()),
        connection: net.devices[phone].connection,
        conversation: "alice".into(),
        recv: 1,
        read: 1,
        ..Acked::default()
    };
    net.item(phone, In::Acked(acked));
    net.take_over(1);
    net.read(10);
    net.answer_all();
    net.tick(1_100);
    net.take_actions();
    let marks = net.last_marks().unwrap();
    assert_eq!((marks.customer_recv, marks.customer_read), (1, 1));
}

#[test]
fn of_a_device_that_waits_twice_the_newer_connection_stays() {
    let (mut net, _) = one_customer();
    let older = net.device(2, "alice", Role::Customer, "tablet");
    net.now_ms += 5;
    // On a link with a lower number than the older one's.
    let newer = net.device(1, "alice", Role::Customer, "tablet");
    net.claim(1);
    net.register(older);
    net.register(newer);
    net.take_over(1);
    net.settle();
    assert_eq!(net.devices[newer].closed, None);
    assert!(net.devices[older].closed.is_some());
}
