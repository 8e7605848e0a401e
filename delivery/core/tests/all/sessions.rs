//! Sessions as delivery sees them: whom they attach and let go, what the desk is asked and told, who may speak.

use crate::net::{Net, frames, one_customer, seqs};
use wire::link::from_node::Item as In;
use wire::link::{Acked, Ask, Whose};
use wire::record::{Audience, Role, Session, SessionState, desk_record::Input};

#[test]
fn an_agent_is_attached_before_the_sessions_first_event_and_let_go_with_the_detaching_one() {
    let (mut net, phone) = one_customer();
    let bo = net.device(2, "bo", Role::Agent, "desk");
    net.register(bo);
    net.say("alice", Role::Agent, "bot", None);
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.decide("alice", Some("bo"));
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.decide("alice", None);
    net.say("alice", Role::Agent, "bot", None);
    net.settle();
    // 1 was before the session; 2 made it wanted; 5 closed it.
    assert_eq!(seqs(&net, bo, "alice"), [2, 3, 4, 5]);
    assert!(!net.seen(bo, "alice").attached);
    let told = frames(&net, bo, "conversation");
    assert!(told.first().unwrap().contains(r#""state":"active","agent":"bo""#));
    assert!(told.last().unwrap().contains(r#""state":"idle""#));
    // Attached again, it goes on where it stopped.
    net.decide("alice", Some("bo"));
    net.settle();
    assert_eq!(seqs(&net, bo, "alice"), [2, 3, 4, 5, 6, 7]);
}

#[test]
fn an_agent_that_connects_finds_its_open_sessions_live_from_the_head() {
    let (mut net, phone) = one_customer();
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.decide("alice", Some("bo"));
    net.settle();
    let bo = net.device(2, "bo", Role::Agent, "desk");
    net.register(bo);
    net.settle();
    assert!(net.seen(bo, "alice").attached);
    assert!(seqs(&net, bo, "alice").is_empty());
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.settle();
    assert_eq!(seqs(&net, bo, "alice"), [3]);
}

#[test]
fn an_agent_hears_the_close_it_missed_while_nobody_owned_the_partition() {
    let (mut net, phone) = one_customer();
    let bo = net.device(2, "bo", Role::Agent, "desk");
    net.register(bo);
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.decide("alice", Some("bo"));
    net.settle();
    // The owner dies; the log and persistence go on without it.
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.decide("alice", None);
    net.say("alice", Role::Agent, "bot", None);
    net.persist(usize::MAX / 2);
    net.take_over(1);
    net.register(bo);
    net.settle();
    assert_eq!(seqs(&net, bo, "alice"), [1, 2, 3, 4]);
    assert!(!net.seen(bo, "alice").attached);
}

#[test]
fn staff_only_events_are_stubs_for_the_customer() {
    let (mut net, phone) = one_customer();
    let bo = net.device(2, "bo", Role::Agent, "desk");
    net.register(bo);
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.decide("alice", Some("bo"));
    net.say_with("alice", Role::Agent, "bo", None, "secret", Audience::Staff);
    net.settle();
    assert_eq!(net.seen(phone, "alice").events.last().unwrap().1, "hidden");
    assert_eq!(net.seen(bo, "alice").events.last().unwrap().1, "secret");
    // The same from the store.
    net.persist(usize::MAX / 2);
    net.take_over(1);
    let laptop = net.device(1, "alice", Role::Customer, "laptop");
    net.devices[laptop].since = vec![("alice".into(), 2)];
    net.register(laptop);
    net.settle();
    assert_eq!(net.seen(laptop, "alice").events, [(3, "hidden".to_owned())]);
}

#[test]
fn who_may_speak_is_answered_from_memory_or_after_a_load_or_unknown_in_time() {
    let (mut net, phone) = one_customer();
    net.decide("alice", Some("bo"));
    net.settle();
    let ask = |ask, conversation: &str| {
        In::Ask(Ask {
            ask,
            partition: 0,
            tenant: "demo".into(),
            conversation: conversation.into(),
        })
    };
    net.item(phone, ask(1, "alice"));
    net.item(phone, ask(2, "cold"));
    net.item(phone, ask(3, "away"));
    net.take_sends();
    assert_eq!(net.answers.len(), 1);
    assert_eq!(net.answers[0].session.as_ref().unwrap().agent, "bo");
    net.answer_one(0);
    net.take_sends();
    assert_eq!(net.answers.last().map(|a| (a.ask, a.known)), Some((2, true)));
    net.tick(2_001);
    net.take_sends();
    assert_eq!(net.answers.last().map(|a| (a.ask, a.known)), Some((3, false)));
}

#[test]
fn a_notice_goes_to_the_connection_that_asked_or_to_all_of_the_customers() {
    let (mut net, phone) = one_customer();
    let laptop = net.device(2, "alice", Role::Customer, "laptop");
    net.register(laptop);
    net.settle();
    net.notice("alice", Some(phone), r#"{"done":{"id":"1"}}"#);
    net.notice("alice", None, r#"{"queue":{"conversation":"alice","position":1}}"#);
    net.settle();
    assert_eq!(frames(&net, phone, "done").len(), 1);
    assert!(frames(&net, laptop, "done").is_empty());
    assert_eq!(
        frames(&net, phone, "queue").len() + frames(&net, laptop, "queue").len(),
        2
    );
}

#[test]
fn a_wanted_session_is_asked_for_at_once_and_every_2_s_until_it_is_not_wanted() {
    let (mut net, phone) = one_customer();
    let wanted = |net: &Net| {
        net.desk
            .iter()
            .filter(|r| matches!(r.input, Some(Input::Wanted(_))))
            .count()
    };
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.settle();
    assert_eq!(wanted(&net), 1);
    net.tick(1_900);
    net.take_actions();
    assert_eq!(wanted(&net), 1);
    net.tick(200);
    net.take_actions();
    assert_eq!(wanted(&net), 2);
    // An heir asks too.
    net.persist(usize::MAX / 2);
    net.take_over(1);
    net.settle();
    assert_eq!(wanted(&net), 3);
    net.tick(2_100);
    net.take_actions();
    assert_eq!(wanted(&net), 4);
    net.decide("alice", Some("bo"));
    net.settle();
    net.tick(5_000);
    net.take_actions();
    assert_eq!(wanted(&net), 4);
}

#[test]
fn the_first_reply_is_told_at_once_and_activity_every_30_s() {
    let (mut net, phone) = one_customer();
    let told = |net: &Net| -> Vec<(bool, bool)> {
        let activity = |r: &wire::record::DeskRecord| match &r.input {
            Some(Input::Activity(a)) => Some((a.first_reply, a.by_agent)),
            _ => None,
        };
        net.desk.iter().filter_map(activity).collect()
    };
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.decide("alice", Some("bo"));
    net.say("alice", Role::Agent, "bo", None);
    net.say("alice", Role::Agent, "bo", None);
    net.settle();
    assert_eq!(told(&net), [(true, true)]);
    net.tick(30_001);
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.settle();
    assert_eq!(told(&net), [(true, true), (false, false)]);
}

#[test]
fn the_state_of_a_session_is_the_truth_after_everything() {
    let (mut net, phone) = one_customer();
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.decide("alice", Some("bo"));
    net.settle();
    assert_eq!(net.state_of("alice").session_state(), SessionState::SessionActive);
    assert!(
        frames(&net, phone, "conversation")
            .last()
            .unwrap()
            .contains(r#""state":"active","agent":"bo""#)
    );
}

#[test]
fn a_closed_session_lets_everybody_go_with_its_closing_event() {
    let (mut net, phone) = one_customer();
    let staff = [("bo", Role::Agent), ("cy", Role::Agent), ("sue", Role::Supervisor)];
    let staff = staff.map(|(user, role)| net.device(2, user, role, "desk"));
    for d in staff {
        net.register(d);
    }
    let active = Session {
        state: SessionState::SessionActive.into(),
        agent: "bo".into(),
        joined: vec!["cy".into()],
        watching: vec!["sue".into()],
        ..Session::default()
    };
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.decide_session("alice", active);
    net.settle();
    for d in staff {
        assert!(net.seen(d, "alice").attached);
    }
    net.decide("alice", None);
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.settle();
    for d in staff {
        // 3 closed it; what made it wanted again is nobody's yet.
        assert_eq!(seqs(&net, d, "alice"), [1, 2, 3]);
        assert!(!net.seen(d, "alice").attached);
    }
    // The next owner, who never saw it open, thinks the same.
    net.persist(usize::MAX / 2);
    net.take_over(1);
    for d in staff {
        net.register(d);
    }
    net.settle();
    for d in staff {
        assert_eq!(seqs(&net, d, "alice"), [1, 2, 3]);
    }
}

#[test]
fn an_agent_let_go_and_given_it_back_while_nobody_owned_the_partition_hears_all_of_it() {
    for persisted_before in [false, true] {
        let (mut net, phone) = one_customer();
        let bo = net.device(2, "bo", Role::Agent, "desk");
        net.register(bo);
        net.say("alice", Role::Customer, "alice", Some(phone));
        net.decide("alice", Some("bo"));
        net.settle();
        for _ in 0..2 {
            net.say("alice", Role::Customer, "alice", Some(phone));
            net.decide("alice", Some("bo"));
            net.decide("alice", None);
        }
        net.say("alice", Role::Agent, "bot", None);
        net.persist(if persisted_before { usize::MAX / 2 } else { 0 });
        net.take_over(1);
        if !persisted_before {
            // Folded before the agent's node comes: what it missed is in memory.
            net.register(phone);
            net.settle();
        }
        net.register(bo);
        net.settle();
        assert_eq!(seqs(&net, bo, "alice"), (1..=8).collect::<Vec<_>>());
        assert!(!net.seen(bo, "alice").attached);
    }
}

#[test]
fn who_was_let_go_without_an_event_while_nobody_owned_the_partition_hears_nothing_after_it() {
    for (persisted, folded_before) in [(true, false), (false, true), (false, false)] {
        let (mut net, phone) = one_customer();
        let staff = [("bo", Role::Agent), ("sue", Role::Supervisor)];
        let [bo, sue] = staff.map(|(user, role)| net.device(2, user, role, "desk"));
        net.register(bo);
        net.register(sue);
        let active = |agent: &str, watching: &[&str]| Session {
            state: SessionState::SessionActive.into(),
            agent: agent.into(),
            watching: watching.iter().map(|w| (*w).to_owned()).collect(),
            ..Session::default()
        };
        net.say("alice", Role::Customer, "alice", Some(phone));
        net.decide_session("alice", active("bo", &["sue"]));
        net.settle();
        // The owner dies. 3 is still hers, 4 and 5 are not; bo is let go after 5, and 6 begins another's session.
        net.say("alice", Role::Customer, "alice", Some(phone));
        net.decide_unseen("alice", active("bo", &[]));
        net.say("alice", Role::Customer, "alice", Some(phone));
        net.say("alice", Role::Agent, "bo", None);
        net.decide_unseen("alice", Session::default());
        net.say("alice", Role::Customer, "alice", Some(phone));
        net.decide_session("alice", active("cy", &[]));
        net.say("alice", Role::Agent, "cy", None);
        net.persist(if persisted { usize::MAX / 2 } else { 0 });
        net.take_over(1);
        net.register(phone);
        if folded_before {
            net.settle();
        }
        net.register(bo);
        net.register(sue);
        net.settle();
        assert_eq!(seqs(&net, sue, "alice"), [1, 2, 3], "{persisted} {folded_before}");
        assert_eq!(seqs(&net, bo, "alice"), [1, 2, 3, 4, 5], "{persisted} {folded_before}");
        assert!(!net.seen(sue, "alice").attached && !net.seen(bo, "alice").attached);
        let told = frames(&net, bo, "conversation");
        assert!(told.last().unwrap().contains(r#""agent":"cy""#), "{told:?}");
        assert_eq!(seqs(&net, phone, "alice"), (1..=8).collect::<Vec<_>>());
    }
}

#[test]
fn an_agent_who_has_it_again_at_the_heir_never_hears_that_it_was_let_go() {
    let (mut net, phone) = one_customer();
    let bo = net.device(2, "bo", Role::Agent, "desk");
    net.register(bo);
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.decide("alice", Some("bo"));
    net.settle();
    // The row says that bo was let go; the log that bo has it again.
    net.decide("alice", None);
    net.persist(usize::MAX / 2);
    net.say("alice", Role::Customer, "alice", Some(phone));
    net.decide("alice", Some("bo"));
    let told_before = frames(&net, bo, "conversation").len();
    net.take_over(1);
    net.register(phone);
    net.register(bo);
    net.answer_all();
    net.take_sends();
    net.settle();
    assert_eq!(seqs(&net, bo, "alice"), [1, 2, 3, 4, 5]);
    assert!(net.seen(bo, "alice").attached);
    let told = frames(&net, bo, "conversation");
    assert!(
        told[told_before..].iter().all(|f| f.contains(r#""agent":"bo""#)),
        "{told:?}"
    );
}

/// Who POSTs may name any session: a name is no proof.
#[test]
fn what_names_a_strangers_connection_as_its_origin_reaches_nobody_there() {
    let (mut net, phone) = one_customer();
    let bo = net.device(2, "bo", Role::Agent, "desk");
    let namesake = net.device(2, "alice", Role::Agent, "desk");
    for d in [bo, namesake] {
        net.register(d);
    }
    net.decide("alice", Some("bo"));
    net.settle();
    for victim in [bo, namesake] {
        net.notice_from("alice", phone, victim, r#"{"done":{"id":"forged"}}"#);
    }
    net.settle();
    for d in [phone, bo, namesake] {
        assert!(frames(&net, d, "done").is_empty(), "{d}");
    }
    net.say("alice", Role::Customer, "alice", Some(bo));
    net.settle();
    assert!(
        frames(&net, bo, "placed").is_empty(),
        "a message cannot be made to look like the reader's own"
    );
    assert_eq!(seqs(&net, bo, "alice").last(), seqs(&net, phone, "alice").last());
}

#[test]
fn an_ack_by_way_of_another_node_counts_for_its_own_user_only() {
    let (mut net, phone) = one_customer();
    let other = net.device(2, "carol", Role::Customer, "phone");
    net.register(other);
    net.say("alice", Role::Customer, "alice", None);
    // Not settled: that would ack.
    net.read(10);
    net.answer_all();
    net.take_sends();
    let (node, connection) = (net.devices[phone].node, net.devices[phone].connection);
    let generation = Some(net.generation().into());
    let mut ack = |tenant: &str, user: &str, role: Role| {
        let acked = Acked {
            partition: 0,
            generation,
            connection,
            conversation: "alice".into(),
            recv: 1,
            read: 1,
            node,
            whose: Some(Whose {
                tenant: tenant.into(),
                user: user.into(),
                role: role.into(),
            }),
        };
        net.item(other, In::Acked(acked));
        net.tick(1_100);
        net.take_actions();
        net.last_marks().map_or((0, 0), |m| (m.customer_recv, m.customer_read))
    };
    for (tenant, user, role) in [
        ("other", "alice", Role::Customer),
        ("demo", "carol", Role::Customer),
        ("demo", "alice", Role::Agent),
    ] {
        assert_eq!(ack(tenant, user, role), (0, 0), "{tenant} {user} {role:?}");
    }
    assert_eq!(ack("demo", "alice", Role::Customer), (1, 1));
}
