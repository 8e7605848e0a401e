//! Names of people and things. Every id is checked once, where it enters, and is a type of its own from there on.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::limits;

/// Why a string is not an id. The text says what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("{what} is empty; give it at least one character")]
    Empty { what: &'static str },
    #[error("{what} has {len} bytes; at most {max} are allowed")]
    TooLong { what: &'static str, len: usize, max: usize },
    #[error("{what} has a control character at byte {at}; leave out line breaks, tabs and escapes")]
    Control { what: &'static str, at: usize },
    #[error("{what} may only have a–z, 0–9, '-' and '_' and begins with a letter or digit")]
    Charset { what: &'static str },
}

fn check_text(what: &'static str, s: &str, max: usize) -> Result<(), IdError> {
    if s.is_empty() {
        return Err(IdError::Empty { what });
    }
    if s.len() > max {
        return Err(IdError::TooLong {
            what,
            len: s.len(),
            max,
        });
    }
    match s.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, _)) => Err(IdError::Control { what, at }),
        None => Ok(()),
    }
}

fn check_slug(what: &'static str, s: &str, max: usize) -> Result<(), IdError> {
    check_text(what, s, max)?;
    let first_ok = s.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let all_ok = s
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if first_ok && all_ok {
        Ok(())
    } else {
        Err(IdError::Charset { what })
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks length and characters.
            pub fn new(s: impl AsRef<str>) -> Result<Self, IdError> {
                $check($what, s.as_ref(), $max)?;
                Ok(Self(Arc::from(s.as_ref())))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let s = std::borrow::Cow::<'de, str>::deserialize(d)?;
                Self::new(s).map_err(serde::de::Error::custom)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(s: &str) -> Result<Self, IdError> {
                Self::new(s)
            }
        }
    };
}

text_id!(
    /// One company on the platform: `[a-z0-9][a-z0-9_-]*`, at most 64 bytes.
    Tenant, "tenant", limits::TENANT_BYTES_MAX, check_slug
);
text_id!(
    /// A customer, agent or other person of a tenant: 1–128 bytes of UTF-8 without control characters.
    User, "user", limits::USER_BYTES_MAX, check_text
);
text_id!(
    /// A client's own id of a send or act: 1–64 bytes of UTF-8 without control characters.
    ClientId, "id", limits::CLIENT_ID_BYTES_MAX, check_text
);
text_id!(
    /// A lane: `core`, `standard`, `bulk`, `canary`, or a tenant's own.
    Lane, "lane", limits::LANE_BYTES_MAX, check_slug
);
text_id!(
    /// A device of a user, chosen by its client.
    Device, "device", limits::DEVICE_BYTES_MAX, check_text
);

/// A conversation: one customer of one tenant. Its text form, `tenant/customer`, is the records' key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConversationKey {
    pub tenant: Tenant,
    pub customer: User,
}

impl ConversationKey {
    pub fn new(tenant: Tenant, customer: User) -> Self {
        Self { tenant, customer }
    }

    /// The Kafka key. A tenant has no '/', so the first one separates.
    pub fn to_key(&self) -> Bytes {
        let mut key = Vec::with_capacity(self.tenant.0.len() + 1 + self.customer.0.len());
        key.extend_from_slice(self.tenant.0.as_bytes());
        key.push(b'/');
        key.extend_from_slice(self.customer.0.as_bytes());
        Bytes::from(key)
    }

    /// Reads a Kafka key; `None` if it was not written by [`Self::to_key`].
    pub fn from_key(key: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(key).ok()?;
        let (tenant, customer) = text.split_once('/')?;
        Some(Self {
            tenant: Tenant::new(tenant).ok()?,
            customer: User::new(customer).ok()?,
        })
    }
}

impl fmt::Display for ConversationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.customer)
    }
}

impl fmt::Debug for ConversationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.customer)
    }
}

/// A node's incarnation: drawn afresh at each start, so a restarted node is a stranger.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

/// A worker's incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u64);

/// One connection of one node: milliseconds of the node's clock at the handshake, shifted by 22, plus a counter.
/// Unique within the node's incarnation; compared between nodes only to tell which of two connections of a device is newer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// The next id after `last` at `now_ms`: rises even when the clock doesn't.
    pub fn next(last: ConnectionId, now_ms: u64) -> Self {
        Self((now_ms << 22).max(last.0 + 1))
    }
}

macro_rules! hex_id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:x})", stringify!($name), self.0)
            }
        }
    };
}
hex_id!(NodeId);
hex_id!(WorkerId);
hex_id!(ConnectionId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_even_with_a_slash_in_the_customer() {
        let key = ConversationKey::new(Tenant::new("demo").unwrap(), User::new("a/b c").unwrap());
        assert_eq!(ConversationKey::from_key(&key.to_key()), Some(key));
    }

    #[test]
    fn ids_refuse_what_would_break_keys_logs_and_limits() {
        assert!(Tenant::new("a/b").is_err());
        assert!(Tenant::new("Demo").is_err());
        assert!(User::new("").is_err());
        assert!(User::new("a\nb").is_err());
        assert!(User::new("\u{1b}[31m").is_err());
        assert!(ClientId::new("x".repeat(65)).is_err());
        assert!(User::new("爱丽丝").is_ok());
    }

    #[test]
    fn connection_ids_rise_when_the_clock_stands_still_or_falls_back() {
        let a = ConnectionId::next(ConnectionId(0), 1000);
        let b = ConnectionId::next(a, 1000);
        let c = ConnectionId::next(b, 10);
        assert!(a < b && b < c);
    }
}
