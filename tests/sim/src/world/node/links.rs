//! The node's side of the links: who owns what, dialling, registrations, and what workers send.

use super::*;

impl Node {
    pub(super) fn learn(&mut self, env: &mut Env, record: &LogRecord) {
        let Some(owner) = record.value.as_ref().and_then(|v| Owner::decode(v.clone()).ok()) else {
            return;
        };
        let generation = Generation {
            group: owner.group_generation,
            announced: record.offset,
        };
        let partition = owner.partition;
        if self.owners.get(&partition).is_some_and(|k| k.generation >= generation) {
            return;
        }
        let worker = owner.worker_incarnation;
        if env.has(Bug::StaysWithOldOwner)
            && let Some(old) = self.owners.get(&partition)
            && self.links.get(&old.worker).is_some_and(|l| l.up)
        {
            return;
        }
        self.heard.accept(Partition(partition), generation);
        self.owners.insert(partition, OwnerEntry { worker, generation });
        let Some(to) = proc_of_address(&owner.link_address) else {
            return;
        };
        let link = self.links.entry(worker).or_insert_with(|| NodeLink {
            to,
            link: None,
            up: false,
            heard_us: 0,
            sent_us: 0,
            register_at_us: 0,
            dial_at_us: env.now_us,
            register: Vec::new(),
            register_later: Vec::new(),
            items: Vec::new(),
        });
        if link.up && !env.has(Bug::NeverRegisteredAgain) {
            let known = self.conns.values();
            link.register.extend(belonging(known, partition));
        }
        self.dial(env);
    }

    pub(super) fn dial(&mut self, env: &mut Env) {
        let owning: BTreeSet<u64> = self.owners.values().map(|o| o.worker).collect();
        let id = self.id;
        self.links
            .retain(|worker, link| owning.contains(worker) || link.link.is_some());
        let now_us = env.now_us;
        for link in self
            .links
            .values_mut()
            .filter(|l| l.link.is_none() && now_us >= l.dial_at_us)
        {
            link.dial_at_us = env.now_us + DIAL_AGAIN_US;
            link.heard_us = env.now_us;
            link.link = env.dial(id, link.to);
        }
    }

    pub(super) fn by_link(&mut self, link: u64) -> Option<(u64, &mut NodeLink)> {
        let found = self.links.iter_mut().find(|(_, l)| l.link == Some(link));
        found.map(|(worker, l)| (*worker, l))
    }

    /// The link is connected: the worker's hello comes first on it.
    pub(super) fn link_accepted(&mut self, env: &mut Env, link: u64) {
        let now_us = env.now_us;
        if let Some((_, l)) = self.by_link(link) {
            l.heard_us = now_us;
        }
    }

    /// A link is to one run of a worker: whoever was started behind the same address since is hung up on.
    fn greeted(&mut self, env: &mut Env, link: u64, hello: &WorkerHello) {
        let Some((worker, _)) = self.by_link(link) else { return };
        if hello.worker == worker {
            self.link_up(env, link);
        } else {
            env.close_link(link, true);
            self.link_down(env, link);
        }
    }

    fn link_up(&mut self, env: &mut Env, link: u64) {
        let hello = NodeHello {
            version: 1,
            node: self.incarnation,
            name: self.name.clone(),
            lane: LANE.into(),
        };
        let now_us = env.now_us;
        let Some((worker, l)) = self.by_link(link) else { return };
        l.up = true;
        l.heard_us = now_us;
        l.items = Vec::new();
        l.register = Vec::new();
        l.register_later = Vec::new();
        let owned: Vec<u32> = self
            .owners
            .iter()
            .filter(|(_, o)| o.worker == worker)
            .map(|(p, _)| *p)
            .collect();
        let mut register = Vec::new();
        for partition in owned {
            if env.has(Bug::NeverRegisteredAgain) && self.registered_once.contains(&partition) {
                continue;
            }
            self.registered_once.insert(partition);
            register.extend(belonging(self.conns.values(), partition));
        }
        let item = FromNode {
            item: Some(Item::Hello(hello)),
        };
        env.send_to_worker(link, vec![item]);
        if let Some((_, l)) = self.by_link(link) {
            l.register = register;
        }
    }

    pub(super) fn link_down(&mut self, env: &mut Env, link: u64) {
        let again = env.now_us + DIAL_AGAIN_US;
        if let Some((_, l)) = self.by_link(link) {
            l.link = None;
            l.up = false;
            l.dial_at_us = again;
        }
    }

    pub(super) fn send_to_owner(&mut self, partition: u32, item: impl FnOnce(Generation) -> Item) {
        let Some(owner) = self.owners.get(&partition) else {
            return;
        };
        if let Some(link) = self.links.get_mut(&owner.worker).filter(|l| l.up) {
            link.items.push(FromNode {
                item: Some(item(owner.generation)),
            });
        }
    }

    /// Registrations first, built as they leave: they say where the connection stands then.
    pub(super) fn send_links(&mut self, env: &mut Env) {
        let workers: Vec<u64> = self.links.keys().copied().collect();
        for worker in workers {
            let Some(l) = self.links.get_mut(&worker) else { continue };
            let Some(link) = l.link.filter(|_| l.up) else { continue };
            let names = std::mem::take(&mut l.register);
            let items = std::mem::take(&mut l.items);
            let mut batch: Vec<FromNode> = Vec::new();
            for (partition, id) in names {
                if let Some(register) = self.registration(worker, partition, id, env.log.partitions) {
                    batch.push(FromNode {
                        item: Some(Item::Register(register)),
                    });
                }
            }
            batch.extend(items);
            if !batch.is_empty() {
                if let Some(l) = self.links.get_mut(&worker) {
                    l.sent_us = env.now_us;
                }
                env.send_to_worker(link, batch);
            }
        }
    }

    pub(super) fn registration(&self, worker: u64, partition: u32, id: u64, partitions: u32) -> Option<Register> {
        let Conn::Open(open) = self.conns.get(self.by_id.get(&id)?)? else {
            return None;
        };
        let owner = self.owners.get(&partition).filter(|o| o.worker == worker)?;
        let generation = owner.generation;
        let here = |conversation: &User| partition_of(&key_of(open, conversation), partitions) == partition;
        let places = open.session.places().filter(|(conversation, _)| here(conversation));
        let places = places.map(|(conversation, place)| Place {
            conversation: conversation.as_str().to_owned(),
            written: place.written.unwrap_or_default().0,
            recv: place.recv.0,
            read: place.read.0,
            attached: place.attached(),
        });
        let since: Vec<(String, u64)> = match open.session.since() {
            None => Vec::new(),
            Some(Since::Own(_)) if open.partition.is_none() => Vec::new(),
            Some(Since::Own(seq)) => vec![(open.user.as_str().to_owned(), *seq)],
            Some(Since::Conversations(map)) => map.iter().map(|(c, seq)| (c.clone(), *seq)).collect(),
        };
        let since = since.into_iter().filter(|(c, _)| User::new(c).is_ok_and(|c| here(&c)));
        Some(Register {
            connection: open.id,
            rank: open.rank,
            fresh: !open.registered,
            partition,
            generation: Some(generation.into()),
            tenant: open.tenant.as_str().to_owned(),
            user: open.user.as_str().to_owned(),
            role: open.session.role.into(),
            device: Device::new(&open.device).map_or(String::new(), |d| d.as_str().to_owned()),
            places: places.collect(),
            since: since
                .map(|(conversation, seq)| wire::link::Since { conversation, seq })
                .collect(),
            node_session: String::new(),
        })
    }

    pub(super) fn hear_worker(&mut self, env: &mut Env, now_ms: u64, link: u64, items: Vec<FromWorker>) {
        let now_us = env.now_us;
        let Some((_, l)) = self.by_link(link) else { return };
        l.heard_us = now_us;
        let (worker, mut up) = (l.to, l.up);
        for item in items.into_iter().filter_map(|i| i.item) {
            match item {
                From::Hello(hello) => {
                    self.greeted(env, link, &hello);
                    up = self.by_link(link).is_some_and(|(_, l)| l.up);
                }
                _ if !up => {}
                From::Push(push) => self.push(env, now_ms, worker, push),
                From::Conversation(item) => {
                    if self.is_current(
                        env,
                        worker,
                        "conversation",
                        (item.partition, item.generation),
                        &item.conversation,
                        0,
                    ) {
                        for wire in self.wires(&item.connections) {
                            self.with(wire, |open| open.session.handle_conversation(now_ms, &item));
                            self.flush(env, now_ms, wire);
                        }
                    }
                }
                From::Frame(item) => {
                    if self.is_current(env, worker, "frame", (item.partition, item.generation), "", 0) {
                        for wire in self.wires(&item.connections) {
                            self.with(wire, |open| open.session.handle_loose(now_ms, item.frame.clone()));
                            self.flush(env, now_ms, wire);
                        }
                    }
                }
                From::Reset(r) => {
                    if self.is_current(
                        env,
                        worker,
                        "reset",
                        (r.partition, r.generation),
                        &r.conversation,
                        r.last_seq,
                    ) {
                        for wire in self.wires(&[r.connection]) {
                            self.with(wire, |o| {
                                o.session.handle_moved(now_ms, &r.conversation, Seq(r.last_seq), false)
                            });
                            self.flush(env, now_ms, wire);
                        }
                    }
                }
                From::Rewind(r) => {
                    if self.is_current(
                        env,
                        worker,
                        "rewind",
                        (r.partition, r.generation),
                        &r.conversation,
                        r.last_seq,
                    ) {
                        for wire in self.wires(&[r.connection]) {
                            self.with(wire, |o| {
                                o.session.handle_moved(now_ms, &r.conversation, Seq(r.last_seq), true)
                            });
                            self.flush(env, now_ms, wire);
                        }
                    }
                }
                From::Registered(item) => {
                    let generation: Generation = item.generation.unwrap_or_default().into();
                    self.heard.accept(Partition(item.partition), generation);
                    for wire in self.wires(&[item.connection]) {
                        self.with(wire, |open| {
                            open.rank = open.rank.max(item.rank);
                            open.registered = true;
                            false
                        });
                    }
                }
                From::NotOwner(item) => {
                    let names: Vec<(u32, u64)> = if item.connections.is_empty() {
                        belonging(self.conns.values(), item.partition)
                    } else {
                        item.connections.iter().map(|c| (item.partition, *c)).collect()
                    };
                    if let Some((_, l)) = self.by_link(link) {
                        l.register_later.extend(names);
                    }
                }
                From::Close(item) => {
                    let code = u16::try_from(item.code).ok().and_then(CloseCode::from_number);
                    for wire in self.wires(&[item.connection]) {
                        self.with(wire, |open| {
                            open.session.close(code.unwrap_or(CloseCode::Internal));
                            true
                        });
                        self.flush(env, now_ms, wire);
                    }
                }
                From::Answer(answer) => self.answered(env, now_ms, answer),
                From::Heartbeat(_) => {}
            }
        }
    }

    pub(super) fn push(&mut self, env: &mut Env, now_ms: u64, worker: ProcId, push: Push) {
        if !self.is_current(
            env,
            worker,
            "push",
            (push.partition, push.generation),
            &push.conversation,
            push.seq,
        ) {
            return;
        }
        for wire in self.wires(&push.connections) {
            let any = env.has(Bug::AnyPushIsWritten);
            self.with(wire, |open| {
                let session = &mut open.session;
                let next = session.handle_push(now_ms, &push.conversation, Seq(push.seq), push.frame.clone());
                next || (any && session.write(now_ms, push.frame.clone()))
            });
            self.flush(env, now_ms, wire);
        }
    }

    pub(super) fn is_current(
        &mut self,
        env: &mut Env,
        worker: ProcId,
        what: &str,
        (partition, generation): (u32, Option<wire::link::Generation>),
        conversation: &str,
        seq: u64,
    ) -> bool {
        let generation: Generation = generation.unwrap_or_default().into();
        let current = self.heard.accept(Partition(partition), generation) || env.has(Bug::NoGenerationCheck);
        let op = Op::Out {
            worker: worker.name(),
            generation: Shown {
                group: generation.group,
                announced: generation.announced,
            },
            partition,
            receiver: self.name.clone(),
            what: what.into(),
            conversation: conversation.into(),
            seq,
        };
        let name = self.name.clone();
        env.record(&name, if current { Outcome::Ok } else { Outcome::Fail }, op);
        current
    }
}
