//! A desk as bytes, with its position. The same desk always gives the same bytes; a later build's are refused.
//!
//! In the snapshots' topic a desk stands as one record, or, with many sessions, as parts and a head that is written after them.
//! Every key names the desk's position, so two owners never write different things under one key, and an older snapshot that a
//! zombie writes late takes nothing away: the highest position counts. Keys that name none are nobody's, and passed over.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wire::{Epoch, Offset, Position, Tenant};

use crate::agents::Agent;
use crate::desk::Desk;
use crate::session::Session;

/// Raised whenever the same log would lead to other decisions: a build that does not know it must not own the partition.
const RULES_VERSION: u32 = 1;
/// Of a head whose sessions and agents stand in parts.
const PARTS_VERSION: u32 = 2;
/// Sessions and agents that still fit one record.
const WHOLE_MAX: usize = 300;
/// A part ends with the entry that reaches this; brokers take 1 MiB.
const PART_BYTES: usize = 256 * 1024;

#[derive(Serialize)]
struct SnapshotOf<'a> {
    version: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<Parts>,
    desk: &'a Desk,
}

/// What must be there beside the head.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Parts {
    parts: u32,
    sessions: usize,
    agents: usize,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Deserialize)]
struct Snapshot {
    #[serde(default)]
    parts: Option<Parts>,
    desk: Desk,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Part {
    sessions: BTreeMap<String, Session>,
    agents: BTreeMap<String, Agent>,
}

/// One record of the snapshots' topic.
#[derive(Clone, PartialEq, Debug)]
pub struct Piece {
    pub key: Bytes,
    pub value: Bytes,
}

/// The snapshot cannot be used: the partition must not be owned by this build.
#[derive(Debug, thiserror::Error)]
pub enum BadSnapshot {
    #[error("the desk's snapshot cannot be read: {0}")]
    NotASnapshot(#[from] serde_json::Error),
    #[error("the desk's snapshot has rules of version {0}, this build knows {PARTS_VERSION}; run the newer build")]
    Version(u32),
    #[error("parts of the desk's snapshot are missing")]
    Incomplete,
    #[error("the desk's snapshot says that it is of another desk or position than its key")]
    Misnamed,
}

impl Desk {
    /// In one piece, whatever its size.
    pub fn snapshot(&self) -> Bytes {
        encode(&SnapshotOf {
            version: RULES_VERSION,
            parts: None,
            desk: self,
        })
    }

    pub fn restore(snapshot: &[u8]) -> Result<Desk, BadSnapshot> {
        match head(snapshot)? {
            (desk, None) => Ok(desk.in_line()),
            (_, Some(_)) => Err(BadSnapshot::Incomplete),
        }
    }

    /// The snapshot's records, in the order in which they must be written. Each is made when it is asked for.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        let name = self.position.map_or_else(String::new, |p| name_of(self.tenant(), p));
        let small = self.sessions.len() + self.agents.by_name().len() <= WHOLE_MAX;
        let whole = small.then(|| Piece {
            key: name.clone().into(),
            value: self.snapshot(),
        });
        let split = (!small).then(|| self.split(name));
        whole.into_iter().chain(split.into_iter().flatten())
    }

    fn split(&self, name: String) -> impl Iterator<Item = Piece> + '_ {
        let mut sessions = self.sessions.iter().peekable();
        let mut agents = self.agents.by_name().iter().peekable();
        let mut made = 0;
        let mut done = false;
        std::iter::from_fn(move || {
            let part = part("sessions", &mut sessions).or_else(|| part("agents", &mut agents));
            if let Some(value) = part {
                let key = format!("{name}/{made}").into();
                made += 1;
                return Some(Piece { key, value });
            }
            (!std::mem::replace(&mut done, true)).then(|| Piece {
                key: name.clone().into(),
                value: self.head(made),
            })
        })
    }

    fn head(&self, parts: u32) -> Bytes {
        let without = Desk {
            position: self.position,
            clock: self.clock,
            settings: self.settings.clone(),
            agents: self.agents.nodes_only(),
            answered: self.answered.clone(),
            closes: self.closes.clone(),
            back: self.back,
            front: self.front,
            ..Desk::new(self.tenant.clone())
        };
        encode(&SnapshotOf {
            version: PARTS_VERSION,
            parts: Some(Parts {
                parts,
                sessions: self.sessions.len(),
                agents: self.agents.by_name().len(),
            }),
            desk: &without,
        })
    }

    /// The line and the look-ups are not in the snapshot: they are made from sessions and agents.
    fn in_line(mut self) -> Self {
        self.agents.find_anew(self.settings.capacity);
        let customers: Vec<String> = self.sessions.keys().cloned().collect();
        for customer in customers {
            self.stand_in_line(&customer);
        }
        self
    }
}

/// The next entries of one kind, about `PART_BYTES` of them; `None`: there are no more.
fn part<'a, T: Serialize + 'a>(
    kind: &str,
    entries: &mut std::iter::Peekable<impl Iterator<Item = (&'a String, &'a T)>>,
) -> Option<Bytes> {
    entries.peek()?;
    let mut json = format!("{{\"{kind}\":{{").into_bytes();
    let mut first = true;
    while json.len() < PART_BYTES
        && let Some((name, value)) = entries.next()
    {
        if !std::mem::replace(&mut first, false) {
            json.push(b',');
        }
        json.extend_from_slice(&encode(name));
        json.push(b':');
        json.extend_from_slice(&encode(value));
    }
    json.extend_from_slice(b"}}");
    Some(json.into())
}

fn encode<T: Serialize + ?Sized>(value: &T) -> Bytes {
    // Maps with text and number keys only: writing into memory cannot fail.
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn head(snapshot: &[u8]) -> Result<(Desk, Option<Parts>), BadSnapshot> {
    let Version { version } = serde_json::from_slice(snapshot)?;
    if version > PARTS_VERSION {
        return Err(BadSnapshot::Version(version));
    }
    let Snapshot { parts, desk } = serde_json::from_slice(snapshot)?;
    Ok((desk, parts))
}

fn name_of(tenant: &Tenant, position: Position) -> String {
    format!("{tenant}/{}.{}", position.epoch.0, position.offset.0)
}

/// What a key names: a desk at a position, and which part of it; `None`: the head. Keys that we would have written otherwise
/// are none of ours.
fn named_by(key: &[u8]) -> Option<(Tenant, Position, Option<u32>)> {
    let key = std::str::from_utf8(key).ok()?;
    let mut members = key.splitn(3, '/');
    let tenant = Tenant::new(members.next()?).ok()?;
    let (epoch, offset) = members.next()?.split_once('.')?;
    let position = Position::new(Epoch(epoch.parse().ok()?), Offset(offset.parse().ok()?));
    let part: Option<u32> = members.next().map(str::parse).transpose().ok()?;
    let name = name_of(&tenant, position);
    (key == part.map_or_else(|| name.clone(), |part| format!("{name}/{part}"))).then_some((tenant, position, part))
}

/// The snapshots' topic as it is read, record by record.
#[derive(Default)]
pub struct Restoring {
    /// Tenant → position of the snapshot → its head and parts.
    tenants: BTreeMap<Tenant, BTreeMap<Position, Found>>,
}

#[derive(Default)]
struct Found {
    head: Option<Bytes>,
    parts: BTreeMap<u32, Bytes>,
}

/// One tenant's desk, and the records beside it.
#[derive(Debug)]
pub struct Restored {
    pub desk: Desk,
    /// Keys of the records it was made from.
    pub keys: Vec<Bytes>,
    /// Keys of older or unfinished snapshots.
    pub obsolete: Vec<Bytes>,
}

impl Restoring {
    /// Keys that are none of ours are passed over.
    pub fn record(&mut self, key: &[u8], value: Option<Bytes>) {
        let Some((tenant, position, part)) = named_by(key) else {
            return;
        };
        let found = self.tenants.entry(tenant).or_default().entry(position).or_default();
        match (part, value) {
            (None, value) => found.head = value,
            (Some(part), Some(value)) => {
                found.parts.insert(part, value);
            }
            (Some(part), None) => {
                found.parts.remove(&part);
            }
        }
    }

    /// Each tenant's newest desk. A head stands behind its parts, so one that lacks some is not passed over silently. Whether
    /// older ones can be read does not matter.
    pub fn finish(self) -> Result<Vec<Restored>, (Tenant, BadSnapshot)> {
        let mut all = Vec::new();
        for (tenant, found) in self.tenants {
            match newest(&tenant, found) {
                Ok(restored) => all.extend(restored),
                Err(why) => return Err((tenant, why)),
            }
        }
        Ok(all)
    }
}

/// `None`: nothing of this tenant was ever finished.
fn newest(tenant: &Tenant, found: BTreeMap<Position, Found>) -> Result<Option<Restored>, BadSnapshot> {
    let heads = found
        .iter()
        .filter_map(|(position, found)| Some((*position, found.head.as_ref()?)));
    let Some((chosen, bytes)) = heads.last() else {
        return Ok(None);
    };
    let (mut desk, parts) = head(bytes)?;
    if (desk.tenant(), desk.position) != (tenant, Some(chosen)) {
        return Err(BadSnapshot::Misnamed);
    }
    let (mut keys, mut obsolete) = (Vec::new(), Vec::new());
    for (position, found) in found {
        let name = name_of(tenant, position);
        let mine = if position == chosen { &mut keys } else { &mut obsolete };
        mine.extend(found.parts.keys().map(|n| Bytes::from(format!("{name}/{n}"))));
        mine.extend(found.head.is_some().then(|| Bytes::from(name)));
        if position == chosen
            && let Some(wanted) = parts
        {
            for bytes in found.parts.range(..wanted.parts).map(|(_, bytes)| bytes) {
                let Part { sessions, agents } = serde_json::from_slice(bytes)?;
                desk.sessions.extend(sessions);
                desk.agents.add(agents);
            }
            let there = Parts {
                parts: found.parts.range(..wanted.parts).count() as u32,
                sessions: desk.sessions.len(),
                agents: desk.agents.by_name().len(),
            };
            if there != wanted {
                return Err(BadSnapshot::Incomplete);
            }
        }
    }
    Ok(Some(Restored {
        desk: desk.in_line(),
        keys,
        obsolete,
    }))
}

#[cfg(test)]
mod tests {
    use wire::record::desk_record::Input;
    use wire::record::{Act, DeskRecord, Presence, Role, Sender, Tick};

    use super::*;

    /// A desk of so many assigned sessions, after the record at `offset`.
    fn desk(sessions: u64) -> Desk {
        let mut desk = Desk::new(Tenant::new("demo").unwrap());
        let mut offset = 0;
        let mut apply = |desk: &mut Desk, input: Input| {
            let record = DeskRecord {
                version: 1,
                input: Some(input),
            };
            offset += 1;
            desk.apply(Position::new(Epoch(1), Offset(offset)), offset as i64 / 50, &record)
        };
        let act = |role: Role, user: &str, customer: &str, deed: &str| {
            Input::Act(Act {
                from: Some(Sender {
                    role: role.into(),
                    user: user.into(),
                }),
                customer: customer.into(),
                deed: deed.to_owned().into(),
                ..Act::default()
            })
        };
        for n in 0..sessions.div_ceil(1_000) {
            let agent = format!("agent-{n}");
            apply(
                &mut desk,
                Input::Presence(Presence {
                    node: 1,
                    connection: n,
                    agent: agent.clone(),
                    connected: true,
                    ..Presence::default()
                }),
            );
            let status = r#"{"status":{"state":"available","capacity":1000}}"#;
            apply(&mut desk, act(Role::Agent, &agent, "", status));
        }
        for n in 0..sessions {
            let customer = format!("customer-{n:06}");
            apply(
                &mut desk,
                act(Role::Customer, &customer, &customer, r#"{"request":{}}"#),
            );
        }
        desk
    }

    fn read(pieces: &[Piece]) -> Restoring {
        let mut restoring = Restoring::default();
        for piece in pieces {
            restoring.record(&piece.key, Some(piece.value.clone()));
        }
        restoring
    }

    #[test]
    fn a_hundred_thousand_open_sessions_are_saved_in_records_a_broker_takes_and_come_back_the_same() {
        let desk = desk(100_000);
        assert_eq!(desk.sessions().len(), 100_000);
        let pieces: Vec<Piece> = desk.pieces().collect();
        let largest = pieces.iter().map(|p| p.value.len()).max().unwrap();
        assert!(largest < 400_000, "{largest}");
        let restored = read(&pieces).finish().unwrap().remove(0);
        assert_eq!(restored.desk, desk);
        assert_eq!(restored.keys.len(), pieces.len());
        assert!(restored.obsolete.is_empty());
    }

    #[test]
    fn a_small_desk_is_one_record_and_the_highest_position_counts_whatever_comes_last() {
        let (old, new) = (desk(2), desk(3));
        let (old_pieces, new_pieces): (Vec<_>, Vec<_>) = (old.pieces().collect(), new.pieces().collect());
        assert_eq!((old_pieces.len(), new_pieces.len()), (1, 1));
        let restored = read(&[new_pieces[0].clone(), old_pieces[0].clone()]).finish().unwrap();
        assert_eq!(restored[0].desk, new);
        assert_eq!(restored[0].keys, [new_pieces[0].key.clone()]);
        assert_eq!(restored[0].obsolete, [old_pieces[0].key.clone()]);
    }

    #[test]
    fn an_unfinished_snapshot_is_passed_over_and_one_that_lost_a_part_is_refused() {
        let (old, new) = (desk(2), desk(5_000));
        let mut pieces: Vec<Piece> = old.pieces().chain(new.pieces()).collect();
        assert!(pieces.len() > 4);
        let head = pieces.pop().unwrap();
        let restored = read(&pieces).finish().unwrap();
        assert_eq!(restored[0].desk, old);
        assert_eq!(restored[0].obsolete.len(), pieces.len() - 1);
        pieces.push(head);
        assert_eq!(read(&pieces).finish().unwrap()[0].desk, new);
        let mut restoring = read(&pieces);
        restoring.record(&pieces[2].key, None);
        assert!(matches!(restoring.finish(), Err((_, BadSnapshot::Incomplete))));
        assert!(Desk::restore(&pieces.last().unwrap().value).is_err());
    }

    /// `./chaos --seed 201` stopped a partition of desks with a record of a tenant nobody has.
    #[test]
    fn a_key_that_is_none_of_ours_is_passed_over_and_so_is_an_older_snapshot_that_cannot_be_read() {
        let desk = desk(2);
        let mut restoring = read(&desk.pieces().collect::<Vec<_>>());
        let garbage = || Some(Bytes::from_static(&[0xff; 40]));
        for key in [
            "nobody",
            "demo",
            "demo/",
            "demo/9",
            "demo/1.x",
            "demo/01.99999",
            "demo/1.99999/x",
            "",
            "De mo/1.5",
        ] {
            restoring.record(key.as_bytes(), garbage());
        }
        restoring.record(b"\xff\xfe/1.5", garbage());
        restoring.record(b"demo/1.1", garbage());
        let restored = restoring.finish().unwrap();
        assert_eq!(restored.len(), 1);
        assert_eq!(restored[0].desk, desk);
        assert_eq!(
            restored[0].obsolete,
            ["demo/1.1"],
            "it is tidied away like any older one"
        );
    }

    #[test]
    fn the_newest_snapshot_must_be_readable_and_what_its_key_says() {
        let (old, new) = (desk(2), desk(3));
        let with = |key: &str, value: Bytes| {
            let mut restoring = read(&old.pieces().collect::<Vec<_>>());
            restoring.record(key.as_bytes(), Some(value));
            restoring.finish()
        };
        let garbage = Bytes::from_static(b"\xff");
        assert!(matches!(
            with("demo/1.99999", garbage),
            Err((_, BadSnapshot::NotASnapshot(_)))
        ));
        assert!(matches!(
            with("demo/1.99999", new.snapshot()),
            Err((_, BadSnapshot::Misnamed))
        ));
        assert!(matches!(
            with("other/1.99999", new.snapshot()),
            Err((_, BadSnapshot::Misnamed))
        ));
    }

    #[test]
    fn a_tick_writes_another_key() {
        let mut desk = desk(1);
        let before: Vec<Piece> = desk.pieces().collect();
        let tick = DeskRecord {
            version: 1,
            input: Some(Input::Tick(Tick {})),
        };
        desk.apply(Position::new(Epoch(1), Offset(900)), 90, &tick);
        assert_ne!(before[0].key, desk.pieces().next().unwrap().key);
        assert_eq!(desk.pieces().next().unwrap().key, "demo/1.900");
    }
}
