//! Tokens. The first byte chooses: raw bytes as a token, or claims that are signed with the right key. What is accepted must be
//! acceptable to a reference that reads the claims as plain JSON and trusts nothing.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use ingress::Verifier;
use jsonwebtoken::{Algorithm, EncodingKey};
use process::Config;
use process::config::{KeyAlgorithm, Secret, TenantConfig, TenantKey};
use serde_json::Value;
use wire::{Tenant, User};

const SECRET: &str = "a-secret-of-the-fuzzer";
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT","kid":"dev"}"#;

pub const WORDS: &[&[u8]] = &[
    br#""exp":"#,
    b"4102444800",
    b"\"4102444800\"",
    b"-1",
    b"1e12",
    b"4102444800.5",
    b"null",
    br#""nbf":"#,
    br#""tenant":"demo","#,
    br#""role":"agent","#,
    br#""role":"system","#,
    br#""sub":"alice","#,
    br#""aud":["x"],"#,
    b".",
    b"eyJhbGciOiJub25lIn0",
    br#"{"alg":"none","kid":"dev"}"#,
    br#""crit":["exp"],"#,
    br#""kid":"../dev","#,
];

fn verifier() -> &'static Verifier {
    static VERIFIER: OnceLock<Verifier> = OnceLock::new();
    VERIFIER.get_or_init(|| {
        let mut config = Config {
            dev: true,
            ..Config::default()
        };
        let key = TenantKey {
            kid: "dev".into(),
            alg: KeyAlgorithm::HS256,
            secret: Secret::new(SECRET),
            ..TenantKey::default()
        };
        let tenant = TenantConfig {
            keys: vec![key],
            ..TenantConfig::default()
        };
        config
            .tenants
            .insert(Tenant::new("demo").expect("a tenant's name"), tenant);
        Verifier::new(&config).expect("one good key")
    })
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// True: the token was accepted, and the reference could read it.
pub fn run(input: &[u8]) -> bool {
    let Some((how, rest)) = input.split_first() else {
        return false;
    };
    match how % 3 {
        0 => {
            let token = String::from_utf8_lossy(rest);
            assert!(verifier().verify(&token, now_ms()).is_err(), "nobody signed that");
            false
        }
        1 => claims(rest),
        _ => header(rest),
    }
}

fn signed(header: &[u8], claims: &[u8]) -> String {
    let message = format!("{}.{}", base64_url(header), base64_url(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("it is signed");
    format!("{message}.{signature}")
}

/// Any claims under a good header and a good signature.
fn claims(claims: &[u8]) -> bool {
    let Ok(accepted) = verifier().verify(&signed(HEADER.as_bytes(), claims), now_ms()) else {
        return false;
    };
    // serde passes over claims it does not know without reading their texts: they need not be UTF-8 there.
    let Ok(value) = serde_json::from_str::<Value>(&String::from_utf8_lossy(claims)) else {
        return false;
    };
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    assert_eq!(
        (accepted.tenant.as_str(), accepted.user.as_str()),
        ("demo", text("sub"))
    );
    assert!(User::new(text("sub")).is_ok() && text("tenant") == "demo");
    assert_eq!(wire::event::role_of_name(text("role")), Some(accepted.role));
    let now_s = now_ms() / 1000;
    let exp = value["exp"].as_u64().expect("exp is a whole number");
    assert!(exp.saturating_add(wire::limits::TOKEN_LEEWAY_S) >= now_s, "expired");
    if let Some(nbf) = value.get("nbf").filter(|n| !n.is_null()) {
        let nbf = nbf.as_f64().expect("nbf is a number");
        assert!(
            nbf <= (now_s + wire::limits::TOKEN_LEEWAY_S + 1) as f64,
            "not valid yet"
        );
    }
    true
}

/// Good claims and a good signature under any header.
fn header(header: &[u8]) -> bool {
    let claims = br#"{"tenant":"demo","sub":"alice","role":"customer","exp":4102444800}"#;
    if verifier().verify(&signed(header, claims), now_ms()).is_err() {
        return false;
    }
    let Ok(value) = serde_json::from_str::<Value>(&String::from_utf8_lossy(header)) else {
        return false;
    };
    assert_eq!(
        (value["alg"].as_str(), value["kid"].as_str()),
        (Some("HS256"), Some("dev"))
    );
    for name in ["crit", "jku", "jwk", "x5u", "zip"] {
        assert!(value.get(name).is_none(), "a header with {name}");
    }
    true
}

/// RFC 4648, section 5, without padding.
fn base64_url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let held = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..=chunk.len() {
            out.push(char::from(DIGITS[(held >> (18 - 6 * i)) as usize & 63]));
        }
    }
    out
}
