//! What attackers put into a token, shown on every way in: each is refused, none leaves a record or a registration behind. Which
//! token the verifier itself believes is in `tests/all/tokens.rs`; here it is that no way in asks another verifier, or none.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use process::config::{KeyAlgorithm, Secret, TenantKey};
use serde_json::{Value, json};
use wire::Tenant;

use super::house::House;
use super::way::{Client, Way, get, post};
use crate::common::*;

const RSA: &str = include_str!("keys/rsa.pem");
const RSA_PUBLIC: &str = include_str!("keys/rsa.pub.pem");
const EC: &str = include_str!("keys/ec.pem");
const EC_PUBLIC: &str = include_str!("keys/ec.pub.pem");

fn config_with_keys() -> process::Config {
    let mut config = config();
    let demo = config.tenants.get_mut(&Tenant::new("demo").unwrap()).unwrap();
    for (kid, alg, key) in [
        ("rsa", KeyAlgorithm::RS256, RSA_PUBLIC),
        ("ec", KeyAlgorithm::ES256, EC_PUBLIC),
    ] {
        demo.keys.push(TenantKey {
            kid: kid.into(),
            alg,
            key: key.into(),
            ..TenantKey::default()
        });
    }
    // The same kid, another tenant, another secret.
    let other = config.tenants.get_mut(&Tenant::new("other").unwrap()).unwrap();
    other.keys[0].secret = Secret::new("the other's secret");
    config
}

fn claims() -> Value {
    json!({"tenant":"demo","sub":"alice","role":"customer","exp":in_s(600)})
}

fn with(member: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[member] = value;
    claims
}

fn b64(bytes: &[u8]) -> String {
    const SET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().fold(0u32, |n, b| (n << 8) | u32::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..=chunk.len() {
            out.push(char::from(SET[(n >> (18 - 6 * i)) as usize & 63]));
        }
    }
    out
}

/// These bytes as header and claims, signed with that key.
fn raw(header: &str, claims: &str, key: &EncodingKey, alg: Algorithm) -> String {
    let message = format!("{}.{}", b64(header.as_bytes()), b64(claims.as_bytes()));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, alg).unwrap();
    format!("{message}.{signature}")
}

fn hs(header: &str, claims: &str) -> String {
    raw(
        header,
        claims,
        &EncodingKey::from_secret(SECRET.as_bytes()),
        Algorithm::HS256,
    )
}

fn signed_by(kid: &str, alg: Algorithm, pem: &str) -> String {
    let mut header = Header::new(alg);
    header.kid = Some(kid.into());
    let key = match alg {
        Algorithm::ES256 => EncodingKey::from_ec_pem(pem.as_bytes()),
        _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
    };
    encode(&header, &claims(), &key.unwrap()).unwrap()
}

/// (what it is, the token)
fn bad() -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    let good_header = r#"{"alg":"HS256","kid":"dev"}"#;
    let text = claims().to_string();
    for alg in ["none", "None", "NONE", "nOnE"] {
        let header = format!(r#"{{"alg":"{alg}","kid":"dev"}}"#);
        all.push((
            format!("alg {alg}, unsigned"),
            format!("{}.{}.", b64(header.as_bytes()), b64(text.as_bytes())),
        ));
        all.push((format!("alg {alg}, signed"), hs(&header, &text)));
    }
    // RS256 → HS256: the public key, in every spelling, as the secret.
    for secret in [RSA_PUBLIC, RSA_PUBLIC.trim(), &RSA_PUBLIC.replace('\n', ""), EC_PUBLIC] {
        for kid in ["rsa", "ec"] {
            let header = format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#);
            let key = EncodingKey::from_secret(secret.as_bytes());
            all.push((
                format!("HS256 with the public key as {kid}"),
                raw(&header, &text, &key, Algorithm::HS256),
            ));
        }
    }
    all.push((
        "RS256 under the kid of a secret".into(),
        signed_by("dev", Algorithm::RS256, RSA),
    ));
    all.push((
        "RS256 under the kid of an EC key".into(),
        signed_by("ec", Algorithm::RS256, RSA),
    ));
    all.push((
        "ES256 under the kid of an RSA key".into(),
        signed_by("rsa", Algorithm::ES256, EC),
    ));
    let rs512 = raw(
        r#"{"alg":"RS512","kid":"rsa"}"#,
        &text,
        &EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap(),
        Algorithm::RS512,
    );
    all.push(("another algorithm of the same family".into(), rs512));
    for kid in [
        "",
        "nope",
        "../../../dev/null",
        "dev' OR '1'='1",
        "dev\\u0000",
        "DEV",
        "http://127.0.0.1:9/k",
    ] {
        all.push((
            format!("kid {kid}"),
            hs(&format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#), &text),
        ));
    }
    all.push(("no kid".into(), hs(r#"{"alg":"HS256"}"#, &text)));
    all.push((
        "two kids".into(),
        hs(r#"{"alg":"HS256","kid":"nope","kid":"dev"}"#, &text),
    ));
    for extra in [
        r#""crit":["exp"]"#,
        r#""crit":["b64"],"b64":false"#,
        r#""jku":"http://127.0.0.1:9/keys""#,
        r#""x5u":"http://127.0.0.1:9/cert""#,
        r#""jwk":{"kty":"oct","k":"c2VjcmV0"}"#,
        r#""x5c":["AAAA"]"#,
        r#""zip":"DEF""#,
        r#""typ":"at+jwt""#,
    ] {
        all.push((
            format!("header {extra}"),
            hs(&format!(r#"{{"alg":"HS256","kid":"dev",{extra}}}"#), &text),
        ));
    }
    // CVE-2026-25537: a time that is no number must not be a time that is not checked.
    for member in ["exp", "nbf"] {
        let (long_ago, far) = (in_s(-3600), in_s(3600));
        let value = if member == "exp" { long_ago } else { far };
        for bad in [
            json!(value),
            json!(value.to_string()),
            json!([value]),
            json!({"v":value}),
            json!(-1),
            json!(true),
        ] {
            // Of nbf, what has passed holds.
            if member == "nbf" && bad == json!(-1) {
                continue;
            }
            all.push((format!("{member} {bad}"), sign(with(member, bad))));
        }
    }
    for bad in [json!(null), json!(1e300), json!(in_s(3600) as f64 + 0.5), json!("")] {
        all.push((format!("exp {bad}"), sign(with("exp", bad))));
    }
    let mut missing = claims();
    missing.as_object_mut().unwrap().remove("exp");
    all.push(("no exp".into(), sign(missing)));
    // CVE-2026-49998: the same kid of another tenant.
    all.push(("signed by demo for other".into(), sign(with("tenant", json!("other")))));
    let other = EncodingKey::from_secret(b"the other's secret");
    all.push((
        "signed by other for demo".into(),
        raw(good_header, &text, &other, Algorithm::HS256),
    ));
    let twice = format!(
        r#"{{"tenant":"other","tenant":"demo","sub":"alice","role":"customer","exp":{}}}"#,
        in_s(600)
    );
    all.push(("two tenants".into(), hs(good_header, &twice)));
    for (member, value) in [
        ("tenant", json!("gone")),
        ("tenant", json!(null)),
        ("tenant", json!("demo/alice")),
        ("sub", json!("")),
        ("sub", json!("a\nb")),
        ("sub", json!(["alice"])),
        ("role", json!("system")),
        ("role", json!("CUSTOMER")),
        ("role", json!(["customer", "supervisor"])),
    ] {
        all.push((format!("{member} {value}"), sign(with(member, value))));
    }
    let good = sign(claims());
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (header, body) = head.split_once('.').unwrap();
    for (what, token) in [
        ("two parts", head.to_owned()),
        ("no signature", format!("{head}.")),
        ("four parts", format!("{good}.")),
        ("five parts", format!("{good}.x.y")),
        (
            "a truncated signature",
            format!("{head}.{}", &signature[..signature.len() - 2]),
        ),
        ("a padded signature", format!("{head}.{signature}=")),
        (
            "another's claims",
            format!(
                "{header}.{}.{signature}",
                b64(with("sub", json!("bob")).to_string().as_bytes())
            ),
        ),
        ("padded claims", format!("{header}.{body}==.{signature}")),
        ("100 KB", format!("{good}{}", "A".repeat(60_000))),
        ("nothing", String::new()),
        ("a word", "Bearer".into()),
        ("dots", "...".into()),
    ] {
        all.push((what.to_owned(), token));
    }
    // The last character of a signature has two bits that are not its own.
    let last = signature.chars().last().unwrap() as u8;
    for flip in [1u8, 2, 3] {
        let other = match last ^ flip {
            c if c.is_ascii_alphanumeric() || c == b'-' || c == b'_' => c,
            _ => continue,
        };
        all.push((
            format!("a malleable signature, {flip}"),
            format!("{head}.{}{}", &signature[..signature.len() - 1], char::from(other)),
        ));
    }
    all
}

#[tokio::test]
async fn no_bad_token_gets_in_anywhere_and_none_leaves_a_trace() {
    let house = House::start(config_with_keys()).await;
    let base = house.node.http();
    let bad = bad();
    assert!(bad.len() > 70, "{}", bad.len());
    for (what, token) in &bad {
        for way in Way::ALL {
            let refused = Client::open(&house.node, way, token).await.err();
            let refused = refused.unwrap_or_else(|| panic!("{way:?} let in: {what}"));
            let fair = ["bad_token", "token_expired", "too_large"];
            assert!(fair.contains(&refused.as_str()), "{way:?}: {what}: {refused}");
        }
        // What is not even a header's value is not sent as one.
        if token.len() > 10_000 || token.contains(['\n', '\0']) {
            continue;
        }
        let frames = json!({"frames":[{"send":{"id":"1","body":{"text":"x"}}}]});
        assert_eq!(post(&base, "/v1/frames", token, frames).await.0, 401, "{what}");
        let send = json!({"id":"1","body":{"text":"x"}});
        assert_eq!(
            post(&base, "/v1/conversations/alice/messages", token, send).await.0,
            401,
            "{what}"
        );
        assert_eq!(
            get(&base, "/v1/conversations/alice/events", token).await.0,
            401,
            "{what}"
        );
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(house.node.log.records.lock().is_empty(), "no record of any topic");
    assert_eq!(house.registered.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert_eq!(house.node.handle.open_connections(), 0);
    // The keys do work for those who have them.
    for token in [
        signed_by("rsa", Algorithm::RS256, RSA),
        signed_by("ec", Algorithm::ES256, EC),
        sign(claims()),
    ] {
        Client::open(&house.node, Way::WebSocket, &token).await.unwrap();
    }
}

#[tokio::test]
async fn a_token_counts_where_it_belongs_and_nowhere_else() {
    let house = House::start(config()).await;
    let base = house.node.http();
    let good = token("alice", "customer");
    let client = reqwest::Client::new();
    // Never from a query, whatever the header says.
    for path in [
        "/v1/conversations/alice/events",
        "/v1/conversations/alice/events?limit=1",
    ] {
        let join = if path.contains('?') { '&' } else { '?' };
        for name in ["token", "access_token", "jwt"] {
            let url = format!("{base}{path}{join}{name}={good}");
            assert_eq!(soon(client.get(&url).send()).await.unwrap().status(), 401);
            assert_eq!(
                soon(client.get(&url).bearer_auth("no").send()).await.unwrap().status(),
                401
            );
        }
    }
    // Two headers that disagree, or agree, are no header.
    let url = format!("{base}/v1/conversations/alice/events");
    for second in [&good, &"no".to_owned()] {
        let request = client
            .get(&url)
            .bearer_auth(&good)
            .header("authorization", format!("Bearer {second}"));
        assert_eq!(soon(request.send()).await.unwrap().status(), 401);
    }
    for scheme in ["Basic", "Token", ""] {
        let request = client.get(&url).header("authorization", format!("{scheme} {good}"));
        assert_eq!(soon(request.send()).await.unwrap().status(), 401, "{scheme}");
    }
    assert_eq!(
        soon(client.get(&url).header("cookie", format!("token={good}")).send())
            .await
            .unwrap()
            .status(),
        401
    );
    // A stream believes the token of its connect frame only.
    let request = client.post(format!("{base}/v1/stream")).bearer_auth(&good);
    let body = json!({"connect":{"token":"no"}}).to_string();
    assert_eq!(soon(request.body(body).send()).await.unwrap().status(), 401);
    assert!(house.node.log.records.lock().is_empty());
}
