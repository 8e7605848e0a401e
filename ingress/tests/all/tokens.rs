//! Which tokens are believed: the table of what attackers try (RELIABILITY.md, "Bad input", JWT).

use crate::common::{SECRET, config, in_s, sign};
use ingress::{KeyError, TokenError, Verifier};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use process::config::{KeyAlgorithm, Secret, TenantKey};
use serde_json::{Value, json};
use wire::record::Role;

const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEII3LgG4Gw6JI5Q1PJq/KzDo+qPrhqW8raWXfyfOq2wAR
-----END PRIVATE KEY-----
";

fn now_ms() -> u64 {
    in_s(0) as u64 * 1000
}

fn claims() -> Value {
    json!({"tenant":"demo","sub":"alice","role":"customer","exp":in_s(60)})
}

fn with(member: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[member] = value;
    claims
}

fn b64(text: &str) -> String {
    const SET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let n = chunk.iter().fold(0u32, |n, b| (n << 8) | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..=chunk.len() {
            out.push(char::from(SET[(n >> (18 - 6 * i)) as usize & 63]));
        }
    }
    out
}

/// A token of these parts as they are, signed as HS256 with the tests' secret.
fn raw(header: &str, claims: &str) -> String {
    let message = format!("{}.{}", b64(header), b64(claims));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

fn verify(token: &str) -> Result<ingress_core::Claims, TokenError> {
    Verifier::new(&config()).unwrap().verify(token, now_ms())
}

#[test]
fn a_good_token_says_who_it_is() {
    let mut full = with("groups", json!(["orders", "returns"]));
    full["device"] = json!("phone");
    full["priority"] = json!(0);
    full["iat"] = json!(7);
    full["aud"] = json!(["other"]);
    let got = verify(&sign(full)).unwrap();
    assert_eq!(
        (got.tenant.as_str(), got.user.as_str(), got.role),
        ("demo", "alice", Role::Customer)
    );
    assert_eq!((got.groups.len(), got.priority, got.issued_at_ms), (2, 0, 7000));
    assert_eq!(got.device.unwrap().as_str(), "phone");
    assert_eq!(verify(&sign(claims())).unwrap().priority, 1);
    assert!(verify(&raw(r#"{"alg":"HS256","kid":"dev"}"#, &claims().to_string())).is_ok());
    assert!(verify(&sign(with("exp", json!(in_s(-3))))).is_ok(), "within the leeway");
}

#[test]
fn times_must_be_numbers_that_hold() {
    for bad in [
        json!(in_s(-6)),
        json!(in_s(60).to_string()),
        json!(in_s(60) as f64 + 0.5),
        json!(-1),
        json!(null),
        json!(true),
        json!([in_s(60)]),
        json!(1e300),
    ] {
        assert!(verify(&sign(with("exp", bad.clone()))).is_err(), "exp {bad}");
    }
    let mut missing = claims();
    missing.as_object_mut().unwrap().remove("exp");
    assert!(verify(&sign(missing)).is_err());
    assert!(
        verify(&sign(with("exp", json!(u64::MAX)))).is_ok(),
        "far away is not an overflow"
    );
    for bad in [json!(in_s(60)), json!(in_s(-60).to_string()), json!(null), json!(-1)] {
        let result = verify(&sign(with("nbf", bad.clone())));
        assert!(result.is_err() || bad.is_null(), "nbf {bad}");
    }
    for bad in [json!("1"), json!(-1), json!(1.5)] {
        assert!(verify(&sign(with("iat", bad.clone()))).is_err(), "iat {bad}");
    }
}

#[test]
fn algorithms_cannot_be_chosen_by_the_token() {
    let claims = claims().to_string();
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = format!(r#"{{"alg":"{alg}","kid":"dev"}}"#);
        for token in [
            raw(&header, &claims),
            format!("{}.{}.", b64(&header), b64(&claims)),
            format!("{}.{}", b64(&header), b64(&claims)),
        ] {
            assert!(verify(&token).is_err(), "{alg}");
        }
    }
    for alg in ["HS384", "HS512", "RS256", "ES256", "EdDSA"] {
        assert!(
            verify(&raw(&format!(r#"{{"alg":"{alg}","kid":"dev"}}"#), &claims)).is_err(),
            "{alg}"
        );
    }
}

#[test]
fn a_public_key_is_no_secret() {
    let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA0VDOd69NvdlSSCSlyfF1PER6DOTSltVlbUGkBv8Eah4=\n-----END PUBLIC KEY-----\n";
    let mut config = config();
    let tenant = config.tenants.values_mut().next().unwrap();
    tenant.keys.push(TenantKey {
        kid: "ed".into(),
        alg: KeyAlgorithm::EdDSA,
        key: public.into(),
        ..TenantKey::default()
    });
    let verifier = Verifier::new(&config).unwrap();
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some("ed".into());
    let good = encode(
        &header,
        &claims(),
        &EncodingKey::from_ed_pem(PRIVATE.as_bytes()).unwrap(),
    )
    .unwrap();
    assert_eq!(
        verifier.verify(&good, now_ms()).map(|c| c.user.to_string()),
        Ok("alice".into())
    );

    header.alg = Algorithm::HS256;
    for secret in [public.as_bytes(), public.trim().as_bytes(), b""] {
        let confused = encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap();
        assert_eq!(verifier.verify(&confused, now_ms()), Err(TokenError::Algorithm));
    }
    header.kid = Some("dev".into());
    header.alg = Algorithm::EdDSA;
    let wrong = encode(
        &header,
        &claims(),
        &EncodingKey::from_ed_pem(PRIVATE.as_bytes()).unwrap(),
    )
    .unwrap();
    assert_eq!(verifier.verify(&wrong, now_ms()), Err(TokenError::Algorithm));
}

#[test]
fn a_key_belongs_to_its_tenant() {
    let mut config = config();
    let other = wire::Tenant::new("other").unwrap();
    config.tenants.get_mut(&other).unwrap().keys[0].secret = Secret::new("the other's secret");
    let verifier = Verifier::new(&config).unwrap();
    assert!(verifier.verify(&sign(claims()), now_ms()).is_ok());
    assert!(
        verifier
            .verify(&sign(with("tenant", json!("other"))), now_ms())
            .is_err(),
        "same kid, other tenant"
    );
    for tenant in [json!("gone"), json!("../demo"), json!(null), json!(["demo"]), json!("")] {
        assert!(
            verifier
                .verify(&sign(with("tenant", tenant.clone())), now_ms())
                .is_err(),
            "{tenant}"
        );
    }
    let twice = r#"{"tenant":"other","tenant":"demo","sub":"alice","role":"customer","exp":9999999999}"#;
    assert!(
        verifier
            .verify(&raw(r#"{"alg":"HS256","kid":"dev"}"#, twice), now_ms())
            .is_err()
    );
}

#[test]
fn headers_that_would_fetch_or_change_keys_are_refused() {
    let claims = claims().to_string();
    for extra in [
        r#""crit":["exp"]"#,
        r#""jku":"https://evil.example/keys""#,
        r#""x5u":"https://evil.example/cert""#,
        r#""jwk":{"kty":"oct","k":"c2VjcmV0"}"#,
        r#""x5c":["AAAA"]"#,
        r#""typ":"at+jwt""#,
        r#""zip":"DEF""#,
    ] {
        assert!(
            verify(&raw(&format!(r#"{{"alg":"HS256","kid":"dev",{extra}}}"#), &claims)).is_err(),
            "{extra}"
        );
    }
    for kid in ["../../dev/null", "dev' OR '1'='1", "", "DEV", "dev\\u0000"] {
        assert!(
            verify(&raw(&format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#), &claims)).is_err(),
            "{kid}"
        );
    }
    assert!(verify(&raw(r#"{"alg":"HS256"}"#, &claims)).is_err());
    assert!(verify(&raw(r#"{"alg":"HS256","kid":"nope","kid":"dev"}"#, &claims)).is_err());
}

#[test]
fn what_is_not_a_token_of_ours_is_refused() {
    let good = sign(claims());
    let (head, signature) = good.rsplit_once('.').unwrap();
    for bad in [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        "a.b.c".into(),
        head.to_owned(),
        format!("{head}."),
        format!("{good}."),
        format!("{good}.x"),
        format!("{head}.{}", &signature[..signature.len() - 2]),
        format!("{head}.{signature}="),
        format!(" {good}"),
        format!("{good}{}", "x".repeat(100_000)),
        "x".repeat(100_000),
    ] {
        assert!(verify(&bad).is_err(), "{}", &bad[..bad.len().min(40)]);
    }
    let last = signature.chars().last().unwrap();
    let malleable = format!(
        "{head}.{}{}",
        &signature[..signature.len() - 1],
        char::from(last as u8 ^ 1)
    );
    assert!(verify(&malleable).is_err());
    for (member, value) in [
        ("role", json!("system")),
        ("role", json!("Customer")),
        ("role", json!(1)),
        ("sub", json!("")),
        ("sub", json!("a\nb")),
        ("sub", json!(7)),
        ("groups", json!("orders")),
        ("groups", json!(vec!["g"; 33])),
        ("device", json!("x".repeat(65))),
    ] {
        assert!(verify(&sign(with(member, value.clone()))).is_err(), "{member} {value}");
    }
}

#[test]
fn shared_secrets_are_for_development_and_ids_are_unique() {
    let mut production = config();
    production.dev = false;
    assert!(matches!(
        Verifier::new(&production),
        Err(KeyError::NotInDevelopment { .. })
    ));
    let mut twice = config();
    let tenant = twice.tenants.values_mut().next().unwrap();
    tenant.keys.push(tenant.keys[0].clone());
    assert!(matches!(Verifier::new(&twice), Err(KeyError::Unusable { .. })));
    let mut broken = config();
    broken.tenants.values_mut().next().unwrap().keys.push(TenantKey {
        kid: "ed".into(),
        key: "no pem".into(),
        ..TenantKey::default()
    });
    assert!(Verifier::new(&broken).is_err());
}
