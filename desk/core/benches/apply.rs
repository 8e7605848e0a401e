//! What one record costs a desk, small and large: the same record on a desk where nobody waits, and on one where thousands wait whom
//! nobody there may be given, beside thousands of agents who are gone. The two should cost about the same.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use desk_core::Desk;
use wire::record::desk_record::Input;
use wire::record::{Act, Activity, DeskRecord, Presence, Role, Sender};
use wire::{Epoch, Offset, Position, Tenant};

/// (agents who are there and able, agents who are gone, customers who wait for one of those gone)
const SIZES: [(u64, u64, u64); 3] = [(10, 0, 0), (500, 500, 500), (500, 10_000, 10_000)];

struct At {
    desk: Desk,
    offset: u64,
}

impl At {
    fn apply(&mut self, input: Input) -> usize {
        self.offset += 1;
        let record = DeskRecord {
            version: 1,
            input: Some(input),
        };
        let at_ms = self.offset as i64 / 1_000;
        let position = Position::new(Epoch(1), Offset(self.offset));
        self.desk.apply(position, at_ms, &record).len()
    }
}

fn act(role: Role, user: &str, customer: &str, deed: String) -> Input {
    Input::Act(Act {
        from: Some(Sender {
            role: role.into(),
            user: user.into(),
        }),
        customer: customer.into(),
        deed: deed.into(),
        seen_seq: u64::MAX,
        ..Act::default()
    })
}

fn presence(agent: String, connection: u64, connected: bool) -> Input {
    Input::Presence(Presence {
        node: 1,
        connection,
        agent,
        connected,
        ..Presence::default()
    })
}

fn desk(able: u64, gone: u64, waiting: u64) -> At {
    let mut at = At {
        desk: Desk::new(Tenant::new("demo").expect("a name")),
        offset: 0,
    };
    for n in 0..gone {
        at.apply(presence(format!("gone-{n}"), n, true));
        at.apply(presence(format!("gone-{n}"), n, false));
    }
    for n in 0..able {
        at.apply(presence(format!("here-{n}"), gone + n, true));
        let status = r#"{"status":{"state":"available","capacity":100}}"#.to_owned();
        at.apply(act(Role::Agent, &format!("here-{n}"), "", status));
    }
    for n in 0..waiting {
        let customer = format!("waits-{n}");
        let request = format!(r#"{{"request":{{"agent":"gone-{n}","only":true}}}}"#);
        at.apply(act(Role::Customer, &customer, &customer, request));
    }
    assert_eq!(at.desk.counts().waiting as u64, waiting);
    at
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("desk_apply");
    for (able, gone, waiting) in SIZES {
        let mut at = desk(able, gone, waiting);
        let size = format!("{able} able, {gone} gone, {waiting} wait");
        group.bench_function(BenchmarkId::new("activity", &size), |b| {
            b.iter(|| {
                at.apply(Input::Activity(Activity {
                    customer: "waits-1".into(),
                    last_seq: 7,
                    ..Activity::default()
                }))
            });
        });
        group.bench_function(BenchmarkId::new("request and close", &size), |b| {
            b.iter(|| {
                let given = at.apply(act(Role::Customer, "new", "new", r#"{"request":{}}"#.into()));
                given + at.apply(act(Role::Customer, "new", "new", r#"{"close":{}}"#.into()))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, apply);
criterion_main!(benches);
