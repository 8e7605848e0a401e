//! A desk under any list of inputs, right or absurd, against what must hold after each of them (I16): a conversation stands in
//! one place, no agent is given more than there is room for, nobody waits whom an able agent could answer, a snapshot is the
//! desk, and what goes out is read by the one `decode`.

use std::collections::BTreeMap;

use desk_core::{Desk, Output, Stage};
use wire::codec;
use wire::record::desk_record::Input;
use wire::record::{
    Act, Activity, AgentConnection, Alive, DeskRecord, Origin, Presence, Role, Sender, Settings, Tick, Wanted,
};
use wire::{Epoch, Offset, Partition, Position, Tenant};

use super::Bytes;

const CUSTOMERS: [&str; 6] = ["alice", "bob", "carol", "", "a\nb", "bo"];
const AGENTS: [&str; 5] = ["bo", "ann", "cy", "", "alice"];
const GROUPS: [&str; 4] = ["default", "orders", "", "\0"];
const DEEDS: [&str; 22] = [
    r#"{"request":{}}"#,
    r#"{"request":{"agent":"bo","only":true}}"#,
    r#"{"request":{"agent":"","only":true}}"#,
    r#"{"request":{"group":"orders"}}"#,
    r#"{"request":{"group":""}}"#,
    r#"{"close":{}}"#,
    r#"{"accept":{}}"#,
    r#"{"transfer":{"agent":"ann"}}"#,
    r#"{"transfer":{"agent":"bo","note":"x"}}"#,
    r#"{"transfer":{"group":"orders"}}"#,
    r#"{"transfer":{}}"#,
    r#"{"join":{}}"#,
    r#"{"leave":{}}"#,
    r#"{"watch":{}}"#,
    r#"{"tag":{"a":1}}"#,
    r#"{"rate":{"stars":1e999}}"#,
    r#"{"status":{"state":"available","capacity":1}}"#,
    r#"{"status":{"state":"available","capacity":4294967295}}"#,
    r#"{"status":{"state":"busy","capacity":0}}"#,
    r#"{"status":{"state":"away"}}"#,
    r#"{"dance":{}}"#,
    "\u{fffd}",
];
const SETTINGS: [&str; 5] = [
    r#"{"capacity":2}"#,
    r#"{"capacity":0,"grace_ms":-1,"idle_close_ms":-1}"#,
    r#"{"grace_ms":9223372036854775807,"idle_close_ms":9223372036854775807}"#,
    r#"{"idle_close_ms":1}"#,
    "nonsense",
];

/// True: a session stood while something went out.
pub fn run(input: &[u8]) -> bool {
    let tenant = Tenant::new("demo").expect("a tenant's name");
    let mut desk = Desk::new(tenant);
    let (mut bytes, mut at_ms, mut offset, mut is_at_work) = (Bytes(input), 1_000_i64, 0, false);
    while !bytes.is_empty() && offset < 400 {
        at_ms = match bytes.byte() {
            255 => i64::MAX,
            254 => -1,
            253 => at_ms.saturating_add(3_600_000),
            step => at_ms.saturating_add(i64::from(step) * 20),
        };
        let record = DeskRecord {
            version: 1,
            input: draw(&mut bytes, at_ms),
        };
        let place = Position::new(Epoch(1), Offset(offset));
        let before = desk.clone();
        let outputs = desk.apply(place, at_ms, &record);
        holds(&before, &desk);
        outputs.iter().for_each(is_readable);
        is_itself(&desk);
        is_at_work |= !outputs.is_empty() && !desk.sessions().is_empty();
        assert!(desk.apply(place, at_ms, &record).is_empty(), "the same record twice");
        offset += 1;
    }
    is_at_work
}

fn draw(bytes: &mut Bytes<'_>, at_ms: i64) -> Option<Input> {
    let customer = |b: &mut Bytes<'_>| CUSTOMERS[b.below(CUSTOMERS.len())].to_owned();
    let agent = |b: &mut Bytes<'_>| AGENTS[b.below(AGENTS.len())].to_owned();
    Some(match bytes.below(16) {
        0..=6 => {
            let role = bytes.below(8) as i32;
            let customer = customer(bytes);
            let user = match Role::try_from(role) {
                Ok(Role::Customer) if bytes.below(4) > 0 => customer.clone(),
                _ => agent(bytes),
            };
            Input::Act(Act {
                from: (bytes.below(16) > 0).then_some(Sender { role, user }),
                // Ids come again: answers are remembered.
                id: ["", "1", "2", "3"][bytes.below(4)].to_owned(),
                origin: Some(Origin {
                    node: 1,
                    connection: bytes.number(),
                }),
                customer,
                deed: DEEDS[bytes.below(DEEDS.len())].as_bytes().into(),
                seen_seq: bytes.number(),
                groups: vec![GROUPS[bytes.below(GROUPS.len())].to_owned(); bytes.below(2)],
                priority: bytes.number() as u32,
                received_at_ms: at_ms,
            })
        }
        7..=9 => Input::Presence(Presence {
            node: bytes.below(3) as u64,
            connection: bytes.below(4) as u64,
            agent: agent(bytes),
            connected: bytes.below(4) > 0,
            role: Role::Agent.into(),
            groups: vec![GROUPS[bytes.below(GROUPS.len())].to_owned(); bytes.below(2)],
        }),
        10 => Input::Alive(Alive {
            node: bytes.below(3) as u64,
            connections: (0..bytes.below(4))
                .map(|connection| AgentConnection {
                    connection: connection as u64,
                    agent: agent(bytes),
                    ..AgentConnection::default()
                })
                .collect(),
        }),
        11 | 12 => Input::Wanted(Wanted {
            customer: customer(bytes),
            last_seq: bytes.number(),
            priority: bytes.number() as u32,
        }),
        13 => Input::Activity(Activity {
            customer: customer(bytes),
            last_seq: bytes.number(),
            ..Activity::default()
        }),
        14 => Input::Settings(Settings {
            json: SETTINGS[bytes.below(SETTINGS.len())].as_bytes().into(),
        }),
        _ if bytes.below(8) == 0 => return None,
        _ => Input::Tick(Tick {}),
    })
}

/// The simple model: who has whom, counted from the sessions alone.
fn holds(before: &Desk, desk: &Desk) {
    let mut active: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (customer, session) in desk.sessions() {
        assert!(wire::User::new(customer).is_ok(), "a session of nobody: {customer:?}");
        if let Stage::Active { agent } = &session.stage {
            active.entry(agent).or_default().push(customer);
        }
    }
    for (name, agent) in desk.agents() {
        let theirs = active.remove(name.as_str()).unwrap_or_default();
        assert!(
            agent.active.iter().map(String::as_str).eq(theirs.iter().copied()),
            "{name} and the sessions disagree"
        );
        let had = before.agents().get(name).map_or(0, |a| a.active.len());
        let room = agent.capacity.unwrap_or(desk.settings().capacity) as usize;
        assert!(
            theirs.len() <= room.max(had),
            "{name} was given more than there is room for"
        );
    }
    assert!(active.is_empty(), "sessions of agents nobody knows: {active:?}");
    let counts = desk.counts();
    assert_eq!(counts.waiting + counts.assigned, desk.sessions().len());
    let waiting = desk.sessions().values().filter(|s| s.is_waiting());
    for session in waiting.clone() {
        let may = |name: &str| match (&session.named, session.only) {
            (Some(named), true) => named == name,
            _ => true,
        };
        let idle = desk
            .agents()
            .iter()
            .find(|(name, a)| may(name) && a.is_able(desk.settings().capacity) && a.serves(&session.group));
        assert!(idle.is_none(), "{session:?} waits while {idle:?} has room");
    }
    assert_eq!(waiting.count(), counts.waiting, "in line and waiting are two things");
}

fn is_readable(output: &Output) {
    let read = codec::decode(
        Some(&output.key.to_key()),
        Some(&codec::encode(&output.record)),
        Partition(0),
        1,
    );
    assert_eq!(
        read.map(|d| d.record).as_ref(),
        Ok(&output.record),
        "an output nobody can read"
    );
}

fn is_itself(desk: &Desk) {
    let snapshot = desk.snapshot();
    let restored = Desk::restore(&snapshot).expect("our own snapshot");
    assert_eq!(restored.snapshot(), snapshot);
    assert_eq!(&restored, desk, "restored, it is another");
}
