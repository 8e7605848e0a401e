//! Ports for tests: free ones, each held until the process that asked for it ends, so that no other test is given it.
//!
//! A server takes its port only a moment after it was chosen, and two tests that choose by looking would choose the same. A port
//! is therefore held by a lock on a file; the tests' runner asks in the same place (`tests/steps/ports.py`).

use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;

/// Below the range that outgoing connections take theirs from.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A port of 127.0.0.1 that nobody listens on and no test holds. Fails only where the directory for temporary files cannot be
/// written, or where all are taken.
pub fn claim() -> io::Result<u16> {
    let folder = std::env::temp_dir().join("switchboard-ports");
    fs::create_dir_all(&folder)?;
    let random = RandomState::new();
    for attempt in 0..10_000_u32 {
        let width = u64::from(RANGE.end - RANGE.start);
        let port = RANGE.start + (random.hash_one(attempt) % width) as u16;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join(port.to_string()))?;
        if file.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            if let Ok(mut held) = HELD.lock() {
                held.push(file);
            }
            return Ok(port);
        }
    }
    Err(io::Error::other("no port is free"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_port_is_given_twice_and_each_is_free() {
        let ports: BTreeSet<u16> = (0..50).map(|_| claim().expect("a port")).collect();
        assert_eq!(ports.len(), 50);
        for port in ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("nobody listens there");
        }
    }

    #[test]
    fn what_is_held_cannot_be_held_again() {
        let port = claim().expect("a port");
        let path = std::env::temp_dir().join("switchboard-ports").join(port.to_string());
        let again = File::options().write(true).open(path).expect("its file");
        assert!(again.try_lock().is_err(), "another process would be given {port} too");
    }
}
