//! What an act asks for: one JSON object with one key.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::agents::AgentState;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Deed {
    Request(Request),
    Close(Nothing),
    Accept(Nothing),
    Transfer(Transfer),
    Join(Nothing),
    Leave(Nothing),
    Watch(Nothing),
    Rate(Box<RawValue>),
    Tag(Box<RawValue>),
    Status(Status),
}

/// Members this build does not know are left alone.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Nothing {}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Request {
    pub group: Option<String>,
    pub agent: Option<String>,
    pub only: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Transfer {
    pub agent: Option<String>,
    pub group: Option<String>,
    pub note: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    pub state: AgentState,
    #[serde(default)]
    pub capacity: Option<u32>,
}

impl Deed {
    pub fn parse(json: &[u8]) -> Option<Self> {
        serde_json::from_slice(json).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deed_has_one_known_key_and_may_have_unknown_members() {
        assert!(matches!(
            Deed::parse(br#"{"close":{"why":"done"}}"#),
            Some(Deed::Close(_))
        ));
        assert!(matches!(Deed::parse(br#"{"request":{"agent":"bo","only":true}}"#), Some(Deed::Request(r)) if r.only));
        assert!(matches!(Deed::parse(br#"{"rate":{"stars":5}}"#), Some(Deed::Rate(v)) if v.get() == r#"{"stars":5}"#));
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"dance":{}}"#,
            r#"{"close":{},"join":{}}"#,
            r#"{"status":{"state":"asleep"}}"#,
        ] {
            assert!(Deed::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
