//! The desk and what processes say of themselves, I16 to I20; progress; and runs that prove nothing.

use super::super::{Deadlines, check_in_time};
use super::*;

/// Changes the last line of that kind.
fn last(mut entries: Vec<Entry>, pick: impl Fn(&Op) -> bool, change: impl FnOnce(&mut Entry)) -> Vec<Entry> {
    change(
        entries
            .iter_mut()
            .rev()
            .find(|e| pick(&e.op))
            .expect("the good history has such an entry"),
    );
    entries
}

fn is_assign(op: &Op) -> bool {
    matches!(op, Op::Assign { .. })
}

fn is_capacity(op: &Op) -> bool {
    matches!(op, Op::Capacity { .. })
}

/// Alice's conversation shows this all along.
fn shown_always(mut entries: Vec<Entry>, shown: &str) -> Vec<Entry> {
    for entry in &mut entries {
        if let Op::Record { state, agent, .. } = &mut entry.op {
            *state = shown.into();
            agent.clear();
        }
    }
    entries
}

#[test]
fn i16_two_places_at_once_and_a_place_that_is_none() {
    let nowhere = last(good(), is_assign, |e| {
        if let Op::Assign { agent, .. } = &mut e.op {
            agent.clear();
        }
    });
    assert!(broken("I16", &nowhere).contains("in no one place"));
    let both = last(good(), is_assign, |e| {
        if let Op::Assign { state, agent, .. } = &mut e.op {
            *state = "queue".into();
            agent.clear();
        }
    });
    assert!(broken("I16", &both).contains("and with [\"bo\"]"));
}

#[test]
fn i16_a_move_without_a_cause_and_an_agent_above_capacity() {
    let causeless = last(good(), is_assign, |e| {
        if let Op::Assign { cause, .. } = &mut e.op {
            cause.clear();
        }
    });
    assert!(broken("I16", &causeless).contains("without a cause"));
    let above = last(good(), is_capacity, |e| {
        if let Op::Capacity { n, .. } = &mut e.op {
            *n = 0;
        }
    });
    assert!(broken("I16", &above).contains("has 1 and takes 0"));
}

#[test]
fn i16_a_replay_that_decides_otherwise() {
    let mut other = good();
    let at = position(&other, is_assign);
    let mut again = other[at].clone();
    if let Op::Assign { cause, .. } = &mut again.op {
        *cause = "requested".into();
    }
    other.push(again);
    assert!(broken("I16", &other).contains("and, replayed,"));
}

#[test]
fn i16_somebody_who_waits_while_an_agent_has_room() {
    let mut neglected = good();
    for entry in &mut neglected {
        match &mut entry.op {
            Op::Capacity { able, has, .. } => {
                *able = true;
                has.clear();
            }
            Op::Assign { state, agent, .. } => {
                *state = "queue".into();
                agent.clear();
            }
            _ => {}
        }
    }
    assert!(broken("I16", &neglected).contains("waits for ever"));
    let mut long = neglected;
    for entry in &mut long {
        if let Op::Assign { offset: 4, at_ms, .. } | Op::Capacity { offset: 4, at_ms, .. } = &mut entry.op {
            *at_ms = 6_000;
        }
    }
    assert!(broken("I16", &long).contains("waits for 3000 ms while bo has room"));
}

#[test]
fn i16_a_session_that_stays_wanted_and_one_that_shows_what_the_desk_does_not_have() {
    let wanted = shown_always(good(), "wanted");
    assert!(broken("I16", &wanted).contains("still wanted 10 s after the heal"));
    let idle = shown_always(good(), "idle");
    assert!(broken("I16", &idle).contains("shows idle"));
}

#[test]
fn i17_versions_that_fall_or_come_late() {
    let mut falling = good();
    let at = position(&falling, |op| matches!(op, Op::Control { version: 1, .. }));
    let mut newer = falling[at].clone();
    if let Op::Control { version, .. } = &mut newer.op {
        *version = 2;
    }
    let mut applied = newer.clone();
    applied.kind = Kind::Info;
    falling.splice(at + 1..at + 1, [newer, applied]);
    assert!(broken("I17", &falling).contains("after a later one"));

    let mut deaf = good();
    deaf.retain(|e| !(matches!(e.op, Op::Control { version: 1, .. }) && e.kind == Kind::Info));
    let mut end = deaf[deaf.len() - 1].clone();
    end.t_mono_us += 60_000_000;
    deaf.push(end);
    assert!(broken("I17", &deaf).contains("within 2 s of the heal"));
}

#[test]
fn i17_a_degraded_send_that_no_switch_names() {
    let mut degraded = good();
    for entry in &mut degraded {
        if let Op::Control { on, .. } = &mut entry.op {
            *on = true;
        }
    }
    let at = position(&degraded, |op| matches!(op, Op::Send { .. }));
    let mut refused = degraded[at].clone();
    refused.kind = Kind::Fail;
    if let Op::Send { code, .. } = &mut refused.op {
        *code = "degraded".into();
    }
    degraded.insert(at + 1, refused);
    assert!(broken("I17", &degraded).contains("no switch is off"));
}

#[test]
fn i18_service_after_the_token_ended_after_a_revocation_and_without_a_good_token() {
    let mut expired = good();
    for (n, entry) in expired.iter_mut().enumerate() {
        entry.t_mono_us = 1_000_000 * n as u64;
        if let Op::Connect { expires_us, .. } = &mut entry.op {
            *expires_us = expires_us.map(|_| 0);
        }
    }
    expired.retain(|e| !matches!(e.op, Op::Fault { .. }));
    assert!(broken("I18", &expired).contains("after its token expired"));

    let mut revoked = good();
    for (n, entry) in revoked.iter_mut().enumerate() {
        entry.t_mono_us = 1_000_000 * n as u64;
    }
    revoked.retain(|e| !matches!(e.op, Op::Fault { .. }));
    let at = position(&revoked, |op| matches!(op, Op::Send { .. }));
    let mut line = revoked[at].clone();
    line.kind = Kind::Ok;
    line.op = Op::Revoke {
        tenant: "demo".into(),
        user: "alice".into(),
    };
    revoked.insert(at, line.clone());
    assert!(broken("I18", &revoked).contains("after it was revoked"));
    // The same revocation, in the millisecond in which the tokens were issued: it may stand before them.
    for entry in &mut revoked[..at] {
        entry.t_mono_us = line.t_mono_us / 1_000 * 1_000;
    }
    assert!(matches!(judge(&revoked).verdict("I18"), Some(Verdict::Held(_))));

    let mut bad = good();
    for entry in &mut bad {
        if let Op::Connect { conn, bad_token, .. } = &mut entry.op {
            *bad_token = conn == "a1";
        }
    }
    let what = broken("I18", &bad);
    assert!(what.contains("had a bad token and is served"));
    assert!(what.contains("is in the log"));
}

#[test]
fn i19_a_sample_above_its_bound() {
    let above = last(
        good(),
        |op| matches!(op, Op::Sample { .. }),
        |e| {
            if let Op::Sample { value, .. } = &mut e.op {
                *value = 11;
            }
        },
    );
    assert!(broken("I19", &above).contains("holds 11 bytes of at most 10"));
}

#[test]
fn i20_a_record_that_became_nothing_and_a_dead_letter_without_a_name() {
    let is_account = |op: &Op| matches!(op, Op::Account { .. });
    let lost = last(good(), is_account, |e| {
        if let Op::Account { rows, .. } = &mut e.op {
            *rows = 0;
        }
    });
    assert!(broken("I20", &lost).contains("1 records were read and 0 are accounted for"));
    let unnamed = last(good(), is_account, |e| {
        if let Op::Account { rows, dead_letters, .. } = &mut e.op {
            (*rows, *dead_letters) = (0, 1);
        }
    });
    assert!(broken("I20", &unnamed).contains("0 of them named"));
}

#[test]
fn l1_a_send_that_ends_too_late_and_a_lag_that_stays() {
    let in_time = |entries: &[Entry]| match check_in_time(entries, LIMITS, Deadlines::SPECIFIED).verdict("L1") {
        Some(Verdict::Broken(breaks)) => breaks.iter().map(|b| b.what.clone() + "\n").collect(),
        _ => String::new(),
    };
    assert_eq!(in_time(&good()), "");
    let mut late = good();
    let healed = position(&late, |op| matches!(op, Op::Phase { phase: Phase::Healed }));
    let healed_us = late[healed].t_mono_us;
    late.retain(|e| !matches!(&e.op, Op::Recv { conn, seen, .. } if conn.starts_with('a') && seen.id == "m4"));
    let at = position(&late, |op| matches!(op, Op::Sent { id, .. } if id == "m4"));
    let mut line = late.remove(at);
    for entry in late.iter_mut().filter(|e| {
        matches!(
            e.op,
            Op::Phase {
                phase: Phase::Reconnected
            } | Op::Page { .. }
                | Op::Digest { .. }
        )
    }) {
        entry.t_mono_us = healed_us + 40_000_000;
    }
    let end = position(&late, |op| {
        matches!(
            op,
            Op::Phase {
                phase: Phase::Reconnected
            }
        )
    });
    line.t_mono_us = healed_us + 11_000_000;
    late.insert(end, line);
    assert!(in_time(&late).contains("never ended"));
    assert!(
        matches!(judge(&late).verdict("L1"), Some(Verdict::Held(_))),
        "without deadlines it came in the end"
    );

    let mut lagging = good();
    let commit = lagging.iter().rposition(|e| matches!(e.op, Op::Commit { .. })).unwrap();
    lagging.remove(commit);
    assert!(broken("L1", &lagging).contains("is not committed"));
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
