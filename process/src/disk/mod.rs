//! The disk that data is kept on: how much room it has, and how it is written to.
//!
//! What keeps its data here stops taking more while there is still room: a write that fails half-way cannot be taken back, one
//! that is refused can be tried again.

mod gradual;

pub use gradual::GradualSync;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The disk is asked this often at most.
const LOOK_AGAIN_MS: u64 = 200;

/// The room of one directory, and how much of it is left alone.
pub struct Room {
    dir: PathBuf,
    kept_bytes: u64,
    began: Instant,
    /// Milliseconds after `began`.
    look_next_ms: AtomicU64,
    /// As the disk said last.
    free_bytes: AtomicU64,
}

impl Room {
    /// `kept_bytes`: of what is free so much is never asked for; 0: the disk is not looked at.
    pub fn new(dir: &Path, kept_bytes: u64) -> Self {
        Self {
            dir: dir.to_owned(),
            kept_bytes,
            began: Instant::now(),
            look_next_ms: AtomicU64::new(0),
            free_bytes: AtomicU64::new(u64::MAX),
        }
    }

    /// Why nothing more should be written, if so. At most `LOOK_AGAIN_MS` old; a disk that cannot be asked is taken to have
    /// room. Asked for every record: no lock, one of the callers looks.
    pub fn is_short(&self) -> Option<String> {
        if self.kept_bytes == 0 {
            return None;
        }
        let now_ms = self.began.elapsed().as_millis() as u64;
        let due_ms = self.look_next_ms.load(Ordering::Relaxed);
        let next_ms = now_ms + LOOK_AGAIN_MS;
        let take = || {
            self.look_next_ms
                .compare_exchange(due_ms, next_ms, Ordering::Relaxed, Ordering::Relaxed)
        };
        if now_ms >= due_ms && take().is_ok() {
            let free = free_bytes(&self.dir).unwrap_or(u64::MAX);
            self.free_bytes.store(free, Ordering::Relaxed);
        }
        let free = self.free_bytes.load(Ordering::Relaxed);
        if free >= self.kept_bytes {
            return None;
        }
        Some(format!(
            "the disk of {} is nearly full: {} MiB are free, {} are kept; make room, nothing has to be started again",
            self.dir.display(),
            free >> 20,
            self.kept_bytes >> 20
        ))
    }
}

/// Bytes a process may still use on the disk `dir` is on.
fn free_bytes(dir: &Path) -> std::io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_short_only_of_what_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Room::new(dir.path(), 1).is_short(), None);
        assert_eq!(Room::new(dir.path(), 0).is_short(), None);
        assert!(
            Room::new(dir.path(), u64::MAX)
                .is_short()
                .unwrap()
                .contains("nearly full")
        );
        assert_eq!(Room::new(Path::new("/nonexistent/dir"), u64::MAX).is_short(), None);
    }
}
