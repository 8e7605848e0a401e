//! Tasks with a declared kind: what the end, an error or a panic of a task means for the process. Nothing in the platform
//! runs in the background without having said so here, and the process waits for all of it when it drains.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::drain::Drain;
use crate::metrics;

/// What a task's end means.
///
/// | kind | ends by itself | error | panic |
/// |---|---|---|---|
/// | `Essential` | stops the process | stops the process | stops the process |
/// | `Worker` | fine | stops the process | stops the process |
/// | `Background` | fine | logged and counted | logged and counted |
///
/// "Stops the process": the drain starts, and the exit code is 70. After the drain has begun every end without error is fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Lives as long as the process: a listener, a driver, the log's thread.
    Essential,
    /// Does one thing and ends, but must not fail: a partition's take-over.
    Worker,
    /// May fail without harm to others: one connection, one webhook.
    Background,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Kind::Essential => "essential",
            Kind::Worker => "worker",
            Kind::Background => "background",
        }
    }
}

/// What a task's value says: `()` is a good end, `Err` is not.
pub trait TaskEnd: Send + 'static {
    fn error(self) -> Option<String>;
}

impl TaskEnd for () {
    fn error(self) -> Option<String> {
        None
    }
}

impl<E: fmt::Display + Send + 'static> TaskEnd for Result<(), E> {
    fn error(self) -> Option<String> {
        self.err().map(|e| e.to_string())
    }
}

/// The first end that stopped the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub task: &'static str,
    pub cause: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {}: {}", self.task, self.cause)
    }
}

/// What [`Tasks::join`] saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    All,
    /// Names of what still ran, and how many of each.
    DeadlinePassed(Vec<(&'static str, usize)>),
}

/// The process's tasks; cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    inner: Arc<Inner>,
}

struct Inner {
    drain: Drain,
    tracker: TaskTracker,
    failure: Mutex<Option<Failure>>,
    /// How many run, by name. One entry per name, not per task: connections are tasks too.
    running: Mutex<BTreeMap<&'static str, usize>>,
}

/// Who to abort or to wait for. Dropping it leaves the task alone.
pub struct TaskHandle {
    handle: JoinHandle<()>,
}

impl TaskHandle {
    /// Drops the task's future at its next await. That is not a failure of any kind.
    pub fn abort(&self) {
        self.handle.abort();
    }

    pub fn abort_handle(&self) -> AbortHandle {
        self.handle.abort_handle()
    }

    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Returns when the task has ended, however.
    pub async fn ended(self) {
        let _ = self.handle.await;
    }
}

impl Tasks {
    /// A task that stops the process starts this drain.
    pub fn new(drain: Drain) -> Self {
        Self {
            inner: Arc::new(Inner {
                drain,
                tracker: TaskTracker::new(),
                failure: Mutex::new(None),
                running: Mutex::new(BTreeMap::new()),
            }),
        }
    }

    pub fn drain(&self) -> &Drain {
        &self.inner.drain
    }

    /// Runs `future` as a task. `name` is what the logs call it: the same for all tasks of one sort.
    pub fn spawn<F>(&self, kind: Kind, name: &'static str, future: F) -> TaskHandle
    where
        F: Future + Send + 'static,
        F::Output: TaskEnd,
    {
        let guard = self.enter(kind, name);
        TaskHandle {
            handle: tokio::spawn(Supervised { future, guard }),
        }
    }

    /// Runs `body` on a thread of its own, for what blocks: `name` is also the thread's (15 bytes of it are shown).
    /// It must watch [`Drain::is_started`] by itself.
    pub fn spawn_thread<F, T>(&self, kind: Kind, name: &'static str, body: F) -> std::io::Result<()>
    where
        F: FnOnce() -> T + Send + 'static,
        T: TaskEnd,
    {
        let guard = self.enter(kind, name);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(body));
            guard.ended(result.map(TaskEnd::error));
        })?;
        Ok(())
    }

    /// Waits for every task and thread. Call it when the drain has begun; tasks may still be spawned meanwhile.
    pub async fn join(&self, within: Duration) -> Joined {
        self.inner.tracker.close();
        match tokio::time::timeout(within, self.inner.tracker.wait()).await {
            Ok(()) => Joined::All,
            Err(_) => Joined::DeadlinePassed(self.running()),
        }
    }

    /// What runs now, by name.
    pub fn running(&self) -> Vec<(&'static str, usize)> {
        self.inner.running.lock().iter().map(|(name, n)| (*name, *n)).collect()
    }

    /// The first failure that stopped the process; `/livez` fails from here on.
    pub fn failure(&self) -> Option<Failure> {
        self.inner.failure.lock().clone()
    }

    fn enter(&self, kind: Kind, name: &'static str) -> Guard {
        *self.inner.running.lock().entry(name).or_default() += 1;
        Guard {
            kind,
            name,
            _token: self.inner.tracker.token(),
            inner: Arc::clone(&self.inner),
        }
    }
}

/// Stands for one running task; its drop is the task's end, abort included.
struct Guard {
    kind: Kind,
    name: &'static str,
    inner: Arc<Inner>,
    _token: TaskTrackerToken,
}

impl Guard {
    /// The one place that decides what an end means.
    fn ended(&self, result: Result<Option<String>, Box<dyn Any + Send>>) {
        let draining = self.inner.drain.is_started();
        let cause = match result {
            Ok(None) if self.kind != Kind::Essential || draining => return,
            Ok(None) => "ended although nobody asked it to".to_owned(),
            Ok(Some(error)) => error,
            Err(panic) => format!("panicked: {}", panic_text(&*panic)),
        };
        metrics::TASKS_FAILED_TOTAL
            .with(&[("kind", self.kind.label())])
            .increment(1);
        if self.kind == Kind::Background {
            tracing::warn!(task = self.name, cause, "a background task failed; the process goes on");
            return;
        }
        tracing::error!(
            task = self.name,
            kind = self.kind.label(),
            cause,
            "a task failed; the process stops"
        );
        let why = format!("task {} failed", self.name);
        self.inner
            .failure
            .lock()
            .get_or_insert(Failure { task: self.name, cause });
        self.inner.drain.start(&why);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut running = self.inner.running.lock();
        if let Some(n) = running.get_mut(self.name) {
            *n -= 1;
            if *n == 0 {
                running.remove(self.name);
            }
        }
    }
}

pin_project! {
    /// The task's future, its panics caught. A struct and not an async block, which would hold the future twice.
    struct Supervised<F> {
        #[pin]
        future: F,
        guard: Guard,
    }
}

impl<F> Future for Supervised<F>
where
    F: Future,
    F::Output: TaskEnd,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        match catch_unwind(AssertUnwindSafe(|| this.future.poll(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(end)) => this.guard.ended(Ok(end.error())),
            Err(panic) => this.guard.ended(Err(panic)),
        }
        Poll::Ready(())
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "without a text"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks() -> Tasks {
        Tasks::new(Drain::new(Duration::from_secs(5)))
    }

    fn breaks(text: &str) {
        panic!("{text}");
    }

    #[tokio::test]
    async fn an_essential_task_that_ends_stops_the_process() {
        let tasks = tasks();
        tasks.spawn(Kind::Essential, "listener", async {});
        tasks.drain().started().await;
        assert_eq!(tasks.failure().unwrap().task, "listener");
    }

    #[tokio::test]
    async fn an_essential_task_may_end_while_draining_but_not_fail() {
        let tasks = tasks();
        tasks.drain().start("test");
        tasks.spawn(Kind::Essential, "listener", async {}).ended().await;
        assert_eq!(tasks.failure(), None);
        tasks
            .spawn(Kind::Essential, "flush", async { Err::<(), _>("disk full") })
            .ended()
            .await;
        assert_eq!(tasks.failure().unwrap().cause, "disk full");
    }

    #[tokio::test]
    async fn a_worker_may_end_but_neither_fail_nor_panic() {
        let ok = tasks();
        ok.spawn(Kind::Worker, "load", async { Ok::<(), String>(()) })
            .ended()
            .await;
        assert!(!ok.drain().is_started());

        let panicking = tasks();
        panicking.spawn(Kind::Worker, "load", async { breaks("hole in 7") });
        panicking.drain().started().await;
        assert_eq!(panicking.failure().unwrap().cause, "panicked: hole in 7");
    }

    #[tokio::test]
    async fn a_background_task_that_panics_leaves_the_process_alone() {
        let tasks = tasks();
        tasks
            .spawn(Kind::Background, "connection", async { breaks("bad client") })
            .ended()
            .await;
        tasks
            .spawn(Kind::Background, "connection", async { Err::<(), _>("reset") })
            .ended()
            .await;
        assert!(!tasks.drain().is_started());
        assert_eq!(tasks.failure(), None);
        assert_eq!(tasks.running(), vec![]);
    }

    #[tokio::test]
    async fn a_thread_is_a_task_like_others() {
        let tasks = tasks();
        tasks
            .spawn_thread(Kind::Essential, "poll-loop", || breaks("lost the broker"))
            .unwrap();
        tasks.drain().started().await;
        assert_eq!(tasks.join(Duration::from_secs(5)).await, Joined::All);
        assert_eq!(tasks.failure().unwrap().task, "poll-loop");
    }

    #[tokio::test]
    async fn join_names_what_still_runs_and_an_abort_is_no_failure() {
        let tasks = tasks();
        let first = tasks.spawn(Kind::Essential, "connection", std::future::pending::<()>());
        let second = tasks.spawn(Kind::Essential, "connection", std::future::pending::<()>());
        let late = tasks.join(Duration::from_millis(10)).await;
        assert_eq!(late, Joined::DeadlinePassed(vec![("connection", 2)]));
        first.abort();
        second.abort();
        assert_eq!(tasks.join(Duration::from_secs(5)).await, Joined::All);
        assert_eq!(tasks.failure(), None);
    }

    #[test]
    fn supervision_costs_a_connection_few_bytes() {
        let future_bytes = size_of::<std::future::Ready<()>>();
        assert!(size_of::<Supervised<std::future::Ready<()>>>() - future_bytes <= 64);
    }
}
