//! Every commit: the corpora, what was found once included, and mutations of them from a fixed seed: 4,000 for
//! each target, or on a slow machine as many as 6 s allow, but never fewer than 200, however long those take.

use std::time::{Duration, Instant};

use fuzz::mutate::Mutator;
use fuzz::{Target, corpus, targets};

/// Of each target, or so many as the time allows.
const MUTATIONS: usize = 4_000;
/// The time does not stop these: fewer would say nothing.
const MUTATIONS_MIN: usize = 200;
const TIME_MAX: Duration = Duration::from_secs(6);
const SEED: u64 = 20_261_122;

fn replay(target: &Target) {
    let name = target.name;
    let named = corpus(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert!(named.len() >= 3, "{name} has no corpus");
    let mut through = 0;
    for (file, input) in &named {
        println!("{name}/{file}");
        through += usize::from((target.run)(input));
    }
    assert!(
        through > 0,
        "{name}: no input of the corpus gets past the door: nothing is tested"
    );
    let inputs: Vec<Vec<u8>> = named.into_iter().map(|(_, bytes)| bytes).collect();
    let mut mutator = Mutator::new(SEED, &inputs, target.words);
    let (began, mut ran) = (Instant::now(), 0);
    while ran < MUTATIONS_MIN || (ran < MUTATIONS && began.elapsed() <= TIME_MAX) {
        (target.run)(&mutator.input());
        ran += 1;
    }
    println!("{name}: {ran} mutations in {:?}", began.elapsed());
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
