//! A modelled desk process: the real machine per tenant, started from its last snapshot; every effect is repeated until it is
//! in the log, before later ones of its conversation; one tick per owned partition and second.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use desk_core::{Desk, Output, What};
use prost::Message;
use wire::codec::{self, RECORD_VERSION, decode_desk};
use wire::record::{DeskRecord, Tick, desk_record::Input as DeskInput};
use wire::{ConversationKey, Epoch, Offset, Position, Tenant};

use super::env::{Env, MS, ProcId, S};
use super::input::{Input, LogRecord, Report};
use super::log::{Group, ToAppend, Topic};
use super::{EPOCH, partition_of};

const TICK_US: u64 = 250 * MS;
/// A snapshot after so many records.
const SNAPSHOT_RECORDS: u64 = 40;

#[derive(Default)]
struct Owned {
    next: u64,
    desks: BTreeMap<Tenant, Desk>,
    since_snapshot: u64,
    tick_at_us: u64,
}

pub struct DeskProc {
    id: ProcId,
    owned: BTreeMap<u32, Owned>,
    /// Effects not known to be in the log, by conversation; the first is on its way.
    pending: BTreeMap<ConversationKey, VecDeque<Bytes>>,
    in_flight: BTreeMap<u64, ConversationKey>,
    next_token: u64,
}

impl DeskProc {
    pub fn start(env: &mut Env, id: ProcId) -> Self {
        env.start(id);
        env.join(id, Group::Desk);
        env.tell(id, TICK_US, Input::Tick);
        DeskProc {
            id,
            owned: BTreeMap::new(),
            pending: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            next_token: 0,
        }
    }

    pub fn handle(&mut self, env: &mut Env, input: Input) {
        match input {
            Input::Assigned { partitions, .. } => {
                for (partition, _) in partitions {
                    let mut owned = Owned::default();
                    for record in env.log.records(Topic::DeskSnapshots, partition) {
                        restore(&mut owned, record);
                    }
                    let from = owned.next;
                    self.owned.insert(partition, owned);
                    env.start_partition(self.id, Group::Desk, partition, from);
                }
            }
            Input::Revoked { group, round } => {
                self.let_go();
                env.revoke_done(self.id, group, round);
            }
            Input::Lost { group } => {
                self.let_go();
                env.join(self.id, group);
            }
            Input::Records { partition, records, .. } => self.records(env, partition, records),
            Input::Reported { token, report } => self.reported(env, token, report),
            Input::Tick => {
                env.tell(self.id, TICK_US, Input::Tick);
                self.tick(env);
            }
            _ => {}
        }
    }

    fn let_go(&mut self) {
        self.owned.clear();
        self.pending.clear();
        self.in_flight.clear();
    }

    fn records(&mut self, env: &mut Env, partition: u32, records: Vec<LogRecord>) {
        let Some(owned) = self.owned.get_mut(&partition) else {
            return;
        };
        let mut outputs = Vec::new();
        for record in records {
            if record.offset < owned.next {
                continue;
            }
            owned.next = record.offset + 1;
            owned.since_snapshot += 1;
            let Some(tenant) = record
                .key
                .as_ref()
                .and_then(|k| std::str::from_utf8(k).ok())
                .and_then(|t| Tenant::new(t).ok())
            else {
                // A tick is every tenant's.
                if let Some(tick) = decode_desk(record.value.as_ref()) {
                    for desk in owned.desks.values_mut() {
                        outputs.extend(desk.apply(position(record.offset), record.at_ms, &tick));
                    }
                }
                continue;
            };
            if let Some(input) = decode_desk(record.value.as_ref()) {
                let desk = owned.desks.entry(tenant.clone()).or_insert_with(|| Desk::new(tenant));
                outputs.extend(desk.apply(position(record.offset), record.at_ms, &input));
            }
        }
        for output in outputs {
            self.put_out(env, output);
        }
        self.snapshot(env, partition);
    }

    fn put_out(&mut self, env: &mut Env, output: Output) {
        let value = codec::encode(&output.record);
        if output.what == What::Notice {
            self.produce(env, &output.key, value, 0);
            return;
        }
        let queue = self.pending.entry(output.key.clone()).or_default();
        queue.push_back(value);
        if queue.len() == 1 {
            self.send_first(env, output.key);
        }
    }

    fn send_first(&mut self, env: &mut Env, key: ConversationKey) {
        let Some(value) = self.pending.get(&key).and_then(VecDeque::front).cloned() else {
            return;
        };
        self.next_token += 1;
        let token = self.next_token;
        self.in_flight.insert(token, key.clone());
        self.produce(env, &key, value, token);
    }

    fn produce(&self, env: &mut Env, key: &ConversationKey, value: Bytes, token: u64) {
        let record = ToAppend {
            topic: Topic::Messages,
            partition: partition_of(key, env.log.partitions),
            key: Some(key.to_key()),
            value: Some(value),
        };
        env.produce(self.id, record, token);
    }

    fn reported(&mut self, env: &mut Env, token: u64, report: Report) {
        let Some(key) = self.in_flight.remove(&token) else {
            return;
        };
        if matches!(report, Report::Logged { .. })
            && let Some(queue) = self.pending.get_mut(&key)
        {
            queue.pop_front();
            if queue.is_empty() {
                self.pending.remove(&key);
            }
        }
        if report == Report::Unavailable {
            // Refused at once: the next tick tries again.
            return;
        }
        self.send_first(env, key);
    }

    fn snapshot(&mut self, env: &mut Env, partition: u32) {
        let Some(owned) = self.owned.get_mut(&partition) else {
            return;
        };
        if owned.since_snapshot < SNAPSHOT_RECORDS || !self.pending.is_empty() {
            return;
        }
        owned.since_snapshot = 0;
        let taken: Vec<(Tenant, Bytes)> = owned.desks.iter().map(|(t, d)| (t.clone(), d.snapshot())).collect();
        let next = owned.next;
        for (tenant, snapshot) in taken {
            let mut value = next.to_be_bytes().to_vec();
            value.extend_from_slice(&snapshot);
            let record = ToAppend {
                topic: Topic::DeskSnapshots,
                partition,
                key: Some(Bytes::copy_from_slice(tenant.as_str().as_bytes())),
                value: Some(value.into()),
            };
            env.produce(self.id, record, 0);
        }
    }

    fn tick(&mut self, env: &mut Env) {
        let flying: Vec<ConversationKey> = self.in_flight.values().cloned().collect();
        let waiting: Vec<ConversationKey> = self.pending.keys().filter(|k| !flying.contains(k)).cloned().collect();
        for key in waiting {
            self.send_first(env, key);
        }
        let now_us = env.now_us;
        let mut due = Vec::new();
        for (partition, owned) in &mut self.owned {
            if now_us >= owned.tick_at_us {
                owned.tick_at_us = now_us + S;
                for tenant in owned.desks.keys() {
                    due.push((*partition, tenant.clone()));
                }
            }
        }
        for (partition, tenant) in due {
            let record = DeskRecord {
                version: RECORD_VERSION,
                input: Some(DeskInput::Tick(Tick {})),
            };
            let record = ToAppend {
                topic: Topic::Desk,
                partition,
                key: Some(Bytes::copy_from_slice(tenant.as_str().as_bytes())),
                value: Some(record.encode_to_vec().into()),
            };
            env.produce(self.id, record, 0);
        }
    }
}

fn position(offset: u64) -> Position {
    Position::new(Epoch(EPOCH), Offset(offset))
}

/// Tenants of one partition are snapshotted together; each carries the offset to go on at.
fn restore(owned: &mut Owned, record: &LogRecord) {
    let (Some(key), Some(value)) = (&record.key, &record.value) else {
        return;
    };
    let Some((next, snapshot)) = value.split_first_chunk::<8>() else {
        return;
    };
    let tenant = std::str::from_utf8(key).ok().and_then(|t| Tenant::new(t).ok());
    if let (Some(tenant), Ok(desk)) = (tenant, Desk::restore(snapshot)) {
        owned.desks.insert(tenant, desk);
        owned.next = u64::from_be_bytes(*next);
    }
}
