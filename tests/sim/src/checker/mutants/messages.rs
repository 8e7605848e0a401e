//! What clients see: I1 to I10.

use super::*;

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

/// What a `reset` leaves out may be read while pushes go on behind it; each of the two is consecutive.
#[test]
fn i8_behind_a_reset() {
    let reset_to = |h: &mut Good, last_seq| {
        h.push(
            Kind::Info,
            Op::Reset {
                conn: "a1".into(),
                conversation: "alice".into(),
                last_seq,
            },
        );
    };
    let recv = |h: &mut Good, seq, via| {
        let conn = "a1".to_owned();
        let seen = Seen {
            seq,
            what: "message".into(),
            ..Seen::default()
        };
        h.push(
            Kind::Info,
            Op::Recv {
                conn,
                conversation: "alice".into(),
                layer: Layer::App,
                via,
                seen,
            },
        );
    };
    let begun = || {
        let mut h = Good::default();
        h.connect("a1", "alice", Role::Customer, "phone");
        h.begin("a1", 2, false);
        recv(&mut h, 3, Via::Event);
        reset_to(&mut h, 7);
        recv(&mut h, 8, Via::Event);
        recv(&mut h, 4, Via::Page);
        recv(&mut h, 9, Via::Event);
        recv(&mut h, 5, Via::Page);
        h
    };
    let verdict = |h: Good| judge(&h.entries).verdict("I8").cloned();
    assert!(matches!(verdict(begun()), Some(Verdict::Held(_))));
    let mut skipped_in_history = begun();
    recv(&mut skipped_in_history, 7, Via::Page);
    assert!(broken("I8", &skipped_in_history.entries).contains("7 after 5"));
    let mut skipped = begun();
    recv(&mut skipped, 11, Via::Event);
    assert!(broken("I8", &skipped.entries).contains("11 after 9"));
    let mut pushed_from_the_hole = begun();
    recv(&mut pushed_from_the_hole, 6, Via::Event);
    assert!(broken("I8", &pushed_from_the_hole.entries).contains("6 after 9"));
    // What was left out twice is one hole.
    let mut twice = begun();
    reset_to(&mut twice, 20);
    recv(&mut twice, 6, Via::Page);
    recv(&mut twice, 21, Via::Event);
    assert!(matches!(verdict(twice), Some(Verdict::Held(_))));
    // One that names less than the app has leaves nothing out.
    let mut back = begun();
    reset_to(&mut back, 8);
    recv(&mut back, 10, Via::Event);
    assert!(matches!(verdict(back), Some(Verdict::Held(_))));
    let mut shown_again = begun();
    reset_to(&mut shown_again, 8);
    recv(&mut shown_again, 9, Via::Event);
    assert!(broken("I8", &shown_again.entries).contains("9 after 9"));
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
