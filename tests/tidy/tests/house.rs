//! The rules, applied to this repository. Each rule's own test, with a bad sample it must find, stands beside it in `src/`.

use tidy::tree::{self, RustFile};
use tidy::{Finding, imports, limits, rules};

/// Fails with all findings, not only the first.
fn must_be_clean(mut found: Vec<Finding>) {
    found.sort();
    let lines: String = found.iter().map(|f| format!("\n  {f}")).collect();
    assert!(
        found.is_empty(),
        "{} places break a rule of the house:{lines}\n",
        found.len()
    );
}

fn everywhere(rule: fn(&RustFile) -> Vec<Finding>) {
    let files = tree::rust_files(&tree::root());
    assert!(files.len() > 20, "the tree was not found");
    must_be_clean(files.iter().flat_map(rule).collect());
}

fn outside_tests(rule: fn(&RustFile) -> Vec<Finding>) {
    let files = tree::rust_files(&tree::root());
    let tests = tree::test_files(&files);
    must_be_clean(
        files
            .iter()
            .filter(|f| !tests.contains(&f.path))
            .flat_map(rule)
            .collect(),
    );
}

#[test]
fn nobody_imports_what_the_table_does_not_allow() {
    let manifests = tree::manifests(&tree::root());
    must_be_clean(
        manifests
            .iter()
            .flat_map(|(path, text)| imports::check(path, text))
            .collect(),
    );
}

#[test]
fn every_file_says_what_it_is_for() {
    everywhere(rules::says_what_it_is_for);
}

#[test]
fn no_file_is_too_long() {
    everywhere(rules::is_short_enough);
}

#[test]
fn nobody_unwraps_outside_tests() {
    outside_tests(rules::does_not_unwrap);
}

#[test]
fn every_channel_is_bounded() {
    outside_tests(rules::has_bounded_channels);
}

#[test]
fn every_task_has_a_kind() {
    outside_tests(rules::spawns_with_a_kind);
}

#[test]
fn metric_names_are_in_process_alone() {
    outside_tests(rules::leaves_metric_names_to_process);
}

#[test]
fn pure_crates_do_nothing_but_compute() {
    outside_tests(rules::pure_crates_do_nothing);
}

#[test]
fn every_limit_is_defined_once() {
    let files = tree::rust_files(&tree::root());
    let tests = tree::test_files(&files);
    must_be_clean(limits::defined_twice(files.iter().filter(|f| !tests.contains(&f.path))));
}
