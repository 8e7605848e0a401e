//! Inputs from inputs: a few changes each, drawn from a seed, so that a run can be repeated byte for byte with the same
//! corpus and the same Cargo.lock. The generator is named: `StdRng` is whatever this or that version of rand takes.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Inputs grow no longer.
const BYTES_MAX: usize = 4_096;
/// Lengths and counts live near these.
const EDGES: [u8; 9] = [0, 1, 0x7e, 0x7f, 0x80, 0x81, 0xc0, 0xfe, 0xff];

pub struct Mutator<'a> {
    rng: ChaCha8Rng,
    corpus: &'a [Vec<u8>],
    words: &'a [&'a [u8]],
}

impl<'a> Mutator<'a> {
    pub fn new(seed: u64, corpus: &'a [Vec<u8>], words: &'a [&'a [u8]]) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            corpus,
            words,
        }
    }

    /// The next input.
    pub fn input(&mut self) -> Vec<u8> {
        let mut input = match self.corpus.len() {
            0 => Vec::new(),
            n => self.corpus[self.rng.random_range(0..n)].clone(),
        };
        for _ in 0..self.rng.random_range(1..=6) {
            self.change(&mut input);
        }
        input.truncate(BYTES_MAX);
        input
    }

    fn at(&mut self, input: &[u8]) -> usize {
        self.rng.random_range(0..=input.len())
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.at(input);
        let end = (at + self.rng.random_range(0..=16)).min(input.len());
        match self.rng.random_range(0..10) {
            0 if at < input.len() => input[at] ^= 1 << self.rng.random_range(0..8),
            1 if at < input.len() => input[at] = EDGES[self.rng.random_range(0..EDGES.len())],
            2 => input.insert(at, self.rng.random()),
            3 => drop(input.drain(at..end)),
            4 => {
                let piece = input[at..end].to_vec();
                let to = self.at(input);
                input.splice(to..to, piece);
            }
            5 if !self.words.is_empty() => {
                let word = self.words[self.rng.random_range(0..self.words.len())];
                input.splice(at..at, word.iter().copied());
            }
            6 if !self.words.is_empty() => {
                let word = self.words[self.rng.random_range(0..self.words.len())];
                input.splice(at..end, word.iter().copied());
            }
            7 if !self.corpus.is_empty() => {
                let other = &self.corpus[self.rng.random_range(0..self.corpus.len())];
                let from = self.rng.random_range(0..=other.len());
                let tail = other[from..].to_vec();
                input.truncate(at);
                input.extend(tail);
            }
            8 => input.truncate(at),
            _ => {
                let len = self.rng.random_range(1..=32);
                let noise: Vec<u8> = (0..len).map(|_| self.rng.random()).collect();
                input.splice(at..at, noise);
            }
        }
    }
}
