//! The simulation itself: the same seed gives the same trace, a broken seed is made small, and a bug is found. (That every seeded
//! bug is found is a step of its own: `sim bugs`.)

use sim::runner::{broken, decide, find_bugs, minimise, replay_command, run_seeds};
use sim::world::bugs::Bug;
use sim::world::{CLIENTS, Options, Tracing};

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let options = Options {
        trace: Tracing::Hashed,
        ..Options::default()
    };
    for seed in [1, 2, 77] {
        let (first, _) = decide(seed, &options);
        let (again, _) = decide(seed, &options);
        assert!(first.trace_hash.is_some());
        assert_eq!(first.trace_hash, again.trace_hash, "seed {seed}");
        assert_eq!(first.history, again.history, "seed {seed}");
    }
    assert_ne!(decide(1, &options).0.trace_hash, decide(2, &options).0.trace_hash);
}

#[test]
fn threads_change_nothing_about_a_seed() {
    let options = Options::default();
    let alone = run_seeds((1, 4), 1, &options, true);
    let together = run_seeds((1, 4), 3, &options, true);
    assert_eq!(alone.events, together.events);
    assert_eq!((together.done, together.broken.len()), (4, 0));
}

#[test]
fn a_broken_seed_is_made_small_and_its_command_breaks_the_same() {
    let options = Options {
        bug: Some(Bug::StateBeforeEvents),
        ..Options::default()
    };
    let first = (1..60).find_map(|seed| {
        let (outcome, report) = decide(seed, &options);
        broken(&outcome, &report).first().map(|what| (seed, *what, outcome))
    });
    let (seed, what, outcome) = first.expect("the bug is found within 60 seeds");
    let least = minimise(seed, &options, what);
    let (small, report) = decide(seed, &least);
    assert!(broken(&small, &report).contains(&what));
    assert!(small.faults.len() <= outcome.faults.len());
    assert!(least.clients.as_ref().is_none_or(|c| c.len() < CLIENTS));
    let fewer = least.faults.is_some() || least.clients.is_some();
    assert!(fewer, "neither a fault nor a client could be left out of seed {seed}");
    let command = replay_command(seed, &least);
    assert!(command.contains(&format!("--seed {seed}")) && command.contains("--bug state-before-events"));
}

#[test]
fn a_bug_that_is_not_there_is_not_found() {
    let found = find_bugs(&[Bug::AckBeforeLog], 3, 1);
    assert!(matches!(&found[..], [(Bug::AckBeforeLog, Some((1..=3, red)))] if red.contains(&"I13")));
    let (outcome, report) = decide(1, &Options::default());
    assert!(broken(&outcome, &report).is_empty());
}

/// Each broke an invariant once; what they found has a test of its own where it was wrong.
#[test]
fn seeds_that_broke_something_once_break_nothing() {
    for seed in [984, 1848, 1872, 1980, 2226, 2271, 2482, 2854, 3087] {
        let (outcome, report) = decide(seed, &Options::default());
        assert_eq!(broken(&outcome, &report), Vec::<&str>::new(), "seed {seed}");
    }
}
