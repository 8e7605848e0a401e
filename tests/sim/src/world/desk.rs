//! A modelled desk process: the real machine per tenant, started from its last snapshot; every effect is repeated until it is
//! in the log, before later ones of its conversation; one tick per owned partition and second.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use desk_core::{Desk, Output, What};
use prost::Message;
use wire::codec::{self, RECORD_VERSION, decode_desk};
use wire::record::{DeskRecord, Tick, desk_record::Input as DeskInput};
use wire::{ConversationKey, Epoch, Offset, Position, Tenant};

use super::bugs::Bug;
use super::desk_view::DeskView;
use super::env::{Env, ProcId, S};
use super::input::{Input, LogRecord, Report};
use super::log::{Group, ToAppend, Topic};
use super::{EPOCH, partition_of};
use crate::checker::history::Kind;

#[derive(Default)]
struct Owned {
    generation: u64,
    next: u64,
    /// Snapshots on their way to the log, and the offset to commit when all of them are there.
    cutting: Option<(u64, BTreeSet<u64>)>,
    desks: BTreeMap<Tenant, (Desk, DeskView)>,
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
        env.tell(id, env.knobs.tick_us, Input::Tick);
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
            Input::Assigned {
                generation, partitions, ..
            } => {
                for (partition, committed) in partitions {
                    let mut from = committed.unwrap_or(0);
                    if env.has(Bug::DeskStartsAtLatest) {
                        from = env.log.end(Topic::Desk, partition);
                    }
                    let mut owned = Owned {
                        generation,
                        next: from,
                        ..Owned::default()
                    };
                    for record in env.log.records(Topic::DeskSnapshots, partition) {
                        restore(&mut owned, record);
                    }
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
                env.tell(self.id, env.knobs.tick_us, Input::Tick);
                self.tick(env);
            }
            _ => {}
        }
    }

    /// Told to leave.
    pub fn stop(&mut self, env: &mut Env) {
        self.let_go();
        env.leave_group(self.id, Group::Desk);
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
            let Some(input) = decode_desk(record.value.as_ref()) else {
                continue;
            };
            let tenant = record.key.as_ref().and_then(|k| std::str::from_utf8(k).ok());
            let Some(tenant) = tenant.and_then(|t| Tenant::new(t).ok()) else {
                continue;
            };
            let (desk, view) = owned
                .desks
                .entry(tenant.clone())
                .or_insert_with(|| (Desk::new(tenant), DeskView::default()));
            let said = desk.apply(position(record.offset), record.at_ms, &input);
            for line in view.lines(desk, (record.offset, record.at_ms), &said) {
                env.record(&self.id.name(), Kind::Ok, line);
            }
            outputs.extend(said);
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
        let logged = matches!(report, Report::Logged { .. });
        let cut = |o: &Owned| o.cutting.as_ref().is_some_and(|(_, waiting)| waiting.contains(&token));
        if let Some((partition, owned)) = self.owned.iter_mut().find(|(_, o)| cut(o)) {
            let Some((next, mut waiting)) = owned.cutting.take() else {
                return;
            };
            waiting.remove(&token);
            if logged && waiting.is_empty() {
                env.commit(self.id, Group::Desk, owned.generation, (*partition, next), 0);
            } else if logged {
                owned.cutting = Some((next, waiting));
            }
            return;
        }
        let Some(key) = self.in_flight.remove(&token) else {
            return;
        };
        if (logged || env.has(Bug::DeskEffectsOnce))
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

    /// Writes down every desk of the partition; committed when all of it is in the log.
    fn snapshot(&mut self, env: &mut Env, partition: u32) {
        let Some(owned) = self.owned.get_mut(&partition) else {
            return;
        };
        // Not while an effect is not confirmed: whoever takes over must decide it again.
        let confirmed = self.pending.is_empty();
        if owned.since_snapshot < env.knobs.snapshot_records || !confirmed || owned.cutting.is_some() {
            return;
        }
        owned.since_snapshot = 0;
        let mut waiting = BTreeSet::new();
        for (tenant, (desk, _)) in &owned.desks {
            let record = ToAppend {
                topic: Topic::DeskSnapshots,
                partition,
                key: Some(Bytes::copy_from_slice(tenant.as_str().as_bytes())),
                value: Some(desk.snapshot()),
            };
            self.next_token += 1;
            waiting.insert(self.next_token);
            env.produce(self.id, record, self.next_token);
        }
        if !waiting.is_empty() {
            owned.cutting = Some((owned.next, waiting));
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

/// Of each tenant the snapshot that knows most. (The real desk sees to it that it is the last: `desk/src/cut.rs`.)
fn restore(owned: &mut Owned, record: &LogRecord) {
    let Some(value) = &record.value else { return };
    let Ok(desk) = Desk::restore(value) else { return };
    let known = owned.desks.get(desk.tenant());
    if known.is_none_or(|(k, _)| k.position() < desk.position()) {
        let view = DeskView::of(&desk);
        owned.desks.insert(desk.tenant().clone(), (desk, view));
    }
}
