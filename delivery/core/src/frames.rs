//! Client frames the worker itself makes: `conversation`, `receipt`, `typing`. And what an event's last member says about
//! who was let go, for agents that come back to a new owner.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::Value;
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

/// What an event says of one member of staff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// It takes the conversation from them.
    Detaches,
    /// It gives it to them.
    Attaches,
    Neither,
}

/// Does this event take the conversation from `user`, or give it to them? Only asked for an agent that was attached at an
/// earlier owner and is not any more: its pushes end with the event that detached it for good, which may be known from its
/// bytes alone.
pub(crate) fn names(frame: &[u8], user: &str) -> Names {
    let Ok(Value::Object(frame)) = serde_json::from_slice::<Value>(frame) else {
        return Names::Neither;
    };
    let Some((name, deed)) = frame
        .get("event")
        .and_then(Value::as_object)
        .and_then(|e| e.iter().next_back())
    else {
        return Names::Neither;
    };
    let names = |field: &str| deed.get(field).and_then(Value::as_str);
    let now = names("agent").or_else(|| names("to"));
    match name.as_str() {
        "assigned" | "transferred" | "joined" if now == Some(user) => Names::Attaches,
        "closed" | "queued" | "assigned" | "transferred" => Names::Detaches,
        "left"
            if [now, names("user")].into_iter().flatten().any(|n| n == user)
                || deed.as_object().is_some_and(|d| d.is_empty()) =>
        {
            Names::Detaches
        }
        _ => Names::Neither,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_let_go_by_a_close_or_by_the_name_of_another() {
        let event = |member: &str| format!(r#"{{"event":{{"conversation":"a","seq":1,"at":1,{member}}}}}"#);
        let said = |member: &str| names(event(member).as_bytes(), "bo");
        assert_eq!(said(r#""closed":{}"#), Names::Detaches);
        assert_eq!(said(r#""assigned":{"agent":"cy"}"#), Names::Detaches);
        assert_eq!(said(r#""assigned":{"agent":"bo"}"#), Names::Attaches);
        assert_eq!(said(r#""joined":{"agent":"bo"}"#), Names::Attaches);
        assert_eq!(said(r#""joined":{"agent":"cy"}"#), Names::Neither);
        assert_eq!(said(r#""left":{"user":"cy"}"#), Names::Neither);
        assert_eq!(said(r#""message":{"closed":{}}"#), Names::Neither);
    }
}
