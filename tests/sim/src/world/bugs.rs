//! Seeded bugs: each must be found, or the simulation proves nothing. They are made by the modelled processes, never by the cores,
//! and are off unless a test, `--bug` or `sim bugs` asks for one: no build of the product holds a line of them.

use clap::ValueEnum;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Bug {
    /// A node answers `sent` when it hands the record over, not when the log has it.
    AckBeforeLog,
    /// A node takes a report that never came for a good one.
    TimeoutIsSuccess,
    /// A node takes a report that never came for a refusal.
    UnknownIsUnavailable,
    /// A client's `since` is registered one too high.
    SinceOffByOne,
    /// Nodes take pushes from any generation.
    NoGenerationCheck,
    /// A node writes every push, whether it is the connection's next or not.
    AnyPushIsWritten,
    /// A disconnect removes the route of another connection of the same user.
    WrongRouteRemoved,
    /// A node does not register its connections again when a partition has a new owner.
    NeverRegisteredAgain,
    /// A node that hears of a new owner stays with the old one while their link stands.
    StaysWithOldOwner,
    /// A node applies control records whatever their version.
    OldControlApplied,
    /// Tokens do not expire.
    TokenNeverExpires,
    /// A bad token is as good as any.
    BadTokenTaken,
    /// A worker begins at the log's end instead of persistence's committed offset.
    DeliveryStartsAtLatest,
    /// A worker forgets the ids it has seen at a take-over.
    RepeatsForgotten,
    /// A worker forgets the watermarks at a take-over.
    WatermarksForgotten,
    /// A worker takes notes between agents for messages when it reads them back from the store.
    NotesReadAsMessages,
    /// A worker does not ask the desk for somebody who is wanted.
    WantedNeverAsked,
    /// Persistence commits before its rows are written.
    CommitBeforeWork,
    /// Persistence commits one record too many.
    CommitOffByOne,
    /// Persistence writes a conversation's state before its events.
    StateBeforeEvents,
    /// Persistence takes a write that timed out for done.
    LostWriteIsDone,
    /// A restarted persistence begins at the log's end instead of its committed offset.
    StartsAtLatest,
    /// Rows are written at the time of writing, not at their position.
    WriteTimesAreNow,
    /// Watermarks in the store are overwritten, not merged.
    WatermarksOverwritten,
    /// What nobody can read is passed over without a dead letter.
    PoisonPassedOver,
    /// A desk that takes over begins at the log's end instead of its committed offset.
    DeskStartsAtLatest,
    /// The desk does not repeat an effect that failed.
    DeskEffectsOnce,
}

impl Bug {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |v| v.get_name().to_owned())
    }
}
