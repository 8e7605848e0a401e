//! What a configuration is put together from, which source wins, and what is refused with which words.

use std::io::Write as _;

use super::*;
use crate::config::{KeyAlgorithm, LogKind, Role};

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn load(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let owned = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect::<Vec<_>>()
    };
    Config::load(Some(file(text).path()), owned(environment).into_iter(), &owned(flags))
}

fn refusal(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    load(text, environment, flags).unwrap_err().to_string()
}

#[test]
fn nothing_given_is_the_defaults() {
    let config = Config::load(None, std::iter::empty(), &[]).unwrap();
    assert_eq!(
        Table::try_from(config).unwrap(),
        Table::try_from(Config::default()).unwrap()
    );
}

#[test]
fn a_node_without_a_name_is_called_as_its_host() {
    assert_eq!(load("[node]\nname = 'n1'", &[], &[]).unwrap().node_name(), "n1");
    let host = Config::default().node_name();
    assert!(!host.is_empty() && host.trim() == host);
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let text = "partitions = 1\nreplication = 1\nepoch = 1\n[log]\nkind = 'embedded'";
    let environment = [
        ("SWITCHBOARD__REPLICATION", "2"),
        ("SWITCHBOARD__EPOCH", "2"),
        ("SWITCHBOARD__LOG__KIND", "kafka"),
        ("SWITCHBOARD_CACHE", "not ours"),
        ("PATH", "/bin"),
    ];
    let config = load(text, &environment, &[("epoch", "3")]).unwrap();
    assert_eq!((config.partitions, config.replication, config.epoch), (1, 2, 3));
    assert_eq!(config.log.kind, LogKind::Kafka);
}

#[test]
fn lists_come_as_toml_or_with_commas_and_properties_have_dots() {
    let config = load(
        "",
        &[
            ("SWITCHBOARD__ROLES", "ingress, desk"),
            ("SWITCHBOARD__LOG__PROPERTIES__LINGER__MS", "7"),
        ],
        &[
            ("log.brokers", r#"["a:1", "b:2"]"#),
            ("log.properties.queue.buffering.max.messages", "10"),
        ],
    )
    .unwrap();
    assert_eq!(config.roles, [Role::Ingress, Role::Desk]);
    assert_eq!(config.log.brokers, ["a:1", "b:2"]);
    assert_eq!(config.log.properties["linger.ms"], "7");
    assert_eq!(config.log.properties["queue.buffering.max.messages"], "10");
}

#[test]
fn a_tenant_and_its_keys_can_come_from_everywhere() {
    let config = load(
        "[tenants.acme]\nagents_read = 'own'\n[[tenants.acme.keys]]\nkid = 'a'\nkey = 'PEM'",
        &[("SWITCHBOARD__TENANTS__ACME__LIMITS__SENDS_PER_S", "5")],
        &[("tenants.demo.keys", r#"[{kid = "dev", alg = "HS256", secret = "s"}]"#)],
    )
    .unwrap();
    let (acme, demo) = (&config.tenants["acme"], &config.tenants["demo"]);
    assert_eq!(acme.keys[0].alg, KeyAlgorithm::EdDSA);
    assert_eq!(config.limits.of(acme).tenant_sends_per_s, 5);
    assert_eq!(config.limits.of(demo), config.limits);
    assert_eq!(demo.keys[0].secret.expose(), "s");
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_name() {
    let text = refusal("lane = 'core'\n\n[log]\nkidn = 'kafka'", &[], &[]);
    assert!(
        text.contains(":4: unknown key log.kidn; did you mean log.kind?"),
        "{text}"
    );
    let text = refusal("[tenants.demo.limit]\nsends_per_s = 1", &[], &[]);
    assert!(
        text.contains("tenants.demo.limit; did you mean tenants.demo.limits?"),
        "{text}"
    );
    let text = refusal("", &[("SWITCHBOARD__STORE__KEYSPCE", "x")], &[]);
    assert_eq!(
        text,
        "environment variable SWITCHBOARD__STORE__KEYSPCE: unknown key store.keyspce; did you mean store.keyspace?"
    );
    let text = refusal("", &[], &[("brokers", "a:1")]);
    assert!(text.ends_with("did you mean log.brokers?"), "{text}");
    assert!(refusal("", &[], &[("epoch.x", "1")]).contains("unknown key epoch.x"));
    assert!(refusal("[[tenants.demo.keys]]\nkdi = 'a'", &[], &[]).contains("did you mean tenants.demo.keys.kid?"));
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_and_not_shown() {
    let text = refusal("partitions = 'hunter2'", &[], &[]);
    assert!(
        text.contains(":1: partitions must be a whole number") && !text.contains("hunter2"),
        "{text}"
    );
    assert!(refusal("[store]\npassword = 5", &[], &[]).contains("store.password must be a text"));
    assert!(refusal("", &[("SWITCHBOARD__DEV", "yes")], &[]).contains("dev must be true or false"));
    assert!(refusal("", &[], &[("log", "kafka")]).contains("log must be a section"));
    assert!(
        refusal("log.kind = 'pulsar'", &[], &[]).contains("embedded"),
        "the names that are known are told"
    );
    assert!(load("partitions = -1", &[], &[]).is_err());
}

#[test]
fn a_syntax_error_names_the_line_and_quotes_nothing() {
    let text = refusal("lane = 'core'\n[store]\npassword = \"hunter2\n", &[], &[]);
    assert!(text.contains(":3:") && !text.contains("hunter2"), "{text}");
}

#[test]
fn a_secret_is_read_from_its_file_without_the_newline() {
    let secret = file("hunter2\n");
    let path = secret.path().to_str().unwrap();
    let config = load("", &[("SWITCHBOARD__STORE__PASSWORD_FILE", path)], &[]).unwrap();
    assert_eq!(config.store.password.expose(), "hunter2");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!toml::to_string(&config).unwrap().contains("hunter2"));

    let both = refusal(
        "[store]\npassword = 'a'",
        &[("SWITCHBOARD__STORE__PASSWORD_FILE", path)],
        &[],
    );
    assert_eq!(both, "store.password and store.password_file are both given; keep one");
    assert!(refusal("", &[], &[("store.password_file", "/no/such/file")]).contains("store.password_file"));
}

/// `deploy/switchboard.toml` is what operators read: it must say what holds.
#[test]
fn the_sample_file_names_every_key_with_its_default() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/switchboard.toml");
    let text = fs::read_to_string(path).unwrap();
    let sample = Config::load(Some(Path::new(path)), std::iter::empty(), &[]).unwrap();
    assert_eq!(
        Table::try_from(sample).unwrap(),
        Table::try_from(Config::default()).unwrap()
    );

    let missing: Vec<_> = Config::keys()
        .into_iter()
        .filter(|key| !stands_in(&text, key))
        .collect();
    assert!(
        missing.is_empty(),
        "deploy/switchboard.toml lacks {missing:?}: write each with its default and a comment"
    );
}

/// Is there a line `name =` (or `#name =`, for what has no default place) under the key's section, with a comment above it?
fn stands_in(text: &str, key: &str) -> bool {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let wanted = section.replace('*', "acme");
    let (mut here, mut commented) = (String::new(), false);
    for line in text.lines() {
        let bare = line.trim_start_matches('#').trim();
        if bare.starts_with('[') && bare.ends_with(']') {
            here = bare.trim_matches(['[', ']']).to_owned();
        }
        let is_key = bare
            .split_once('=')
            .is_some_and(|(n, _)| n.trim() == name || name == ANY_NAME);
        if here == wanted && is_key && commented {
            return true;
        }
        commented = line.starts_with("# ") || (commented && is_setting(line));
    }
    false
}

/// One comment may stand above several settings.
fn is_setting(line: &str) -> bool {
    !line.trim().is_empty() && !line.trim_start_matches('#').starts_with('[')
}
