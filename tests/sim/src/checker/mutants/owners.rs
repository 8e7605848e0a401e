//! Owners, the log and the store, routes: I11 to I15.

use super::*;

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
    let line = early.remove(row);
    // Behind its account and its commit.
    early.insert(row + 2, line);
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
