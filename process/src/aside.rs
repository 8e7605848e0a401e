//! Work that nobody waits for gives way: a runtime beside the process's own, and threads that step aside.
//!
//! On a core that is full a thread waits for the slices of all others that have something to do. History is written after
//! everything was delivered, and a database flushes and compacts after everything was written, so theirs are the threads that wait.

use rustix::process::{getpid, getpriority_process, setpriority_process};
use tokio::runtime::{Builder, EnterGuard, Runtime};

/// What they are niced by: of a full core they get a third of the others' share (weights 335 and 1,024, `sched(7)`). By 19 they
/// got so little that history fell behind for good beside 97,000 messages a second; by 5 it is half a second late, as without.
const NICE: i32 = 5;
const NICE_MAX: i32 = 19;

/// A runtime whose threads give way. It ends with its handle; what still runs on it is dropped at its next await.
pub struct Aside(Option<Runtime>);

impl Aside {
    /// `threads` 0: as many as there are cores.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        if threads > 0 {
            builder.worker_threads(threads);
        }
        let runtime = builder
            .enable_all()
            .thread_name("aside")
            .on_thread_start(give_way)
            .build()?;
        Ok(Self(Some(runtime)))
    }

    /// What is spawned while this is held runs here, and so does what that spawns.
    pub fn enter(&self) -> Option<EnterGuard<'_>> {
        self.0.as_ref().map(Runtime::enter)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // A runtime that is dropped waits, which is forbidden on another's threads.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The calling thread gives way from now on, and so do those it starts. Called again it changes nothing.
pub fn give_way() {
    // By the main thread's: a process that was niced as a whole is not lifted up. On Linux both are a thread's own.
    let nice = getpriority_process(Some(getpid())).map(|of_process| (of_process + NICE).min(NICE_MAX));
    if let Err(error) = nice.and_then(|nice| setpriority_process(None, nice)) {
        tracing::debug!(%error, "a thread cannot give way; it takes its share like all others");
    }
}

/// What `open` returns; the threads it starts, a database's for flushing and compaction, give way.
pub fn opened<T: Send>(open: impl FnOnce() -> T + Send) -> T {
    let opened = std::thread::scope(|scope| {
        let opening = scope.spawn(|| {
            give_way();
            open()
        });
        opening.join()
    });
    opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> i32 {
        getpriority_process(None).unwrap()
    }

    #[test]
    fn threads_beside_give_way_once_and_the_others_do_not() {
        let of_process = getpriority_process(Some(getpid())).unwrap();
        let wanted = (of_process + NICE).min(NICE_MAX);
        let before = own();
        let theirs = opened(|| {
            give_way();
            (own(), std::thread::spawn(own).join().unwrap())
        });
        assert_eq!(theirs, (wanted, wanted));

        let aside = Aside::start(1).unwrap();
        let of_task = {
            let _beside = aside.enter();
            tokio::spawn(async { own() })
        };
        let waiting = Builder::new_current_thread().build().unwrap();
        assert_eq!(waiting.block_on(of_task).unwrap(), wanted);
        assert_eq!(own(), before);
    }

    #[tokio::test]
    async fn a_runtime_beside_can_end_on_a_thread_of_another() {
        let aside = Aside::start(1).unwrap();
        let task = {
            let _beside = aside.enter();
            tokio::spawn(std::future::pending::<()>())
        };
        drop(aside);
        assert!(task.await.unwrap_err().is_cancelled());
    }
}
