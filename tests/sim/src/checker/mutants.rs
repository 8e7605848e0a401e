//! Check the checker: a good history is accepted, and each invariant goes red on a mutant of its own.

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

fn good() -> Vec<Entry> {
    let mut h = Good::default();
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

#[test]
fn i1_a_promised_message_without_a_row_or_with_another_body() {
    let mut lost = good();
    final_rows(&mut lost, |rows| rows.truncate(4));
    assert!(broken("I1", &lost).contains("stands nowhere"));
    let mut changed = good();
    final_rows(&mut changed, |rows| rows[3].hash = "other".into());
    assert!(broken("I1", &changed).contains("never sent"));
}

#[test]
fn i2_an_event_that_nobody_sent_or_that_was_refused() {
    let stranger = mutate(
        good(),
        |e| is_recv(&e.op, "a1", 1, Layer::Raw),
        |e| {
            if let Op::Recv { seen, .. } = &mut e.op {
                seen.id = "nobody's".into();
            }
        },
    );
    assert!(broken("I2", &stranger).contains("was never sent"));
    let refused = mutate(
        good(),
        |e| matches!(&e.op, Op::Sent { id, .. } if id == "m3"),
        |e| {
            if let Op::Sent { conn, conversation, id } = &e.op {
                let (conn, conversation, id) = (conn.clone(), conversation.clone(), id.clone());
                e.kind = Kind::Fail;
                e.op = Op::Send {
                    conn,
                    conversation,
                    id,
                    hash: String::new(),
                    code: "unavailable".into(),
                };
            }
        },
    );
    assert!(broken("I2", &refused).contains("was refused and appears"));
}

#[test]
fn i3_an_id_that_stands_twice_and_a_placed_at_the_wrong_seq() {
    let mut doubled = good();
    final_rows(&mut doubled, |rows| {
        let mut again = rows[4].clone();
        again.seq = 6;
        rows.push(again);
    });
    assert!(broken("I3", &doubled).contains("and again at 6"));
    let misplaced = mutate(
        good(),
        |e| matches!(&e.op, Op::Sent { .. }),
        |e| {
            if let Op::Sent { conn, conversation, id } = &e.op {
                let (conn, conversation, id) = (conn.clone(), conversation.clone(), id.clone());
                e.op = Op::Placed {
                    conn,
                    conversation,
                    id,
                    seq: 4,
                };
            }
        },
    );
    assert!(broken("I3", &misplaced).contains("where it does not stand"));
}

#[test]
fn i4_two_values_at_one_place() {
    let mut swapped = good();
    let at = position(&swapped, |op| matches!(op, Op::Page { .. }));
    if let Op::Page { rows, .. } = &mut swapped[at].op {
        rows.swap(3, 4);
        (rows[3].seq, rows[4].seq) = (4, 5);
    }
    assert!(broken("I4", &swapped).contains("seq 4 is"));
}

#[test]
fn i5_a_hole_a_repeat_and_a_wrong_last_seq() {
    let mut hole = good();
    final_rows(&mut hole, |rows| {
        rows.remove(2);
    });
    assert!(broken("I5", &hole).contains("seq 4 stands where 3 should"));
    let short = mutate(
        good(),
        |e| matches!(e.op, Op::Page { .. }),
        |e| {
            if let Op::Page { last_seq, .. } = &mut e.op {
                *last_seq = 9;
            }
        },
    );
    assert!(broken("I5", &short).contains("last_seq is 9"));
}

#[test]
fn i6_a_later_send_that_stands_before_an_earlier_one() {
    let mut inverted = good();
    final_rows(&mut inverted, |rows| {
        rows.swap(3, 4);
        (rows[3].seq, rows[4].seq) = (4, 5);
    });
    assert!(broken("I6", &inverted).contains("stands at 4"));
}

#[test]
fn i7_a_device_that_was_not_handed_everything() {
    let mut missed = good();
    missed.retain(|e| !is_recv(&e.op, "a3", 5, Layer::App));
    assert!(broken("I7", &missed).contains("up to 4 of 5"));
}

#[test]
fn i8_a_skip_an_inversion_and_a_repeat() {
    let mut skip = good();
    skip.retain(|e| !is_recv(&e.op, "a2", 3, Layer::App));
    assert!(broken("I8", &skip).contains("4 after 2"));
    let mut repeat = good();
    let at = position(&repeat, |op| is_recv(op, "a2", 3, Layer::Raw));
    repeat.insert(at, repeat[at].clone());
    assert!(broken("I8", &repeat).contains("3 after 3"));
}

#[test]
fn i9_a_falling_mark_one_above_what_was_written_and_a_resume_with_a_gap() {
    let fallen = mutate(
        good(),
        |e| matches!(e.op, Op::Receipt { recv: 3, .. }),
        |e| {
            if let Op::Receipt { recv, read, .. } = &mut e.op {
                (*recv, *read) = (1, 1);
            }
        },
    );
    assert!(broken("I9", &fallen).contains("after 2/1"));
    let above = mutate(
        good(),
        |e| matches!(e.op, Op::Receipt { recv: 3, .. }),
        |e| {
            if let Op::Receipt { recv, .. } = &mut e.op {
                *recv = 4;
            }
        },
    );
    assert!(broken("I9", &above).contains("was written 3"));
    let gap = mutate(
        good(),
        |e| matches!(e.op, Op::Begin { resume: true, .. }),
        |e| {
            if let Op::Begin { from, .. } = &mut e.op {
                *from = 2;
            }
        },
    );
    assert!(broken("I9", &gap).contains("was sent 5 first"));
}

#[test]
fn i10_a_stranger_and_a_note_shown_to_the_customer() {
    let mut other_customer = good();
    for entry in &mut other_customer {
        if let Op::Connect { conn, user, .. } = &mut entry.op
            && conn == "a3"
        {
            *user = "mallory".into();
        }
    }
    assert!(broken("I10", &other_customer).contains("mallory is told"));
    let mut other_agent = good();
    for entry in &mut other_agent {
        if let Op::Connect { conn, user, .. } = &mut entry.op
            && conn == "b1"
        {
            *user = "eve".into();
        }
    }
    assert!(broken("I10", &other_agent).contains("eve is told"));
    let note = mutate(
        good(),
        |e| is_recv(&e.op, "a1", 3, Layer::Raw),
        |e| {
            if let Op::Recv { seen, .. } = &mut e.op {
                seen.what = "note".into();
            }
        },
    );
    assert!(broken("I10", &note).contains("private note"));
    let mut detached = good();
    let closed = Op::Member {
        tenant: "demo".into(),
        conversation: "alice".into(),
        user: "bo".into(),
        from_seq: 1,
        to_seq: Some(3),
    };
    let mut member = detached[0].clone();
    member.op = closed;
    detached.insert(0, member);
    assert!(broken("I10", &detached).contains("no part of it there"));
}

#[test]
fn i11_an_old_owner_with_an_effect() {
    let mut zombie = good();
    let at = position(&zombie, |op| matches!(op, Op::Out { .. }));
    let mut newer = zombie[at].clone();
    if let Op::Out { generation, .. } = &mut newer.op {
        generation.group = 2;
    }
    zombie.insert(at, newer);
    assert!(broken("I11", &zombie).contains("after generation"));
}

#[test]
fn i12_a_commit_above_a_record_without_a_row() {
    let mut early = good();
    let row = position(&early, |op| matches!(op, Op::Row { seen, .. } if seen.seq == 3));
    early.swap(row, row + 1);
    assert!(broken("I12", &early).contains("has no row"));
}

#[test]
fn i13_a_sent_before_its_record() {
    let mut early = good();
    let sent = position(&early, |op| matches!(op, Op::Sent { id, .. } if id == "m3"));
    let record = position(&early, |op| matches!(op, Op::Record { id, .. } if id == "m3"));
    let line = early.remove(sent);
    early.insert(record, line);
    assert!(broken("I13", &early).contains("not in the log"));
}

#[test]
fn i14_tables_that_differ_after_a_replay() {
    let differs = mutate(
        good(),
        |e| matches!(e.op, Op::Digest { replayed: true, .. }),
        |e| {
            if let Op::Digest { hash, .. } = &mut e.op {
                *hash = "e".into();
            }
        },
    );
    assert!(broken("I14", &differs).contains("after the replay"));
}

#[test]
fn i15_a_push_after_the_close_a_foreign_route_and_a_connection_that_lost_its_route() {
    let mut after_close = good();
    let at = position(&after_close, |op| matches!(op, Op::Close { .. }));
    let mut late = after_close[position(&after_close, |op| is_recv(op, "a1", 4, Layer::Raw))].clone();
    late.t_mono_us = 0;
    after_close.insert(at + 1, late);
    assert!(broken("I15", &after_close).contains("was closed and received"));
    let mut foreign = good();
    let mut unroute = foreign[0].clone();
    unroute.op = Op::Unroute {
        worker: "worker-1".into(),
        conn: "a2".into(),
        cause: "a1".into(),
    };
    foreign.push(unroute);
    assert!(broken("I15", &foreign).contains("because a1 left"));
    let mut unrouted = good();
    unrouted.retain(|e| !is_recv(&e.op, "a2", 5, Layer::Raw) && !is_recv(&e.op, "a2", 5, Layer::App));
    assert!(broken("I15", &unrouted).contains("stayed connected"));
}

#[test]
fn l1_a_send_without_an_end_and_a_client_that_stays_away() {
    let mut pending = good();
    let mut invoke = pending[position(&pending, |op| matches!(op, Op::Send { .. }))].clone();
    if let Op::Send { id, .. } = &mut invoke.op {
        *id = "m9".into();
    }
    pending.insert(10, invoke);
    assert!(broken("L1", &pending).contains("never ended"));
    let mut away = good();
    let at = position(&away, |op| matches!(op, Op::Phase { .. }));
    let mut close = away[at].clone();
    close.op = Op::Close {
        conn: "b1".into(),
        code: None,
    };
    away.insert(at, close);
    assert!(broken("L1", &away).contains("is not back"));
}

#[test]
fn a_run_without_effective_faults_or_without_sends_during_them_is_void() {
    assert_eq!(judge(&good()).void, None);
    let mut idle = good();
    for entry in &mut idle {
        if let Op::Fault { hits, .. } = &mut entry.op {
            *hits = 0;
        }
    }
    assert!(judge(&idle).void.unwrap().contains("took effect"));
    let strict = VoidLimits {
        sends_during_faults_min: 3,
    };
    assert!(check(&good(), strict).void.unwrap().contains("only 2 sends"));
    let mut calm = good();
    calm.retain(|e| !matches!(e.op, Op::Fault { .. }));
    assert!(judge(&calm).void.unwrap().contains("no fault"));
}
