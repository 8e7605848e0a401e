//! What our decoders and cores must never do, for any bytes: each target is a plain function that panics when it does.
//!
//! Three ways to call them: `tests/corpus.rs` (every commit: the corpora, and seeded mutations of them), the binary `fuzz`
//! (mutations, as long as you like) and the script `guided` (libFuzzer, which keeps what reaches new code and goes on from
//! there). What was found once stays in `corpus/TARGET/`.

pub mod mutate;
pub mod targets;

use std::path::{Path, PathBuf};
use std::{fs, io};

/// A target and what its inputs are made of.
pub struct Target {
    pub name: &'static str,
    /// True: the input got past the door, to what must hold. A target that refuses whatever comes finds nothing, and
    /// would stay green.
    pub run: fn(&[u8]) -> bool,
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
        #[cfg(feature = "tokens")]
        Target {
            name: "tokens",
            run: tokens::run,
            words: tokens::WORDS,
        },
    ]
}

/// The target's checked-in inputs, by file name. One that cannot be read is an error: passed over, it tests nothing.
pub fn corpus(name: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let mut inputs = Vec::new();
    for entry in fs::read_dir(&folder).map_err(|e| unreadable(&folder, &e))? {
        let entry = entry.map_err(|e| unreadable(&folder, &e))?;
        let path = entry.path();
        let bytes = fs::read(&path).map_err(|e| unreadable(&path, &e))?;
        inputs.push((entry.file_name().to_string_lossy().into_owned(), bytes));
    }
    inputs.sort();
    Ok(inputs)
}

fn unreadable(path: &Path, why: &io::Error) -> io::Error {
    io::Error::new(why.kind(), format!("cannot read {}: {why}", path.display()))
}
