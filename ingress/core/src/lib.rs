//! What a connection is, without a socket: handshake, rights, limits, places, the outbound queue. One session core behind all
//! transports. Pure: time comes in as `now_ms`, effects go out as [`Step`] values which the edge carries out.
//!
//! Order of calls: [`Handshaking::handle_frame`] until it says `Verify` → [`Connected::new`] → any of `handle_*` →
//! after [`Connected::closing`] is set only [`Connected::take_output`].

pub mod body;
pub mod buckets;
pub mod framing;
pub mod heard;
mod outbox;
pub mod places;
pub mod rights;
pub mod session;
pub mod session_name;
mod steps;

pub use buckets::{Bucket, Rate};
pub use heard::Heard;
pub use places::{Place, Places};
pub use rights::{Claims, Need, Verb};
pub use session::{Connected, ConnectionLimits, Greeting, Handshaking, Reported, Tick};
pub use session_name::SessionName;
pub use steps::{NewAct, NewRecord, Off, Quota, Step, Switch, error_frame};
