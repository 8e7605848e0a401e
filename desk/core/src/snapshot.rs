//! A desk as bytes, with its position. The same desk always gives the same bytes; a later build's are refused.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::desk::Desk;

/// Raised whenever the same log would lead to other decisions: a build that does not know it must not own the partition.
const RULES_VERSION: u32 = 1;

#[derive(Serialize)]
struct SnapshotOf<'a> {
    version: u32,
    desk: &'a Desk,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Deserialize)]
struct Snapshot {
    desk: Desk,
}

/// The snapshot cannot be used: the partition must not be owned by this build.
#[derive(Debug, thiserror::Error)]
pub enum BadSnapshot {
    #[error("the desk's snapshot cannot be read: {0}")]
    NotASnapshot(#[from] serde_json::Error),
    #[error("the desk's snapshot has rules of version {0}, this build knows {RULES_VERSION}; run the newer build")]
    Version(u32),
}

impl Desk {
    pub fn snapshot(&self) -> Bytes {
        // Maps with text and number keys only: writing into memory cannot fail.
        serde_json::to_vec(&SnapshotOf {
            version: RULES_VERSION,
            desk: self,
        })
        .unwrap_or_default()
        .into()
    }

    pub fn restore(snapshot: &[u8]) -> Result<Desk, BadSnapshot> {
        let Version { version } = serde_json::from_slice(snapshot)?;
        if version != RULES_VERSION {
            return Err(BadSnapshot::Version(version));
        }
        let Snapshot { mut desk } = serde_json::from_slice(snapshot)?;
        let customers: Vec<String> = desk.sessions.keys().cloned().collect();
        for customer in customers {
            desk.stand_in_line(&customer);
        }
        Ok(desk)
    }
}
