//! One task looks at every connection once a second: pings, silence, expiry, stalled writes, revocations. No connection has a
//! timer of its own.

use std::sync::Arc;
use std::time::Duration;

use ingress_core::Tick;
use process::Drain;
use wire::CloseCode;

use crate::conn::{Conn, Transport};
use crate::node::{Node, SHARDS};

const ROUND_MS: u64 = 1_000;
/// Idle users are forgotten every so many rounds.
const FORGET_EVERY_ROUNDS: u64 = 10;

pub async fn run(node: Arc<Node>, drain: Drain) {
    let mut every = tokio::time::interval(Duration::from_millis(ROUND_MS / SHARDS as u64));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let changes = node.control.changes();
    let mut seen_change = *changes.borrow();
    let (mut round, mut bytes) = (0u64, 0usize);
    loop {
        // A shard after the other, so that no moment of the second is busier than others.
        let change = *changes.borrow();
        for shard in 0..SHARDS {
            every.tick().await;
            for conn in node.shard_connections(shard) {
                bytes += visit(&node, &conn);
            }
            if drain.is_started() && node.open_connections() == 0 {
                return;
            }
        }
        if change != seen_change || round == 0 {
            close_revoked(&node);
            seen_change = change;
        }
        node.meters.outbound_bytes.set(std::mem::take(&mut bytes) as f64);
        round += 1;
        if round % FORGET_EVERY_ROUNDS == 0 {
            let now_ms = node.clock.now_ms();
            node.tenants.values().for_each(|tenant| tenant.forget_idle(now_ms));
        }
    }
}

/// Returns the bytes that wait to be written to it.
fn visit(node: &Node, conn: &Arc<Conn>) -> usize {
    let now_ms = node.clock.now_ms();
    let (tick, closing, bytes) = {
        let mut session = conn.session();
        let closing = session.closing().is_some();
        (session.handle_tick(now_ms), closing, session.output_bytes())
    };
    match tick {
        Tick::Ping => conn.ping(),
        Tick::Close(_) => conn.wake(),
        // No task notices the end of a polled session, or of a stream that takes nothing: they had a round to fetch it.
        Tick::Nothing if closing && matches!(conn.transport, Transport::Poll | Transport::Sse) => node.disconnect(conn),
        Tick::Nothing => {}
    }
    bytes
}

fn close_revoked(node: &Node) {
    if node.control.now().revocations().next().is_none() {
        return;
    }
    node.for_each(|conn| {
        let control = node.control.now();
        if control.is_revoked(conn.tenant().as_str(), conn.account.user.as_str(), conn.issued_at_ms()) {
            conn.close(CloseCode::Revoked);
        }
    });
}
