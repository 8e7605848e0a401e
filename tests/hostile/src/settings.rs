//! Configuration files that are wrong: `config check` and `serve` both refuse them with exit code 78, name the key and the
//! nearest one that is known, and never print a value, which might be a secret.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Outcome, expect, same};

/// Of `sysexits.h`: the configuration is wrong, a restart will not help.
const CONFIG: i32 = 78;
/// A value no message may show.
const SECRET: &str = "hunter2-is-the-password";
const PATIENCE: Duration = Duration::from_secs(60);

struct File {
    name: &'static str,
    bytes: Vec<u8>,
    /// Words the message must have; empty: the file is good.
    says: &'static [&'static str],
}

fn file(name: &'static str, bytes: impl Into<Vec<u8>>, says: &'static [&'static str]) -> File {
    File {
        name,
        bytes: bytes.into(),
        says,
    }
}

fn files() -> Vec<File> {
    let mut files = vec![
        file("nothing", "", &[]),
        file("blanks and a comment", " \r\n# nothing\n\t\n", &[]),
        file("16 MB of comments", "# x\n".repeat(4 << 20), &[]),
        file("a byte order mark", "\u{feff}lane = \"bulk\"\n", &[]),
        file("not UTF-8", &b"lane = \"\xff\xfe\"\n"[..], &["cannot read"]),
        file("UTF-16", &b"\xff\xfel\0a\0n\0e\0"[..], &["cannot read"]),
        file("a NUL", "lane = \"a\0b\"\n", &["not TOML"]),
        file("no TOML", "this is nonsense\n", &["not TOML", ":1"]),
        file("half a file", "[log]\nkind = \"embe", &["not TOML", ":2"]),
        file("YAML", "log:\n  kind: kafka\n", &["not TOML"]),
        file("JSON", "{\"lane\":\"core\"}", &["not TOML"]),
        file("a key twice", "lane = \"a\"\nlane = \"b\"\n", &["not TOML", ":2"]),
        file(
            "an unknown key",
            "laen = \"core\"\n",
            &["unknown key laen", "did you mean lane"],
        ),
        file(
            "an unknown section",
            "[lgo]\nkind = \"kafka\"\n",
            &["unknown key lgo", "did you mean log"],
        ),
        file(
            "a key of another section",
            "[log]\nkeyspace = \"x\"\n",
            &["log.keyspace", "did you mean store.keyspace"],
        ),
        file(
            "an unknown key of a tenant",
            "[tenants.acme]\norigin = []\n",
            &["tenants.acme.origin", "origins"],
        ),
        file(
            "a number in quotes",
            "partitions = \"12\"\n",
            &["partitions must be a whole number", ":1"],
        ),
        file(
            "a text without quotes",
            "lane = 7\n",
            &["lane must be a text in quotes"],
        ),
        file("a truth in quotes", "dev = \"yes\"\n", &["dev must be true or false"]),
        file(
            "a fraction",
            "partitions = 1.5\n",
            &["partitions must be a whole number"],
        ),
        file(
            "a section that is a text",
            "log = \"kafka\"\n",
            &["log must be a section"],
        ),
        file("a text that is a section", "[lane]\nx = 1\n", &["lane must be a text"]),
        file(
            "a list that is a text",
            "roles = \"ingress\"\n",
            &["roles must be a list"],
        ),
        file("a list of numbers", "roles = [1]\n", &["roles must be a text"]),
        file("a negative number", "partitions = -1\n", &["cannot be used"]),
        file("a number beyond 2^32", "partitions = 4294967296\n", &["cannot be used"]),
        file(
            "a number beyond 2^64",
            "partitions = 99999999999999999999\n",
            &["not TOML"],
        ),
        file("no partitions", "partitions = 0\n", &["partitions = 0"]),
        file("epoch 0", "epoch = 0\n", &["epoch = 0"]),
        file("an epoch too high", "epoch = 4194304\n", &["epoch"]),
        file(
            "a role nobody knows",
            "roles = [\"broker\"]\n",
            &["cannot be used", "broker"],
        ),
        file("no roles", "roles = []\n", &["roles is empty"]),
        file(
            "a kind nobody knows",
            "[log]\nkind = \"redis\"\n",
            &["cannot be used", "redis"],
        ),
        file("a lane with a slash", "lane = \"a/b\"\n", &["cannot be used", "lane"]),
        file("an empty lane", "lane = \"\"\n", &["cannot be used", "lane"]),
        file(
            "a keyspace that is CQL",
            "[store]\nkeyspace = \"x; DROP KEYSPACE y\"\n",
            &["store.keyspace"],
        ),
        file(
            "a tenant's name in capitals",
            "[tenants.Acme]\norigins = []\n",
            &["cannot be used", "tenant"],
        ),
        file(
            "an origin with a path",
            "[tenants.acme]\norigins = [\"https://a.example/x\"]\n",
            &["tenants.acme.origins"],
        ),
        file(
            "an origin without a scheme",
            "[tenants.acme]\norigins = [\"a.example\"]\n",
            &["tenants.acme.origins"],
        ),
        file(
            "half of a certificate",
            "[tls]\ncert_file = \"a.pem\"\n",
            &["tls", "key_file"],
        ),
        file(
            "half of the link's certificate",
            "[link.tls]\ncert_file = \"a.pem\"\n",
            &["link.tls"],
        ),
        file(
            "SASL without a user",
            "[log.kafka]\nprotocol = \"sasl_ssl\"\n",
            &["log.kafka.user"],
        ),
        file(
            "a protocol nobody knows",
            "[log.kafka]\nprotocol = \"tls\"\n",
            &["log.kafka.protocol"],
        ),
        file(
            "a secret file that is not there",
            "[store]\npassword_file = \"/nonexistent/x\"\n",
            &["store.password_file", "/nonexistent/x"],
        ),
        file(
            "a secret file that is a directory",
            "[store]\npassword_file = \"/tmp\"\n",
            &["store.password_file"],
        ),
        file(
            "a secret and its file",
            format!("[store]\npassword = \"{SECRET}\"\npassword_file = \"/tmp\"\n"),
            &["store.password", "both given"],
        ),
        file(
            "a secret of the wrong kind",
            format!("[store]\npassword = [\"{SECRET}\"]\n"),
            &["store.password must be a text"],
        ),
        file(
            "a secret on a broken line",
            format!("[store]\npassword = \"{SECRET}\" oops\n"),
            &["not TOML", ":2"],
        ),
        file(
            "a secret under a wrong name",
            format!("[store]\npasword = \"{SECRET}\"\n"),
            &["store.pasword", "store.password"],
        ),
        file(
            "HS256 in production",
            format!("{}secret = \"{SECRET}\"\n", key("HS256")),
            &["HS256 is for development only"],
        ),
        file("a key without a value", key("EdDSA"), &["EdDSA", "key_file"]),
        file(
            "a key's file that is not there",
            format!("{}key_file = \"/nonexistent/k\"\n", key("EdDSA")),
            &["key_file"],
        ),
        file("an algorithm nobody knows", key("none"), &["cannot be used", "none"]),
        file(
            "a kid twice",
            key("EdDSA") + "key = \"x\"\n" + &key("EdDSA") + "key = \"y\"\n",
            &["a kid stands twice"],
        ),
    ];
    for (name, address) in [
        ("a port beyond 65535", "127.0.0.1:70000"),
        ("a negative port", "127.0.0.1:-1"),
        ("a port in words", "127.0.0.1:http"),
        ("no port", "127.0.0.1"),
        ("no host", ":8080"),
        ("IPv6 without brackets", "::1:8080"),
    ] {
        let text = format!("[listen]\nws_http = \"{address}\"\n");
        files.push(file(name, text, &["listen.ws_http", "write host:port"]));
    }
    files
}

fn key(alg: &str) -> String {
    format!("[[tenants.acme.keys]]\nkid = \"a\"\nalg = \"{alg}\"\n")
}

/// Runs the table; the faults are named.
pub fn run(bin: &Path, dir: &Path) -> (usize, Vec<crate::rows::Fault>) {
    let files = files();
    let mut faults = Vec::new();
    let mut judge = |name: String, outcome: Outcome| {
        if let Err(why) = outcome {
            faults.push(crate::rows::Fault { name, why });
        }
    };
    for (i, file) in files.iter().enumerate() {
        let path = dir.join(format!("config-{i}.toml"));
        let outcome = std::fs::write(&path, &file.bytes).map_err(|e| e.to_string());
        let outcome = outcome.and_then(|()| holds(bin, file, &path));
        judge(format!("configuration {}", file.name), outcome);
    }
    let others = elsewhere(bin, dir);
    let rows = files.len() + others.len();
    others.into_iter().for_each(|(name, outcome)| judge(name, outcome));
    (rows, faults)
}

fn holds(bin: &Path, file: &File, path: &Path) -> Outcome {
    let path = path.display().to_string();
    let (code, said) = once(bin, &["config", "check", &path], &[])?;
    if file.says.is_empty() {
        return same("config check", &code, &0);
    }
    refused(code, &said, file.says).map_err(|why| format!("config check: {why}"))?;
    let (code, said) = once(bin, &["serve", "--config", &path], &[])?;
    refused(code, &said, file.says).map_err(|why| format!("serve: {why}"))
}

fn refused(code: i32, said: &str, words: &[&str]) -> Outcome {
    same("the exit code", &code, &CONFIG)?;
    expect(!said.contains(SECRET), || format!("it shows the secret: {said}"))?;
    expect(!said.contains("panicked"), || said.to_owned())?;
    words
        .iter()
        .try_for_each(|word| expect(said.contains(word), || format!("{word:?} is not said: {said}")))
}

/// Files that are none, the environment, flags.
fn elsewhere(bin: &Path, dir: &Path) -> Vec<(String, Outcome)> {
    let gone: PathBuf = dir.join("gone.toml");
    let check = |args: &[&str], env: &[(&str, &str)], words: &[&str]| {
        let (code, said) = once(bin, args, env)?;
        refused(code, &said, words)
    };
    let mut rows = vec![
        (
            "a file that is not there",
            check(&["config", "check", &gone.display().to_string()], &[], &["cannot read"]),
        ),
        (
            "a file that is a directory",
            check(&["config", "check", &dir.display().to_string()], &[], &["cannot read"]),
        ),
        (
            "an unknown environment variable",
            check(
                &["config", "check"],
                &[("SWITCHBOARD__LOG__KND", "kafka")],
                &["SWITCHBOARD__LOG__KND", "log.kind"],
            ),
        ),
        (
            "an environment variable of the wrong kind",
            check(
                &["config", "check"],
                &[("SWITCHBOARD__PARTITIONS", "many")],
                &["partitions must be a whole number"],
            ),
        ),
        (
            "an unknown key by flag",
            check(
                &["config", "check", "--set", "limts.user_sends_per_s=1"],
                &[],
                &["limts", "did you mean"],
            ),
        ),
        (
            "a section by flag",
            check(
                &["config", "check", "--set", "log=kafka"],
                &[],
                &["log must be a section"],
            ),
        ),
    ];
    let usage = |args: &[&str]| {
        let (code, said) = once(bin, args, &[])?;
        same("the exit code", &code, &2)?;
        expect(!said.contains("panicked"), || said)
    };
    rows.push((
        "a flag without a value",
        usage(&["config", "check", "--set", "log.kind"]),
    ));
    rows.push(("a flag nobody knows", usage(&["serve", "--prot", "80"])));
    rows.push((
        "dev beyond this machine with the secret everybody knows",
        usage(&[
            "dev",
            "--listen",
            "0.0.0.0:32999",
            "--data-dir",
            &dir.join("no").display().to_string(),
        ]),
    ));
    rows.push(("a port that is taken", taken(bin, dir)));
    rows.into_iter()
        .map(|(name, outcome)| (format!("configuration {name}"), outcome))
        .collect()
}

/// Something from outside cannot be had: worth trying again, says the exit code.
fn taken(bin: &Path, dir: &Path) -> Outcome {
    let held = std::net::TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let at = held.local_addr().map_err(|e| e.to_string())?.to_string();
    let data = dir.join("taken").display().to_string();
    let (code, said) = once(
        bin,
        &[
            "dev",
            "--listen",
            &at,
            "--ops-listen",
            "127.0.0.1:0",
            "--data-dir",
            &data,
        ],
        &[],
    )?;
    same("the exit code", &code, &69)?;
    expect(said.contains(&at), || format!("the address is not named: {said}"))
}

/// Exit code and all that was said.
fn once(bin: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<(i32, String), String> {
    let mut command = Command::new(bin);
    command.args(args).envs(env.iter().copied()).stdin(Stdio::null());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    let began = Instant::now();
    while child.try_wait().map_err(|e| e.to_string())?.is_none() {
        if began.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("switchboard {} does not end", args.join(" ")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let out = child.wait_with_output().map_err(|e| e.to_string())?;
    let said = [out.stdout, out.stderr].concat();
    Ok((
        out.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}
