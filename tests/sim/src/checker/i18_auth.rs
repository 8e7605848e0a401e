//! I18: a token's end is the connection's end.

use std::collections::BTreeMap;

use wire::limits::TOKEN_LEEWAY_S;

use super::history::{FaultState, Kind, Op};
use super::{Facts, Invariant, Tally, Verdict};

pub const I18: Invariant = Invariant {
    id: "I18",
    name: "auth",
    statement: "nothing is accepted or delivered on a connection later than expiry + leeway, or 5 s after revocation; a connection failing any bad-token case has zero Kafka records",
    decide,
};

/// Nodes look once a second, and what they wrote before travels.
const SLACK_US: u64 = 2_000_000;
const REVOKED_WITHIN_US: u64 = 5_000_000;

fn decide(facts: &Facts) -> Verdict {
    let mut tally = Tally::default();
    let mut revoked: BTreeMap<(&str, &str), (u64, usize)> = BTreeMap::new();
    let mut ends: BTreeMap<&str, (Option<u64>, bool, usize)> = BTreeMap::new();
    let mut on = 0_usize;
    // When the last fault was on: what was held up by it says nothing about the node. A clock that jumped stays wrong.
    let mut faulty_us: Option<u64> = None;
    let mut skewed = false;
    let mut tried: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
    let mut any = false;
    for (at, entry) in facts.entries.iter().enumerate() {
        let now_us = entry.t_mono_us;
        if on > 0 {
            faulty_us = Some(now_us);
        }
        let conn = match &entry.op {
            Op::Fault { name, state, .. } => {
                on = match state {
                    FaultState::Start => on + 1,
                    FaultState::Stop => on.saturating_sub(1),
                };
                faulty_us = Some(now_us);
                skewed |= name == "skew";
                continue;
            }
            Op::Connect {
                conn,
                expires_us,
                bad_token,
                ..
            } if entry.kind == Kind::Invoke => {
                any |= expires_us.is_some() || *bad_token;
                ends.insert(conn, (*expires_us, *bad_token, at));
                continue;
            }
            Op::Revoke { tenant, user } => {
                any = true;
                revoked.insert((tenant, user), (now_us, at));
                continue;
            }
            Op::Send { conn, id, .. } if entry.kind == Kind::Invoke => {
                if ends.get(conn.as_str()).is_some_and(|e| e.1) {
                    tried.insert(id, (conn, at));
                }
                continue;
            }
            Op::Record { id, .. } => {
                if let Some((conn, sent)) = tried.get(id.as_str()) {
                    tally.case(false, &[*sent, at], || {
                        format!("{conn} had a bad token and its {id} is in the log")
                    });
                }
                continue;
            }
            Op::Connect { conn, .. } if entry.kind == Kind::Ok => conn,
            Op::Sent { conn, .. } | Op::Placed { conn, .. } | Op::Recv { conn, .. } | Op::Receipt { conn, .. } => conn,
            _ => continue,
        };
        let Some((expires_us, bad, begun)) = ends.get(conn.as_str()).copied() else {
            continue;
        };
        if bad {
            tally.case(false, &[begun, at], || format!("{conn} had a bad token and is served"));
        }
        let calm = |since_us: u64| faulty_us.is_none_or(|f| f < since_us) && on == 0 && !skewed;
        if let Some(expires_us) = expires_us {
            let late = now_us > expires_us + TOKEN_LEEWAY_S * 1_000_000 + SLACK_US && calm(expires_us);
            tally.case(!late, &[begun, at], || {
                format!(
                    "{conn} is served {} ms after its token expired",
                    (now_us - expires_us) / 1_000
                )
            });
        }
        if let Some(known) = facts.conns.get(conn.as_str())
            && let Some((when_us, said)) = revoked.get(&(known.tenant, known.user)).copied()
            && begun < said
            // Tokens and revocations have milliseconds: one issued within the revocation's own may count as issued behind it.
            && facts.entries[begun].t_mono_us / 1_000 < when_us / 1_000
        {
            let late = now_us > when_us + REVOKED_WITHIN_US && calm(when_us);
            tally.case(!late, &[begun, said, at], || {
                format!(
                    "{conn} is served {} ms after it was revoked",
                    (now_us - when_us) / 1_000
                )
            });
        }
    }
    // A bad token that was refused is a case too.
    tally.cases += ends.values().filter(|e| e.1).count();
    if any {
        tally.verdict()
    } else {
        Verdict::Undecided("no token expires, is bad or is revoked in the history")
    }
}
