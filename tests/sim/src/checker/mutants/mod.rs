//! Check the checker: a good history is accepted, and each invariant goes red on a mutant of its own.

mod desk_and_process;
mod messages;
mod owners;

use super::history::{Entry, FaultState, Generation, Kind, Layer, Op, Phase, Role, Seen, Side, Via, body_hash};
use super::{Report, Verdict, VoidLimits, check};

const LIMITS: VoidLimits = VoidLimits {
    sends_during_faults_min: 2,
};

/// Writes a good history step by step: alice with two devices, bo who answers, one partition.
#[derive(Default)]
struct Good {
    entries: Vec<Entry>,
    rows: Vec<Seen>,
    offset: u64,
}

impl Good {
    fn push(&mut self, kind: Kind, op: Op) {
        let t_mono_us = self.entries.len() as u64;
        let proc = "p".into();
        self.entries.push(Entry {
            t_mono_us,
            proc,
            kind,
            op,
        });
    }

    fn connect(&mut self, conn: &str, user: &str, role: Role, device: &str) {
        for kind in [Kind::Invoke, Kind::Ok] {
            let op = Op::Connect {
                conn: conn.into(),
                tenant: "demo".into(),
                user: user.into(),
                role,
                device: Some(device.into()),
                node: String::new(),
                expires_us: expires_us(conn),
                bad_token: false,
            };
            self.push(kind, op);
        }
    }

    fn begin(&mut self, conn: &str, from: u64, resume: bool) {
        let (conn, conversation) = (conn.into(), "alice".into());
        self.push(
            Kind::Info,
            Op::Begin {
                conn,
                conversation,
                from,
                resume,
            },
        );
    }

    /// It gets its place: in the log, as a row, and on every connection named.
    fn place(&mut self, seen: Seen, to: &[&str]) {
        self.push(
            Kind::Ok,
            Op::Record {
                partition: 0,
                offset: self.offset,
                tenant: "demo".into(),
                conversation: "alice".into(),
                id: seen.id.clone(),
                from_user: seen.from_user.clone(),
                hash: seen.hash.clone(),
                seq: Some(seen.seq),
                state: "active".into(),
                agent: "bo".into(),
            },
        );
        self.offset += 1;
        for conn in to {
            self.out("worker-1", 1, Kind::Ok);
            for layer in [Layer::Raw, Layer::App] {
                let op = Op::Recv {
                    conn: (*conn).into(),
                    conversation: "alice".into(),
                    layer,
                    via: Via::Event,
                    seen: seen.clone(),
                };
                self.push(Kind::Info, op);
            }
        }
        let row = Op::Row {
            tenant: "demo".into(),
            conversation: "alice".into(),
            seen: seen.clone(),
        };
        self.push(Kind::Ok, row);
        let account = Op::Account {
            partition: 0,
            from: self.offset - 1,
            to: self.offset,
            rows: 1,
            states: 0,
            repeats: 0,
            dead_letters: 0,
        };
        self.push(Kind::Info, account);
        self.commit();
        self.rows.push(seen);
    }

    fn commit(&mut self) {
        let op = Op::Commit {
            group: "persistence".into(),
            partition: 0,
            offset: self.offset,
            generation: Generation::default(),
        };
        self.push(Kind::Ok, op);
    }

    fn out(&mut self, worker: &str, group: u64, kind: Kind) {
        let op = Op::Out {
            worker: worker.into(),
            generation: Generation { group, announced: 0 },
            partition: 0,
            receiver: "node-1".into(),
            what: "push".into(),
            conversation: "alice".into(),
            seq: 0,
        };
        self.push(kind, op);
    }

    fn send(&mut self, conn: &str, user: &str, role: Role, id: &str, to: &[&str]) {
        let hash = body_hash(id.as_bytes());
        let (conn, conversation): (String, String) = (conn.into(), "alice".into());
        self.push(
            Kind::Invoke,
            Op::Send {
                conn: conn.clone(),
                conversation: conversation.clone(),
                id: id.into(),
                hash: hash.clone(),
                code: String::new(),
            },
        );
        let seen = Seen {
            seq: self.rows.len() as u64 + 1,
            id: id.into(),
            hash,
            what: "message".into(),
            from_role: Some(role),
            from_user: user.into(),
            agent: String::new(),
        };
        self.place(seen, to);
        let id = id.into();
        self.push(Kind::Ok, Op::Sent { conn, conversation, id });
    }

    /// A decision of the desk: alice's place, and what bo has then.
    fn desk(&mut self, offset: u64, state: &str, cause: &str) {
        let with = if state == "agent" { "bo" } else { "" };
        let at_ms = 1_000 * offset as i64;
        self.push(
            Kind::Ok,
            Op::Assign {
                tenant: "demo".into(),
                conversation: "alice".into(),
                offset,
                at_ms,
                state: state.into(),
                agent: with.into(),
                group: "default".into(),
                only: String::new(),
                cause: cause.into(),
            },
        );
        let has = if state == "agent" {
            vec!["alice".into()]
        } else {
            Vec::new()
        };
        self.push(
            Kind::Ok,
            Op::Capacity {
                tenant: "demo".into(),
                agent: "bo".into(),
                offset,
                at_ms,
                n: 1,
                has,
                able: state == "agent",
                groups: Vec::new(),
            },
        );
    }

    fn control(&mut self, kind: Kind, version: u64, on: bool) {
        let key = if version == 0 { "" } else { "switch/sim//typing" };
        self.push(
            kind,
            Op::Control {
                key: key.into(),
                version,
                on,
            },
        );
    }

    fn receipt(&mut self, conn: &str, side: Side, recv: u64, read: u64) {
        let (conn, conversation) = (conn.into(), "alice".into());
        self.push(
            Kind::Info,
            Op::Receipt {
                conn,
                conversation,
                side,
                recv,
                read,
            },
        );
    }

    fn fault(&mut self, state: FaultState, hits: u64) {
        let (name, target) = ("kill".into(), "worker-1".into());
        self.push(
            Kind::Note,
            Op::Fault {
                name,
                target,
                state,
                hits,
            },
        );
    }
}

/// One device's token ends after the run; looked at all the same.
fn expires_us(conn: &str) -> Option<u64> {
    (conn == "a2").then_some(1_000_000_000)
}

fn good() -> Vec<Entry> {
    let mut h = Good::default();
    h.control(Kind::Note, 0, false);
    h.control(Kind::Ok, 1, false);
    h.control(Kind::Info, 1, false);
    h.connect("a1", "alice", Role::Customer, "phone");
    h.connect("a2", "alice", Role::Customer, "laptop");
    h.begin("a1", 0, false);
    h.begin("a2", 0, false);
    h.send("a1", "alice", Role::Customer, "m1", &["a1", "a2"]);
    let assigned = Seen {
        seq: 2,
        hash: body_hash(b"x"),
        what: "assigned".into(),
        from_role: Some(Role::System),
        agent: "bo".into(),
        ..Seen::default()
    };
    h.connect("b1", "bo", Role::Agent, "desk");
    h.desk(3, "queue", "wanted");
    h.desk(4, "agent", "agent_back");
    let sample = Op::Sample {
        what: "bytes".into(),
        of: "a1".into(),
        value: 10,
        cap: 10,
    };
    h.push(Kind::Info, sample);
    h.begin("b1", 1, false);
    h.place(assigned, &["a1", "a2", "b1"]);
    h.fault(FaultState::Start, 0);
    h.send("b1", "bo", Role::Agent, "m2", &["a1", "a2", "b1"]);
    h.receipt("b1", Side::Customer, 2, 1);
    h.receipt("b1", Side::Customer, 3, 3);
    h.send("a2", "alice", Role::Customer, "m3", &["a1", "a2", "b1"]);
    h.fault(FaultState::Stop, 1);
    let close = Op::Close {
        conn: "a1".into(),
        code: Some(3000),
    };
    h.push(Kind::Info, close);
    h.send("a2", "alice", Role::Customer, "m4", &["a2", "b1"]);
    for phase in [Phase::Healed, Phase::Settled] {
        h.push(Kind::Note, Op::Phase { phase });
    }
    h.connect("a3", "alice", Role::Customer, "phone");
    h.begin("a3", 4, true);
    let missed = h.rows[4].clone();
    for layer in [Layer::Raw, Layer::App] {
        let (conn, conversation): (String, String) = ("a3".into(), "alice".into());
        h.push(
            Kind::Info,
            Op::Recv {
                conn,
                conversation,
                layer,
                via: Via::Event,
                seen: missed.clone(),
            },
        );
    }
    h.push(
        Kind::Note,
        Op::Phase {
            phase: Phase::Reconnected,
        },
    );
    let rows = h.rows.clone();
    for (user, role) in [("bo", Role::Agent), ("alice", Role::Customer)] {
        let page = Op::Page {
            tenant: "demo".into(),
            user: user.into(),
            role,
            conversation: "alice".into(),
            last_seq: rows.len() as u64,
            rows: rows.clone(),
            last: true,
        };
        h.push(Kind::Ok, page);
    }
    for replayed in [false, true] {
        let hash = "d".into();
        h.push(Kind::Ok, Op::Digest { replayed, hash });
    }
    h.entries
}

fn judge(entries: &[Entry]) -> Report {
    check(entries, LIMITS)
}

/// The mutant must make this invariant red; the text of its breaks is given back.
fn broken(id: &str, entries: &[Entry]) -> String {
    match judge(entries).verdict(id) {
        Some(Verdict::Broken(breaks)) => breaks.iter().map(|b| b.what.clone() + "\n").collect(),
        other => panic!("{id} should be broken and is {other:?}"),
    }
}

/// Changes the first entry that `pick` accepts.
fn mutate(mut entries: Vec<Entry>, pick: impl Fn(&Entry) -> bool, change: impl FnOnce(&mut Entry)) -> Vec<Entry> {
    change(
        entries
            .iter_mut()
            .find(|e| pick(e))
            .expect("the good history has such an entry"),
    );
    entries
}

fn final_rows(entries: &mut [Entry], change: impl Fn(&mut Vec<Seen>)) {
    for entry in entries {
        if let Op::Page { rows, last_seq, .. } = &mut entry.op {
            change(rows);
            *last_seq = rows.last().map_or(0, |r| r.seq);
        }
    }
}

fn position(entries: &[Entry], pick: impl Fn(&Op) -> bool) -> usize {
    entries
        .iter()
        .position(|e| pick(&e.op))
        .expect("the good history has such an entry")
}

fn is_recv(op: &Op, on: &str, of: u64, at: Layer) -> bool {
    matches!(op, Op::Recv { conn, seen, layer, .. } if conn == on && seen.seq == of && *layer == at)
}

#[test]
fn a_good_history_is_green_and_every_invariant_decides_something() {
    let report = judge(&good());
    for (invariant, verdict) in &report.verdicts {
        assert!(
            matches!(verdict, Verdict::Held(n) if *n > 0),
            "{} {verdict:?}",
            invariant.id
        );
    }
    assert!(report.is_green());
}

#[test]
fn the_good_history_survives_being_written_and_read() {
    let lines: Vec<String> = good().iter().map(|e| serde_json::to_string(e).unwrap()).collect();
    assert_eq!(super::history::read_lines(&lines.join("\n")).unwrap(), good());
}
