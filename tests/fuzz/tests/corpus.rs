//! Every commit: the corpora, what was found once included, and a fixed number of mutations of them from a fixed seed.

use std::time::{Duration, Instant};

use fuzz::mutate::Mutator;
use fuzz::{Target, corpus, targets};

/// Of each target, or so many as the time allows.
const MUTATIONS: usize = 4_000;
const TIME_MAX: Duration = Duration::from_secs(6);
const SEED: u64 = 20_261_122;

fn replay(target: &Target) {
    let named = corpus(target.name);
    assert!(named.len() >= 3, "{} has no corpus", target.name);
    for (name, input) in &named {
        println!("{}/{name}", target.name);
        (target.run)(input);
    }
    let inputs: Vec<Vec<u8>> = named.into_iter().map(|(_, bytes)| bytes).collect();
    let mut mutator = Mutator::new(SEED, &inputs, target.words);
    let began = Instant::now();
    for n in 0..MUTATIONS {
        if began.elapsed() > TIME_MAX {
            println!("{}: {n} mutations in the time there was", target.name);
            return;
        }
        (target.run)(&mutator.input());
    }
}

#[test]
fn no_input_breaks_a_decoder_or_a_core() {
    targets().iter().for_each(replay);
}

#[test]
fn the_same_seed_makes_the_same_inputs() {
    let inputs = [b"one".to_vec(), b"two".to_vec()];
    let make = |seed| {
        let mut mutator = Mutator::new(seed, &inputs, &[b"word"]);
        (0..100).map(|_| mutator.input()).collect::<Vec<_>>()
    };
    assert_eq!(make(1), make(1));
    assert_ne!(make(1), make(2));
}
