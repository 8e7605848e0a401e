//! Syncs the files of a database while they are written, a piece at a time.
//!
//! fjall writes a table of 32 or 64 MiB as fast as it can and syncs it once, at its end. A disk takes its requests in turn: a
//! log's `fdatasync` of two kilobytes then waits for all of the table, and every send with it: 10 to 48 ms were seen. In pieces it
//! waits for one of them, of [`PIECE_BYTES`] or of what was written during the one before: 3 to 10 ms. (RocksDB has
//! `bytes_per_sync` for this.) The database does not know: it still syncs at the end, when little is left, and of an error of
//! the disk it hears itself, as every open file does.

use std::path::Path;

/// A file is synced once it has grown by so much.
pub const PIECE_BYTES: u64 = 256 * 1024;

/// Looks after the directories that fjall writes tables and blobs to, as long as it lives. Linux only; elsewhere it does nothing.
pub struct GradualSync {
    #[cfg(target_os = "linux")]
    _running: Option<linux::Running>,
}

impl GradualSync {
    /// Of every directory below `root` that is called `tables` or `blobs` now: a keyspace made later is left alone. Where it
    /// cannot run (a user may have 128 such watchers unless `fs.inotify.max_user_instances` says more) it warns: nothing is at
    /// risk but milliseconds.
    pub fn start(root: &Path) -> Self {
        #[cfg(not(target_os = "linux"))]
        let _ = root;
        Self {
            #[cfg(target_os = "linux")]
            _running: linux::Running::start(root, |_| {})
                .inspect_err(|error| {
                    tracing::warn!(%error, dir = %root.display(), "files are not synced while they are written: now and then sends wait for a whole table's sync");
                })
                .ok(),
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashMap;
    use std::collections::hash_map::Entry;
    use std::ffi::{CString, OsStr};
    use std::fs::File;
    use std::io::{self, PipeReader, PipeWriter};
    use std::mem::MaybeUninit;
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt;
    use std::path::PathBuf;
    use std::thread::JoinHandle;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
    use rustix::io::Errno;

    use super::*;

    /// Between two looks: a table is written in thousands of calls, and each would wake the thread.
    const LOOK_AGAIN: Duration = Duration::from_millis(1);

    pub struct Running {
        /// Closed, it ends the thread.
        stop: Option<PipeWriter>,
        thread: Option<JoinHandle<()>>,
    }

    impl Running {
        /// `tell` hears how many bytes each sync was for.
        pub fn start(root: &Path, tell: impl FnMut(u64) + Send + 'static) -> io::Result<Self> {
            let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            let mut dirs = HashMap::new();
            watch(root, &events, &mut dirs)?;
            let (stopped, stop) = io::pipe()?;
            let files = Files {
                dirs,
                open: HashMap::new(),
                tell,
            };
            let thread = std::thread::Builder::new().name("gradual-sync".into()).spawn(move || {
                if let Err(error) = files.run(&events, &stopped) {
                    tracing::warn!(%error, "files are no longer synced while they are written: now and then sends wait for a whole table's sync");
                }
            })?;
            Ok(Self {
                stop: Some(stop),
                thread: Some(thread),
            })
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.stop = None;
            if let Some(thread) = self.thread.take() {
                // It panicked, and said so.
                let _ = thread.join();
            }
        }
    }

    fn watch(dir: &Path, events: &OwnedFd, dirs: &mut HashMap<i32, PathBuf>) -> io::Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let path = entry.path();
            if matches!(entry.file_name().as_bytes(), b"tables" | b"blobs") {
                let flags = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::ONLYDIR;
                let watch = inotify::add_watch(events, &path, flags)?;
                dirs.insert(watch, path);
            } else {
                watch(&path, events, dirs)?;
            }
        }
        Ok(())
    }

    /// A file that is being written.
    struct Growing {
        file: File,
        synced_bytes: u64,
    }

    struct Files<T> {
        dirs: HashMap<i32, PathBuf>,
        open: HashMap<(i32, CString), Growing>,
        tell: T,
    }

    impl<T: FnMut(u64)> Files<T> {
        fn run(mut self, events: &OwnedFd, stopped: &PipeReader) -> io::Result<()> {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            loop {
                let mut both = [PollFd::new(events, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
                match poll(&mut both, None) {
                    Err(Errno::INTR) => continue,
                    outcome => outcome?,
                };
                if !both[1].revents().is_empty() {
                    return Ok(());
                }
                self.hear(events, &mut buffer)?;
                self.sync();
                std::thread::sleep(LOOK_AGAIN);
            }
        }

        /// Opens what is written to, lets go of what is finished.
        fn hear(&mut self, events: &OwnedFd, buffer: &mut [MaybeUninit<u8>]) -> io::Result<()> {
            let mut reader = inotify::Reader::new(events, buffer);
            loop {
                let event = match reader.next() {
                    Err(Errno::WOULDBLOCK) => return Ok(()),
                    Err(Errno::INTR) => continue,
                    event => event?,
                };
                if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                    // Who was finished meanwhile is not known; who still writes says so again.
                    self.open.clear();
                }
                let (Some(dir), Some(name)) = (self.dirs.get(&event.wd()), event.file_name()) else {
                    continue;
                };
                let key = (event.wd(), name.to_owned());
                if event.events().contains(ReadFlags::CLOSE_WRITE) {
                    self.open.remove(&key);
                } else if let Entry::Vacant(unknown) = self.open.entry(key) {
                    // Gone already: there is nothing to sync.
                    let Ok(file) = File::open(dir.join(OsStr::from_bytes(name.to_bytes()))) else {
                        continue;
                    };
                    unknown.insert(Growing { file, synced_bytes: 0 });
                }
            }
        }

        fn sync(&mut self) {
            for growing in self.open.values_mut() {
                let Ok(now) = growing.file.metadata() else { continue };
                let bytes = now.len().saturating_sub(growing.synced_bytes);
                if bytes >= PIECE_BYTES {
                    // The database's own sync of this file fails as well.
                    let _ = growing.file.sync_data();
                    growing.synced_bytes = now.len();
                    (self.tell)(bytes);
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use std::io::Write;
        use std::sync::mpsc;

        use super::*;

        fn started() -> (tempfile::TempDir, Running, mpsc::Receiver<u64>) {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(root.path().join("keyspaces/1/tables")).unwrap();
            let (tell, told) = mpsc::channel();
            let running = Running::start(root.path(), move |bytes| {
                let _ = tell.send(bytes);
            })
            .unwrap();
            (root, running, told)
        }

        const LONG: Duration = Duration::from_secs(20);

        #[test]
        fn a_file_is_synced_while_it_is_written() {
            let (root, _running, told) = started();
            let mut file = File::create(root.path().join("keyspaces/1/tables/7")).unwrap();
            let mut synced = 0;
            for piece in 1..=8 {
                file.write_all(&vec![1; PIECE_BYTES as usize]).unwrap();
                while synced < piece * PIECE_BYTES {
                    synced += told.recv_timeout(LONG).unwrap();
                }
                assert_eq!(synced, piece * PIECE_BYTES);
            }
        }

        #[test]
        fn small_files_and_what_lies_elsewhere_are_left_alone() {
            let (root, running, told) = started();
            std::fs::write(root.path().join("keyspaces/1/tables/1"), [0; 1000]).unwrap();
            std::fs::write(root.path().join("keyspaces/1/0.jnl"), vec![0; 4 << 20]).unwrap();
            std::fs::write(root.path().join("0.jnl"), vec![0; 4 << 20]).unwrap();
            let mut last = File::create(root.path().join("keyspaces/1/tables/2")).unwrap();
            last.write_all(&vec![1; PIECE_BYTES as usize]).unwrap();
            assert_eq!(told.recv_timeout(LONG), Ok(PIECE_BYTES));
            drop(running);
            assert!(told.recv().is_err());
        }

        #[test]
        fn it_ends_though_its_directory_went_first() {
            let (root, running, _told) = started();
            drop(root);
            drop(running);
        }

        #[test]
        fn a_directory_that_cannot_be_watched_is_told() {
            assert!(Running::start(Path::new("/nonexistent/dir"), |_| {}).is_err());
            // And nobody's end.
            drop(GradualSync::start(Path::new("/nonexistent/dir")));
        }
    }
}
