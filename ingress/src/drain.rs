//! Leaving: clients are told to go elsewhere in batches with jitter, so that the other nodes see a slope and not a wall; what
//! the log still owes is awaited; who is left is closed.

use std::sync::Arc;
use std::time::Duration;

use process::Drain;
use wire::frames::{Goaway, ServerFrame};
use wire::{CloseCode, limits};

use crate::conn::Conn;
use crate::node::Node;

/// Of the deadline, this share is spent on telling.
const TELL_SHARE: u32 = 2;
/// A client that was told has this long to go by itself, and at most this long.
const LEAVE_MS_MAX: u64 = 3_000;
/// Kept for closing at the end.
const RESERVE_MS: u64 = 1_500;
const LOOK_EVERY_MS: u64 = 50;

/// Runs the whole drain of a node's connections; returns when none is left or the deadline is near.
pub async fn run(node: Arc<Node>, drain: Drain, batches: u32) {
    drain.started().await;
    let whole = drain.remaining();
    let mut everybody: Vec<Arc<Conn>> = Vec::new();
    node.for_each(|conn| everybody.push(Arc::clone(conn)));
    let batches = batches.clamp(1, (everybody.len() as u32).max(1));
    let size = everybody.len().div_ceil(batches as usize).max(1);
    // A node with few connections need not take half of its deadline.
    let telling = (whole / TELL_SHARE).min(Duration::from_millis(20 * everybody.len() as u64 + 200));
    for batch in everybody.chunks(size) {
        tell(&node, batch);
        tokio::time::sleep(telling / batches).await;
    }
    wait_until_empty(&node, drain.remaining().min(Duration::from_millis(LEAVE_MS_MAX))).await;
    if let Some(producer) = node.producer() {
        let left = drain.remaining().saturating_sub(Duration::from_millis(RESERVE_MS));
        producer
            .flush(left.min(Duration::from_millis(limits::PRODUCE_TIMEOUT_MS)).as_millis() as u64)
            .await;
    }
    node.for_each(|conn| conn.close(CloseCode::GoingAway));
    wait_until_empty(&node, drain.remaining()).await;
}

/// Each is told a different time to come back after, spread over the jitter.
fn tell(node: &Node, batch: &[Arc<Conn>]) {
    let now_ms = node.clock.now_ms();
    for conn in batch {
        // The low bits of a connection's id are as good as random among those told together.
        let jitter_ms = conn.id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53;
        let goaway = ServerFrame::Goaway(Goaway {
            retry_after_ms: 500 + jitter_ms,
        });
        conn.with(|session| session.handle_loose(now_ms, goaway.encode()));
    }
}

async fn wait_until_empty(node: &Node, within: Duration) {
    let empty = async {
        while node.open_connections() > 0 {
            tokio::time::sleep(Duration::from_millis(LOOK_EVERY_MS)).await;
        }
    };
    // Whoever is left is closed next.
    let _ = tokio::time::timeout(within, empty).await;
}
