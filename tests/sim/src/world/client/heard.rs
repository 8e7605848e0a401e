//! What the client hears: frames, and how events reach its application.

use super::*;

impl Client {
    pub(super) fn frame(&mut self, env: &mut Env, bytes: &Bytes) {
        let Some(wire) = self.wire() else { return };
        if &bytes[..] == b"ping" {
            return env.client_sends(wire, Bytes::from_static(br#"{"ping":{}}"#));
        }
        let Ok(frame) = serde_json::from_slice::<ServerFrame>(bytes) else {
            return env.alarm(
                ProcId::Node(0),
                format!("a frame nobody can read: {:?}", String::from_utf8_lossy(bytes)),
            );
        };
        match frame {
            ServerFrame::Connected(c) => {
                let op = Op::Connect {
                    conn: self.conn.clone(),
                    tenant: self.person.tenant.into(),
                    user: self.person.user.into(),
                    role: self.person.role,
                    device: Some(self.person.device.into()),
                    node: c.node.into_owned(),
                    expires_us: None,
                    bad_token: false,
                };
                self.record(env, Kind::Ok, op);
                self.link = Link::Up {
                    wire,
                    since_us: env.now_us,
                };
            }
            ServerFrame::Conversation(c) => self.conversation(env, &c),
            ServerFrame::Sent(s) => {
                if let Some(p) = self.forget(&s.id) {
                    let (conn, conversation) = (self.conn.clone(), p.conversation);
                    self.record(
                        env,
                        Kind::Ok,
                        Op::Sent {
                            conn,
                            conversation,
                            id: p.id,
                        },
                    );
                }
            }
            ServerFrame::Placed(p) => self.placed(env, &p.conversation, &p.id, p.seq),
            ServerFrame::Done(d) => {
                self.forget(&d.id);
            }
            ServerFrame::Event(e) => {
                let seen = seen::of_entry(&wire::event::entry_of(bytes));
                let conversation = e.conversation.into_owned();
                self.arrived(env, conversation, seen, Via::Event);
            }
            ServerFrame::Receipt(r) => {
                let op = Op::Receipt {
                    conn: self.conn.clone(),
                    conversation: r.conversation.into_owned(),
                    side: match r.side {
                        wire::frames::Side::Customer => Side::Customer,
                        wire::frames::Side::Agent => Side::Agent,
                    },
                    recv: r.recv,
                    read: r.read,
                };
                self.record(env, Kind::Info, op);
            }
            ServerFrame::Reset(r) => {
                let (conn, conversation, last_seq) = (self.conn.clone(), r.conversation.into_owned(), r.last_seq);
                let staff = !self.is_customer();
                let place = self.places.entry(conversation.clone()).or_default();
                if std::mem::take(&mut place.untouched) && staff {
                    // Where it began no event has said: nothing was had (`client::core`), so all of it is read.
                    place.last = Some(0);
                }
                place.read_until = Some(last_seq);
                self.record(
                    env,
                    Kind::Info,
                    Op::Reset {
                        conn,
                        conversation,
                        last_seq,
                    },
                );
            }
            ServerFrame::Rewind(r) => {
                let (conn, conversation, last_seq) = (self.conn.clone(), r.conversation.into_owned(), r.last_seq);
                let place = self.places.entry(conversation.clone()).or_default();
                place.untouched = false;
                place.last = Some(last_seq);
                place.target = Some(last_seq);
                place.acked = place.acked.min(last_seq);
                self.record(
                    env,
                    Kind::Info,
                    Op::Rewind {
                        conn,
                        conversation,
                        last_seq,
                    },
                );
            }
            ServerFrame::Error(e) => self.error(env, e.id.as_deref().unwrap_or_default(), e.code),
            _ => {}
        }
        self.flush(env);
    }

    pub(super) fn conversation(&mut self, env: &mut Env, c: &wire::frames::ConversationFrame) {
        let name = c.conversation.clone().into_owned();
        let state = serde_json::to_string(&c.state)
            .unwrap_or_default()
            .trim_matches('"')
            .to_owned();
        let op = Op::Conversation {
            conn: self.conn.clone(),
            conversation: name.clone(),
            last_seq: c.last_seq,
            recv: c.recv,
            read: c.read,
            state,
            agent: c.agent.as_deref().unwrap_or_default().to_owned(),
        };
        let me = self.person.user;
        let place = self.places.entry(name.clone()).or_default();
        place.serving = c.state == ConversationState::Active && c.agent.as_deref() == Some(me);
        let first = place.target.is_none();
        let begins = first && place.last.is_none();
        if first {
            place.target = Some(c.last_seq);
        }
        if begins {
            place.last = Some(c.last_seq);
            place.untouched = true;
        }
        if begins {
            self.begin(env, &name, c.last_seq);
        }
        self.record(env, Kind::Info, op);
    }

    pub(super) fn begin(&self, env: &mut Env, conversation: &str, from: u64) {
        let op = Op::Begin {
            conn: self.conn.clone(),
            conversation: conversation.to_owned(),
            from,
            resume: false,
        };
        self.record(env, Kind::Info, op);
    }

    pub(super) fn forget(&mut self, id: &str) -> Option<Pending> {
        let at = self.outbox.iter().position(|p| p.id == id)?;
        self.outbox.remove(at)
    }

    pub(super) fn placed(&mut self, env: &mut Env, conversation: &str, id: &str, seq: u64) {
        let op = Op::Placed {
            conn: self.conn.clone(),
            conversation: conversation.to_owned(),
            id: id.to_owned(),
            seq,
        };
        self.record(env, Kind::Ok, op);
        self.forget(id);
        let hash = self.said.get(id).cloned().unwrap_or_default();
        let seen = Seen {
            seq,
            id: id.to_owned(),
            hash,
            what: "message".into(),
            from_role: Some(self.person.role),
            from_user: self.person.user.into(),
            agent: String::new(),
        };
        self.arrived(env, conversation.to_owned(), seen, Via::Placed);
    }

    pub(super) fn arrived(&mut self, env: &mut Env, conversation: String, seen: Seen, via: Via) {
        let place = self.places.entry(conversation.clone()).or_default();
        let untouched = std::mem::take(&mut place.untouched);
        if untouched && via == Via::Event && seen.seq <= place.last.unwrap_or(0) {
            // An agent's conversation begins before the session's first event.
            place.last = Some(seen.seq.saturating_sub(1));
            if self.is_customer() {
                env.alarm(
                    ProcId::Node(0),
                    format!("{conversation} began below its first frame's last_seq"),
                );
            }
        }
        let raw = Op::Recv {
            conn: self.conn.clone(),
            conversation: conversation.clone(),
            layer: Layer::Raw,
            via,
            seen: seen.clone(),
        };
        self.record(env, Kind::Info, raw);
        if seen.from_user == self.person.user && !seen.id.is_empty() {
            self.forget(&seen.id);
        }
        let place = self.places.entry(conversation.clone()).or_default();
        if place.read_until.is_some() {
            place.held.push_back((seen, via));
        } else {
            self.hand_over(env, &conversation, seen, via);
        }
    }

    pub(super) fn hand_over(&mut self, env: &mut Env, conversation: &str, seen: Seen, via: Via) {
        let conn = self.conn.clone();
        let place = self.places.entry(conversation.to_owned()).or_default();
        let last = place.last.unwrap_or(0);
        if seen.seq <= last {
            return;
        }
        place.last = Some(seen.seq);
        place.unacked += 1;
        let conversation = conversation.to_owned();
        let layer = Layer::App;
        self.record(
            env,
            Kind::Info,
            Op::Recv {
                conn,
                conversation,
                layer,
                via,
                seen,
            },
        );
    }
}
