//! Development tokens: HS256, key id `dev`, a day long. Nothing but a `switchboard dev` accepts them.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::Error;

const LIFE_S: u64 = 86_400;

pub struct Signer {
    tenant: String,
    header: Header,
    key: EncodingKey,
    exp: u64,
}

#[derive(Serialize)]
struct Claims<'a> {
    tenant: &'a str,
    sub: &'a str,
    role: &'a str,
    exp: u64,
}

impl Signer {
    pub fn new(tenant: &str, secret: &str) -> Self {
        let now_s = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs());
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("dev".into());
        Self {
            tenant: tenant.to_owned(),
            header,
            key: EncodingKey::from_secret(secret.as_bytes()),
            exp: now_s + LIFE_S,
        }
    }

    pub fn token(&self, role: &str, user: &str) -> Result<String, Error> {
        let claims = Claims {
            tenant: &self.tenant,
            sub: user,
            role,
            exp: self.exp,
        };
        jsonwebtoken::encode(&self.header, &claims, &self.key).map_err(|e| Error::Token(e.to_string()))
    }
}
