//! Tokens of the demo tenant, as `switchboard token` makes them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// The secret and the key's name of `switchboard dev`.
pub const SECRET: &str = "switchboard-dev";
const KID: &str = "dev";

pub fn of(role: &str, user: &str) -> String {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    sign(&json!({ "tenant": "demo", "sub": user, "role": role, "iat": now_s, "exp": now_s + 3_600 }))
}

pub fn sign(claims: &Value) -> String {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(KID.into());
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&header, claims, &key).unwrap_or_default()
}

/// A name nobody else has in this run.
pub fn somebody(kind: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{kind}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
