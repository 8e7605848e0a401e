//! Every commit: the corpora, what was found once included, and 200 mutations of them from a fixed seed. (`fuzz --seconds 2` goes on
//! from there, as a step of `./test`.)

use fuzz::mutate::Mutator;
use fuzz::{Target, corpus, targets};

/// Of each target.
const MUTATIONS: usize = 200;
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
    for _ in 0..MUTATIONS {
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
