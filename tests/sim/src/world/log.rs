//! The modelled log: partitions, groups with sessions and generations, appends that land late, twice, or after their timeout.
//! What a process asks is an event of its own, so that it may die, sleep or be cut off in between.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use wire::limits;

use super::env::{Env, Event, Life, MS, ProcId, S};
use super::faults::Fault;
use super::input::{Input, LogRecord, Report};
use super::{desk_view, reference};
use crate::checker::history::{Generation, Kind, Op};

/// A slow log has taken everything this long after it is healed: less than a healed system may need.
const SLOW_BEHIND_US: u64 = 8 * S;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    Messages,
    Desk,
    DeskSnapshots,
    Owners,
    Control,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    Delivery,
    Persistence,
    Desk,
}

impl Group {
    pub fn topic(self) -> Topic {
        match self {
            Group::Delivery | Group::Persistence => Topic::Messages,
            Group::Desk => Topic::Desk,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Group::Delivery => "delivery",
            Group::Persistence => crate::checker::PERSISTENCE,
            Group::Desk => "desk",
        }
    }
}

/// A process in one of its lives.
pub type Member = (ProcId, u32);

#[derive(Clone, Debug)]
pub struct ToAppend {
    pub topic: Topic,
    pub partition: u32,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
}

#[derive(Debug)]
pub enum LogOp {
    Append {
        /// `None`: nobody waits for it.
        from: Option<Member>,
        record: ToAppend,
        token: u64,
        /// From when on the report may arrive; `None` if the producer has given up.
        report_us: Option<u64>,
    },
    Fetch {
        group: Group,
        partition: u32,
        member: Member,
    },
    /// The coordinator looks for members it has not heard of.
    Check,
    Commit {
        group: Group,
        member: Member,
        generation: u64,
        partition: u32,
        offset: u64,
        token: u64,
    },
    RevokeDone {
        group: Group,
        member: Member,
        round: u64,
    },
}

#[derive(Default)]
struct Part {
    records: Vec<LogRecord>,
}

#[derive(Default)]
struct GroupState {
    generation: u64,
    /// Last heard of.
    members: BTreeMap<Member, u64>,
    owners: BTreeMap<u32, Member>,
    /// Which rebalance this is: an answer to an earlier one counts for nothing.
    round: u64,
    /// A rebalance waits for these.
    awaiting: Option<BTreeSet<Member>>,
    committed: BTreeMap<u32, u64>,
    positions: BTreeMap<u32, Position>,
}

struct Position {
    next: u64,
    fetching: bool,
    paused: bool,
}

pub struct Log {
    pub partitions: u32,
    /// The run is over: nothing is taken any more.
    pub closed: bool,
    parts: BTreeMap<(Topic, u32), Part>,
    groups: BTreeMap<Group, GroupState>,
    tails: BTreeSet<Member>,
    control_tails: BTreeSet<Member>,
    /// Appends and reports of one producer keep their order.
    landing: BTreeMap<Member, u64>,
    reporting: BTreeMap<Member, u64>,
    /// So does what a coordinator tells a member.
    telling: BTreeMap<Member, u64>,
}

impl Log {
    pub fn new(partitions: u32) -> Self {
        Log {
            partitions,
            closed: false,
            parts: BTreeMap::new(),
            groups: BTreeMap::new(),
            tails: BTreeSet::new(),
            control_tails: BTreeSet::new(),
            landing: BTreeMap::new(),
            reporting: BTreeMap::new(),
            telling: BTreeMap::new(),
        }
    }

    pub fn records(&self, topic: Topic, partition: u32) -> &[LogRecord] {
        self.parts.get(&(topic, partition)).map_or(&[], |p| &p.records)
    }

    pub fn end(&self, topic: Topic, partition: u32) -> u64 {
        self.records(topic, partition).len() as u64
    }

    pub fn committed(&self, group: Group, partition: u32) -> Option<u64> {
        self.groups.get(&group)?.committed.get(&partition).copied()
    }
}

impl Env {
    /// How long a question takes to the log, and whether a fault made it longer.
    pub fn log_delay(&mut self, of: ProcId) -> u64 {
        self.log_delay_if(|f| *f == Fault::CutLog(of))
    }

    /// How long an answer takes from it.
    pub fn answer_delay(&mut self, to: ProcId) -> u64 {
        self.log_delay_if(|f| *f == Fault::CutLog(to) || *f == Fault::CutLogAnswers(to))
    }

    fn log_delay_if(&mut self, is_cut: impl Fn(&Fault) -> bool) -> u64 {
        let base = self.pick(200..4 * MS);
        match self.plan.until(self.now_us, &is_cut) {
            Some(until) => {
                self.hit(is_cut);
                until - self.now_us + base
            }
            None => base,
        }
    }

    /// Hands a record over; `Input::Reported` comes exactly once.
    pub fn produce(&mut self, from: ProcId, record: ToAppend, token: u64) {
        let Some(life) = self.life(from) else { return };
        let member = (from, life);
        let mut takes = self.log_delay(from);
        let mut twice = false;
        if let Some(until) = self.plan.until(self.now_us, |f| *f == Fault::LogSlow) {
            self.hit(|f| *f == Fault::LogSlow);
            if self.chance(10) {
                let report = Report::Unavailable;
                return self.tell(from, 0, Input::Reported { token, report });
            }
            takes += match self.pick(0..10) {
                0..=5 => self.pick(0..500 * MS),
                6..=8 => self.pick(0..4 * S),
                _ => self.pick(0..14 * S),
            };
            // What is behind it waits too: a log that is healed does not stay slow for longer than healed systems may take.
            takes = takes.min(until - self.now_us + SLOW_BEHIND_US);
            twice = self.chance(20);
        }
        let away = |f: &Fault| *f == Fault::PartitionAway(record.partition);
        if let Some(until) = self.plan.until(self.now_us, away) {
            self.hit(away);
            takes += until - self.now_us;
            // The leader that died had taken it and had not said so.
            twice |= self.chance(20);
        }
        let landing = self.log.landing.entry(member).or_default();
        let lands = (self.now_us + takes).max(*landing);
        *landing = lands;
        let deaf = |f: &Fault| *f == Fault::CutLogAnswers(from);
        let deaf_until = self.plan.until(self.now_us, deaf);
        if deaf_until.is_some() {
            self.hit(deaf);
            // Not answered, it is sent again.
            twice |= self.chance(30);
        }
        let timeout = self.now_us + limits::PRODUCE_TIMEOUT_MS * MS;
        let answered = lands.max(deaf_until.unwrap_or(0)) + 5 * MS;
        let report_us = (answered < timeout).then_some(answered - 5 * MS);
        if report_us.is_none() {
            let report = Report::Unknown;
            let input = Input::Reported { token, report };
            self.at(timeout, Event::Proc { to: from, life, input });
            // Given up by the producer: it may have reached the broker, or not.
            if lands + 5 * MS >= timeout && self.chance(40) {
                return;
            }
        }
        let append = |report_us| {
            Event::Log(LogOp::Append {
                from: Some(member),
                record: record.clone(),
                token,
                report_us,
            })
        };
        if twice {
            let late = self.pick(1..3 * S);
            let again = append(None);
            self.at(lands + late, again);
        }
        let append = append(report_us);
        self.at(lands, append);
    }

    /// Appends for somebody outside the model: an operator, or a vandal.
    pub fn append_now(&mut self, record: ToAppend) {
        self.append(None, record, 0, None);
    }

    pub fn log_op(&mut self, op: LogOp) {
        match op {
            LogOp::Append {
                from,
                record,
                token,
                report_us,
            } => self.append(from, record, token, report_us),
            LogOp::Fetch {
                group,
                partition,
                member,
            } => self.fetch(group, partition, member),
            LogOp::Check => {
                self.check_members();
                self.after(500 * MS, Event::Log(LogOp::Check));
            }
            LogOp::Commit {
                group,
                member,
                generation,
                partition,
                offset,
                token,
            } => self.take_commit(group, member, generation, (partition, offset), token),
            LogOp::RevokeDone { group, member, round } => {
                let state = self.log.groups.entry(group).or_default();
                if let Some(awaiting) = state.awaiting.as_mut().filter(|_| state.round == round) {
                    awaiting.remove(&member);
                }
                self.maybe_assign(group);
            }
        }
    }

    fn append(&mut self, from: Option<Member>, record: ToAppend, token: u64, report_us: Option<u64>) {
        if self.log.closed {
            return;
        }
        let mut at_ms = self.true_ms() as i64;
        let now_us = self.now_us;
        for planned in &mut self.plan.0 {
            if let Fault::LogClock(by_ms) = planned.fault
                && planned.from_us <= now_us
                && now_us < planned.to_us
            {
                planned.hits += 1;
                at_ms += by_ms;
            }
        }
        let record_topic = record.topic;
        let place = (record.topic, record.partition);
        let part = self.log.parts.entry(place).or_default();
        let offset = part.records.len() as u64;
        let logged = LogRecord {
            offset,
            at_ms,
            key: record.key,
            value: record.value,
        };
        part.records.push(logged.clone());
        match record.topic {
            Topic::Messages => reference::logged(self, record.partition, &logged),
            Topic::Desk => desk_view::logged(self, &logged),
            _ => {}
        }
        if let (Some(report_us), Some(from)) = (report_us, from) {
            let base = self.pick(100..2 * MS);
            let reporting = self.log.reporting.entry(from).or_default();
            let at = (self.now_us.max(report_us) + base).max(*reporting);
            *reporting = at;
            let input = Input::Reported {
                token,
                report: Report::Logged { offset },
            };
            self.at(
                at,
                Event::Proc {
                    to: from.0,
                    life: from.1,
                    input,
                },
            );
        }
        let tails = match record.topic {
            Topic::Owners => self.log.tails.clone(),
            Topic::Control => self.log.control_tails.clone(),
            _ => BTreeSet::new(),
        };
        for member in tails {
            let record = logged.clone();
            self.tell_member(member, 0, tailed(record_topic, record));
        }
        for group in [Group::Delivery, Group::Persistence, Group::Desk] {
            if group.topic() == record.topic {
                self.wake(group, record.partition);
            }
        }
    }

    // ---- groups ----

    pub fn join(&mut self, proc: ProcId, group: Group) {
        let Some(life) = self.life(proc) else { return };
        let now_us = self.now_us;
        let state = self.log.groups.entry(group).or_default();
        state.members.insert((proc, life), now_us);
        self.rebalance(group);
    }

    /// Leaves at once, told: others have its partitions.
    pub fn leave_group(&mut self, proc: ProcId, group: Group) {
        let Some(life) = self.life(proc) else { return };
        let state = self.log.groups.entry(group).or_default();
        state.members.remove(&(proc, life));
        if let Some(awaiting) = &mut state.awaiting {
            awaiting.remove(&(proc, life));
        }
        self.rebalance(group);
    }

    /// Reads `owners` from its start, for ever.
    pub fn tail_owners(&mut self, proc: ProcId) {
        self.tail(proc, Topic::Owners);
    }

    pub fn tail_control(&mut self, proc: ProcId) {
        self.tail(proc, Topic::Control);
    }

    /// Of each key the last record, then what comes.
    fn tail(&mut self, proc: ProcId, topic: Topic) {
        let Some(life) = self.life(proc) else { return };
        let mut records: BTreeMap<Option<Bytes>, LogRecord> = BTreeMap::new();
        for record in self.log.records(topic, 0) {
            records.insert(record.key.clone(), record.clone());
        }
        let mut compacted: Vec<LogRecord> = records.into_values().collect();
        compacted.sort_by_key(|r| r.offset);
        for record in compacted {
            self.tell_member((proc, life), 0, tailed(topic, record));
        }
        let tails = if topic == Topic::Control {
            &mut self.log.control_tails
        } else {
            &mut self.log.tails
        };
        tails.insert((proc, life));
    }

    pub fn rebalance(&mut self, group: Group) {
        let state = self.log.groups.entry(group).or_default();
        let members: BTreeSet<Member> = state.members.keys().copied().collect();
        // A second reason during a rebalance begins it again.
        state.round += 1;
        let round = state.round;
        state.awaiting = Some(members.clone());
        for member in members {
            self.tell_member(member, 0, Input::Revoked { group, round });
        }
        self.maybe_assign(group);
    }

    /// A member has let go of everything.
    pub fn revoke_done(&mut self, proc: ProcId, group: Group, round: u64) {
        let Some(life) = self.life(proc) else { return };
        let delay = self.log_delay(proc);
        let member = (proc, life);
        self.after(delay, Event::Log(LogOp::RevokeDone { group, member, round }));
    }

    fn maybe_assign(&mut self, group: Group) {
        let turn = self.pick(0..8) as usize;
        let partitions = self.log.partitions;
        let state = self.log.groups.entry(group).or_default();
        if state.awaiting.as_ref().is_none_or(|a| !a.is_empty()) {
            return;
        }
        state.awaiting = None;
        state.generation += 1;
        state.owners.clear();
        state.positions.clear();
        let generation = state.generation;
        let members: Vec<Member> = state.members.keys().copied().collect();
        if members.is_empty() {
            return;
        }
        let mut gets: BTreeMap<Member, Vec<(u32, Option<u64>)>> = members.iter().map(|m| (*m, Vec::new())).collect();
        for partition in 0..partitions {
            let member = members[(partition as usize * members.len() / partitions as usize + turn) % members.len()];
            state.owners.insert(partition, member);
            let committed = state.committed.get(&partition).copied();
            gets.entry(member).or_default().push((partition, committed));
        }
        for (member, partitions) in gets {
            let input = Input::Assigned {
                group,
                generation,
                partitions,
            };
            self.tell_member(member, 0, input);
        }
    }

    fn tell_member(&mut self, member: Member, late_us: u64, input: Input) {
        let (to, life) = member;
        let at = self.now_us + self.answer_delay(to) + late_us;
        let telling = self.log.telling.entry(member).or_default();
        let at = at.max(*telling);
        *telling = at;
        self.at(at, Event::Proc { to, life, input });
    }

    fn check_members(&mut self) {
        let (now_us, session_us) = (self.now_us, self.knobs.session_us);
        for group in [Group::Delivery, Group::Persistence, Group::Desk] {
            let members: Vec<Member> = match self.log.groups.get(&group) {
                Some(state) => state.members.keys().copied().collect(),
                None => continue,
            };
            let mut expelled = false;
            for member in members {
                let (proc, life) = member;
                let alive = self
                    .procs
                    .get(&proc)
                    .is_some_and(|p| p.life == Life::Running && p.life_number == life);
                let cut = self.plan.until(now_us, |f| *f == Fault::CutLog(proc)).is_some();
                let state = self.log.groups.entry(group).or_default();
                let heard = state.members.entry(member).or_insert(now_us);
                if alive && !cut {
                    *heard = now_us;
                } else if now_us - *heard > session_us {
                    state.members.remove(&member);
                    if let Some(awaiting) = &mut state.awaiting {
                        awaiting.remove(&member);
                    }
                    expelled = true;
                    self.trace.event(now_us, format_args!("{group:?} loses {member:?}"));
                    // It learns of it when it is back, a little late: until then it acts on what it believes.
                    let late = self.pick(0..400 * MS);
                    self.tell_member(member, late, Input::Lost { group });
                }
            }
            if expelled {
                self.rebalance(group);
            }
        }
    }

    // ---- reading ----

    pub fn start_partition(&mut self, proc: ProcId, group: Group, partition: u32, from: u64) {
        let Some(life) = self.life(proc) else { return };
        let state = self.log.groups.entry(group).or_default();
        if state.owners.get(&partition) != Some(&(proc, life)) {
            return;
        }
        let position = Position {
            next: from,
            fetching: false,
            paused: false,
        };
        state.positions.insert(partition, position);
        self.wake(group, partition);
    }

    pub fn pause_partition(&mut self, group: Group, partition: u32, paused: bool) {
        let state = self.log.groups.entry(group).or_default();
        if let Some(position) = state.positions.get_mut(&partition) {
            position.paused = paused;
        }
        self.wake(group, partition);
    }

    fn wake(&mut self, group: Group, partition: u32) {
        let end = self.log.end(group.topic(), partition);
        let Some(state) = self.log.groups.get_mut(&group) else {
            return;
        };
        let Some(&member) = state.owners.get(&partition) else {
            return;
        };
        let Some(position) = state.positions.get_mut(&partition) else {
            return;
        };
        if position.fetching || position.paused || position.next >= end {
            return;
        }
        position.fetching = true;
        let mut delay = self.log_delay(member.0);
        let away = |f: &Fault| *f == Fault::PartitionAway(partition);
        if let Some(until) = self.plan.until(self.now_us, away) {
            self.hit(away);
            delay = delay.max(until - self.now_us);
        }
        let fetch = LogOp::Fetch {
            group,
            partition,
            member,
        };
        self.after(delay, Event::Log(fetch));
    }

    fn fetch(&mut self, group: Group, partition: u32, member: Member) {
        let most = self.pick(1..self.knobs.fetch_records + 1);
        let Some(state) = self.log.groups.get_mut(&group) else {
            return;
        };
        let owned = state.owners.get(&partition) == Some(&member);
        let Some(position) = state.positions.get_mut(&partition).filter(|_| owned) else {
            return;
        };
        position.fetching = false;
        let from = position.next;
        let records: Vec<LogRecord> = self
            .log
            .parts
            .get(&(group.topic(), partition))
            .map_or(&[][..], |p| &p.records)
            .iter()
            .skip(from as usize)
            .take(most as usize)
            .cloned()
            .collect();
        position.next += records.len() as u64;
        if !records.is_empty() {
            let input = Input::Records {
                group,
                partition,
                records,
            };
            // The answer may be held up too: then it reaches a member that has lost the partition meanwhile.
            self.tell_member(member, 0, input);
        }
        self.wake(group, partition);
    }

    // ---- offsets ----

    /// `Input::Committed` says whether it counted.
    pub fn commit(&mut self, proc: ProcId, group: Group, generation: u64, (partition, offset): (u32, u64), token: u64) {
        let Some(life) = self.life(proc) else { return };
        let delay = self.log_delay(proc);
        let commit = LogOp::Commit {
            group,
            member: (proc, life),
            generation,
            partition,
            offset,
            token,
        };
        self.after(delay, Event::Log(commit));
    }

    fn take_commit(
        &mut self,
        group: Group,
        member: Member,
        generation: u64,
        (partition, offset): (u32, u64),
        token: u64,
    ) {
        let state = self.log.groups.entry(group).or_default();
        let owner = state.owners.get(&partition) == Some(&member) && state.generation == generation;
        if owner {
            state.committed.insert(partition, offset);
        }
        let generation = Generation {
            group: generation,
            announced: 0,
        };
        let kind = if owner { Kind::Ok } else { Kind::Fail };
        let commit = Op::Commit {
            group: group.name().into(),
            partition,
            offset,
            generation,
        };
        let out = Op::Out {
            worker: member.0.name(),
            generation,
            partition,
            receiver: format!("committed offset of {}", group.name()),
            what: "commit".into(),
            conversation: String::new(),
            seq: 0,
        };
        let name = member.0.name();
        self.record(&name, kind, commit);
        self.record(&name, kind, out);
        let delay = self.answer_delay(member.0);
        let input = Input::Committed {
            group,
            partition,
            token,
            fenced: !owner,
        };
        self.tell_life(member.0, member.1, delay, input);
    }

    /// The end of a partition and what a group has committed there, asked afresh.
    pub fn ask_offsets(&mut self, proc: ProcId, group: Group, partition: u32, token: u64) {
        let delay = self.answer_delay(proc);
        let answer = Input::Offsets {
            group,
            partition,
            token,
            committed: self.log.committed(group, partition).unwrap_or(0),
            end: self.log.end(group.topic(), partition),
        };
        self.tell(proc, delay, answer);
    }
}

fn tailed(topic: Topic, record: LogRecord) -> Input {
    if topic == Topic::Control {
        Input::Control(record)
    } else {
        Input::Tailed(record)
    }
}
