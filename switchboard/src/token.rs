//! Development tokens: what a tenant's own login server would issue, made with the demo tenant's secret.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

/// The secret of kid `dev`; a process that uses it refuses to listen beyond loopback.
pub const DEFAULT_SECRET: &str = "switchboard-dev";
/// The kid of development tokens.
pub const KID: &str = "dev";

/// Prints a token for a customer or agent of a development tenant.
#[derive(Args, Debug)]
pub struct TokenArgs {
    /// The tenant; `switchboard dev` has `demo`
    #[arg(long, default_value = "demo")]
    tenant: String,
    /// customer, agent, supervisor, tenant_admin, operator or bot
    #[arg(long, value_parser = parse_role)]
    role: String,
    /// The user's name; a customer's is also the conversation's
    #[arg(long)]
    user: String,
    /// Seconds until it expires
    #[arg(long, default_value_t = 86_400)]
    ttl_s: u64,
    /// The agent's groups
    #[arg(long)]
    group: Vec<String>,
    /// The customer's priority: 0 is served first, 2 last
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=2))]
    priority: Option<u32>,
    /// The key's id
    #[arg(long, default_value = KID)]
    kid: String,
    /// The HS256 secret `switchboard dev` was started with
    #[arg(long, env = "SWITCHBOARD_DEV_SECRET", default_value = DEFAULT_SECRET, hide_env_values = true)]
    dev_secret: String,
}

fn parse_role(name: &str) -> Result<String, String> {
    match wire::event::role_of_name(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err("must be customer, agent, supervisor, tenant_admin, operator or bot".into()),
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    tenant: &'a str,
    sub: &'a str,
    role: &'a str,
    iat: u64,
    exp: u64,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
}

impl TokenArgs {
    /// Checks the names as the platform does, then signs.
    pub fn token(&self) -> Result<String, String> {
        wire::Tenant::new(&self.tenant).map_err(|e| e.to_string())?;
        wire::User::new(&self.user).map_err(|e| e.to_string())?;
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let claims = Claims {
            tenant: &self.tenant,
            sub: &self.user,
            role: &self.role,
            iat: now_s,
            exp: now_s.saturating_add(self.ttl_s),
            groups: &self.group,
            priority: self.priority,
        };
        sign(&claims, &self.kid, &self.dev_secret)
    }
}

/// A token of the demo tenant, valid for a day: what the demo page gets.
pub fn demo_token(tenant: &str, role: &str, user: &str, secret: &str) -> Result<String, String> {
    TokenArgs {
        tenant: tenant.to_owned(),
        role: parse_role(role)?,
        user: user.to_owned(),
        ttl_s: 86_400,
        group: Vec::new(),
        priority: None,
        kid: KID.to_owned(),
        dev_secret: secret.to_owned(),
    }
    .token()
}

fn sign(claims: &Claims<'_>, kid: &str, secret: &str) -> Result<String, String> {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(kid.to_owned());
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(secret.as_bytes())).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_key_and_its_claims() {
        let token = demo_token("demo", "customer", "爱丽丝", "s").unwrap();
        let header = jsonwebtoken::decode_header(&token).unwrap();
        assert_eq!(header.kid.as_deref(), Some("dev"));
        assert_eq!(token.split('.').count(), 3);
    }

    #[test]
    fn nobody_gets_a_token_of_the_platform_itself() {
        assert!(demo_token("demo", "system", "x", "s").is_err());
        assert!(demo_token("demo", "customer", "a\nb", "s").is_err());
        assert!(demo_token("De mo", "customer", "a", "s").is_err());
    }
}
