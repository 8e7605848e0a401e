//! What every decoder and core must never do, for any bytes: each target is a plain function that panics when it does.
//!
//! Two ways to call them: `tests/corpus.rs` (every commit: the corpora, and a fixed number of seeded mutations of them) and the
//! binary `fuzz` (as long as you like). What was found once stays in `corpus/TARGET/`.

pub mod mutate;
pub mod targets;

use std::path::PathBuf;

/// A target and what its inputs are made of.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Pieces a mutation may put in.
    pub words: &'static [&'static [u8]],
}

/// All of them.
pub fn targets() -> Vec<Target> {
    use targets::*;
    vec![
        Target {
            name: "ws_frames",
            run: ws_frames::run,
            words: ws_frames::WORDS,
        },
        Target {
            name: "tcp_frames",
            run: tcp_frames::run,
            words: tcp_frames::WORDS,
        },
        Target {
            name: "envelope",
            run: envelope::run,
            words: envelope::WORDS,
        },
        Target {
            name: "records",
            run: records::run,
            words: records::WORDS,
        },
        Target {
            name: "history",
            run: history::run,
            words: history::WORDS,
        },
        Target {
            name: "desk",
            run: desk::run,
            words: &[],
        },
        Target {
            name: "routes",
            run: routes::run,
            words: &[],
        },
        Target {
            name: "tokens",
            run: tokens::run,
            words: tokens::WORDS,
        },
    ]
}

/// The target's checked-in inputs, by file name.
pub fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut inputs: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let bytes = std::fs::read(entry.path()).ok()?;
            Some((entry.file_name().to_string_lossy().into_owned(), bytes))
        })
        .collect();
    inputs.sort();
    inputs
}
