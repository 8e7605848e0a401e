//! The house rules as tests: `cargo test -p tidy`. What would rot the house is found here, with what to do about it.
//!
//! Each rule is a function from a text to findings, so that each has a test with a bad sample it must find.

pub mod imports;
pub mod limits;
pub mod mask;
pub mod rules;
pub mod tree;

use std::fmt;

/// One breach of one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub file: String,
    /// From 1; 0: the whole file.
    pub line: usize,
    /// What is wrong and what to do.
    pub text: String,
}

impl Finding {
    pub fn new(file: &str, line: usize, text: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line,
            text: text.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.file, self.text),
            line => write!(f, "{}:{line}: {}", self.file, self.text),
        }
    }
}
