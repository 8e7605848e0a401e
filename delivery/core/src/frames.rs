//! Client frames the worker itself makes: `conversation`, `receipt`, `typing`.

use std::borrow::Cow;

use bytes::Bytes;
use wire::ConversationKey;
use wire::event::role_name;
use wire::frames::{ConversationFrame, Person, Receipt, ServerFrame, Side, TypingBy};
use wire::record::Role;

use conversation::State;

pub(crate) fn conversation(key: &ConversationKey, state: &State, (recv, read): (u64, u64)) -> Bytes {
    let agent = state.agent();
    ServerFrame::Conversation(ConversationFrame {
        conversation: key.customer.as_str().into(),
        last_seq: state.last_seq().0,
        recv,
        read,
        state: state.session_state().into(),
        agent: (!agent.is_empty()).then(|| agent.into()),
    })
    .encode()
}

pub(crate) fn receipt(key: &ConversationKey, side: Side, recv: u64, read: u64) -> Bytes {
    ServerFrame::Receipt(Receipt {
        conversation: key.customer.as_str().into(),
        side,
        recv,
        read,
    })
    .encode()
}

pub(crate) fn typing(key: &ConversationKey, role: Role, user: &str) -> Bytes {
    ServerFrame::Typing(TypingBy {
        conversation: key.customer.as_str().into(),
        from: Person {
            role: Cow::Borrowed(role_name(role)),
            user: Some(user.into()),
        },
    })
    .encode()
}
