//! The control topic as a value: lanes, revocations and switches, as last heard. Pure: records in, answers out.
//!
//! Rules: a key's versions rise, what is not above the last is stale and changes nothing; what cannot be read is garbage
//! and the last good value stays.

use std::collections::BTreeMap;

use wire::record::{Control, LaneControl, control};
use wire::{Lane, Tenant};

/// What a switch can hold off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    Typing,
    Presence,
    Receipts,
    HistorySearch,
    Webhooks,
    Attachments,
    NewSessions,
}

impl Feature {
    pub const ALL: [Feature; 7] = [
        Feature::Typing,
        Feature::Presence,
        Feature::Receipts,
        Feature::HistorySearch,
        Feature::Webhooks,
        Feature::Attachments,
        Feature::NewSessions,
    ];

    /// Its name in control records, metrics and the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Feature::Typing => "typing",
            Feature::Presence => "presence",
            Feature::Receipts => "receipts",
            Feature::HistorySearch => "history_search",
            Feature::Webhooks => "webhooks",
            Feature::Attachments => "attachments",
            Feature::NewSessions => "new_sessions",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.as_str() == name)
    }
}

/// A switch as last heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchState {
    pub on: bool,
    /// Unix milliseconds; 0: until changed.
    pub until_ms: i64,
    pub why: String,
}

impl SwitchState {
    fn counts_at(&self, now_ms: i64) -> bool {
        self.until_ms == 0 || now_ms < self.until_ms
    }
}

/// What applying a record did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Changed,
    /// Its version is not above the one we have: nothing changed.
    Stale,
}

/// Why a record could not be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Garbage {
    #[error("the value is not a control record")]
    Value,
    #[error("the key names nothing that can be controlled, or not what the value is about")]
    Key,
    #[error("there is no switch of this name")]
    UnknownSwitch,
    #[error("a lane's record lacks its epoch or partitions, or goes back to a lower epoch")]
    Lane,
}

/// Everything the control topic says; pure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ControlState {
    lanes: BTreeMap<String, LaneControl>,
    revoked_before_ms: BTreeMap<(String, String), i64>,
    /// (feature, lane, tenant); an empty lane or tenant means all.
    switches: BTreeMap<(Feature, String, String), SwitchState>,
    versions: BTreeMap<Vec<u8>, u64>,
}

impl ControlState {
    /// Applies one record of the topic. On an error nothing has changed.
    pub fn apply(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<Applied, Garbage> {
        let about = About::from_key(key)?;
        let Some(value) = value else {
            return self.remove(key, &about);
        };
        let record: Control = prost::Message::decode(value).map_err(|_| Garbage::Value)?;
        let content = record.about.ok_or(Garbage::Value)?;
        if self.versions.get(key).is_some_and(|last| record.version <= *last) {
            return Ok(Applied::Stale);
        }
        match (about, content) {
            (About::Lane(name), control::About::Lane(lane)) if name == lane.lane => {
                let last = self.lanes.get(name).map_or(0, |l| l.epoch);
                if lane.epoch == 0 || lane.partitions == 0 || lane.epoch < last {
                    return Err(Garbage::Lane);
                }
                self.lanes.insert(lane.lane.clone(), lane);
            }
            (About::Revoke(tenant, user), control::About::Revoke(r)) if (tenant, user) == (&*r.tenant, &*r.user) => {
                self.revoked_before_ms.insert((r.tenant, r.user), r.before_ms);
            }
            (About::Switch(lane, tenant, name), control::About::Switch(s))
                if (lane, tenant, name) == (&*s.lane, &*s.tenant, &*s.name) =>
            {
                let feature = Feature::from_name(name).ok_or(Garbage::UnknownSwitch)?;
                let state = SwitchState {
                    on: s.on,
                    until_ms: s.until_ms,
                    why: s.why,
                };
                self.switches.insert((feature, s.lane, s.tenant), state);
            }
            _ => return Err(Garbage::Key),
        }
        self.versions.insert(key.to_vec(), record.version);
        Ok(Applied::Changed)
    }

    /// A tombstone gives a switch back to its default and forgets a revocation. A lane cannot be forgotten: it has an epoch.
    fn remove(&mut self, key: &[u8], about: &About<'_>) -> Result<Applied, Garbage> {
        match *about {
            About::Lane(_) => return Err(Garbage::Lane),
            About::Revoke(tenant, user) => {
                self.revoked_before_ms.remove(&(tenant.to_owned(), user.to_owned()));
            }
            About::Switch(lane, tenant, name) => {
                let feature = Feature::from_name(name).ok_or(Garbage::UnknownSwitch)?;
                self.switches.remove(&(feature, lane.to_owned(), tenant.to_owned()));
            }
        }
        // The version stays: an old record that comes again after its tombstone is still old.
        Ok(if self.versions.contains_key(key) {
            Applied::Changed
        } else {
            Applied::Stale
        })
    }

    pub fn lane(&self, lane: &Lane) -> Option<&LaneControl> {
        self.lanes.get(lane.as_str())
    }

    /// Is a token of this user, issued at that moment (`iat`, or 0 if it doesn't say), revoked?
    pub fn is_revoked(&self, tenant: &str, user: &str, issued_at_ms: i64) -> bool {
        // A borrowed look-up in a map of pairs would need a key type of its own; revocations are few and checked at the handshake.
        self.revoked_before_ms
            .get(&(tenant.to_owned(), user.to_owned()))
            .is_some_and(|before| issued_at_ms < *before)
    }

    /// All revocations: (tenant, user, before_ms). For closing live connections.
    pub fn revocations(&self) -> impl Iterator<Item = (&str, &str, i64)> {
        self.revoked_before_ms
            .iter()
            .map(|((tenant, user), before)| (tenant.as_str(), user.as_str(), *before))
    }

    /// May the feature be used? Yes, unless the narrowest switch that counts now (tenant in the lane, lane, tenant, all) is off.
    pub fn is_on(&self, feature: Feature, lane: &Lane, tenant: &Tenant, now_ms: i64) -> bool {
        self.off(feature, lane, tenant, now_ms).is_none()
    }

    /// The switch that holds the feature off now; `None`: it may be used.
    pub fn off(&self, feature: Feature, lane: &Lane, tenant: &Tenant, now_ms: i64) -> Option<&SwitchState> {
        if !self.switches.keys().any(|(set, _, _)| *set == feature) {
            return None; // as nearly always
        }
        let (lane, tenant) = (lane.as_str(), tenant.as_str());
        [(lane, tenant), (lane, ""), ("", tenant), ("", "")]
            .into_iter()
            .filter_map(|(l, t)| self.switches.get(&(feature, l.to_owned(), t.to_owned())))
            .find(|s| s.counts_at(now_ms))
            .filter(|s| !s.on)
    }

    /// Every switch that counts now: (feature, lane, tenant, state).
    pub fn switches(&self, now_ms: i64) -> impl Iterator<Item = (Feature, &str, &str, &SwitchState)> {
        self.switches
            .iter()
            .filter(move |(_, s)| s.counts_at(now_ms))
            .map(|((feature, lane, tenant), s)| (*feature, lane.as_str(), tenant.as_str(), s))
    }

    /// Is this what counts for the key now? `None`: nothing does.
    pub fn says(&self, key: &[u8], what: Option<&control::About>) -> bool {
        let Ok(about) = About::from_key(key) else { return false };
        match (about, what) {
            (About::Lane(name), Some(control::About::Lane(lane))) => self.lanes.get(name) == Some(lane),
            (About::Lane(name), _) => !self.lanes.contains_key(name),
            (About::Revoke(tenant, user), what) => {
                let counts = self.revoked_before_ms.get(&(tenant.to_owned(), user.to_owned()));
                let wanted = match what {
                    Some(control::About::Revoke(r)) => Some(&r.before_ms),
                    _ => None,
                };
                counts == wanted
            }
            (About::Switch(lane, tenant, name), what) => {
                let set = Feature::from_name(name)
                    .and_then(|feature| self.switches.get(&(feature, lane.to_owned(), tenant.to_owned())));
                match what {
                    Some(control::About::Switch(s)) => {
                        set.is_some_and(|set| (set.on, set.until_ms, &set.why) == (s.on, s.until_ms, &s.why))
                    }
                    _ => set.is_none(),
                }
            }
        }
    }

    /// The highest version applied.
    pub fn version(&self) -> u64 {
        self.versions.values().copied().max().unwrap_or(0)
    }
}

enum About<'a> {
    Lane(&'a str),
    Revoke(&'a str, &'a str),
    Switch(&'a str, &'a str, &'a str),
}

impl<'a> About<'a> {
    fn from_key(key: &'a [u8]) -> Result<Self, Garbage> {
        let key = std::str::from_utf8(key).map_err(|_| Garbage::Key)?;
        let (what, rest) = key.split_once('/').ok_or(Garbage::Key)?;
        match what {
            "lane" => Lane::new(rest).map(|_| About::Lane(rest)).map_err(|_| Garbage::Key),
            // A user's name may hold a '/', a tenant's cannot.
            "revoke" => rest
                .split_once('/')
                .map(|(t, u)| About::Revoke(t, u))
                .ok_or(Garbage::Key),
            "switch" => {
                let (lane, rest) = rest.split_once('/').ok_or(Garbage::Key)?;
                let (tenant, name) = rest.split_once('/').ok_or(Garbage::Key)?;
                Ok(About::Switch(lane, tenant, name))
            }
            _ => Err(Garbage::Key),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use wire::record::{Revoke, Switch};

    use super::*;

    fn typing(version: u64, lane: &str, tenant: &str, on: bool, until_ms: i64) -> (Vec<u8>, Vec<u8>) {
        let switch = Switch {
            lane: lane.into(),
            tenant: tenant.into(),
            name: "typing".into(),
            on,
            until_ms,
            why: "test".into(),
        };
        let record = Control {
            version,
            about: Some(control::About::Switch(switch)),
        };
        (
            format!("switch/{lane}/{tenant}/typing").into_bytes(),
            record.encode_to_vec(),
        )
    }

    fn lane_record(version: u64, epoch: u32) -> Vec<u8> {
        let lane = LaneControl {
            lane: "core".into(),
            epoch,
            partitions: 12,
            ..Default::default()
        };
        Control {
            version,
            about: Some(control::About::Lane(lane)),
        }
        .encode_to_vec()
    }

    fn is_typing_on(state: &ControlState, now_ms: i64) -> bool {
        state.is_on(
            Feature::Typing,
            &Lane::new("core").unwrap(),
            &Tenant::new("demo").unwrap(),
            now_ms,
        )
    }

    fn apply(state: &mut ControlState, (key, value): (Vec<u8>, Vec<u8>)) -> Result<Applied, Garbage> {
        state.apply(&key, Some(&value))
    }

    #[test]
    fn a_switch_holds_a_feature_off_until_it_expires() {
        let mut state = ControlState::default();
        assert!(is_typing_on(&state, 0));
        apply(&mut state, typing(1, "core", "", false, 1_000)).unwrap();
        assert!(!is_typing_on(&state, 999));
        assert!(is_typing_on(&state, 1_000));
    }

    #[test]
    fn the_narrowest_switch_that_counts_decides() {
        let mut state = ControlState::default();
        apply(&mut state, typing(1, "", "", false, 0)).unwrap();
        assert!(!is_typing_on(&state, 5));
        apply(&mut state, typing(2, "core", "demo", true, 10)).unwrap();
        assert!(is_typing_on(&state, 5));
        assert!(!is_typing_on(&state, 10), "the narrow one has expired");
        assert!(state.is_on(
            Feature::Receipts,
            &Lane::new("core").unwrap(),
            &Tenant::new("demo").unwrap(),
            5
        ));
    }

    #[test]
    fn versions_that_fall_or_repeat_change_nothing() {
        let mut state = ControlState::default();
        apply(&mut state, typing(5, "core", "", false, 0)).unwrap();
        assert_eq!(apply(&mut state, typing(5, "core", "", true, 0)), Ok(Applied::Stale));
        assert_eq!(apply(&mut state, typing(4, "core", "", true, 0)), Ok(Applied::Stale));
        assert!(!is_typing_on(&state, 0));
        state.apply(b"switch/core//typing", None).unwrap();
        assert!(is_typing_on(&state, 0));
        assert_eq!(
            apply(&mut state, typing(5, "core", "", false, 0)),
            Ok(Applied::Stale),
            "after its tombstone too"
        );
        assert_eq!(state.version(), 5);
    }

    #[test]
    fn garbage_leaves_the_last_good_state() {
        let mut state = ControlState::default();
        state.apply(b"lane/core", Some(&lane_record(1, 3))).unwrap();
        let good = state.clone();
        let (_, switch) = typing(9, "core", "", false, 0);
        type Case<'a> = (&'a [u8], Option<&'a [u8]>, Garbage);
        let cases: [Case<'_>; 7] = [
            (b"\xff\xfe", Some(b"x"), Garbage::Key),
            (b"nonsense", Some(&switch), Garbage::Key),
            (b"lane/core", Some(b"\xff\xff\xff"), Garbage::Value),
            (b"lane/core", Some(b""), Garbage::Value),
            (b"lane/core", Some(&switch), Garbage::Key),
            (b"lane/other", None, Garbage::Lane),
            (b"switch/bulk//typing", Some(&switch), Garbage::Key),
        ];
        for (key, value, want) in cases {
            assert_eq!(state.apply(key, value), Err(want), "{key:?}");
            assert_eq!(state, good);
        }
        assert_eq!(
            state.apply(b"lane/core", Some(&lane_record(2, 2))),
            Err(Garbage::Lane),
            "epochs never fall"
        );
        assert_eq!(state, good);
    }

    #[test]
    fn fields_of_a_newer_build_are_ignored() {
        let mut state = ControlState::default();
        let mut value = lane_record(1, 3);
        value.extend_from_slice(&[0xfa, 0x3f, 0x02, b'h', b'i']); // field 1023, two bytes
        assert_eq!(state.apply(b"lane/core", Some(&value)), Ok(Applied::Changed));
        assert_eq!(state.lane(&Lane::new("core").unwrap()).unwrap().epoch, 3);
    }

    #[test]
    fn a_revocation_counts_for_tokens_issued_before_it() {
        let mut state = ControlState::default();
        let revoke = Revoke {
            tenant: "demo".into(),
            user: "a/b".into(),
            before_ms: 1_000,
        };
        let value = Control {
            version: 1,
            about: Some(control::About::Revoke(revoke)),
        }
        .encode_to_vec();
        state.apply(b"revoke/demo/a/b", Some(&value)).unwrap();
        assert!(state.is_revoked("demo", "a/b", 999));
        assert!(!state.is_revoked("demo", "a/b", 1_000));
        assert!(!state.is_revoked("acme", "a/b", 0));
        assert_eq!(state.revocations().count(), 1);
    }
}
