//! Tenants and their users as this node sees them: settings, shared limits, how many connections.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ingress_core::buckets::RetryAfterMs;
use ingress_core::{Bucket, Off, Quota, Rate, Switch};
use parking_lot::Mutex;
use process::ControlView;
use process::config::{AgentsRead, Limits, TenantConfig};
use process::control::Feature;
use wire::{Lane, Tenant, User};

use crate::clock::Clock;

/// What operators hold off, for one lane.
#[derive(Clone)]
pub struct Switches {
    control: ControlView,
    lane: Lane,
}

impl Switches {
    pub fn new(control: ControlView, lane: Lane) -> Self {
        Self { control, lane }
    }

    fn off(&self, feature: Feature, tenant: &Tenant) -> Option<Off> {
        let now_ms = Clock::wall_ms() as i64;
        let control = self.control.now();
        let state = control.off(feature, &self.lane, tenant, now_ms)?;
        // A switch without an end names no time to come back.
        let retry_after_ms = (state.until_ms > 0).then(|| (state.until_ms - now_ms).max(1) as u64);
        Some(Off { retry_after_ms })
    }
}

/// One tenant.
pub struct TenantState {
    pub tenant: Tenant,
    pub agents_read: AgentsRead,
    origins: Vec<String>,
    limits: Limits,
    switches: Switches,
    sends: Mutex<Bucket>,
    accounts: Mutex<HashMap<User, Arc<Account>>>,
}

impl TenantState {
    pub fn new(tenant: Tenant, config: &TenantConfig, limits: &Limits, switches: Switches) -> Self {
        Self {
            tenant,
            agents_read: config.agents_read,
            origins: config.origins.clone(),
            limits: limits.of(config),
            switches,
            sends: Mutex::default(),
            accounts: Mutex::default(),
        }
    }

    /// Are receipts passed on now?
    pub fn receipts_on(&self) -> bool {
        self.switches.off(Feature::Receipts, &self.tenant).is_none()
    }

    /// Exact comparison: no suffixes, no case folding. Whoever sends no origin is no browser.
    pub fn origin_allowed(&self, origin: Option<&str>) -> bool {
        origin.is_none_or(|o| self.origins.iter().any(|allowed| allowed == "*" || allowed == o))
    }

    pub fn account(self: &Arc<Self>, user: &User) -> Arc<Account> {
        let mut accounts = self.accounts.lock();
        if let Some(account) = accounts.get(user) {
            return Arc::clone(account);
        }
        let account = Arc::new(Account {
            tenant: Arc::clone(self),
            user: user.clone(),
            connections: AtomicUsize::new(0),
            buckets: Mutex::default(),
        });
        accounts.insert(user.clone(), Arc::clone(&account));
        account
    }

    /// Forgets users who have no connection and used nothing lately. Called every few seconds.
    pub fn forget_idle(&self, now_ms: u64) {
        let mut accounts = self.accounts.lock();
        accounts.retain(|_, account| Arc::strong_count(account) > 1 || !account.is_rested(now_ms));
        if accounts.capacity() > 4 * accounts.len() + 64 {
            accounts.shrink_to_fit();
        }
    }
}

/// One user of a tenant, over all its connections and requests here.
pub struct Account {
    pub tenant: Arc<TenantState>,
    pub user: User,
    connections: AtomicUsize,
    buckets: Mutex<UserBuckets>,
}

#[derive(Default)]
struct UserBuckets {
    sends: Bucket,
    bytes: Bucket,
    reads: Bucket,
    used_at_ms: u64,
}

/// A user whose buckets nobody touched for this long has full ones again, whatever their rate.
const RESTED_AFTER_MS: u64 = 60_000;

impl Account {
    /// Counts one more connection, if the user may have it.
    pub fn connect(&self) -> bool {
        let max = self.tenant.limits.connections_per_user_max;
        let count = |n| (n < max).then_some(n + 1);
        self.connections
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, count)
            .is_ok()
    }

    pub fn disconnect(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Asks for one page of history.
    pub fn take_read(&self, now_ms: u64) -> Result<(), RetryAfterMs> {
        let limits = &self.tenant.limits;
        let mut buckets = self.buckets.lock();
        buckets.used_at_ms = now_ms;
        let rate = Rate {
            per_s: limits.user_reads_per_s,
            burst: limits.user_reads_burst,
        };
        buckets.reads.take(now_ms, 1, rate)
    }

    fn is_rested(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.buckets.lock().used_at_ms) > RESTED_AFTER_MS
    }
}

impl Quota for Account {
    fn take_send(&self, now_ms: u64, body_bytes: usize) -> Result<(), RetryAfterMs> {
        let limits = &self.tenant.limits;
        let rate = |per_s, burst| Rate { per_s, burst };
        {
            let mut buckets = self.buckets.lock();
            buckets.used_at_ms = now_ms;
            let sends = rate(limits.user_sends_per_s, limits.user_sends_burst);
            buckets.sends.take(now_ms, 1, sends)?;
            let bytes = rate(limits.user_bytes_per_s, limits.user_bytes_burst);
            buckets.bytes.take(now_ms, body_bytes as u32, bytes)?;
        }
        let sends = rate(limits.tenant_sends_per_s, limits.tenant_sends_burst);
        self.tenant.sends.lock().take(now_ms, 1, sends)
    }

    fn switched_off(&self, switch: Switch) -> Option<Off> {
        let feature = match switch {
            Switch::Typing => Feature::Typing,
            Switch::Presence => Feature::Presence,
            Switch::NewSessions => Feature::NewSessions,
        };
        self.tenant.switches.off(feature, &self.tenant.tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(origins: &[&str]) -> Arc<TenantState> {
        let config = TenantConfig {
            origins: origins.iter().map(|o| (*o).to_owned()).collect(),
            ..TenantConfig::default()
        };
        let limits = Limits {
            connections_per_user_max: 2,
            user_sends_burst: 3,
            ..Limits::default()
        };
        let switches = Switches::new(ControlView::new(), Lane::new("core").unwrap());
        Arc::new(TenantState::new(
            Tenant::new("demo").unwrap(),
            &config,
            &limits,
            switches,
        ))
    }

    #[test]
    fn an_origin_is_allowed_exactly_or_not_at_all() {
        let t = tenant(&["https://shop.example"]);
        assert!(t.origin_allowed(None));
        assert!(t.origin_allowed(Some("https://shop.example")));
        for bad in [
            "null",
            "http://shop.example",
            "https://shop.example:444",
            "https://shop.example.evil.com",
            "https://evilshop.example",
            "HTTPS://SHOP.EXAMPLE",
            "",
        ] {
            assert!(!t.origin_allowed(Some(bad)), "{bad}");
        }
        assert!(!tenant(&[]).origin_allowed(Some("https://shop.example")));
        assert!(tenant(&["*"]).origin_allowed(Some("null")));
    }

    #[test]
    fn a_users_connections_and_sends_are_counted_together() {
        let t = tenant(&[]);
        let alice = User::new("alice").unwrap();
        let (one, two) = (t.account(&alice), t.account(&alice));
        assert!(one.connect() && two.connect());
        assert!(!one.connect());
        one.disconnect();
        assert!(two.connect());
        for _ in 0..3 {
            assert!(one.take_send(1000, 1).is_ok());
        }
        assert!(two.take_send(1000, 1).is_err());
        assert!(two.take_read(1000).is_ok(), "reading has a bucket of its own");
    }

    #[test]
    fn users_who_rest_are_forgotten() {
        let t = tenant(&[]);
        let alice = t.account(&User::new("alice").unwrap());
        alice.take_send(1000, 1).unwrap();
        t.forget_idle(1_000_000);
        assert_eq!(t.accounts.lock().len(), 1);
        drop(alice);
        t.forget_idle(2000);
        assert_eq!(t.accounts.lock().len(), 1);
        t.forget_idle(1_000_000);
        assert_eq!(t.accounts.lock().len(), 0);
    }
}
