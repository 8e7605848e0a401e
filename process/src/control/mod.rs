//! The control topic: what operators decide while everything runs (lanes, revocations, switches), effective in 2 s.
//! The state is a pure value; the view is how a process shares it.

mod state;
mod view;

pub use state::{Applied, ControlState, Feature, Garbage, SwitchState};
pub use view::{ControlView, Fed};
