//! A session's name as clients see it: which node holds the connection, and which of its connections it is. It is no secret:
//! whoever names it must also show a token of the same user.

use std::fmt;
use std::str::FromStr;

use wire::{ConnectionId, NodeId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionName {
    pub node: NodeId,
    pub connection: ConnectionId,
}

impl fmt::Display for SessionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.node, self.connection)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a session's name")]
pub struct BadSessionName;

impl FromStr for SessionName {
    type Err = BadSessionName;

    fn from_str(s: &str) -> Result<Self, BadSessionName> {
        let hex = |s: &str| {
            let plain = s.len() == 16 && s.bytes().all(|b| b.is_ascii_hexdigit());
            plain
                .then(|| u64::from_str_radix(s, 16).ok())
                .flatten()
                .ok_or(BadSessionName)
        };
        let (node, connection) = s.split_once('-').ok_or(BadSessionName)?;
        Ok(Self {
            node: NodeId(hex(node)?),
            connection: ConnectionId(hex(connection)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_name_is_read_back(node: u64, connection: u64) {
            let name = SessionName { node: NodeId(node), connection: ConnectionId(connection) };
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }

        #[test]
        fn garbage_is_no_name(s in ".{0,40}") {
            if let Ok(name) = s.parse::<SessionName>() {
                prop_assert_eq!(name.to_string(), s.to_lowercase());
            }
        }
    }
}
