//! One test for each rule of pushing, registering and memory, in a network of one or two workers.

use crate::net::{Net, frames, one_customer, seqs};
use bytes::Bytes;
use wire::limits;
use wire::link::Unregister;
use wire::link::from_node::Item as In;
use wire::record::{Audience, Role};
use wire::{CloseCode, Offset};

#[test]
fn the_sender_gets_placed_and_the_other_devices_the_event() {
    let (mut net, phone) = one_customer();
    let laptop = net.device(2, "alice", Role::Customer, "laptop");
    net.register(laptop);
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.settle();
    assert_eq!(seqs(&net, phone, "alice"), [1]);
    assert_eq!(seqs(&net, laptop, "alice"), [1]);
    // A wanted session is a change of state: told after the event to both.
    for d in [phone, laptop] {
        assert!(
            frames(&net, d, "conversation")
                .last()
                .unwrap()
                .contains(r#""state":"wanted""#)
        );
    }
}

#[test]
fn a_new_customer_is_told_of_an_idle_conversation_at_0() {
    let (net, phone) = one_customer();
    assert_eq!(
        frames(&net, phone, "conversation"),
        [r#"{"conversation":{"conversation":"alice","last_seq":0,"recv":0,"read":0,"state":"idle"}}"#]
    );
}

#[test]
fn without_since_a_connection_is_live_from_the_head_and_with_it_from_there() {
    let (mut net, _) = one_customer();
    for _ in 0..5 {
        net.say("alice", Role::Agent, "bo", None);
    }
    net.settle();
    let laptop = net.device(2, "alice", Role::Customer, "laptop");
    net.register(laptop);
    let tablet = net.device(2, "alice", Role::Customer, "tablet");
    net.devices[tablet].since = vec![("alice".into(), 3)];
    net.register(tablet);
    net.settle();
    assert!(seqs(&net, laptop, "alice").is_empty());
    assert_eq!(seqs(&net, tablet, "alice"), [4, 5]);
}

#[test]
fn what_is_not_in_memory_is_read_from_the_store_page_by_page() {
    let mut net = Net::new();
    for _ in 0..700 {
        net.say("alice", Role::Agent, "bo", None);
    }
    net.persist(700);
    net.take_over(0);
    let phone = net.device(1, "alice", Role::Customer, "phone");
    net.devices[phone].since = vec![("alice".into(), 0)];
    net.register(phone);
    net.settle();
    assert_eq!(seqs(&net, phone, "alice"), (1..=700).collect::<Vec<_>>());
}

/// Found by `tests/load/hurt large`: what did not fit into the rest of a window was read again at once, for ever.
#[test]
fn a_stored_event_without_room_waits_for_acks_and_its_reader_is_closed_like_any_other() {
    let behind = || {
        let mut net = Net::new();
        net.text_bytes = 60_000;
        for _ in 0..10 {
            net.say("alice", Role::Agent, "bo", None);
        }
        net.persist(10);
        net.take_over(0);
        let phone = net.device(1, "alice", Role::Customer, "phone");
        net.devices[phone].since = vec![("alice".into(), 0)];
        net.register(phone);
        net.read(10);
        let reads = (0..20).take_while(|_| net.answer_one(0)).count();
        assert!(reads < 6, "{reads} reads while nothing can be pushed");
        net.pages.clear();
        net.take_sends();
        assert_eq!(seqs(&net, phone, "alice"), [1, 2, 3, 4]);
        (net, phone)
    };
    let (mut net, phone) = behind();
    // An ack that makes room for two asks for two.
    net.ack(phone, 2);
    net.answer_all();
    net.take_sends();
    assert_eq!(seqs(&net, phone, "alice").len(), 6);
    assert!(net.pages.iter().all(|limit| *limit <= 2), "{:?}", net.pages);
    net.settle();
    assert_eq!(seqs(&net, phone, "alice"), (1..=10).collect::<Vec<_>>());

    let (mut net, phone) = behind();
    net.tick(limits::PUSH_WINDOW_FULL_MS_MAX + 1);
    net.take_sends();
    assert_eq!(net.devices[phone].closed, Some(CloseCode::TooSlow.number().into()));
}

/// What was under way is refused by nodes that have heard of the higher generation (seed 43386 of the simulation).
#[test]
fn an_owner_that_announces_again_pushes_to_nobody_before_they_say_where_they_stand() {
    let (mut net, phone) = one_customer();
    net.say("alice", Role::Agent, "bo", None);
    net.read(1);
    net.announce_again();
    net.say("alice", Role::Agent, "bo", None);
    net.read(1);
    net.take_sends();
    assert!(seqs(&net, phone, "alice").is_empty());
    net.register(phone);
    net.settle();
    assert_eq!(seqs(&net, phone, "alice"), [1, 2]);
}

/// The store may be farther behind than the reader: it is not sent back to what it has.
#[test]
fn nobody_is_reset_below_where_they_stand() {
    let mut net = Net::new();
    for _ in 0..2_000 {
        net.say("alice", Role::Agent, "bo", None);
    }
    net.persist(100);
    net.take_over(0);
    net.read(usize::MAX / 2);
    net.settle();
    let phone = net.device(1, "alice", Role::Customer, "phone");
    net.devices[phone].since = vec![("alice".into(), 500)];
    net.register(phone);
    net.settle();
    assert!(!net.devices[phone].frames.iter().any(|f| f.starts_with("reset")));
    assert_eq!(seqs(&net, phone, "alice"), (501..=2_000).collect::<Vec<_>>());
}

#[test]
fn too_far_behind_is_reset_to_what_is_stored_and_goes_on_with_what_is_not() {
    let mut net = Net::new();
    for _ in 0..1_500 {
        net.say("alice", Role::Agent, "bo", None);
    }
    net.persist(1_490);
    net.take_over(0);
    let phone = net.device(1, "alice", Role::Customer, "phone");
    net.devices[phone].since = vec![("alice".into(), 2)];
    net.read(usize::MAX / 2);
    net.settle();
    net.register(phone);
    net.settle();
    assert!(net.devices[phone].frames.contains(&"reset 1490".to_owned()));
    assert_eq!(seqs(&net, phone, "alice"), (1_491..=1_500).collect::<Vec<_>>());
}

#[test]
fn a_hole_that_retention_left_is_a_reset() {
    let mut net = Net::new();
    for _ in 0..20 {
        net.say("alice", Role::Agent, "bo", None);
    }
    net.persist(20);
    net.forget_rows("alice", 10);
    net.take_over(0);
    let phone = net.device(1, "alice", Role::Customer, "phone");
    net.devices[phone].since = vec![("alice".into(), 2)];
    net.register(phone);
    net.settle();
    assert!(net.devices[phone].frames.contains(&"reset 20".to_owned()));
}

#[test]
fn a_place_above_the_head_waits_for_the_logs_end_and_is_rewound_only_then() {
    let mut net = Net::new();
    let phone = net.device(1, "alice", Role::Customer, "phone");
    let laptop = net.device(1, "alice", Role::Customer, "laptop");
    net.devices[phone].since = vec![("alice".into(), 4)];
    net.devices[laptop].since = vec![("alice".into(), 9)];
    for _ in 0..6 {
        net.say("alice", Role::Agent, "bo", None);
    }
    net.take_over(0);
    net.register(phone);
    net.register(laptop);
    while net.answer_one(0) {}
    net.read(3);
    net.take_sends();
    while net.answer_one(0) {}
    net.take_sends();
    assert!(net.devices[phone].frames.is_empty() && net.devices[laptop].frames.is_empty());
    net.settle();
    assert_eq!(seqs(&net, phone, "alice"), [5, 6]);
    assert!(net.devices[laptop].frames.contains(&"rewind 6".to_owned()));
    assert!(!net.devices[phone].frames.iter().any(|f| f.starts_with("rewind")));
}

#[test]
fn a_window_of_events_stops_pushes_until_acks_come_and_closes_after_30_s() {
    let (mut net, phone) = one_customer();
    for _ in 0..200 {
        net.say("alice", Role::Agent, "bo", None);
    }
    net.read(500);
    net.take_sends();
    assert_eq!(seqs(&net, phone, "alice").len(), limits::PUSH_WINDOW_EVENTS);
    net.tick(20_000);
    net.ack(phone, 100);
    net.take_sends();
    assert_eq!(seqs(&net, phone, "alice").len(), 128 + 28);
    net.tick(20_000);
    net.take_sends();
    assert_eq!(net.devices[phone].closed, None);
    net.tick(10_001);
    net.take_sends();
    assert_eq!(net.devices[phone].closed, Some(CloseCode::TooSlow.number().into()));
}

#[test]
fn placed_needs_no_window() {
    let (mut net, phone) = one_customer();
    for _ in 0..300 {
        net.say("alice", Role::Customer, "alice", Some(phone));
    }
    net.read(500);
    net.take_sends();
    assert_eq!(seqs(&net, phone, "alice").len(), 300);
}

#[test]
fn a_full_link_stops_its_cursors_only_and_they_go_on_when_it_has_room() {
    let (mut net, _) = one_customer();
    let n = 120;
    let customers: Vec<String> = (0..n).map(|c| format!("c{c}")).collect();
    let devices: Vec<usize> = customers.iter().map(|c| net.device(1, c, Role::Customer, "")).collect();
    for d in &devices {
        net.register(*d);
    }
    net.settle();
    for _ in 0..100 {
        for c in &customers {
            net.say(c, Role::Agent, "bo", None);
        }
    }
    net.read(usize::MAX / 2);
    assert!(net.workers[0].queued_items() <= limits::LINK_QUEUE_ITEMS + 200);
    net.sends_batch = 64;
    net.settle();
    for (d, c) in devices.iter().zip(&customers) {
        assert_eq!(seqs(&net, *d, c).len(), 100);
    }
}

#[test]
fn a_dropped_repeat_is_answered_placed_when_the_cursor_is_past_its_seq() {
    let (mut net, phone) = one_customer();
    net.say_with("alice", Role::Customer, "alice", Some(phone), "m1", Audience::Everyone);
    net.settle();
    net.say_with("alice", Role::Customer, "alice", Some(phone), "m1", Audience::Everyone);
    net.settle();
    assert_eq!(seqs(&net, phone, "alice"), [1]);
    let placed = frames(&net, phone, "placed");
    assert_eq!(placed.len(), 1);
    assert!(placed[0].contains(r#""id":"m1","conversation":"alice","seq":1"#));
    // Its connection is gone: nobody is told.
    net.say_with("alice", Role::Customer, "alice", Some(phone), "m1", Audience::Everyone);
    net.unregister(phone);
    net.settle();
    assert_eq!(frames(&net, phone, "placed").len(), 1);
}

#[test]
fn the_newer_of_two_connections_of_a_device_stays_and_a_fresh_one_may_rise_once() {
    let (mut net, phone) = one_customer();
    net.now_ms += 5;
    let newer = net.device(2, "alice", Role::Customer, "phone");
    net.register(newer);
    net.settle();
    assert_eq!(net.devices[phone].closed, Some(CloseCode::Replaced.number().into()));
    // A fresh one whose node's clock is behind rises above.
    let behind = net.device(1, "alice", Role::Customer, "phone");
    net.devices[behind].rank = 5;
    net.register(behind);
    net.settle();
    assert_eq!(net.devices[newer].closed, Some(CloseCode::Replaced.number().into()));
    assert!(net.devices[behind].rank > net.devices[newer].rank);
    // Registering again it may not.
    let again = net.device(2, "alice", Role::Customer, "phone");
    net.devices[again].rank = 6;
    net.devices[again].fresh = false;
    net.register(again);
    net.settle();
    assert_eq!(net.devices[again].closed, Some(CloseCode::Replaced.number().into()));
    assert_eq!(net.devices[behind].closed, None);
}

#[test]
fn without_a_device_connections_do_not_contest() {
    let (mut net, _) = one_customer();
    let a = net.device(1, "alice", Role::Customer, "");
    let b = net.device(1, "alice", Role::Customer, "");
    net.register(a);
    net.register(b);
    net.settle();
    assert_eq!((net.devices[a].closed, net.devices[b].closed), (None, None));
}

#[test]
fn unregistering_and_a_broken_link_remove_exactly_their_routes() {
    let (mut net, phone) = one_customer();
    let laptop = net.device(1, "alice", Role::Customer, "laptop");
    let tablet = net.device(2, "alice", Role::Customer, "tablet");
    net.register(laptop);
    net.register(tablet);
    net.settle();
    let connection = net.devices[laptop].connection;
    // Another node's word about it counts for nothing.
    net.item(tablet, In::Unregister(Unregister { connection }));
    assert_eq!(net.workers[0].routes(), 3);
    net.unregister(laptop);
    assert_eq!(net.workers[0].routes(), 2);
    net.drop_link(1);
    assert_eq!(net.workers[0].routes(), 1);
    net.say("alice", Role::Agent, "bo", None);
    net.settle();
    assert!(seqs(&net, phone, "alice").is_empty());
    assert_eq!(seqs(&net, tablet, "alice"), [1]);
}

#[test]
fn only_what_is_stored_leaves_memory_and_a_spent_budget_stops_reading() {
    let mut net = Net::with_budget(300_000);
    net.take_over(0);
    for n in 0..400 {
        net.say(&format!("c{n}"), Role::Agent, "bo", None);
    }
    net.read(400);
    net.answer_all();
    net.tick(50);
    net.take_actions();
    assert!(net.paused, "{:?}", net.workers[0].residents());
    assert_eq!(net.workers[0].residents().0, 400);
    net.persist(400);
    net.hear_committed();
    net.tick(50);
    net.tick(50);
    net.take_actions();
    assert!(!net.paused);
    assert_eq!(net.workers[0].residents(), (0, 0));
}

#[test]
fn a_conversation_leaves_memory_though_its_last_acks_were_still_on_their_way_when_its_device_left() {
    let (mut net, phone) = one_customer();
    net.say("alice", Role::Agent, "bo", None);
    net.settle();
    net.unregister(phone);
    for _ in 0..4 {
        net.tick(130_000);
        net.settle();
        net.persist(usize::MAX / 2);
        net.hear_committed();
    }
    assert_eq!(net.workers[0].residents().0, 0);
}

#[test]
fn a_conversation_leaves_memory_when_its_last_agent_has_heard_that_it_was_let_go() {
    let (mut net, phone) = one_customer();
    let bo = net.device(2, "bo", Role::Agent, "desk");
    net.register(bo);
    net.unregister(phone);
    net.say("alice", Role::Customer, "alice", None);
    net.decide("alice", Some("bo"));
    for _ in 0..200 {
        net.say("alice", Role::Agent, "bo", None);
    }
    net.decide("alice", None);
    net.read(usize::MAX / 2);
    net.answer_all();
    // The agent acks only after the session was closed.
    net.settle();
    for _ in 0..4 {
        net.tick(130_000);
        net.settle();
        net.persist(usize::MAX / 2);
        net.hear_committed();
    }
    assert_eq!(net.workers[0].residents().0, 0);
    assert_eq!(net.workers[0].routes(), 1);
}

#[test]
fn an_open_session_and_a_connection_keep_a_conversation_in_memory() {
    let (mut net, phone) = one_customer();
    net.say("bert", Role::Customer, "bert", None);
    net.say("carol", Role::Agent, "bo", None);
    net.settle();
    net.persist(usize::MAX / 2);
    net.hear_committed();
    net.tick(130_000);
    assert_eq!(
        net.workers[0].residents().0,
        2,
        "alice is connected, bert wants somebody"
    );
    net.unregister(phone);
    net.tick(130_000);
    assert_eq!(net.workers[0].residents().0, 1);
}

#[test]
fn an_idle_connection_with_its_conversation_is_counted_small() {
    let mut net = Net::new();
    net.take_over(0);
    for n in 0..1_000 {
        let d = net.device(1, &format!("customer-{n}"), Role::Customer, "phone");
        net.register(d);
    }
    net.settle();
    let (count, bytes) = net.workers[0].residents();
    assert_eq!(count, 1_000);
    assert!(bytes / count <= 800);
}

#[test]
fn a_state_applied_beyond_the_logs_end_stops_the_partition() {
    let mut net = Net::new();
    for _ in 0..5 {
        net.say("alice", Role::Agent, "bo", None);
    }
    net.persist(5);
    net.log.truncate(2);
    net.committed = 2;
    net.take_over(0);
    let phone = net.device(1, "alice", Role::Customer, "phone");
    net.register(phone);
    net.settle();
    assert_eq!(net.stopped.len(), 1, "{:?}", net.stopped);
}

#[test]
fn what_cannot_be_decoded_and_repeated_offsets_are_passed_over() {
    let (mut net, phone) = one_customer();
    net.log.push(delivery_core::Entry {
        offset: Offset(0),
        at_ms: 1,
        key: Some(Bytes::from_static(b"x")),
        value: Some(Bytes::from_static(b"\xff\xff")),
    });
    net.read(1);
    net.workers[0].handle_records(net.now_ms, crate::net::P, [net.log[0].clone()]);
    let stats = net.workers[0].take_stats();
    assert_eq!((stats.records, stats.dropped), (1, 1));
    net.log.clear();
    assert!(seqs(&net, phone, "alice").is_empty());
}
