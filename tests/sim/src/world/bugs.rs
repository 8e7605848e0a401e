//! Seeded bugs: each must be found, or the simulation proves nothing. Off unless a test or `--bug` asks for one.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bug {
    /// A node answers `sent` when it hands the record over, not when the log has it.
    AckBeforeLog,
    /// A client's `since` is registered one too high.
    SinceOffByOne,
    /// Nodes take pushes from any generation.
    NoGenerationCheck,
    /// Persistence commits before its rows are written.
    CommitBeforeWork,
    /// A disconnect removes the route of another connection of the same user.
    WrongRouteRemoved,
    /// A restarted persistence begins at the log's end instead of its committed offset.
    StartsAtLatest,
    /// A worker forgets the ids it has seen at a take-over.
    RepeatsForgotten,
}

impl Bug {
    pub const ALL: [Bug; 7] = [
        Bug::AckBeforeLog,
        Bug::SinceOffByOne,
        Bug::NoGenerationCheck,
        Bug::CommitBeforeWork,
        Bug::WrongRouteRemoved,
        Bug::StartsAtLatest,
        Bug::RepeatsForgotten,
    ];
}
