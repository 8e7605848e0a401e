//! The rules a single Rust file must keep.

use crate::Finding;
use crate::imports::PURE;
use crate::mask::line_of;
use crate::tree::RustFile;

/// Longer files are split by what a reader would search for.
pub const FILE_LINES_MAX: usize = 700;

/// Every file says in its first line what it is for.
pub fn says_what_it_is_for(file: &RustFile) -> Vec<Finding> {
    let first = file
        .text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    let says = first.strip_prefix("//!").is_some_and(|text| text.trim().len() >= 10);
    if says {
        return Vec::new();
    }
    vec![Finding::new(
        &file.path,
        1,
        "begin the file with `//!` and a sentence: what it is for and which rule it keeps",
    )]
}

pub fn is_short_enough(file: &RustFile) -> Vec<Finding> {
    let lines = file.text.lines().count();
    if lines <= FILE_LINES_MAX {
        return Vec::new();
    }
    let text =
        format!("{lines} lines, at most {FILE_LINES_MAX}: split it into files named by what a reader searches for");
    vec![Finding::new(&file.path, 0, text)]
}

/// For files that are not tests.
pub fn does_not_unwrap(file: &RustFile) -> Vec<Finding> {
    find(file, &[".unwrap()", ".unwrap_err()"], |what| {
        format!("{what} outside tests: return an error, or `expect` with the reason why it cannot fail")
    })
}

/// For files that are not tests.
pub fn has_bounded_channels(file: &RustFile) -> Vec<Finding> {
    let unbounded = [
        "unbounded_channel",
        "UnboundedSender",
        "UnboundedReceiver",
        "mpsc::unbounded",
        "unbounded()",
        "std::sync::mpsc::channel",
        "mpsc::channel()",
    ];
    find(file, &unbounded, |what| {
        format!(
            "{what} has no bound: give the channel a size named in wire/src/limits.rs, and decide what happens when it is full"
        )
    })
}

/// For files that are not tests. Clients and generators outside the house may spawn as they like.
pub fn spawns_with_a_kind(file: &RustFile) -> Vec<Finding> {
    if ["process/", "client/", "tests/"]
        .iter()
        .any(|folder| file.path.starts_with(folder))
    {
        return Vec::new();
    }
    find(
        file,
        &[
            "tokio::spawn",
            "task::spawn(",
            "runtime::Handle::spawn",
            "Handle::current().spawn",
        ],
        |what| {
            let what = what.trim_end_matches('(');
            format!("{what} says nothing about what the task's end means: use `process::Tasks::spawn` with a `Kind`")
        },
    )
}

/// For files that are not tests.
pub fn leaves_metric_names_to_process(file: &RustFile) -> Vec<Finding> {
    if file.path.starts_with("process/") || file.path.starts_with("tests/") {
        return Vec::new();
    }
    let text = &file.masked.with_literals;
    // A literal's beginning: `places` would want the whole name.
    let literals = text.match_indices("\"switchboard_").map(|(at, _)| {
        let advice = "a metric's name outside process: add it to process/src/metrics.rs and use its const";
        Finding::new(&file.path, line_of(text, at), advice)
    });
    let macros = ["counter!", "gauge!", "histogram!"];
    literals
        .chain(find(file, &macros, |what| {
            format!("{what} looks the metric up each time: keep the handle of a `process::metrics` const")
        }))
        .collect()
}

/// For files of pure crates that are not tests: time comes in as a value, and nothing goes out but values.
pub fn pure_crates_do_nothing(file: &RustFile) -> Vec<Finding> {
    if !PURE.iter().any(|(_, folder)| file.path.starts_with(folder)) {
        return Vec::new();
    }
    let deeds = [
        "Instant::now",
        "SystemTime",
        "std::thread",
        "std::fs",
        "std::net",
        "std::env",
        "println!",
        "eprintln!",
    ];
    find(file, &deeds, |what| {
        format!("{what} in a pure crate: take it as a value, or give back an action that the driver carries out")
    })
}

fn find(file: &RustFile, needles: &[&str], text: impl Fn(&str) -> String) -> Vec<Finding> {
    let of = |needle: &&str| {
        let lines = file.masked.lines_with(needle);
        lines
            .into_iter()
            .map(|line| Finding::new(&file.path, line, text(needle)))
            .collect::<Vec<_>>()
    };
    needles.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Masked;

    fn file(path: &str, text: &str) -> RustFile {
        RustFile {
            path: path.into(),
            text: text.into(),
            masked: Masked::new(text, false),
        }
    }

    /// Finds it in the bad sample, on that line, and nothing in the good one.
    fn tries(rule: fn(&RustFile) -> Vec<Finding>, bad: (&str, &str, usize), good: (&str, &str)) {
        let found = rule(&file(bad.0, bad.1));
        assert_eq!(found.len(), 1, "{:?} in {:?}", found, bad.1);
        assert_eq!(found[0].line, bad.2);
        assert_eq!(rule(&file(good.0, good.1)), [], "{:?}", good.1);
    }

    #[test]
    fn a_file_that_does_not_say_what_it_is_for_is_found() {
        let good = ("a.rs", "//! Reads frames from sockets.\n");
        tries(says_what_it_is_for, ("a.rs", "use x;\n", 1), good);
        tries(says_what_it_is_for, ("a.rs", "//! log\n", 1), good);
        tries(says_what_it_is_for, ("a.rs", "", 1), good);
    }

    #[test]
    fn a_long_file_is_found() {
        let long = "x\n".repeat(FILE_LINES_MAX + 1);
        tries(is_short_enough, ("a.rs", &long, 0), ("a.rs", &long[2..]));
    }

    #[test]
    fn an_unwrap_outside_tests_is_found() {
        let good = "fn f() { x.unwrap_or(1); x.expect(\"why\"); } // x.unwrap()\n#[cfg(test)]\nmod tests { fn g() { x.unwrap() } }";
        tries(
            does_not_unwrap,
            ("a.rs", "fn f() {\n x.unwrap();\n}", 2),
            ("a.rs", good),
        );
        tries(
            does_not_unwrap,
            ("a.rs", "fn f() { x.unwrap_err() }", 1),
            ("a.rs", good),
        );
    }

    #[test]
    fn an_unbounded_channel_is_found() {
        let good = (
            "a.rs",
            "let (a, b) = mpsc::channel(8); let (c, d) = tokio::sync::mpsc::channel::<u8>(8);",
        );
        for bad in [
            "let (a, b) = mpsc::unbounded_channel();",
            "struct A(UnboundedSender<u8>);",
            "use std::sync::mpsc::channel;",
            "let (a, b) = mpsc::channel();",
            "let (a, b) = flume::unbounded();",
        ] {
            tries(has_bounded_channels, ("a.rs", bad, 1), good);
        }
    }

    #[test]
    fn a_task_without_a_kind_is_found() {
        tries(
            spawns_with_a_kind,
            ("desk/src/a.rs", "fn f() {\n\n tokio::spawn(x);}", 3),
            ("process/src/a.rs", "tokio::spawn(x);"),
        );
        tries(
            spawns_with_a_kind,
            ("desk/src/a.rs", "task::spawn(x);", 1),
            (
                "desk/src/a.rs",
                "tasks.spawn(Kind::Worker, x); task::spawn_blocking(y);",
            ),
        );
    }

    #[test]
    fn a_metric_name_outside_process_is_found() {
        let good = (
            "log/src/a.rs",
            "metrics::LOGGED_TOTAL.get(); // \"switchboard_logged_total\"\n\"switchboard.control\"",
        );
        tries(
            leaves_metric_names_to_process,
            ("log/src/a.rs", "x(\n\"switchboard_logged_total\")", 2),
            good,
        );
        tries(
            leaves_metric_names_to_process,
            ("log/src/a.rs", "metrics::counter!(NAME)", 1),
            good,
        );
    }

    #[test]
    fn a_deed_in_a_pure_crate_is_found() {
        let good = ("desk/src/driver.rs", "Instant::now()");
        for bad in ["Instant::now()", "std::time::SystemTime::UNIX_EPOCH", "println!(\"x\")"] {
            tries(pure_crates_do_nothing, ("desk/core/src/a.rs", bad, 1), good);
        }
    }
}
