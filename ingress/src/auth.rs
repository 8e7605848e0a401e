//! Tokens: JWTs whose keys are found by (tenant, kid), each key with the one algorithm it is used with. Nothing is believed
//! before the signature holds, except which key to try; nothing is fetched from anywhere.

use std::collections::HashMap;

use ingress_core::Claims;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use process::config::{Config, KeyAlgorithm, TenantKey};
use serde::Deserialize;
use wire::{Device, Tenant, User, event, limits};

/// Why a token is not accepted. Clients are told one word only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is longer than {} bytes", limits::TOKEN_BYTES_MAX)]
    TooLong,
    #[error("the token is not a JWT")]
    Malformed,
    #[error("the token's header asks for what we do not do")]
    Header,
    #[error("no key of that tenant has that id")]
    UnknownKey,
    #[error("the key is not used with that algorithm")]
    Algorithm,
    #[error("the signature or a time does not hold")]
    Invalid,
    #[error("the token has expired")]
    Expired,
    #[error("the claims are not ours")]
    Claims,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("key {kid} of tenant {tenant} cannot be used: {why}")]
    Unusable { tenant: Tenant, kid: String, why: String },
    #[error("key {kid} of tenant {tenant} is HS256, which needs dev = true")]
    NotInDevelopment { tenant: Tenant, kid: String },
}

struct Key {
    algorithm: Algorithm,
    key: DecodingKey,
}

/// Verifies tokens.
pub struct Verifier {
    keys: HashMap<(Tenant, String), Key>,
}

/// Members of a header that would have us fetch keys, or understand what we do not.
const REFUSED_HEADERS: [&str; 8] = ["crit", "jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256", "zip"];

#[derive(Deserialize)]
struct Unverified {
    tenant: Tenant,
}

#[derive(Deserialize)]
struct RawClaims {
    tenant: Tenant,
    sub: User,
    role: String,
    exp: u64,
    #[serde(default)]
    iat: Option<u64>,
    #[serde(default)]
    device: Option<Device>,
    #[serde(default)]
    groups: Vec<String>,
    #[serde(default)]
    priority: Option<u32>,
}

impl Verifier {
    pub fn new(config: &Config) -> Result<Self, KeyError> {
        let mut keys = HashMap::new();
        for (tenant, settings) in &config.tenants {
            for key in &settings.keys {
                let unusable = |why: String| KeyError::Unusable {
                    tenant: tenant.clone(),
                    kid: key.kid.clone(),
                    why,
                };
                if key.alg == KeyAlgorithm::HS256 && !config.dev {
                    return Err(KeyError::NotInDevelopment {
                        tenant: tenant.clone(),
                        kid: key.kid.clone(),
                    });
                }
                let loaded = load_key(key).map_err(unusable)?;
                if keys.insert((tenant.clone(), key.kid.clone()), loaded).is_some() {
                    return Err(unusable("two keys of the tenant have this id".to_owned()));
                }
            }
        }
        Ok(Self { keys })
    }

    /// The claims of a token that holds at `wall_ms`, Unix milliseconds.
    pub fn verify(&self, token: &str, wall_ms: u64) -> Result<Claims, TokenError> {
        if token.len() > limits::TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let (kid, algorithm) = read_header(token)?;
        // Which key to try is all that the unverified claims decide.
        let Unverified { tenant } =
            jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| TokenError::Malformed)?;
        let key = self.keys.get(&(tenant, kid)).ok_or(TokenError::UnknownKey)?;
        if key.algorithm != algorithm {
            return Err(TokenError::Algorithm);
        }
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = limits::TOKEN_LEEWAY_S;
        validation.validate_nbf = true;
        validation.validate_aud = false;
        let raw = jsonwebtoken::decode::<RawClaims>(token, &key.key, &validation)
            .map_err(|e| match e.kind() {
                jsonwebtoken::errors::ErrorKind::ExpiredSignature => TokenError::Expired,
                jsonwebtoken::errors::ErrorKind::Json(_) => TokenError::Claims,
                _ => TokenError::Invalid,
            })?
            .claims;
        check_claims(raw, wall_ms)
    }
}

fn check_claims(raw: RawClaims, wall_ms: u64) -> Result<Claims, TokenError> {
    let role = event::role_of_name(&raw.role).ok_or(TokenError::Claims)?;
    if raw.groups.len() > limits::TOKEN_GROUPS_MAX || raw.groups.iter().any(|g| g.len() > limits::USER_BYTES_MAX) {
        return Err(TokenError::Claims);
    }
    // Far beyond any clock, and far below where sums would overflow.
    let expires_at_ms = raw.exp.saturating_mul(1000).min(u64::MAX / 4);
    if expires_at_ms + limits::TOKEN_LEEWAY_S * 1000 < wall_ms {
        return Err(TokenError::Expired);
    }
    Ok(Claims {
        tenant: raw.tenant,
        user: raw.sub,
        role,
        expires_at_ms,
        issued_at_ms: raw
            .iat
            .map_or(0, |s| s.saturating_mul(1000).min(i64::MAX as u64) as i64),
        device: raw.device,
        groups: raw.groups,
        priority: raw.priority.unwrap_or(1).min(2),
    })
}

/// `kid` and `alg`, after refusing every header that would change what a signature means.
fn read_header(token: &str) -> Result<(String, Algorithm), TokenError> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Malformed)?;
    let raw = token.split('.').next().unwrap_or_default();
    let raw = base64_url(raw).ok_or(TokenError::Malformed)?;
    let members: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&raw).map_err(|_| TokenError::Malformed)?;
    if REFUSED_HEADERS.iter().any(|name| members.contains_key(*name)) {
        return Err(TokenError::Header);
    }
    if header.typ.as_deref().is_some_and(|t| !t.eq_ignore_ascii_case("JWT")) {
        return Err(TokenError::Header);
    }
    Ok((header.kid.ok_or(TokenError::Header)?, header.alg))
}

/// RFC 4648, section 5, without padding.
fn base64_url(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0u32);
    for byte in text.bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'-' => 62,
            b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Some(out)
}

fn load_key(key: &TenantKey) -> Result<Key, String> {
    let text = |inline: &str, file: &str| match (inline, file) {
        ("", "") => Err("it has neither a value nor a file".to_owned()),
        ("", file) => std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}")),
        (inline, _) => Ok(inline.to_owned()),
    };
    let (algorithm, decoding) = match key.alg {
        KeyAlgorithm::HS256 => {
            let secret = text(key.secret.expose(), &key.secret_file)?;
            (Algorithm::HS256, DecodingKey::from_secret(secret.trim_end().as_bytes()))
        }
        KeyAlgorithm::EdDSA => {
            let pem = text(&key.key, &key.key_file)?;
            (
                Algorithm::EdDSA,
                DecodingKey::from_ed_pem(pem.as_bytes()).map_err(|e| e.to_string())?,
            )
        }
        KeyAlgorithm::ES256 => {
            let pem = text(&key.key, &key.key_file)?;
            (
                Algorithm::ES256,
                DecodingKey::from_ec_pem(pem.as_bytes()).map_err(|e| e.to_string())?,
            )
        }
        KeyAlgorithm::RS256 => {
            let pem = text(&key.key, &key.key_file)?;
            (
                Algorithm::RS256,
                DecodingKey::from_rsa_pem(pem.as_bytes()).map_err(|e| e.to_string())?,
            )
        }
    };
    Ok(Key {
        algorithm,
        key: decoding,
    })
}
