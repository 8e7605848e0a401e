//! Who may import whom: the table of DESIGN.md §4, checked on each member's Cargo.toml.

use toml::{Table, Value};

use crate::Finding;

/// (package, what of ours it may import). Packages that are not here are not of the house.
const OURS: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("conversation", &["wire"]),
    ("process", &["wire"]),
    ("ordered-log", &["wire", "process"]),
    ("ingress-core", &["wire"]),
    ("ingress", &["ingress-core", "wire", "ordered-log", "process", "store"]),
    ("delivery-core", &["wire", "conversation"]),
    (
        "delivery",
        &[
            "delivery-core",
            "conversation",
            "wire",
            "ordered-log",
            "process",
            "store",
        ],
    ),
    ("desk-core", &["wire"]),
    ("desk", &["desk-core", "wire", "ordered-log", "process"]),
    ("store", &["wire", "process"]),
    (
        "persistence",
        &["store", "conversation", "wire", "ordered-log", "process"],
    ),
    ("client", &["wire"]),
    (
        "switchboard",
        &[
            "wire",
            "conversation",
            "process",
            "ordered-log",
            "ingress-core",
            "ingress",
            "delivery-core",
            "delivery",
            "desk-core",
            "desk",
            "store",
            "persistence",
            "client",
            "load",
        ],
    ),
    ("load", &["client", "wire"]),
    (
        "sim",
        &["wire", "conversation", "ingress-core", "delivery-core", "desk-core"],
    ),
    (
        "fuzz",
        // The checker is sim's; tokens are verified at the edge, with the process's keys.
        &[
            "wire",
            "conversation",
            "ingress-core",
            "delivery-core",
            "desk-core",
            "sim",
            "ingress",
            "process",
        ],
    ),
    ("ports", &[]),
    ("system", &["client", "wire", "load", "sim", "switchboard", "ports"]),
    ("chaos", &["client", "wire", "load", "sim", "system", "switchboard"]),
    ("edge", &["client", "wire", "ports"]),
    // It puts bad records into the log of a process that is stopped.
    ("hostile", &["wire", "ordered-log", "ports"]),
    ("tidy", &[]),
];

/// (package of others, who alone may use it, why).
const ALONE: &[(&str, &[&str], &str)] = &[
    (
        "rdkafka",
        // The chaos deletes topics and groups, which nobody else may.
        &["ordered-log", "chaos"],
        "only log/ speaks to Kafka; use the trait `ordered_log::Log`",
    ),
    (
        "scylla",
        &["store"],
        "only persistence/store speaks CQL; use the trait `store::History`",
    ),
    (
        "axum",
        &["ingress", "process", "switchboard", "load"],
        "only the edges speak HTTP (and the relay they are measured against)",
    ),
    (
        "metrics-exporter-prometheus",
        &["process"],
        "only process renders metrics; count with `process::metrics`",
    ),
];

/// Crates that are pure: values in, values out.
pub const PURE: &[(&str, &str)] = &[
    ("conversation", "conversation/"),
    ("ingress-core", "ingress/core/"),
    ("delivery-core", "delivery/core/"),
    ("desk-core", "desk/core/"),
];

/// What makes a crate impure: a runtime, a clock, randomness, metrics, a logging client.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio-util",
    "tokio-stream",
    "futures",
    "async-trait",
    "rand",
    "rand_chacha",
    "uuid",
    "jiff",
    "chrono",
    "metrics",
    "tracing",
    "log",
    "tracing-subscriber",
    "parking_lot",
    "reqwest",
    "tonic",
    "hyper",
    "fjall",
];

/// Roles meet in topics and on the link, in tests too.
const ROLES: &[&str] = &["ingress", "delivery", "desk", "persistence"];

/// Checks one member's manifest.
pub fn check(path: &str, manifest: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    let Ok(table) = toml::from_str::<Table>(manifest) else {
        return vec![Finding::new(path, 0, "this manifest cannot be read as TOML: mend it")];
    };
    let package = table
        .get("package")
        .and_then(|p| p.get("name"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    let mut tell = |name: &str, text: String| found.push(Finding::new(path, line_of(manifest, name), text));
    let Some((_, allowed)) = OURS.iter().find(|(name, _)| *name == package) else {
        tell(
            "name",
            format!(
                "package {package} is not in the table of DESIGN.md §4: add it there and in tests/tidy/src/imports.rs"
            ),
        );
        return found;
    };
    let is_pure = PURE.iter().any(|(name, _)| *name == package);
    for name in dependencies(&table, &["dependencies", "build-dependencies"]) {
        let is_ours = OURS.iter().any(|(ours, _)| *ours == name);
        if is_ours && !allowed.contains(&name.as_str()) {
            tell(
                &name,
                format!(
                    "{package} may not import {name}; it may import {allowed:?} (DESIGN.md §4): pass a value, or move the type to wire"
                ),
            );
        }
        if let Some((_, _, why)) = ALONE
            .iter()
            .find(|(other, who, _)| *other == name && !who.contains(&package))
        {
            tell(&name, format!("{package} may not use {name}: {why}"));
        }
        if is_pure && IMPURE.contains(&name.as_str()) {
            tell(
                &name,
                format!(
                    "{package} is pure and may not use {name}: take the time as `now_ms`, give back an action, and let the driver do it"
                ),
            );
        }
    }
    for name in dependencies(&table, &["dev-dependencies"]) {
        if ROLES.contains(&package) && ROLES.contains(&name.as_str()) && name != package {
            tell(
                &name,
                format!(
                    "{package}'s tests may not import {name}: roles meet in topics and on the link; test it in tests/system"
                ),
            );
        }
    }
    if table
        .get("lints")
        .and_then(|l| l.get("workspace"))
        .and_then(Value::as_bool)
        != Some(true)
    {
        tell(
            "[package]",
            format!("{package} does not keep the workspace's lints: add [lints] workspace = true"),
        );
    }
    found
}

/// Package names in these sections, targets' own included; a renamed one by its real name.
fn dependencies(table: &Table, sections: &[&str]) -> Vec<String> {
    let mut tables = vec![table];
    if let Some(Value::Table(targets)) = table.get("target") {
        tables.extend(targets.values().filter_map(Value::as_table));
    }
    let mut names = Vec::new();
    for table in tables {
        for section in sections {
            for (name, value) in table.get(*section).and_then(Value::as_table).into_iter().flatten() {
                let real = value.get("package").and_then(Value::as_str).unwrap_or(name);
                names.push(real.to_owned());
            }
        }
    }
    names
}

fn line_of(manifest: &str, name: &str) -> usize {
    manifest
        .lines()
        .position(|line| line.trim_start().starts_with(name))
        .map_or(0, |i| i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(package: &str, rest: &str) -> String {
        format!("[package]\nname = \"{package}\"\n[lints]\nworkspace = true\n{rest}")
    }

    fn texts(package: &str, rest: &str) -> String {
        check("x/Cargo.toml", &manifest(package, rest))
            .iter()
            .map(|f| format!("{f}\n"))
            .collect()
    }

    #[test]
    fn what_the_table_allows_is_not_found() {
        assert_eq!(
            texts(
                "desk",
                "[dependencies]\nwire.workspace = true\nprocess.workspace = true\ntokio = '1'\n"
            ),
            ""
        );
        assert_eq!(texts("ordered-log", "[dependencies]\nrdkafka = '1'\n"), "");
    }

    #[test]
    fn an_import_the_table_does_not_allow_is_found_with_its_line() {
        let found = texts("wire", "[dependencies]\nserde = '1'\nprocess.workspace = true\n");
        assert!(
            found.starts_with("x/Cargo.toml:7: wire may not import process"),
            "{found}"
        );
        assert!(texts("ingress", "[dependencies]\ndelivery-core.workspace = true\n").contains("may not import"));
        assert!(
            texts("desk", "[target.'cfg(unix)'.dependencies]\nstore.workspace = true\n").contains("may not import")
        );
        assert!(
            texts(
                "delivery",
                "[dependencies]\nhistory = { package = 'persistence', path = '.' }\n"
            )
            .contains("may not import")
        );
        assert!(texts("delivery", "[dev-dependencies]\ningress.workspace = true\n").contains("tests may not import"));
    }

    #[test]
    fn what_one_alone_may_use_is_found_with_others() {
        for (dependency, _, _) in ALONE {
            assert!(
                texts("desk", &format!("[dependencies]\n{dependency} = '1'\n")).contains("desk may not use"),
                "{dependency}"
            );
        }
    }

    #[test]
    fn an_impure_pure_crate_is_found() {
        for (package, _) in PURE {
            assert!(
                texts(package, "[dependencies]\ntokio.workspace = true\n").contains("is pure"),
                "{package}"
            );
        }
    }

    #[test]
    fn a_stranger_and_a_crate_without_the_lints_are_found() {
        assert!(texts("helpers", "").contains("not in the table"));
        assert!(check("x", "[package]\nname = \"wire\"\n")[0].text.contains("lints"));
        assert!(check("x", "[package")[0].text.contains("mend"));
    }
}
