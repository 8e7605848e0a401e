//! The configuration file of a house on real Kafka and CQL, with the tests' one tenant.

use std::path::{Path, PathBuf};

use crate::Failed;
use crate::house::SECRET;

/// What differs from house to house.
pub struct Setting<'a> {
    /// Of the lane and of the keyspace: never used before on these servers.
    pub name: &'a str,
    pub kafka: &'a str,
    pub cql: &'a str,
    /// Copies of a record.
    pub replication: u16,
    /// Further lines, for sections that are not here.
    pub more: &'a str,
}

/// Writes it into the house's directory.
pub fn write(dir: &Path, setting: &Setting) -> Result<PathBuf, Failed> {
    let Setting {
        name,
        kafka,
        cql,
        replication,
        more,
    } = setting;
    let text = format!(
        r#"lane = "{name}"
dev = true
partitions = 4
replication = {replication}

[listen]
ws_http = "127.0.0.1:0"
tcp = ""

[log]
kind = "kafka"
brokers = ["{kafka}"]

[store]
kind = "cql"
nodes = ["{cql}"]
keyspace = "{name}"
replication = 1

[tenants.demo]
[[tenants.demo.keys]]
kid = "dev"
alg = "HS256"
secret = "{SECRET}"

{more}
"#
    );
    let file = dir.join("switchboard.toml");
    std::fs::write(&file, text).map_err(|e| Failed::because("the configuration", e))?;
    Ok(file)
}

/// A name for lane and keyspace that no run before had.
pub fn unique_name() -> String {
    let now_ms = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_millis());
    format!("t{now_ms}p{}", std::process::id())
}
