//! One direction of one connection: reads, bends what it read as the rules say, and writes it when it is due.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Rules;
use super::verbs::Shape;

/// Bytes one direction holds back; beyond it the proxy stops reading, as a network would.
const HELD_BYTES_MAX: usize = 1 << 20;
const READ_BYTES_MAX: usize = 16 << 10;

/// The connection is to be reset, both ways.
pub struct Reset;

pub struct Pump<'a> {
    pub up: bool,
    pub conn: u64,
    pub from: ReadHalf<'a>,
    pub to: WriteHalf<'a>,
    pub rules: watch::Receiver<Rules>,
    /// As they were when the connection came: what happens once and happened before does not concern it.
    pub before: Rules,
    /// How often a rule did something.
    pub hits: &'a AtomicU64,
    pub seed: u64,
}

struct State {
    shape: Shape,
    version: u64,
    resets: u64,
    fins: u64,
    held: VecDeque<(Instant, BytesMut)>,
    held_bytes: usize,
    /// Bytes since the shape changed.
    counted: u64,
    /// The last write's due time, and with a rate when the next may be.
    last_due: Instant,
    eof: bool,
    /// The other end was told that nothing more comes.
    finished: bool,
    /// Bytes were swallowed: the stream can't go on.
    lost: bool,
    /// Reset when everything held is written.
    cut: bool,
    rng: ChaCha8Rng,
}

impl Pump<'_> {
    /// Until the sender has ended and all of it is passed on.
    pub async fn run(mut self) -> Result<(), Reset> {
        let mut state = State {
            shape: Shape::default(),
            version: 0,
            resets: self.before.resets,
            fins: self.fins(&self.before),
            held: VecDeque::new(),
            held_bytes: 0,
            counted: 0,
            last_due: Instant::now(),
            eof: false,
            finished: false,
            lost: false,
            cut: false,
            rng: ChaCha8Rng::seed_from_u64(self.seed ^ (self.conn << 1) ^ u64::from(self.up)),
        };
        let mut buffer = BytesMut::with_capacity(READ_BYTES_MAX);
        loop {
            self.apply(&mut state).await?;
            let shape = state.shape;
            if state.held.is_empty() {
                if state.cut {
                    return Err(Reset);
                }
                if state.eof && !shape.stall && !shape.blackhole {
                    // The other side may have gone: then there is nobody to tell.
                    let _ = self.to.shutdown().await;
                    return Ok(());
                }
            }
            let may_read = !state.eof && !state.cut && !shape.stall && state.held_bytes < HELD_BYTES_MAX;
            let may_write = !state.held.is_empty() && !shape.stall;
            buffer.reserve(READ_BYTES_MAX);
            tokio::select! {
                changed = self.rules.changed() => if changed.is_err() { return Err(Reset) },
                read = self.from.read_buf(&mut buffer), if may_read => match read {
                    Ok(0) => state.eof = true,
                    Ok(_) => self.take(&mut state, buffer.split()),
                    // Behind a blackhole nobody learns of it.
                    Err(_) if shape.blackhole => (state.eof, state.lost) = (true, true),
                    Err(_) => return Err(Reset),
                },
                wrote = write(&mut self.to, &state.held, shape.split_bytes), if may_write => match wrote {
                    Ok(n) => self.wrote(&mut state, n),
                    Err(_) => return Err(Reset),
                },
            }
        }
    }

    fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    fn fins(&self, rules: &Rules) -> u64 {
        if self.up { rules.fins_up } else { rules.fins_down }
    }

    /// Takes over the rules as they are now.
    async fn apply(&mut self, state: &mut State) -> Result<(), Reset> {
        let rules = *self.rules.borrow_and_update();
        if rules.version == state.version {
            return Ok(());
        }
        state.version = rules.version;
        if !rules.concerns(self.conn) {
            return Ok(());
        }
        if rules.resets != state.resets {
            if self.up {
                self.hit();
            }
            return Err(Reset);
        }
        let shape = if self.up { rules.up } else { rules.down };
        if shape != state.shape {
            if state.lost && !shape.blackhole {
                return Err(Reset);
            }
            if shape.blackhole && !state.held.is_empty() {
                (state.lost, state.held_bytes) = (true, 0);
                state.held.clear();
            }
            if shape.stall && !state.shape.stall {
                self.hit();
            }
            state.shape = shape;
            state.counted = 0;
        }
        let fins = self.fins(&rules);
        if fins != state.fins {
            state.fins = fins;
            state.finished = true;
            state.held.clear();
            state.held_bytes = 0;
            self.hit();
            let _ = self.to.shutdown().await;
        }
        Ok(())
    }

    fn take(&self, state: &mut State, mut chunk: BytesMut) {
        let shape = state.shape;
        let began = state.counted;
        state.counted += chunk.len() as u64;
        if shape.blackhole {
            state.lost = true;
            self.hit();
            return;
        }
        if state.finished {
            return;
        }
        if let Some(at) = shape.flip_at_byte
            && (began..state.counted).contains(&at)
        {
            chunk[(at - began) as usize] ^= 1 << state.rng.random_range(0..8);
            self.hit();
        }
        if let Some(after) = shape.cut_after_bytes
            && state.counted >= after
        {
            chunk.truncate(after.saturating_sub(began) as usize);
            state.cut = true;
            self.hit();
        }
        self.hold(state, chunk);
    }

    fn hold(&self, state: &mut State, chunk: BytesMut) {
        let now = Instant::now();
        let shape = state.shape;
        state.held_bytes += chunk.len();
        if let Some(within_ms) = shape.coalesce_ms {
            if let Some((_, last)) = state.held.back_mut() {
                last.extend_from_slice(&chunk);
                self.hit();
            } else {
                state.held.push_back((now + Duration::from_millis(within_ms), chunk));
            }
            return;
        }
        let mut due = now;
        if let Some((min, max)) = shape.delay_ms {
            due += Duration::from_millis(state.rng.random_range(min..=max));
            self.hit();
        }
        if let Some(rate) = shape.bytes_per_s {
            let takes = Duration::from_secs_f64(chunk.len() as f64 / rate as f64);
            due = due.max(state.last_due) + takes;
            self.hit();
        }
        // Later chunks never overtake.
        state.last_due = due.max(state.last_due);
        state.held.push_back((state.last_due, chunk));
    }

    fn wrote(&self, state: &mut State, n: usize) {
        state.held_bytes = state.held_bytes.saturating_sub(n);
        if let Some((_, head)) = state.held.front_mut() {
            head.advance(n.min(head.len()));
            if head.is_empty() {
                state.held.pop_front();
            } else if state.shape.split_bytes.is_some() {
                self.hit();
            }
        }
    }
}

/// One write of what is due first. Safe to drop at any await: a write happens whole or not at all.
async fn write(
    to: &mut WriteHalf<'_>,
    held: &VecDeque<(Instant, BytesMut)>,
    split: Option<usize>,
) -> std::io::Result<usize> {
    let Some((due, head)) = held.front() else {
        return Ok(0);
    };
    if *due > Instant::now() {
        tokio::time::sleep_until(*due).await;
    }
    let most = split.unwrap_or(usize::MAX).min(head.len());
    if most == 0 {
        return Ok(0);
    }
    let n = to.write(&head[..most]).await?;
    if split.is_some() {
        // The reader gets a chance to see exactly this much.
        tokio::task::yield_now().await;
    }
    Ok(n)
}
