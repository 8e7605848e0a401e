//! What operators decide, as a node heeds it: switches and revocations by version, and who may come in with which token.

use std::collections::BTreeMap;

use wire::record::{Control as ControlRecord, control::About};

use super::*;
use crate::world::env::EPOCH_MS;

/// A modelled token: `tenant:role:user:issued_ms:expires_ms` in true time, 0 for one that does not expire; `bad` in front of one
/// whose signature does not fit.
pub struct Token {
    good: bool,
    tenant: Tenant,
    role: Role,
    user: User,
    pub issued_ms: u64,
    expires_ms: u64,
}

impl Token {
    pub fn read(text: &str) -> Self {
        let good = !text.starts_with("bad");
        let mut parts = text.trim_start_matches("bad").split(':');
        let mut part = || parts.next().unwrap_or_default();
        Token {
            good,
            tenant: Tenant::new(part()).expect("the model's clients have good tenants"),
            role: wire::event::role_of_name(part()).unwrap_or(Role::Unknown),
            user: User::new(part()).expect("the model's clients have good names"),
            issued_ms: part().parse().unwrap_or(EPOCH_MS),
            expires_ms: part().parse().unwrap_or(0),
        }
    }

    /// By the node's own clock, which may be off: the model's tokens are as long as their issuer said, wherever they are shown.
    pub fn claims(&self, env: &Env, now_ms: u64) -> Claims {
        let left_ms = self.expires_ms.saturating_sub(env.true_ms());
        let expires = self.expires_ms > 0 && !env.has(Bug::TokenNeverExpires);
        Claims {
            tenant: self.tenant.clone(),
            role: self.role,
            user: self.user.clone(),
            expires_at_ms: now_ms + if expires { left_ms } else { 86_400_000 },
            issued_at_ms: now_ms as i64,
            device: None,
            groups: Vec::new(),
            priority: 1,
        }
    }
}

#[derive(Default)]
pub struct Control {
    versions: BTreeMap<String, u64>,
    off: BTreeMap<String, ()>,
    revoked_before_ms: BTreeMap<(String, String), u64>,
}

impl Control {
    pub fn is_on(&self, name: &str) -> bool {
        !self.off.contains_key(name)
    }

    pub fn admits(&self, token: &Token, env: &Env) -> Result<(), CloseCode> {
        if !token.good && !env.has(Bug::BadTokenTaken) {
            return Err(CloseCode::BadToken);
        }
        let who = (token.tenant.as_str().to_owned(), token.user.as_str().to_owned());
        match self.revoked_before_ms.get(&who) {
            Some(before) if token.issued_ms < *before => Err(CloseCode::Revoked),
            _ => Ok(()),
        }
    }
}

/// A node starts, and knows nothing.
pub fn begun(env: &mut Env, id: ProcId) {
    let op = Op::Control {
        key: String::new(),
        version: 0,
        on: false,
    };
    env.record(&id.name(), Outcome::Note, op);
}

impl Node {
    pub(super) fn controlled(&mut self, env: &mut Env, now_ms: u64, record: &LogRecord) {
        let key = record.key.as_ref().map(|k| String::from_utf8_lossy(k).into_owned());
        let value = record
            .value
            .as_ref()
            .and_then(|v| ControlRecord::decode(v.clone()).ok());
        let (Some(key), Some(ControlRecord { version, about })) = (key, value) else {
            return;
        };
        let last = self.control.versions.get(&key).copied().unwrap_or(0);
        if version <= last && !env.has(Bug::OldControlApplied) {
            return;
        }
        self.control.versions.insert(key.clone(), version);
        let mut on = true;
        match about {
            Some(About::Switch(switch)) => {
                on = switch.on;
                if on {
                    self.control.off.remove(&switch.name);
                } else {
                    self.control.off.insert(switch.name, ());
                }
            }
            Some(About::Revoke(revoke)) => self.revoke(env, now_ms, revoke),
            _ => {}
        }
        env.record(&self.id.name(), Outcome::Info, Op::Control { key, version, on });
    }

    fn revoke(&mut self, env: &mut Env, now_ms: u64, revoke: wire::record::Revoke) {
        let before_ms = revoke.before_ms as u64;
        let who = (revoke.tenant, revoke.user);
        let wires: Vec<u64> = self
            .conns
            .iter()
            .filter(|(_, conn)| match conn {
                Conn::Open(o) => o.tenant.as_str() == who.0 && o.user.as_str() == who.1 && o.issued_ms < before_ms,
                Conn::Handshaking(_) => false,
            })
            .map(|(wire, _)| *wire)
            .collect();
        self.control.revoked_before_ms.insert(who, before_ms);
        for wire in wires {
            self.with(wire, |open| {
                open.session.close(CloseCode::Revoked);
                true
            });
            self.flush(env, now_ms, wire);
        }
    }
}
