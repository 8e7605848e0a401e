//! The fold: records in log order → events. Pure, total, and the same everywhere: delivery and persistence agree without
//! talking because both call `State::fold` with the same records in the same order.
//!
//! What it keeps: `seq` is 1, 2, 3 … without holes; an id that comes again within `limits::REPEAT_WINDOW_EVENTS` events is
//! dropped; a record at or before `applied` is skipped; a desk decision not above the last one is dropped.

mod let_go;
mod repeats;
mod session;
mod state;
mod stored;

pub use let_go::{is_named, named};
pub use repeats::IdHash;
pub use session::{OpenSpan, SessionChange};
pub use state::{Event, Folded, State};
pub use stored::BadState;
