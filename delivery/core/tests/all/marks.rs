//! Watermarks and typing: what connections say beside registering, and what is told of it to whom.

use crate::net::{Net, frames, one_customer};
use wire::link::from_node::Item as In;
use wire::link::{Acked, Typing, Whose};
use wire::record::{Role, Session, SessionState};

#[test]
fn acks_are_clamped_to_what_was_pushed_and_refused_of_a_lower_generation() {
    let (mut net, phone) = one_customer();
    net.say("alice", Role::Agent, "bo", None);
    net.read(10);
    net.take_sends();
    let acked = |net: &Net, generation| Acked {
        partition: 0,
        generation: Some(generation),
        connection: net.devices[phone].connection,
        conversation: "alice".into(),
        recv: u64::MAX,
        read: u64::MAX,
        ..Acked::default()
    };
    let stale = acked(
        &net,
        wire::link::Generation {
            group: 0,
            announced: 99,
        },
    );
    net.item(phone, In::Acked(stale));
    assert_eq!(net.workers[0].take_stats().refused_generation, 1);
    let current = acked(&net, net.generation().into());
    net.item(phone, In::Acked(current));
    net.tick(1_100);
    net.settle();
    let marks = net.last_marks().unwrap();
    assert_eq!((marks.customer_recv, marks.customer_read), (1, 1));
}

#[test]
fn marks_are_one_record_a_second_and_the_other_side_hears_when_they_are_read_back() {
    let (mut net, phone) = one_customer();
    let bo = net.device(2, "bo", Role::Agent, "desk");
    let laptop = net.device(2, "alice", Role::Customer, "laptop");
    net.register(bo);
    net.register(laptop);
    net.decide("alice", Some("bo"));
    net.say("alice", Role::Agent, "bo", Some(bo));
    net.say("alice", Role::Agent, "bo", Some(bo));
    net.read(10);
    net.answer_all();
    net.take_sends();
    net.ack(phone, 0);
    let records = net.log.len();
    net.tick(1_100);
    net.take_actions();
    assert_eq!(net.log.len(), records + 1);
    assert!(frames(&net, bo, "receipt").is_empty());
    net.read(10);
    net.take_sends();
    let receipt = r#"{"receipt":{"conversation":"alice","side":"customer","recv":3,"read":3}}"#;
    assert_eq!(frames(&net, bo, "receipt"), [receipt]);
    assert_eq!(frames(&net, laptop, "receipt"), [receipt]);
    // The one that acked knows.
    assert!(frames(&net, phone, "receipt").is_empty());
    net.tick(1_100);
    net.take_actions();
    assert_eq!(net.log.len(), records + 1, "nothing rose");
}

#[test]
fn marks_survive_a_take_over_and_are_told_with_the_conversation() {
    let (mut net, phone) = one_customer();
    net.say("alice", Role::Agent, "bo", None);
    net.settle();
    net.tick(1_100);
    net.settle();
    net.persist(usize::MAX / 2);
    net.take_over(1);
    net.reconnect(phone, 2);
    net.settle();
    assert!(
        frames(&net, phone, "conversation")
            .last()
            .unwrap()
            .contains(r#""recv":1,"read":1"#)
    );
}

#[test]
fn typing_goes_to_the_other_side_from_those_who_may_speak() {
    let (mut net, phone) = one_customer();
    let bo = net.device(2, "bo", Role::Agent, "desk");
    let cy = net.device(2, "cy", Role::Agent, "desk");
    net.register(bo);
    net.register(cy);
    net.decide("alice", Some("bo"));
    net.settle();
    for d in [phone, bo, cy] {
        let typing = Typing {
            partition: 0,
            connection: net.devices[d].connection,
            conversation: "alice".into(),
            ..Typing::default()
        };
        net.item(d, In::Typing(typing));
    }
    net.settle();
    assert_eq!(
        frames(&net, bo, "typing"),
        [r#"{"typing":{"conversation":"alice","from":{"role":"customer","user":"alice"}}}"#]
    );
    assert_eq!(
        frames(&net, phone, "typing"),
        [r#"{"typing":{"conversation":"alice","from":{"role":"agent","user":"bo"}}}"#]
    );
    assert!(frames(&net, cy, "typing").is_empty());
}

#[test]
fn an_ack_may_come_through_another_node_for_the_connections_own_user_only() {
    let (mut net, phone) = one_customer();
    let other = net.device(2, "bert", Role::Customer, "phone");
    net.register(other);
    net.say("alice", Role::Agent, "bo", None);
    net.read(10);
    net.answer_all();
    net.take_sends();
    for user in ["bert", "alice"] {
        let acked = Acked {
            partition: 0,
            generation: Some(net.generation().into()),
            connection: net.devices[phone].connection,
            conversation: "alice".into(),
            recv: 1,
            read: 0,
            node: 1,
            whose: Some(Whose {
                tenant: "demo".into(),
                user: user.into(),
                role: Role::Customer.into(),
            }),
        };
        net.item(other, In::Acked(acked));
        net.tick(1_100);
        net.take_actions();
        assert_eq!(
            net.last_marks().map(|m| m.customer_recv),
            (user == "alice").then_some(1)
        );
    }
}

/// (recv, read) of a side as a device was told them, in order.
fn told(net: &Net, d: usize, side: &str) -> Vec<(u64, u64)> {
    let own = match net.devices[d].role {
        Role::Customer => "customer",
        _ => "agent",
    };
    let told = net.devices[d].frames.iter().filter_map(|frame| {
        let frame: serde_json::Value = serde_json::from_str(frame).ok()?;
        let of = match (frame.get("conversation"), frame.get("receipt")) {
            (Some(told), _) if side == own => told,
            (_, Some(told)) if told["side"] == side => told,
            _ => return None,
        };
        Some((of["recv"].as_u64()?, of["read"].as_u64()?))
    });
    told.collect()
}

#[test]
fn what_a_connection_is_told_of_its_own_side_never_falls_when_older_marks_are_read_back() {
    let (mut net, phone) = one_customer();
    let laptop = net.device(2, "alice", Role::Customer, "laptop");
    net.register(laptop);
    net.settle();
    net.say("alice", Role::Agent, "bo", None);
    net.say("alice", Role::Agent, "bo", None);
    net.read(10);
    net.take_sends();
    // A marks record with 1 stands in the log behind a change of state; by the time both are read, 2 is acked.
    net.ack(laptop, 1);
    net.decide("alice", Some("bo"));
    net.tick(1_100);
    net.take_actions();
    net.ack(laptop, 0);
    net.read(10);
    net.take_sends();
    assert_eq!(told(&net, phone, "customer"), [(0, 0), (0, 0), (1, 0)]);
    net.settle();
    net.tick(1_100);
    net.settle();
    for d in [phone, laptop] {
        let told = told(&net, d, "customer");
        assert!(told.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1), "{told:?}");
    }
}

#[test]
fn what_another_device_acked_is_not_told_before_it_is_in_the_log() {
    let (mut net, phone) = one_customer();
    let laptop = net.device(2, "alice", Role::Customer, "laptop");
    net.register(laptop);
    net.settle();
    net.say("alice", Role::Agent, "bo", None);
    net.read(10);
    net.take_sends();
    net.ack(laptop, 0);
    net.decide("alice", Some("bo"));
    net.read(10);
    net.take_sends();
    // The owner goes before its marks: the laptop is gone too, and with it what it had acked.
    assert_eq!(told(&net, phone, "customer"), [(0, 0), (0, 0)]);
    net.unregister(laptop);
    net.take_over(1);
    net.register(phone);
    net.settle();
    let told = told(&net, phone, "customer");
    assert!(told.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1), "{told:?}");
}

#[test]
fn a_connection_is_told_its_own_acks_at_the_next_owner_too() {
    let (mut net, phone) = one_customer();
    net.say("alice", Role::Agent, "bo", None);
    net.read(10);
    net.take_sends();
    net.ack(phone, 0);
    net.decide("alice", Some("bo"));
    net.read(10);
    net.take_sends();
    assert_eq!(told(&net, phone, "customer"), [(0, 0), (1, 1)]);
    net.take_over(1);
    net.register(phone);
    net.settle();
    assert_eq!(told(&net, phone, "customer").last(), Some(&(1, 1)));
}

#[test]
fn a_watcher_is_told_the_sides_marks_and_not_its_own() {
    let (mut net, _) = one_customer();
    let sue = net.device(2, "sue", Role::Supervisor, "desk");
    net.register(sue);
    let active = |agent: &str| Session {
        state: SessionState::SessionActive.into(),
        agent: agent.into(),
        watching: vec!["sue".into()],
        ..Session::default()
    };
    net.decide_session("alice", active("bo"));
    net.settle();
    net.tick(1_100);
    net.decide_session("alice", active("cy"));
    net.settle();
    assert_eq!(net.seen(sue, "alice").recv, 2);
    assert!(told(&net, sue, "agent").iter().all(|told| *told == (0, 0)));
}

#[test]
fn what_is_folded_again_after_a_take_over_is_told_when_all_of_it_is_folded() {
    let (mut net, phone) = one_customer();
    let bo = net.device(2, "bo", Role::Agent, "desk");
    net.register(bo);
    net.decide("alice", Some("bo"));
    for _ in 0..3 {
        net.say("alice", Role::Agent, "bo", None);
        net.settle();
        net.tick(1_100);
        net.settle();
    }
    assert_eq!(told(&net, bo, "customer").last(), Some(&(4, 4)));
    // The next owner begins at the first record, and has everything to read again: marks of long ago, and the session's change.
    net.take_over(1);
    net.register(phone);
    net.register(bo);
    net.answer_all();
    let before = [phone, bo].map(|d| net.devices[d].frames.len());
    for _ in 0..net.log.len() - 1 {
        net.read(1);
        net.answer_all();
        net.take_sends();
    }
    assert_eq!([phone, bo].map(|d| net.devices[d].frames.len()), before);
    net.settle();
    for d in [phone, bo] {
        for side in ["customer", "agent"] {
            let told = told(&net, d, side);
            assert!(told.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1), "{told:?}");
        }
        assert!(net.devices[d].frames.len() > before[usize::from(d == bo)]);
    }
}

#[test]
fn marks_that_rise_every_second_are_written_every_second() {
    let (mut net, phone) = one_customer();
    for n in 1..=4 {
        net.say("alice", Role::Agent, "bo", None);
        net.read(10);
        net.take_sends();
        net.ack(phone, 0);
        net.tick(1_100);
        net.take_actions();
        assert_eq!(net.last_marks().map(|m| m.customer_read), Some(n));
        net.read(10);
    }
}
