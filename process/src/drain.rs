//! Drain: one signal that everything in a process hears, with a deadline, and a log line that says how it went.
//!
//! SIGTERM or SIGINT starts it; a second one leaves at once (143 or 130).

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::exit::Exit;
use crate::metrics;
use crate::tasks::{Joined, Tasks};

/// A handle to the process's drain; cheap to clone.
#[derive(Clone)]
pub struct Drain {
    inner: Arc<Inner>,
}

struct Inner {
    token: CancellationToken,
    allowed: Duration,
    begun: OnceLock<Begun>,
}

struct Begun {
    at: Instant,
    why: String,
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").field("started", &self.is_started()).finish()
    }
}

impl Drain {
    /// A drain that only [`Drain::start`] begins; `allowed` is the time from there to its deadline.
    pub fn new(allowed: Duration) -> Self {
        Self {
            inner: Arc::new(Inner {
                token: CancellationToken::new(),
                allowed,
                begun: OnceLock::new(),
            }),
        }
    }

    /// A drain that SIGTERM and SIGINT start. The second signal ends the process at once.
    /// Call it inside the runtime, once per process.
    pub fn from_signals(allowed: Duration) -> io::Result<Self> {
        let drain = Self::new(allowed);
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(listen_to_signals(drain.clone(), terminate, interrupt));
        Ok(drain)
    }

    /// Begins the drain. Only the first call counts.
    pub fn start(&self, why: &str) {
        let mut first = false;
        self.inner.begun.get_or_init(|| {
            first = true;
            Begun {
                at: Instant::now(),
                why: why.to_owned(),
            }
        });
        if first {
            tracing::info!(
                why,
                deadline_ms = self.inner.allowed.as_millis() as u64,
                "drain started"
            );
            metrics::DRAINING.get().set(1.0);
            self.inner.token.cancel();
        }
    }

    /// Returns when the drain has begun; at once if it has already.
    pub async fn started(&self) {
        self.inner.token.cancelled().await;
    }

    pub fn is_started(&self) -> bool {
        self.inner.token.is_cancelled()
    }

    /// When everything must be done; `None` before the start.
    pub fn deadline(&self) -> Option<Instant> {
        self.inner.begun.get().map(|b| b.at + self.inner.allowed)
    }

    /// What is left until the deadline: the whole time before the start, zero after it.
    pub fn remaining(&self) -> Duration {
        match self.deadline() {
            Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            None => self.inner.allowed,
        }
    }

    /// Why it began.
    pub fn why(&self) -> Option<&str> {
        self.inner.begun.get().map(|b| b.why.as_str())
    }

    /// For libraries that want a token; cancelling it starts nothing here.
    pub fn token(&self) -> CancellationToken {
        self.inner.token.child_token()
    }

    /// The future's value, or `None` if the drain began first.
    pub async fn unless_started<F: Future>(&self, future: F) -> Option<F::Output> {
        self.inner.token.run_until_cancelled(future).await
    }
}

async fn listen_to_signals(drain: Drain, mut terminate: Signal, mut interrupt: Signal) {
    // Counted apart from the drain: one that began for another reason is not yet somebody's second wish.
    let mut heard = false;
    loop {
        let (name, exit) = tokio::select! {
            Some(()) = terminate.recv() => ("SIGTERM", Exit::Terminated),
            Some(()) = interrupt.recv() => ("SIGINT", Exit::Interrupted),
            else => return,
        };
        if heard {
            tracing::warn!(signal = name, "a second signal: leaving at once");
            std::process::exit(i32::from(exit.code()));
        }
        heard = true;
        if drain.is_started() {
            tracing::info!(signal = name, "draining already; a second signal leaves at once");
        }
        drain.start(name);
    }
}

/// Waits for the drain to begin and for the tasks to end, and says in the log which came first: the end or the deadline.
/// The result is the process's exit code: `Software` if a task that must live did not.
pub async fn run_until(tasks: &Tasks) -> Exit {
    let drain = tasks.drain();
    drain.started().await;
    let joined = tasks.join(drain.remaining()).await;
    let failure = tasks.failure();
    match (&joined, &failure) {
        (Joined::All, None) => tracing::info!(left_ms = drain.remaining().as_millis() as u64, "drained in time"),
        (Joined::All, Some(failure)) => tracing::error!(%failure, "drained in time after a failure"),
        (Joined::DeadlinePassed(left), _) => {
            let left: Vec<String> = left.iter().map(|(name, n)| format!("{name} ({n})")).collect();
            tracing::error!(still_running = left.join(", "), "the drain's deadline passed");
        }
    }
    match (joined, failure) {
        (_, Some(_)) => Exit::Software,
        (Joined::All, None) => Exit::Ok,
        (Joined::DeadlinePassed(_), None) => Exit::DrainDeadline,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Kind;

    #[tokio::test]
    async fn everybody_hears_the_drain_and_only_the_first_reason_counts() {
        let drain = Drain::new(Duration::from_secs(5));
        let other = drain.clone();
        assert!(!other.is_started());
        assert_eq!(other.deadline(), None);
        drain.start("first");
        drain.start("second");
        other.started().await;
        assert_eq!(other.why(), Some("first"));
        assert!(other.remaining() <= Duration::from_secs(5));
        assert_eq!(other.unless_started(std::future::pending::<()>()).await, None);
    }

    #[tokio::test]
    async fn a_process_that_drains_in_time_exits_with_0() {
        let tasks = Tasks::new(Drain::new(Duration::from_secs(5)));
        let drain = tasks.drain().clone();
        tasks.spawn(Kind::Essential, "server", async move { drain.started().await });
        tasks.drain().start("test");
        assert_eq!(run_until(&tasks).await, Exit::Ok);
    }

    #[tokio::test]
    async fn a_deadline_that_passes_is_an_exit_code_of_its_own() {
        let tasks = Tasks::new(Drain::new(Duration::from_millis(20)));
        tasks.spawn(Kind::Worker, "stuck", std::future::pending::<()>());
        tasks.drain().start("test");
        assert_eq!(run_until(&tasks).await, Exit::DrainDeadline);
        assert_eq!(tasks.drain().remaining(), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_failed_task_starts_the_drain_and_the_exit_code_says_so() {
        let tasks = Tasks::new(Drain::new(Duration::from_secs(5)));
        tasks.spawn(Kind::Essential, "server", async { Err::<(), _>("no port") });
        assert_eq!(run_until(&tasks).await, Exit::Software);
    }
}
