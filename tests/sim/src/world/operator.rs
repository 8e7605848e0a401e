//! Whoever runs the platform: sets switches and revokes users now and then. And the vandal who writes into the log what nobody
//! can read.

use bytes::Bytes;
use prost::Message;
use wire::record::{Control, Revoke, Switch, control::About};

use super::env::{Env, Event, S};
use super::log::{ToAppend, Topic};
use crate::checker::history::{Kind, Op};

#[derive(Default)]
pub struct Operator {
    version: u64,
    /// The record before: it lands once more, as a producer's repeats do.
    before: Option<ToAppend>,
}

impl Operator {
    /// One decision every few seconds, as long as there are faults, and one after.
    pub fn decide(&mut self, env: &mut Env) {
        if env.now_us > 40 * S {
            return;
        }
        let next = env.pick(2 * S..12 * S);
        env.after(next, Event::Operator);
        self.version += 1;
        let version = self.version;
        let (key, on, about) = if env.chance(75) {
            let on = env.chance(50);
            let name = ["typing", "receipts"][env.pick(0..2) as usize];
            let switch = Switch {
                lane: super::LANE.into(),
                name: name.into(),
                on,
                ..Switch::default()
            };
            (format!("switch/{}//{name}", super::LANE), on, About::Switch(switch))
        } else {
            let person = &super::PEOPLE[env.pick(0..super::PEOPLE.len() as u64) as usize];
            let (tenant, user) = (person.tenant, person.user);
            let revoke = Revoke {
                tenant: tenant.into(),
                user: user.into(),
                before_ms: env.true_ms() as i64,
            };
            let op = Op::Revoke {
                tenant: tenant.into(),
                user: user.into(),
            };
            env.record("operator", Kind::Ok, op);
            (format!("revoke/{tenant}/{user}"), true, About::Revoke(revoke))
        };
        let control = Control {
            version,
            about: Some(about),
        };
        let record = ToAppend {
            topic: Topic::Control,
            partition: 0,
            key: Some(key.clone().into()),
            value: Some(control.encode_to_vec().into()),
        };
        env.record("operator", Kind::Ok, Op::Control { key, version, on });
        env.append_now(record.clone());
        // Not behind a later one of its key: compaction would keep the repeat.
        if let Some(before) = self.before.replace(record.clone()).filter(|b| b.key != record.key) {
            env.append_now(before);
        }
    }
}

/// Something unreadable, in every topic that has the partition.
pub fn poison(env: &mut Env, partition: u32) -> u64 {
    let key: Bytes = "demo/alice".into();
    for topic in [Topic::Messages, Topic::Desk] {
        let value = match env.pick(0..4) {
            0 => None,
            1 => Some(Bytes::new()),
            2 => Some(Bytes::from_static(b"\xff\xff\xff\xff\xff")),
            _ => Some(Bytes::from_static(b"{\"not\":\"a record\"}")),
        };
        let key = match env.pick(0..3) {
            0 => None,
            1 => Some(Bytes::from_static(b"\x00\xfe")),
            _ => Some(key.clone()),
        };
        env.append_now(ToAppend {
            topic,
            partition,
            key,
            value,
        });
    }
    1
}
