//! A run's history as lines of JSON, however torn or contradictory: the checker decides, and never panics.

use sim::checker::history::read_lines;
use sim::checker::{Shown, VoidLimits, check};

pub const WORDS: &[&[u8]] = &[
    b"\n",
    b"{\"t_mono_us\":1,\"proc\":\"p\",\"kind\":\"ok\",\"op\":\"",
    b"\"conn\":\"c1\",\"conversation\":\"alice\",",
    b"\"seq\":18446744073709551615",
    b"\"seq\":0",
    b"\"op\":\"recv\"",
    b"\"op\":\"send\"",
    b"\"op\":\"sent\"",
    b"\"layer\":\"app\"",
    b"\"last\":true",
    b"\"op\":\"phase\",\"phase\":\"healed\"",
];

/// True: there was something to decide.
pub fn run(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else {
        return false;
    };
    let Ok(entries) = read_lines(text) else { return false };
    let report = check(
        &entries,
        VoidLimits {
            sends_during_faults_min: 0,
        },
    );
    assert!(!Shown(&report, &entries).to_string().is_empty());
    !entries.is_empty()
}
