//! What happened, as one number and, if asked for, as text: the same seed gives the same trace.

use std::fmt::{self, Write};

/// What is kept of what happens. Writing it all down takes a quarter of a run's time or more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tracing {
    #[default]
    Off,
    /// One number, the trace's hash.
    Hashed,
    /// The number, and every event printed.
    Shown,
}

pub struct Trace {
    hash: u64,
    tracing: Tracing,
}

impl Trace {
    pub fn new(tracing: Tracing) -> Self {
        Trace {
            hash: 0xcbf2_9ce4_8422_2325,
            tracing,
        }
    }

    pub fn is_on(&self) -> bool {
        self.tracing != Tracing::Off
    }

    pub fn is_shown(&self) -> bool {
        self.tracing == Tracing::Shown
    }

    /// One event: it counts, and is printed when asked for.
    pub fn event(&mut self, now_us: u64, what: fmt::Arguments<'_>) {
        if !self.is_on() {
            return;
        }
        // Hashing takes every piece of text.
        let _ = write!(Hasher(&mut self.hash), "{now_us} {what}");
        self.note(now_us, what);
    }

    /// Printed only.
    pub fn note(&self, now_us: u64, what: fmt::Arguments<'_>) {
        if self.is_shown() {
            println!("{:>12.6} {what}", now_us as f64 / 1e6);
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// FNV-1a.
struct Hasher<'a>(&'a mut u64);

impl fmt::Write for Hasher<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            *self.0 = (*self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}
