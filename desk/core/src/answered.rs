//! The last acts and their answers: the same act again is not carried out again. Bounded; the oldest go first.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use wire::ErrorCode;
use wire::record::{Act, Origin, Role};

use crate::ANSWERED_MAX;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    customer_side: bool,
    user: String,
    id: String,
    pub origin: Option<(u64, u64)>,
    pub error: Option<ErrorCode>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answered(VecDeque<Answer>);

impl Answered {
    /// The answer this act had before. Acts without an id are never repeats.
    pub fn find(&mut self, act: &Act) -> Option<&mut Answer> {
        let (customer_side, user) = sender(act);
        self.0
            .iter_mut()
            .rev()
            .find(|a| !act.id.is_empty() && a.id == act.id && a.user == user && a.customer_side == customer_side)
    }

    pub fn remember(&mut self, act: &Act, error: Option<ErrorCode>) {
        if act.id.is_empty() {
            return;
        }
        if self.0.len() >= ANSWERED_MAX {
            self.0.pop_front();
        }
        let (customer_side, user) = sender(act);
        self.0.push_back(Answer {
            customer_side,
            user: user.to_owned(),
            id: act.id.clone(),
            origin: act.origin.as_ref().map(place),
            error,
        });
    }
}

pub(crate) fn place(origin: &Origin) -> (u64, u64) {
    (origin.node, origin.connection)
}

fn sender(act: &Act) -> (bool, &str) {
    let from = act.from.as_ref();
    (
        from.is_some_and(|f| f.role() == Role::Customer),
        from.map_or("", |f| f.user.as_str()),
    )
}
