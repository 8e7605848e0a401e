//! One partition at work: its tenants' machines, its outbox, and the cut that may be on its way. Does no IO itself.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;
use desk_core::{Counts, Desk, What};
use ordered_log::LogRecord;
use process::Recorder;
use wire::codec::{decode_desk, encode};
use wire::record::desk_record::Input;
use wire::topics::partition_of;
use wire::{Epoch, Offset, Partition, Position, Tenant};

use crate::lines::Lines;
use crate::meters::Meters;
use crate::outbox::{Outbox, Parcel};
use crate::takeover::{Taken, tenant_of};
use crate::{CUT_REST, CUT_REST_MAX, NOTICE_AGE_MS_MAX, SNAPSHOT_RECORDS_MAX, TICK_PATIENCE_MS};

pub(crate) struct Answering {
    epoch: Epoch,
    partition: Partition,
    partitions: u32,
    desks: HashMap<Tenant, Desk>,
    /// Changed since their last snapshot.
    changed: BTreeSet<Tenant>,
    /// When a tick was written that was not read back yet.
    ticking: HashMap<Tenant, Instant>,
    pub outbox: Outbox,
    /// The first offset not applied yet.
    next: Offset,
    known_until: Offset,
    /// The first offset not covered by the last cut.
    cut_through: Offset,
    /// The last offset committed, or started from.
    committed: Offset,
    /// The last cut came to nothing.
    cut_again: bool,
    last_cut: Instant,
    /// What the last cut took: a large desk is saved less often.
    cut_took: Duration,
    cut_began: Instant,
    cut: CutState,
    /// Keys of each tenant's snapshot as it stands.
    keys: HashMap<Tenant, Vec<Bytes>>,
    /// Keys of snapshots that others have taken the place of.
    obsolete: Vec<Bytes>,
    pub paused: bool,
    lines: Lines,
}

/// Desks as of `through`, and what must be in the log before they are saved.
pub(crate) struct Cut {
    /// Committed before.
    pub from: Offset,
    pub through: Offset,
    pub desks: Vec<Desk>,
    /// Nobody reads these any more.
    pub obsolete: Vec<Bytes>,
}

enum CutState {
    None,
    /// Waits until the outbox is done below the number.
    Waiting(Cut, u64),
    Running,
}

impl Answering {
    pub fn new(epoch: Epoch, partition: Partition, partitions: u32, taken: Taken, recorder: Recorder) -> Self {
        Self {
            epoch,
            partition,
            partitions,
            changed: BTreeSet::new(),
            desks: taken.desks,
            ticking: HashMap::new(),
            outbox: Outbox::default(),
            next: taken.from,
            known_until: taken.known_until,
            cut_through: taken.from,
            committed: taken.from,
            cut_again: false,
            last_cut: Instant::now(),
            cut_took: Duration::ZERO,
            cut_began: Instant::now(),
            cut: CutState::None,
            keys: taken.keys,
            obsolete: taken.obsolete,
            paused: false,
            lines: Lines::new(recorder),
        }
    }

    /// The first offset not applied yet.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Applies a batch in order. Returns what is to be produced now.
    pub fn apply(&mut self, records: &[LogRecord], now_ms: i64, meters: &Meters) -> Vec<Parcel> {
        let mut parcels = Vec::new();
        for record in records {
            if record.offset < self.next {
                continue;
            }
            self.next = record.offset.next();
            meters.consumed.increment(1);
            self.apply_one(record, now_ms, meters, &mut parcels);
        }
        parcels
    }

    fn apply_one(&mut self, record: &LogRecord, now_ms: i64, meters: &Meters, parcels: &mut Vec<Parcel>) {
        let key = record.key.as_deref().unwrap_or_default();
        let ours = partition_of(key, self.partitions) == self.partition;
        let (Some(tenant), Some(value), true) = (tenant_of(key), decode_desk(record.value.as_ref()), ours) else {
            meters.skipped.increment(1);
            tracing::warn!(
                partition = self.partition.0,
                offset = record.offset.0,
                "a desk record cannot be read; left out"
            );
            return;
        };
        if matches!(value.input, Some(Input::Tick(_))) {
            self.ticking.remove(&tenant);
        }
        let desk = self
            .desks
            .entry(tenant.clone())
            .or_insert_with(|| Desk::new(tenant.clone()));
        let position = Position::new(self.epoch, record.offset);
        let is_new = desk.position().is_none_or(|last| last < position);
        let outputs = desk.apply(position, record.at_ms, &value);
        // What a snapshot had in it already comes again after a take-over, and changes nothing.
        if is_new {
            self.lines.applied(desk, record, &outputs);
        }
        self.changed.insert(tenant);
        let known = record.offset < self.known_until;
        for output in outputs {
            match output.what {
                What::Notice if known && now_ms - record.at_ms > NOTICE_AGE_MS_MAX => continue,
                What::Effect { cause, waited_ms } if !known => {
                    meters.decided(cause, waited_ms);
                }
                _ => {}
            }
            parcels.extend(self.outbox.put(output.key, encode(&output.record)));
        }
    }

    /// Tenants to whom time matters and whose last tick was read back.
    pub fn due_ticks(&mut self) -> Vec<Tenant> {
        let now = Instant::now();
        let patience = Duration::from_millis(TICK_PATIENCE_MS);
        let ticking = &mut self.ticking;
        let due = |(tenant, desk): (&Tenant, &Desk)| {
            let waits = ticking.get(tenant).is_some_and(|at| now - *at < patience);
            (desk.needs_ticks() && !waits).then(|| tenant.clone())
        };
        let due: Vec<Tenant> = self.desks.iter().filter_map(due).collect();
        self.ticking.extend(due.iter().map(|t| (t.clone(), now)));
        due
    }

    /// Begins a cut if one is due, and hands it out when everything before it is in the log.
    pub fn cut(&mut self, interval: Duration) -> Option<Cut> {
        let news = self.next.0 - self.cut_through.0;
        let since = self.last_cut.elapsed();
        let rested = interval.is_zero() || since >= (self.cut_took * CUT_REST).min(CUT_REST_MAX);
        let news_enough = rested && (news >= SNAPSHOT_RECORDS_MAX || since >= interval);
        let due = (news > 0 || self.cut_again) && news_enough;
        if matches!(self.cut, CutState::None) && due {
            // Copies: they are written piece by piece while the machines go on.
            let changed = std::mem::take(&mut self.changed);
            let desks = changed.iter().filter_map(|t| self.desks.get(t).cloned()).collect();
            self.last_cut = Instant::now();
            self.cut_through = self.next;
            self.cut_again = false;
            let cut = Cut {
                from: self.committed,
                through: self.next,
                desks,
                obsolete: std::mem::take(&mut self.obsolete),
            };
            self.cut = CutState::Waiting(cut, self.outbox.next());
        }
        let CutState::Waiting(_, below) = &self.cut else {
            return None;
        };
        if !self.outbox.is_done_below(*below) {
            return None;
        }
        self.cut_began = Instant::now();
        match std::mem::replace(&mut self.cut, CutState::Running) {
            CutState::Waiting(cut, _) => Some(cut),
            _ => None,
        }
    }

    /// The cut was written and committed; under which keys.
    pub fn cut_done(&mut self, written: Vec<(Tenant, Vec<Bytes>)>) {
        self.cut = CutState::None;
        self.cut_took = self.cut_began.elapsed();
        self.committed = self.cut_through;
        for (tenant, keys) in written {
            let before = self.keys.insert(tenant.clone(), keys).unwrap_or_default();
            let stands = &self.keys[&tenant];
            self.obsolete
                .extend(before.into_iter().filter(|key| !stands.contains(key)));
        }
    }

    /// The cut came to nothing. What it wrote before is overwritten, or taken away by the next owner.
    pub fn cut_failed(&mut self) {
        self.cut = CutState::None;
        self.changed = self.desks.keys().cloned().collect();
        self.cut_again = true;
    }

    /// Everything applied is saved, or there is nothing to save.
    pub fn is_saved(&self) -> bool {
        matches!(self.cut, CutState::None) && self.committed == self.next
    }

    pub fn counts(&self) -> Counts {
        let add = |a: Counts, b: Counts| Counts {
            waiting: a.waiting + b.waiting,
            assigned: a.assigned + b.assigned,
            available: a.available + b.available,
            busy: a.busy + b.busy,
            away: a.away + b.away,
            gone: a.gone + b.gone,
        };
        self.desks.values().map(Desk::counts).fold(Counts::default(), add)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prost::Message;
    use wire::record::{Act, DeskRecord, Presence, Role, Sender};

    use super::*;

    const KEY: &[u8] = b"demo";

    fn record(offset: u64, input: Input) -> LogRecord {
        let value = DeskRecord {
            version: 1,
            input: Some(input),
        };
        LogRecord {
            offset: Offset(offset),
            at_ms: 1_000,
            key: Some(Bytes::from_static(KEY)),
            value: Some(value.encode_to_vec().into()),
            headers: Vec::new(),
        }
    }

    fn act(role: Role, user: &str, id: &str, customer: &str, deed: &str) -> Input {
        Input::Act(Act {
            from: Some(Sender {
                role: role.into(),
                user: user.into(),
            }),
            id: id.into(),
            customer: customer.into(),
            deed: deed.to_owned().into(),
            seen_seq: u64::MAX,
            ..Act::default()
        })
    }

    /// An agent comes, is given alice, closes it and is given carl.
    fn records() -> Vec<LogRecord> {
        let presence = Presence {
            node: 1,
            connection: 7,
            agent: "bo".into(),
            connected: true,
            ..Presence::default()
        };
        let status = r#"{"status":{"state":"available","capacity":1}}"#;
        let inputs = [
            Input::Presence(presence),
            act(Role::Agent, "bo", "s", "", status),
            act(Role::Customer, "alice", "r1", "alice", r#"{"request":{}}"#),
            act(Role::Agent, "bo", "c1", "alice", r#"{"close":{}}"#),
            act(Role::Customer, "carl", "r2", "carl", r#"{"request":{}}"#),
        ];
        inputs
            .into_iter()
            .zip(0..)
            .map(|(input, at)| record(at, input))
            .collect()
    }

    /// The offsets of the lines that a partition writes which begins with these desks and reads everything.
    fn lines_of(desks: HashMap<Tenant, Desk>) -> BTreeSet<u64> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("history.jsonl");
        let recorder = Recorder::append("desk", &file, 1 << 20).unwrap();
        let taken = Taken {
            desks,
            from: Offset(0),
            known_until: Offset(0),
            keys: HashMap::new(),
            obsolete: Vec::new(),
        };
        let mut answering = Answering::new(Epoch(1), Partition(0), 1, taken, recorder);
        answering.apply(&records(), 1_000, &Meters::new());
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let offset = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["offset"].as_u64();
        text.lines().filter_map(offset).collect()
    }

    #[test]
    fn what_the_snapshot_had_already_writes_no_line_of_history_again() {
        let tenant = Tenant::new("demo").unwrap();
        let mut saved = Desk::new(tenant.clone());
        for record in &records()[..4] {
            let value = decode_desk(record.value.as_ref()).unwrap();
            saved.apply(Position::new(Epoch(1), record.offset), record.at_ms, &value);
        }
        assert_eq!(lines_of(HashMap::new()), BTreeSet::from([0, 1, 2, 3, 4]));
        // The commit was behind the snapshot: all is read again, and only the last is news.
        assert_eq!(lines_of(HashMap::from([(tenant, saved)])), BTreeSet::from([4]));
    }
}
