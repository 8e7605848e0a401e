//! A modelled delivery process: the real core, and around it what its driver does: announcing itself, starting at persistence's
//! committed offset, proving its membership by commits, carrying out actions.

use std::collections::BTreeMap;

use bytes::Bytes;
use delivery_core::{Action, Entry, LinkId, Loaded, Marks, Options, PageRow, PageToken, ProduceTo, Worker};
use prost::Message;
use wire::link::from_worker::Item;
use wire::link::{FromWorker, Heartbeat};
use wire::record::Owner;
use wire::{ConversationKey, Generation, Offset, Partition, Seq, WorkerId, limits};

use super::bugs::Bug;
use super::env::{Env, MS, ProcId, S};
use super::input::{Input, LogRecord, Report};
use super::log::{Group, ToAppend, Topic};
use super::store::{Answer, Ask};
use super::topics;
use crate::checker::history::{Generation as Shown, Kind, Op};

/// What an answer is for.
enum Waits {
    Announced {
        partition: u32,
        group_generation: u64,
        again: bool,
    },
    Start {
        partition: u32,
    },
    End {
        partition: u32,
        instance: u64,
    },
    Committed {
        partition: u32,
    },
    Load {
        partition: Partition,
        instance: u64,
        key: ConversationKey,
    },
    Page {
        token: PageToken,
        key: ConversationKey,
        after: Seq,
        limit: u32,
    },
    OpenSessions {
        partition: u32,
    },
}

#[derive(Default)]
struct Owned {
    group_generation: u64,
    /// `None` until the announcement is in the log.
    announced: Option<u64>,
    started: bool,
    /// A repeated announcement is under way.
    announcing: bool,
}

/// What was announced of a partition: the highest generation, and the last of all in the topic.
#[derive(Clone, Copy, Default)]
struct Announced {
    highest: (u64, u64),
    last: u64,
}

impl Owned {
    /// Another announcement stands above ours, or behind it: of a compacted topic a node that starts later reads no other.
    fn contested(&self, by: Announced) -> bool {
        self.announced
            .is_some_and(|ours| by.last > ours || by.highest > (self.group_generation, ours))
    }
}

struct Link {
    heard_us: u64,
    sent_us: u64,
}

pub struct WorkerProc {
    id: ProcId,
    incarnation: u64,
    core: Worker,
    owned: BTreeMap<u32, Owned>,
    announced: BTreeMap<u32, Announced>,
    links: BTreeMap<u64, Link>,
    waits: BTreeMap<u64, Waits>,
    next_token: u64,
    second_at_us: u64,
}

impl WorkerProc {
    pub fn start(env: &mut Env, id: ProcId) -> Self {
        env.start(id);
        let incarnation = env.pick(1..u64::MAX);
        env.tail_owners(id);
        env.join(id, Group::Delivery);
        env.tell(id, env.knobs.tick_us, Input::Tick);
        let core = Worker::new(Options {
            worker: WorkerId(incarnation),
            name: id.name(),
            topics: topics(env.log.partitions),
            bytes_budget: env.knobs.bytes_budget,
        });
        WorkerProc {
            id,
            incarnation,
            core,
            owned: BTreeMap::new(),
            announced: BTreeMap::new(),
            links: BTreeMap::new(),
            waits: BTreeMap::new(),
            next_token: 0,
            second_at_us: 0,
        }
    }

    fn wait(&mut self, what: Waits) -> u64 {
        self.next_token += 1;
        self.waits.insert(self.next_token, what);
        self.next_token
    }

    pub fn handle(&mut self, env: &mut Env, input: Input) {
        let now_ms = env.now_ms(self.id);
        match input {
            Input::Tick => self.tick(env, now_ms),
            Input::Assigned {
                generation, partitions, ..
            } => {
                for (partition, _) in partitions {
                    let owned = Owned {
                        group_generation: generation,
                        ..Owned::default()
                    };
                    self.owned.insert(partition, owned);
                    self.core.handle_claimed(Partition(partition));
                    self.announce(env, partition, false);
                }
            }
            Input::Revoked { group, round } => {
                for partition in std::mem::take(&mut self.owned).into_keys() {
                    self.core.handle_revoked(now_ms, Partition(partition));
                }
                self.carry_out(env, now_ms);
                env.revoke_done(self.id, group, round);
            }
            Input::Lost { group } => {
                for partition in std::mem::take(&mut self.owned).into_keys() {
                    self.core.handle_lost(now_ms, Partition(partition));
                }
                self.carry_out(env, now_ms);
                env.join(self.id, group);
            }
            Input::Records { partition, records, .. } if self.owned.contains_key(&partition) => {
                let entries = records.into_iter().map(entry_of);
                self.core.handle_records(now_ms, Partition(partition), entries);
            }
            Input::Reported { token, report } => self.reported(env, token, report),
            Input::Committed {
                partition,
                token,
                fenced,
                ..
            } => self.proved(env, now_ms, partition, (token, fenced)),
            Input::Offsets {
                token, committed, end, ..
            } => self.offsets(env, now_ms, token, committed, end),
            Input::Stored { token, answer } => self.stored(env, now_ms, token, answer),
            Input::Tailed(record) => self.tailed(now_ms, &record),
            Input::LinkDialed { link } => {
                let heard_us = env.now_us;
                self.links.insert(link, Link { heard_us, sent_us: 0 });
                self.core.handle_link_up(LinkId(link));
                env.accept_link(link);
            }
            Input::LinkClosed { link } => {
                self.links.remove(&link);
                self.core.handle_link_down(now_ms, LinkId(link));
            }
            Input::FromNode { link, items } => {
                if let Some(l) = self.links.get_mut(&link) {
                    l.heard_us = env.now_us;
                    for item in items {
                        self.core.handle_from_node(now_ms, LinkId(link), item);
                    }
                }
            }
            _ => {}
        }
        self.carry_out(env, now_ms);
    }

    /// Told to leave: it hands over what it has.
    pub fn stop(&mut self, env: &mut Env) {
        let now_ms = env.now_ms(self.id);
        for partition in std::mem::take(&mut self.owned).into_keys() {
            self.core.handle_revoked(now_ms, Partition(partition));
        }
        self.carry_out(env, now_ms);
        env.leave_group(self.id, Group::Delivery);
    }

    // ---- ownership ----

    fn announce(&mut self, env: &mut Env, partition: u32, again: bool) {
        let Some(owned) = self.owned.get(&partition) else {
            return;
        };
        let owner = Owner {
            partition,
            worker: self.id.name(),
            link_address: self.id.name(),
            worker_incarnation: self.incarnation,
            group_generation: owned.group_generation,
        };
        let group_generation = owned.group_generation;
        let token = self.wait(Waits::Announced {
            partition,
            group_generation,
            again,
        });
        let record = ToAppend {
            topic: Topic::Owners,
            partition: 0,
            key: Some(partition.to_string().into()),
            value: Some(owner.encode_to_vec().into()),
        };
        env.produce(self.id, record, token);
    }

    fn reported(&mut self, env: &mut Env, token: u64, report: Report) {
        let Some(Waits::Announced {
            partition,
            group_generation,
            again,
        }) = self.waits.remove(&token)
        else {
            return;
        };
        // An earlier ownership's announcement says nothing of this one.
        let owned = self.owned.get_mut(&partition);
        let Some(owned) = owned.filter(|o| o.group_generation == group_generation) else {
            return;
        };
        let Report::Logged { offset } = report else {
            return self.announce(env, partition, again);
        };
        owned.announcing &= !again;
        let offset = owned.announced.map_or(offset, |a| a.max(offset));
        owned.announced = Some(offset);
        let generation = Generation {
            group: owned.group_generation,
            announced: offset,
        };
        let op = Op::Own {
            worker: self.id.name(),
            partition,
            generation: Shown {
                group: generation.group,
                announced: offset,
            },
        };
        env.record(&self.id.name(), Kind::Ok, op);
        if again || owned.started {
            let now_ms = env.now_ms(self.id);
            return self
                .core
                .handle_announced_again(now_ms, Partition(partition), generation);
        }
        let token = self.wait(Waits::Start { partition });
        env.ask_offsets(self.id, Group::Persistence, partition, token);
    }

    /// Persistence's committed offset is known: the partition is ours from there.
    fn begin(&mut self, env: &mut Env, now_ms: u64, partition: u32, committed: u64) {
        let Some(owned) = self.owned.get_mut(&partition).filter(|o| !o.started) else {
            return;
        };
        let Some(announced) = owned.announced else { return };
        owned.started = true;
        let committed = if env.has(Bug::DeliveryStartsAtLatest) {
            env.log.end(Topic::Messages, partition)
        } else {
            committed
        };
        let generation = Generation {
            group: owned.group_generation,
            announced,
        };
        self.core
            .handle_assigned(now_ms, Partition(partition), generation, Offset(committed));
        env.start_partition(self.id, Group::Delivery, partition, committed);
        let token = self.wait(Waits::OpenSessions { partition });
        env.ask_store(self.id, Ask::OpenSessions { partition }, token);
    }

    /// A commit of the ownership with this generation was taken or refused.
    fn proved(&mut self, env: &mut Env, now_ms: u64, partition: u32, (generation, fenced): (u64, bool)) {
        if self
            .owned
            .get(&partition)
            .is_none_or(|o| o.group_generation != generation)
        {
            return;
        }
        if fenced {
            if self.owned.remove(&partition).is_some() {
                self.core.handle_lost(now_ms, Partition(partition));
            }
        } else if let Some(owned) = self.owned.get_mut(&partition)
            && owned.contested(self.announced.get(&partition).copied().unwrap_or_default())
            && !owned.announcing
        {
            owned.announcing = true;
            self.announce(env, partition, true);
        }
    }

    fn tailed(&mut self, now_ms: u64, record: &LogRecord) {
        let Some(owner) = record.value.as_ref().and_then(|v| Owner::decode(v.clone()).ok()) else {
            return;
        };
        let all = self.announced.entry(owner.partition).or_default();
        all.last = all.last.max(record.offset);
        all.highest = all.highest.max((owner.group_generation, record.offset));
        let Some(owned) = self.owned.get_mut(&owner.partition) else {
            return;
        };
        if owner.worker_incarnation == self.incarnation
            && owner.group_generation == owned.group_generation
            && owned.announced.is_some_and(|announced| record.offset > announced)
        {
            // Our own announcement landed again: nodes go by it, and so must we.
            owned.announced = Some(record.offset);
            let generation = Generation {
                group: owned.group_generation,
                announced: record.offset,
            };
            self.core
                .handle_announced_again(now_ms, Partition(owner.partition), generation);
        }
    }

    // ---- answers ----

    fn offsets(&mut self, env: &mut Env, now_ms: u64, token: u64, committed: u64, end: u64) {
        match self.waits.remove(&token) {
            Some(Waits::Start { partition }) => self.begin(env, now_ms, partition, committed),
            Some(Waits::End { partition, instance }) => {
                self.core
                    .handle_end(now_ms, (Partition(partition), instance), Offset(end));
            }
            Some(Waits::Committed { partition }) => {
                self.core
                    .handle_committed(now_ms, Partition(partition), Offset(committed));
            }
            _ => {}
        }
    }

    fn stored(&mut self, env: &mut Env, now_ms: u64, token: u64, answer: Answer) {
        let Some(waits) = self.waits.remove(&token) else { return };
        match (waits, answer) {
            (
                Waits::Load {
                    partition,
                    instance,
                    key,
                },
                Answer::Loaded { state, marks },
            ) => {
                let state = if env.has(Bug::RepeatsForgotten) {
                    state.and_then(without_repeats)
                } else {
                    state
                };
                let marks = if env.has(Bug::WatermarksForgotten) {
                    [0; 4]
                } else {
                    marks
                };
                let loaded = Loaded {
                    state,
                    marks: Marks {
                        customer_recv: marks[0],
                        customer_read: marks[1],
                        agent_recv: marks[2],
                        agent_read: marks[3],
                    },
                };
                self.core.handle_loaded(now_ms, (partition, instance), &key, loaded);
            }
            (Waits::Page { token, .. }, Answer::Page(rows)) => {
                let rows: Vec<PageRow> = rows
                    .into_iter()
                    .map(|row| PageRow {
                        seq: Seq(row.seq),
                        staff_only: row.staff_only && !env.has(Bug::NotesReadAsMessages),
                        at_ms: row.at_ms,
                        entry: row.entry,
                    })
                    .collect();
                self.core.handle_page(now_ms, token, &rows);
            }
            (Waits::OpenSessions { partition }, Answer::OpenSessions(keys)) => {
                self.core.handle_open_sessions(now_ms, Partition(partition), keys);
            }
            // The store was away: however long it takes.
            (
                Waits::Load {
                    partition,
                    instance,
                    key,
                },
                _,
            ) => {
                let ask = Ask::Load(key.clone());
                let token = self.wait(Waits::Load {
                    partition,
                    instance,
                    key,
                });
                env.ask_store(self.id, ask, token);
            }
            (
                Waits::Page {
                    token,
                    key,
                    after,
                    limit,
                },
                _,
            ) => self.read_page(env, token, key, after, limit),
            (Waits::OpenSessions { partition }, _) => {
                let token = self.wait(Waits::OpenSessions { partition });
                env.ask_store(self.id, Ask::OpenSessions { partition }, token);
            }
            _ => {}
        }
    }

    fn read_page(&mut self, env: &mut Env, token: PageToken, key: ConversationKey, after: Seq, limit: u32) {
        let ask = Ask::Page {
            key: key.clone(),
            after: after.0,
            limit,
        };
        let token = self.wait(Waits::Page {
            token,
            key,
            after,
            limit,
        });
        env.ask_store(self.id, ask, token);
    }

    // ---- effects ----

    fn carry_out(&mut self, env: &mut Env, now_ms: u64) {
        loop {
            let mut idle = true;
            while let Some(action) = self.core.poll_action() {
                idle = false;
                self.act(env, action);
            }
            for link in self.core.ready_links() {
                let items = self.core.take_sends(now_ms, link, limits::LINK_BATCH_ITEMS);
                if !items.is_empty() {
                    idle = false;
                    if let Some(l) = self.links.get_mut(&link.0) {
                        l.sent_us = env.now_us;
                    }
                    env.send_to_node(link.0, items);
                }
            }
            if idle {
                break;
            }
        }
        self.core.take_stats();
    }

    fn act(&mut self, env: &mut Env, action: Action) {
        match action {
            Action::Load {
                partition,
                instance,
                key,
            } => {
                let ask = Ask::Load(key.clone());
                let token = self.wait(Waits::Load {
                    partition,
                    instance,
                    key,
                });
                env.ask_store(self.id, ask, token);
            }
            Action::ReadPage {
                token,
                key,
                after,
                limit,
            } => self.read_page(env, token, key, after, limit),
            Action::ReadBack { token, offsets } => {
                let records = env.log.records(Topic::Messages, token.partition.0);
                let wanted = records.iter().filter(|r| offsets.contains(&Offset(r.offset)));
                let entries = wanted.cloned().map(entry_of).collect();
                let now_ms = env.now_ms(self.id);
                self.core.handle_read_back(now_ms, token, entries);
            }
            Action::AskEnd { partition, instance } => {
                let partition = partition.0;
                let token = self.wait(Waits::End { partition, instance });
                env.ask_offsets(self.id, Group::Delivery, partition, token);
            }
            Action::Produce {
                to,
                partition,
                key,
                value,
            } => {
                let topic = match to {
                    ProduceTo::Messages => Topic::Messages,
                    ProduceTo::Desk if env.has(Bug::WantedNeverAsked) => return,
                    ProduceTo::Desk => Topic::Desk,
                };
                let record = ToAppend {
                    topic,
                    partition: partition.0,
                    key,
                    value: Some(value),
                };
                env.produce(self.id, record, 0);
            }
            Action::Pause { partition } => env.pause_partition(Group::Delivery, partition.0, true),
            Action::Resume { partition } => env.pause_partition(Group::Delivery, partition.0, false),
            Action::CloseLink { link, .. } => {
                self.links.remove(&link.0);
                env.close_link(link.0, false);
            }
            Action::Stop { partition, why } => env.alarm(self.id, format!("partition {partition} stopped: {why}")),
        }
    }

    // ---- time ----

    fn tick(&mut self, env: &mut Env, now_ms: u64) {
        env.tell(self.id, env.knobs.tick_us, Input::Tick);
        self.core.handle_tick(now_ms);
        let now_us = env.now_us;
        let silent: Vec<u64> = self
            .links
            .iter()
            .filter(|(_, l)| now_us > l.heard_us + limits::LINK_TIMEOUT_MS * MS)
            .map(|(link, _)| *link)
            .collect();
        for link in silent {
            self.links.remove(&link);
            self.core.handle_link_down(now_ms, LinkId(link));
            env.close_link(link, false);
        }
        for (link, l) in &mut self.links {
            if now_us >= l.sent_us + limits::LINK_HEARTBEAT_MS * MS {
                l.sent_us = now_us;
                let heartbeat = FromWorker {
                    item: Some(Item::Heartbeat(Heartbeat {})),
                };
                env.send_to_node(*link, vec![heartbeat]);
            }
        }
        if now_us >= self.second_at_us {
            self.second_at_us = now_us + S;
            self.each_second(env);
        }
    }

    /// Asks what persistence has stored, and commits to prove that it is still a member.
    fn each_second(&mut self, env: &mut Env) {
        let started: Vec<(u32, u64)> = self
            .owned
            .iter()
            .filter(|(_, o)| o.started)
            .map(|(p, o)| (*p, o.group_generation))
            .collect();
        for (partition, generation) in started {
            let token = self.wait(Waits::Committed { partition });
            env.ask_offsets(self.id, Group::Persistence, partition, token);
            let offset = self.core.position(Partition(partition)).unwrap_or(Offset::ZERO).0;
            env.commit(self.id, Group::Delivery, generation, (partition, offset), generation);
        }
        let sample = Op::Sample {
            what: "items queued for links".into(),
            of: self.id.name(),
            value: self.core.queued_items() as u64,
            cap: (limits::LINK_QUEUE_ITEMS * self.links.len().max(1)) as u64,
        };
        env.record(&self.id.name(), Kind::Info, sample);
    }
}

fn entry_of(record: LogRecord) -> Entry {
    Entry {
        offset: Offset(record.offset),
        at_ms: record.at_ms,
        key: record.key,
        value: record.value,
    }
}

/// The state as it would be without the ids it has seen (field 5 of the cell).
fn without_repeats(cell: Bytes) -> Option<Bytes> {
    let mut out = Vec::new();
    let mut rest = &cell[..];
    while !rest.is_empty() {
        let before = rest;
        let (tag, wire_type) = prost::encoding::decode_key(&mut rest).ok()?;
        prost::encoding::skip_field(wire_type, tag, &mut rest, prost::encoding::DecodeContext::default()).ok()?;
        if tag != 5 {
            out.extend_from_slice(&before[..before.len() - rest.len()]);
        }
    }
    Some(out.into())
}
