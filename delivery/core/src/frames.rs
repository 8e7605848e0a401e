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

/// Does this event take the conversation from `user`? Only asked for an agent that was attached at an earlier owner and is
/// not any more: its pushes end with the event that detached it, which may be known from its bytes alone.
pub(crate) fn detaches(frame: &[u8], user: &str) -> bool {
    let Ok(Value::Object(frame)) = serde_json::from_slice::<Value>(frame) else {
        return false;
    };
    let Some((name, deed)) = frame
        .get("event")
        .and_then(Value::as_object)
        .and_then(|e| e.iter().next_back())
    else {
        return false;
    };
    let names = |field: &str| deed.get(field).and_then(Value::as_str);
    let now = names("agent").or_else(|| names("to"));
    match name.as_str() {
        "closed" | "queued" => true,
        "assigned" | "transferred" => now != Some(user),
        "left" => {
            [now, names("user")].into_iter().flatten().any(|n| n == user)
                || deed.as_object().is_some_and(|d| d.is_empty())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_let_go_by_a_close_or_by_the_name_of_another() {
        let event = |member: &str| format!(r#"{{"event":{{"conversation":"a","seq":1,"at":1,{member}}}}}"#);
        assert!(detaches(event(r#""closed":{}"#).as_bytes(), "bo"));
        assert!(detaches(event(r#""assigned":{"agent":"cy"}"#).as_bytes(), "bo"));
        assert!(!detaches(event(r#""assigned":{"agent":"bo"}"#).as_bytes(), "bo"));
        assert!(!detaches(event(r#""left":{"user":"cy"}"#).as_bytes(), "bo"));
        assert!(!detaches(event(r#""message":{"closed":{}}"#).as_bytes(), "bo"));
    }
}
