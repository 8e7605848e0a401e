//! The simulation itself: the same seed gives the same trace, good cores pass, and each seeded bug is found.

use sim::checker::{Report, VoidLimits, check};
use sim::world::bugs::Bug;
use sim::world::{Options, Outcome, run};

const LIMITS: VoidLimits = VoidLimits {
    sends_during_faults_min: 10,
};

fn decided(seed: u64, bug: Option<Bug>) -> (Outcome, Report) {
    let outcome = run(seed, Options { bug, trace: false });
    let report = check(&outcome.history, LIMITS);
    (outcome, report)
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    for seed in [1, 2, 77] {
        let (first, _) = decided(seed, None);
        let (again, _) = decided(seed, None);
        assert_eq!(first.trace_hash, again.trace_hash, "seed {seed}");
        assert_eq!(first.history, again.history, "seed {seed}");
    }
    assert_ne!(decided(1, None).0.trace_hash, decided(2, None).0.trace_hash);
}

/// What must break for each bug, and within how many seeds.
fn found(bug: Bug, by: &[&str], seeds: u64) {
    for seed in 1..=seeds {
        let (_, report) = decided(seed, Some(bug));
        if report.broken().any(|(invariant, _)| by.contains(&invariant.id)) {
            return;
        }
    }
    panic!("{bug:?} was not found by {by:?} within {seeds} seeds");
}

#[test]
fn a_node_that_answers_before_the_log_is_found() {
    found(Bug::AckBeforeLog, &["I13"], 3);
}

#[test]
fn a_since_that_is_off_by_one_is_found() {
    found(Bug::SinceOffByOne, &["I9"], 5);
}

#[test]
fn a_node_that_takes_any_generation_is_found() {
    found(Bug::NoGenerationCheck, &["I11"], 300);
}

#[test]
fn a_commit_before_its_rows_is_found() {
    found(Bug::CommitBeforeWork, &["I12"], 3);
}

#[test]
fn a_disconnect_that_removes_another_route_is_found() {
    found(Bug::WrongRouteRemoved, &["I15", "I7"], 30);
}

#[test]
fn a_persistence_that_starts_at_the_latest_is_found() {
    found(Bug::StartsAtLatest, &["I1", "I5", "I12"], 40);
}

#[test]
fn a_worker_that_forgets_ids_at_a_take_over_is_found() {
    found(Bug::RepeatsForgotten, &["I4", "I8", "I3"], 60);
}
