//! The machine's properties (I16) under random acts, presence and time; replay from a snapshot; and directed stories.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use desk_core::{AgentState, Desk, Output, Stage, What};
use proptest::prelude::*;
use wire::record::desk_record::Input;
use wire::record::{
    Act, AgentConnection, Alive, Audience, DeskRecord, Kind, Origin, Presence, Role, Sender, SessionState, Settings,
    Tick, Wanted,
};
use wire::{Epoch, Offset, Position, Tenant};

const STEP_MS: i64 = 500;

fn position(offset: u64) -> Position {
    Position::new(Epoch(1), Offset(offset))
}

fn record(input: Input) -> DeskRecord {
    DeskRecord {
        version: 1,
        input: Some(input),
    }
}

fn act(role: Role, user: &str, id: &str, customer: &str, deed: &str) -> Input {
    Input::Act(Act {
        from: Some(Sender {
            role: role.into(),
            user: user.into(),
        }),
        id: id.into(),
        origin: Some(Origin { node: 1, connection: 7 }),
        customer: customer.into(),
        deed: deed.to_owned().into(),
        seen_seq: if role == Role::Customer { u64::MAX } else { 5 },
        priority: 1,
        ..Act::default()
    })
}

fn presence(node: u64, agent: &str, connected: bool) -> Input {
    Input::Presence(Presence {
        node,
        connection: connection_of(agent),
        agent: agent.into(),
        connected,
        role: Role::Agent.into(),
        groups: groups_of(agent),
    })
}

fn connection_of(agent: &str) -> u64 {
    agent.bytes().map(u64::from).sum()
}

fn groups_of(agent: &str) -> Vec<String> {
    if agent == "cy" {
        vec!["orders".into()]
    } else {
        Vec::new()
    }
}

fn alive(node: u64, agents: &[&str]) -> Input {
    let connection = |a: &&str| AgentConnection {
        connection: connection_of(a),
        agent: (*a).into(),
        role: Role::Agent.into(),
        groups: groups_of(a),
    };
    Input::Alive(Alive {
        node,
        connections: agents.iter().map(connection).collect(),
    })
}

/// A desk, its log so far, and what its conversations show.
struct Story {
    desk: Desk,
    next: u64,
    at_ms: i64,
    shown: BTreeMap<String, (i32, String)>,
    decided: BTreeMap<String, (u64, u32)>,
}

impl Story {
    fn new() -> Self {
        Self {
            desk: Desk::new(Tenant::new("demo").unwrap()),
            next: 1,
            at_ms: 0,
            shown: BTreeMap::new(),
            decided: BTreeMap::new(),
        }
    }

    /// An agent that is connected on node 1 and available.
    fn with_agent(mut self, agent: &str, capacity: u32) -> Self {
        self.put(presence(1, agent, true));
        let status = format!(r#"{{"status":{{"state":"available","capacity":{capacity}}}}}"#);
        self.put(act(Role::Agent, agent, &format!("s-{agent}"), "", &status));
        self
    }

    fn put(&mut self, input: Input) -> Vec<Output> {
        self.put_after(STEP_MS, input)
    }

    fn put_after(&mut self, ms: i64, input: Input) -> Vec<Output> {
        self.at_ms += ms;
        let outputs = self.desk.apply(position(self.next), self.at_ms, &record(input));
        self.next += 1;
        self.fold(&outputs);
        self.check();
        outputs
    }

    /// Seconds pass, in which the node of these agents is alive.
    fn wait_s(&mut self, seconds: i64, agents: &[&str]) -> Vec<Output> {
        let mut outputs = Vec::new();
        for _ in 0..seconds {
            outputs.extend(self.put_after(500, alive(1, agents)));
            outputs.extend(self.put_after(500, Input::Tick(Tick {})));
        }
        outputs
    }

    /// What the conversations would show: the last effect above all before.
    fn fold(&mut self, outputs: &[Output]) {
        for output in outputs {
            let Some(effect) = &output.record.effect else { continue };
            let decision = effect.decision.as_ref().unwrap();
            let customer = output.key.customer.to_string();
            let place = (decision.offset, decision.number);
            let before = self.decided.insert(customer.clone(), place);
            assert!(before.is_none_or(|b| b < place), "decisions rise: {before:?} {place:?}");
            let session = effect.session.as_ref().unwrap();
            assert_eq!(effect.closes, session.state() == SessionState::SessionIdle);
            if output.record.numbered {
                assert!(!output.record.member.is_empty() && output.record.from.is_some());
            }
            self.shown.insert(customer, (session.state, session.agent.clone()));
        }
    }

    /// I16, after every record.
    fn check(&self) {
        let desk = &self.desk;
        let default_capacity = desk.settings().capacity;
        for (customer, session) in desk.sessions() {
            let holders: Vec<&String> = desk
                .agents()
                .iter()
                .filter(|(_, a)| a.active.contains(customer))
                .map(|(name, _)| name)
                .collect();
            let shown = self.shown.get(customer);
            match &session.stage {
                Stage::Active { agent } => {
                    assert_eq!(holders, [agent], "one agent has {customer}");
                    assert_eq!(shown, Some(&(SessionState::SessionActive.into(), agent.clone())));
                }
                Stage::Waiting { .. } => {
                    assert!(holders.is_empty(), "{customer} waits and is with {holders:?}");
                    assert_eq!(shown, Some(&(SessionState::SessionQueued.into(), String::new())));
                    let eligible = desk.agents().iter().find(|(name, a)| {
                        a.is_able(default_capacity)
                            && if session.only {
                                session.named.as_ref() == Some(name)
                            } else {
                                a.serves(&session.group)
                            }
                    });
                    assert!(eligible.is_none(), "{customer} waits while {eligible:?} has room");
                }
            }
        }
        let idle = |c: &String| self.shown.get(c).is_none_or(|(state, _)| *state == 0);
        for customer in self.shown.keys().filter(|c| !desk.sessions().contains_key(*c)) {
            assert!(idle(customer), "{customer} shows a session that the desk does not have");
        }
        for agent in desk.agents().values() {
            assert!(agent.active.iter().all(|c| desk.sessions().contains_key(c)));
        }
        let counts = desk.counts();
        assert_eq!(
            counts.waiting,
            desk.sessions().values().filter(|s| s.is_waiting()).count()
        );
        assert_eq!(counts.waiting + counts.assigned, desk.sessions().len());
    }

    fn agent_of(&self, customer: &str) -> Option<&str> {
        self.desk.sessions().get(customer).and_then(|s| s.agent())
    }
}

fn members(outputs: &[Output]) -> Vec<String> {
    outputs
        .iter()
        .filter(|o| o.record.numbered)
        .map(|o| String::from_utf8_lossy(&o.record.member).into_owned())
        .collect()
}

fn frames(outputs: &[Output]) -> Vec<String> {
    outputs
        .iter()
        .filter_map(|o| o.record.notice.as_ref())
        .map(|n| String::from_utf8_lossy(&n.frame).into_owned())
        .collect()
}

fn request(customer: &str, id: &str, what: &str) -> Input {
    act(
        Role::Customer,
        customer,
        id,
        customer,
        &format!("{{\"request\":{what}}}"),
    )
}

// ---- random logs ----

const CUSTOMERS: [&str; 5] = ["c0", "c1", "c2", "c3", "c4"];
const AGENTS: [&str; 3] = ["al", "bo", "cy"];

fn input() -> impl Strategy<Value = Input> {
    let customer = (0usize..5).prop_map(|i| CUSTOMERS[i]);
    let agent = (0usize..3).prop_map(|i| AGENTS[i]);
    let customer2 = (0usize..5).prop_map(|i| CUSTOMERS[i]);
    let agent2 = (0usize..3).prop_map(|i| AGENTS[i]);
    let agent3 = (0usize..3).prop_map(|i| AGENTS[i]);
    let customer_deed = prop_oneof![
        4 => Just(r#"{"request":{}}"#),
        1 => Just(r#"{"request":{"group":"orders"}}"#),
        1 => Just(r#"{"request":{"agent":"bo"}}"#),
        1 => Just(r#"{"request":{"agent":"al","only":true}}"#),
        2 => Just(r#"{"close":{}}"#),
        1 => Just(r#"{"rate":{"stars":5}}"#),
        1 => Just("garbage"),
    ];
    let agent_deed = prop_oneof![
        Just(r#"{"close":{}}"#),
        Just(r#"{"accept":{}}"#),
        Just(r#"{"transfer":{"agent":"bo","note":"please"}}"#),
        Just(r#"{"transfer":{"group":"orders"}}"#),
        Just(r#"{"join":{}}"#),
        Just(r#"{"leave":{}}"#),
        Just(r#"{"watch":{}}"#),
        Just(r#"{"request":{}}"#),
        Just(r#"{"tag":{"tags":["vip"]}}"#),
    ];
    let status = prop_oneof![
        2 => Just(r#"{"status":{"state":"available","capacity":2}}"#),
        1 => Just(r#"{"status":{"state":"available","capacity":1}}"#),
        1 => Just(r#"{"status":{"state":"busy"}}"#),
        1 => Just(r#"{"status":{"state":"away","capacity":0}}"#),
        1 => Just(r#"{"status":{"state":"available"}}"#),
    ];
    let role = prop_oneof![3 => Just(Role::Agent), 1 => Just(Role::Supervisor)];
    let on_nodes = prop::collection::vec(0usize..3, 0..4);
    prop_oneof![
        4 => (customer, customer_deed, 0u32..500).prop_map(|(c, d, id)| act(Role::Customer, c, &id.to_string(), c, d)),
        4 => (agent, customer2, agent_deed, 0u32..500, role).prop_map(|(a, c, d, id, r)| act(r, a, &id.to_string(), c, d)),
        2 => (agent2, status, 0u32..500).prop_map(|(a, s, id)| act(Role::Agent, a, &id.to_string(), "", s)),
        2 => (1u64..3, agent3, any::<bool>()).prop_map(|(n, a, c)| presence(n, a, c)),
        3 => (1u64..3, on_nodes).prop_map(|(n, agents)| {
            let mut names: Vec<&str> = agents.iter().map(|i| AGENTS[*i]).collect();
            names.dedup();
            alive(n, &names)
        }),
        2 => (0usize..5, 0u64..10, 0u32..3).prop_map(|(c, last_seq, priority)| {
            Input::Wanted(Wanted { customer: CUSTOMERS[c].into(), last_seq, priority })
        }),
        4 => Just(Input::Tick(Tick {})),
        1 => Just(Input::Settings(Settings { json: br#"{"grace_ms":4000,"idle_close_ms":60000}"#.as_slice().into() })),
        1 => Just(Input::Settings(Settings { json: br#"{"grace_ms":1000,"capacity":1}"#.as_slice().into() })),
    ]
}

fn log() -> impl Strategy<Value = Vec<(i64, Input)>> {
    prop::collection::vec(
        (prop_oneof![8 => 0i64..2_500, 1 => -5_000i64..100_000], input()),
        0..150,
    )
}

/// Sessions above the agents' capacity, by agent, before a record.
fn room(desk: &Desk) -> BTreeMap<String, (usize, usize)> {
    let of = |a: &desk_core::Agent| (a.active.len(), a.capacity.unwrap_or(desk.settings().capacity) as usize);
    desk.agents().iter().map(|(name, a)| (name.clone(), of(a))).collect()
}

proptest! {
    #[test]
    fn whatever_happens_every_conversation_is_in_one_place_and_nobody_waits_for_nothing(log in log()) {
        let mut story = Story::new();
        for (ms, input) in log {
            let before = room(&story.desk);
            story.put_after(ms, input);
            for (name, (has, capacity)) in room(&story.desk) {
                let had = before.get(&name).map_or(0, |(had, _)| *had);
                // A capacity lowered below what an agent has takes effect as sessions end: it never gets more.
                prop_assert!(has <= capacity.max(had), "{} has {} of {}", name, has, capacity);
            }
        }
    }

    #[test]
    fn a_replay_from_any_snapshot_says_the_same_and_ends_the_same(log in log(), cut in 0usize..150) {
        let mut whole = Desk::new(Tenant::new("demo").unwrap());
        let mut resumed: Option<Desk> = None;
        let mut at_ms = 0;
        for (i, (ms, input)) in log.iter().enumerate() {
            at_ms += ms;
            let record = record(input.clone());
            let place = position(i as u64);
            if i == cut.min(log.len() - 1) {
                resumed = Some(Desk::restore(&whole.snapshot()).unwrap());
            }
            let want = whole.apply(place, at_ms, &record);
            if let Some(resumed) = &mut resumed {
                prop_assert_eq!(resumed.apply(place, at_ms, &record), want);
                // The same record again, as after a take-over: nothing.
                prop_assert!(resumed.apply(place, at_ms, &record).is_empty());
                prop_assert_eq!(&*resumed, &whole);
                prop_assert_eq!(resumed.snapshot(), whole.snapshot());
            }
        }
    }

    #[test]
    fn an_act_that_is_logged_twice_is_carried_out_once(log in log()) {
        let (mut once, mut twice) = (Story::new(), Story::new());
        for (i, (ms, mut input)) in log.into_iter().enumerate() {
            if let Input::Act(act) = &mut input {
                act.id = format!("unique-{i}");
            }
            once.put_after(ms, input.clone());
            twice.put_after(ms, input.clone());
            if matches!(input, Input::Act(_)) {
                let outputs = twice.put_after(0, input);
                prop_assert!(outputs.is_empty(), "{outputs:?}");
            }
            prop_assert_eq!(once.desk.sessions(), twice.desk.sessions());
            prop_assert_eq!(once.desk.agents(), twice.desk.agents());
        }
    }

    #[test]
    fn a_broken_snapshot_is_refused_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        prop_assert!(Desk::restore(&bytes).is_err());
    }
}

// ---- stories ----

#[test]
fn a_request_that_is_served_at_once_is_one_event_and_one_answer() {
    let mut story = Story::new().with_agent("bo", 2);
    let outputs = story.put(request("alice", "1", "{}"));
    assert_eq!(members(&outputs), [r#""assigned":{"agent":"bo"}"#]);
    assert_eq!(frames(&outputs), [r#"{"done":{"id":"1"}}"#]);
    assert_eq!(story.agent_of("alice"), Some("bo"));
}

#[test]
fn the_line_is_first_come_first_served_and_priority_goes_ahead() {
    let mut story = Story::new();
    for (i, customer) in ["a", "b", "c"].iter().enumerate() {
        let outputs = story.put(request(customer, "1", "{}"));
        assert_eq!(members(&outputs), [r#""queued":{"group":"default"}"#]);
        assert_eq!(frames(&outputs)[0], r#"{"done":{"id":"1"}}"#);
        assert!(
            frames(&outputs)[1].contains(&format!(r#""position":{}"#, i + 1)),
            "{outputs:?}"
        );
    }
    story.put(Input::Wanted(Wanted {
        customer: "vip".into(),
        last_seq: 1,
        priority: 0,
    }));
    let mut story = story.with_agent("bo", 1);
    assert_eq!(story.agent_of("vip"), Some("bo"));
    for customer in ["vip", "a", "b"] {
        let outputs = story.put(act(
            Role::Agent,
            "bo",
            &format!("close {customer}"),
            customer,
            r#"{"close":{}}"#,
        ));
        let all = members(&outputs);
        assert_eq!(all[0], r#""closed":{"by":"agent"}"#);
        assert!(all[1].starts_with(r#""assigned""#), "the next is served at once");
    }
    assert_eq!(story.agent_of("c"), Some("bo"));
}

#[test]
fn a_place_in_line_that_changed_is_told_after_five_seconds() {
    let mut story = Story::new();
    for customer in ["a", "b"] {
        story.put(request(customer, "1", "{}"));
    }
    story.put(act(Role::Customer, "a", "2", "a", r#"{"close":{}}"#));
    let told = |outputs: &[Output]| frames(outputs).iter().filter(|f| f.contains(r#""queue""#)).count();
    assert_eq!(told(&story.wait_s(3, &[])), 0);
    let outputs = story.wait_s(10, &[]);
    assert_eq!(frames(&outputs), [r#"{"queue":{"conversation":"b","position":1}}"#]);
}

#[test]
fn the_least_loaded_gets_the_next_and_of_equals_the_longest_idle() {
    let mut story = Story::new().with_agent("al", 4).with_agent("bo", 4).with_agent("cy", 4);
    let who: Vec<String> = ["a", "b", "c", "d"]
        .iter()
        .map(|c| {
            story.put(request(c, "1", "{}"));
            story.agent_of(c).unwrap().to_owned()
        })
        .collect();
    assert_eq!(who, ["al", "bo", "cy", "al"]);
    story.put(act(Role::Agent, "cy", "x", "c", r#"{"close":{}}"#));
    story.put(request("e", "1", "{}"));
    assert_eq!(story.agent_of("e"), Some("cy"));
}

#[test]
fn a_named_agent_is_asked_first_and_with_only_nobody_else() {
    let mut story = Story::new().with_agent("al", 1).with_agent("bo", 1);
    story.put(request("a", "1", r#"{"agent":"bo"}"#));
    assert_eq!(story.agent_of("a"), Some("bo"));
    story.put(request("b", "1", r#"{"agent":"bo","only":true}"#));
    assert_eq!(story.agent_of("b"), None, "al has room, but only bo will do");
    story.put(request("c", "1", r#"{"agent":"bo"}"#));
    assert_eq!(story.agent_of("c"), Some("al"));
    story.put(act(Role::Agent, "bo", "1", "a", r#"{"close":{}}"#));
    assert_eq!(story.agent_of("b"), Some("bo"));
}

#[test]
fn an_agent_is_away_until_the_first_status_which_outlives_connections() {
    let mut story = Story::new();
    story.put(presence(1, "bo", true));
    story.put(request("a", "1", "{}"));
    assert_eq!(story.agent_of("a"), None);
    let mut story = story.with_agent("bo", 2);
    assert_eq!(story.agent_of("a"), Some("bo"));
    story.put(presence(1, "bo", false));
    story.put(request("b", "1", "{}"));
    assert_eq!(story.agent_of("b"), None);
    story.put(presence(1, "bo", true));
    assert_eq!(story.agent_of("b"), Some("bo"));
    assert_eq!(story.desk.agents()["bo"].state, AgentState::Available);
}

#[test]
fn a_lost_agent_keeps_the_sessions_for_the_grace_time_and_then_they_go_in_front() {
    let mut story = Story::new().with_agent("bo", 2);
    for customer in ["a", "b", "waits"] {
        story.put(request(customer, "1", "{}"));
    }
    story.put(presence(1, "bo", false));
    story.wait_s(28, &[]);
    assert_eq!(story.agent_of("a"), Some("bo"));
    let outputs = story.wait_s(4, &[]);
    assert_eq!(
        members(&outputs),
        [r#""queued":{"group":"default","cause":"agent_gone"}"#; 2]
    );
    let mut story = story.with_agent("al", 2);
    assert_eq!(
        (story.agent_of("a"), story.agent_of("b"), story.agent_of("waits")),
        (Some("al"), Some("al"), None)
    );
    story.put(presence(1, "bo", true));
    assert_eq!(story.agent_of("waits"), Some("bo"));
}

#[test]
fn a_node_that_is_silent_for_six_seconds_takes_its_agents_with_it() {
    let mut story = Story::new().with_agent("bo", 2);
    story.wait_s(20, &["bo"]);
    assert!(story.desk.agents()["bo"].connected());
    for _ in 0..14 {
        story.put(Input::Tick(Tick {}));
    }
    assert!(!story.desk.agents()["bo"].connected());
}

#[test]
fn an_outage_fires_nothing() {
    let mut story = Story::new().with_agent("bo", 2);
    story.put(request("a", "1", "{}"));
    story.put_after(3_600_000, Input::Tick(Tick {}));
    story.wait_s(60, &["bo"]);
    assert_eq!(story.agent_of("a"), Some("bo"));
}

#[test]
fn a_transfer_goes_only_to_somebody_able_and_its_note_only_to_staff() {
    let mut story = Story::new().with_agent("bo", 2);
    story.put(request("a", "1", "{}"));
    let refused = story.put(act(Role::Agent, "bo", "t1", "a", r#"{"transfer":{"agent":"al"}}"#));
    assert!(frames(&refused)[0].contains(r#""code":"conflict""#));
    let mut story = story.with_agent("al", 1);
    let outputs = story.put(act(
        Role::Agent,
        "bo",
        "t2",
        "a",
        r#"{"transfer":{"agent":"al","note":"knows the case"}}"#,
    ));
    assert_eq!(
        members(&outputs),
        [
            r#""transferred":{"agent":"al","from":"bo"}"#,
            r#""note":{"text":"knows the case"}"#
        ]
    );
    let note = outputs.iter().find(|o| o.record.audience() == Audience::Staff).unwrap();
    assert!(note.record.member.starts_with(b"\"note\""));
    assert_eq!(story.agent_of("a"), Some("al"));
    let back = story.put(act(Role::Agent, "bo", "t3", "a", r#"{"transfer":{"agent":"bo"}}"#));
    assert!(frames(&back)[0].contains(r#""code":"not_assigned""#));
}

#[test]
fn joining_and_leaving_are_seen_and_watching_is_not() {
    let mut story = Story::new().with_agent("bo", 2);
    story.put(request("a", "1", "{}"));
    let watching = story.put(act(Role::Supervisor, "sue", "1", "a", r#"{"watch":{}}"#));
    assert!(members(&watching).is_empty());
    assert_eq!(
        watching[0]
            .record
            .effect
            .as_ref()
            .unwrap()
            .session
            .as_ref()
            .unwrap()
            .watching,
        ["sue"]
    );
    let joined = story.put(act(Role::Supervisor, "sue", "2", "a", r#"{"join":{}}"#));
    assert_eq!(members(&joined), [r#""joined":{"agent":"sue"}"#]);
    assert_eq!(joined[0].record.from.as_ref().unwrap().user, "sue");
    let left = story.put(act(Role::Supervisor, "sue", "3", "a", r#"{"leave":{}}"#));
    assert_eq!(members(&left), [r#""left":{"agent":"sue"}"#]);
    let refused = story.put(act(Role::Agent, "bo", "4", "a", r#"{"leave":{}}"#));
    assert!(frames(&refused)[0].contains(r#""code":"conflict""#));
}

#[test]
fn a_close_carries_the_last_seq_seen_and_a_question_from_before_it_opens_nothing() {
    let mut story = Story::new().with_agent("bo", 2);
    story.put(Input::Wanted(Wanted {
        customer: "a".into(),
        last_seq: 4,
        priority: 1,
    }));
    let closed = story.put(act(Role::Agent, "bo", "1", "a", r#"{"close":{}}"#));
    let effect = closed[0].record.effect.as_ref().unwrap();
    assert_eq!((effect.closes, effect.closed_at_seq), (true, 5));
    story.put(Input::Wanted(Wanted {
        customer: "a".into(),
        last_seq: 5,
        priority: 1,
    }));
    assert!(story.desk.sessions().is_empty());
    story.put(Input::Wanted(Wanted {
        customer: "a".into(),
        last_seq: 6,
        priority: 1,
    }));
    assert_eq!(story.agent_of("a"), Some("bo"));
}

#[test]
fn a_question_asked_again_and_again_is_shown_again_after_ten_seconds() {
    let mut story = Story::new();
    let wanted = || {
        Input::Wanted(Wanted {
            customer: "a".into(),
            last_seq: 1,
            priority: 1,
        })
    };
    story.put(wanted());
    assert!(story.put(wanted()).is_empty());
    story.wait_s(10, &[]);
    let outputs = story.put(wanted());
    assert_eq!(outputs.len(), 1);
    assert!(!outputs[0].record.numbered && matches!(outputs[0].what, What::Effect { .. }));
}

#[test]
fn a_rating_after_the_close_leaves_the_session_alone() {
    let mut story = Story::new().with_agent("bo", 2);
    story.put(request("a", "1", "{}"));
    story.put(act(Role::Customer, "a", "2", "a", r#"{"close":{}}"#));
    let outputs = story.put(act(Role::Customer, "a", "3", "a", r#"{"rate":{"stars":5}}"#));
    assert_eq!(members(&outputs), [r#""rated":{"stars":5}"#]);
    assert_eq!(outputs[0].record.kind(), Kind::Message);
    assert!(outputs[0].record.effect.is_none() && !outputs[0].record.id.is_empty() && !outputs[0].record.wants_agent);
}

#[test]
fn an_answer_is_repeated_only_to_another_connection() {
    let mut story = Story::new().with_agent("bo", 2);
    story.put(request("a", "1", "{}"));
    assert!(story.put(request("a", "1", "{}")).is_empty());
    let Input::Act(mut again) = request("a", "1", "{}") else {
        unreachable!()
    };
    again.origin = Some(Origin { node: 2, connection: 9 });
    let outputs = story.put(Input::Act(again));
    assert_eq!(frames(&outputs), [r#"{"done":{"id":"1"}}"#]);
    assert_eq!(outputs[0].record.origin, Some(Origin { node: 2, connection: 9 }));
}

#[test]
fn a_stranger_is_refused() {
    let mut story = Story::new().with_agent("bo", 2).with_agent("al", 2);
    story.put(request("a", "1", r#"{"agent":"bo","only":true}"#));
    for (role, user, deed, code) in [
        (Role::Customer, "mallory", r#"{"close":{}}"#, "forbidden"),
        (Role::Customer, "a", r#"{"accept":{}}"#, "forbidden"),
        (Role::Agent, "al", r#"{"close":{}}"#, "not_assigned"),
        (Role::Agent, "al", r#"{"accept":{}}"#, "conflict"),
        (Role::Agent, "al", r#"{"transfer":{"agent":"al"}}"#, "not_assigned"),
        (Role::Agent, "al", r#"{"watch":{}}"#, "forbidden"),
        (Role::Agent, "al", r#"{"rate":{}}"#, "forbidden"),
        (Role::Agent, "al", r#"{"dance":{}}"#, "bad_frame"),
    ] {
        let before = story.desk.sessions().clone();
        let outputs = story.put(act(role, user, &format!("{user}{deed}"), "a", deed));
        assert!(
            frames(&outputs)[0].contains(&format!(r#""code":"{code}""#)),
            "{user} {deed}: {outputs:?}"
        );
        assert_eq!(story.desk.sessions(), &before);
    }
}

#[test]
fn an_idle_session_is_closed_by_the_desk_at_the_last_seq_it_heard_of() {
    let mut story = Story::new().with_agent("bo", 2);
    story.put(Input::Settings(Settings {
        json: br#"{"idle_close_ms":60000}"#.as_slice().into(),
    }));
    story.put(Input::Wanted(Wanted {
        customer: "a".into(),
        last_seq: 4,
        priority: 1,
    }));
    let outputs = story.wait_s(61, &["bo"]);
    assert_eq!(members(&outputs), [r#""closed":{"by":"desk"}"#]);
    assert_eq!(outputs[0].record.effect.as_ref().unwrap().closed_at_seq, 4);
}
