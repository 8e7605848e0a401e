//! The same targets under libFuzzer: `FUZZ_TARGET=NAME guided [libFuzzer's options] CORPUS…`. `tests/fuzz/guided` builds it with
//! the coverage it is guided by and calls it; built without, it is a slower `fuzz`.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static RUN: LazyLock<fn(&[u8]) -> bool> = LazyLock::new(|| {
    let targets = fuzz::targets();
    let wanted = std::env::var("FUZZ_TARGET").unwrap_or_default();
    match targets.iter().find(|t| t.name == wanted) {
        Some(target) => target.run,
        None => {
            let names: Vec<_> = targets.iter().map(|t| t.name).collect();
            eprintln!("guided: FUZZ_TARGET must be one of {}", names.join(", "));
            std::process::exit(64);
        }
    }
});

fuzz_target!(|input: &[u8]| {
    RUN(input);
});
