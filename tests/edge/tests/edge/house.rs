//! A process of the built binary with ports and a directory of its own, gone with the test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// The built binary: what `SWITCHBOARD_BIN` names, else the one beside this test. `None`: there is none, and nothing is tested.
pub fn binary() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debug/switchboard");
    let binary = std::env::var_os("SWITCHBOARD_BIN").map_or_else(beside, PathBuf::from);
    if !binary.exists() {
        println!(
            "SKIPPED: there is no binary {}; build it or set SWITCHBOARD_BIN",
            binary.display()
        );
        return None;
    }
    Some(binary)
}

/// Not the default one: it must not be found in a log either.
pub const SECRET: &str = "the-secret-of-the-edge-tests";
const READY: Duration = Duration::from_secs(180);

pub struct House {
    pub ws: u16,
    pub tcp: u16,
    pub ops: u16,
    pub dir: tempfile::TempDir,
    child: Child,
}

pub fn free_port() -> u16 {
    ports::claim().unwrap()
}

impl House {
    /// Everything in one process, with these further keys of the configuration.
    pub fn dev(set: &[(&str, &str)], environment: &[(&str, &str)]) -> House {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data").display().to_string();
        let mut args: Vec<String> = ["dev", "--data-dir", &data, "--dev-secret", SECRET]
            .map(String::from)
            .to_vec();
        let (ws, tcp, ops) = (free_port(), free_port(), free_port());
        for (flag, port) in [("--listen", ws), ("--tcp-listen", tcp), ("--ops-listen", ops)] {
            args.extend([flag.to_owned(), format!("127.0.0.1:{port}")]);
        }
        for (key, value) in set {
            args.extend(["--set".to_owned(), format!("{key}={value}")]);
        }
        Self::start(args, (ws, tcp, ops), dir, environment)
    }

    /// Some roles, configured by this file; its ports are given here.
    pub fn serve(roles: &str, config: &str, set: &[(&str, String)]) -> House {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("switchboard.toml");
        std::fs::write(&file, config).unwrap();
        let mut args: Vec<String> = ["serve", "--roles", roles, "--config"].map(String::from).to_vec();
        args.push(file.display().to_string());
        let (ws, tcp, ops) = (free_port(), free_port(), free_port());
        let mut set: Vec<(&str, String)> = set.to_vec();
        set.push(("listen.ops", format!("127.0.0.1:{ops}")));
        set.push(("listen.ws_http", format!("127.0.0.1:{ws}")));
        set.push(("listen.tcp", format!("127.0.0.1:{tcp}")));
        for (key, value) in set {
            args.extend(["--set".to_owned(), format!("{key}={value}")]);
        }
        Self::start(args, (ws, tcp, ops), dir, &[])
    }

    fn start(
        args: Vec<String>,
        (ws, tcp, ops): (u16, u16, u16),
        dir: tempfile::TempDir,
        environment: &[(&str, &str)],
    ) -> House {
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let binary = binary().expect("the test has looked for it");
        let child = Command::new(binary)
            .args(args)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        House {
            ws,
            tcp,
            ops,
            dir,
            child,
        }
    }

    pub async fn ready(&mut self) {
        let began = Instant::now();
        let url = format!("http://127.0.0.1:{}/readyz", self.ops);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("it ended by itself: {status}\n{}", self.log());
            }
            if reqwest::get(&url)
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                return;
            }
            assert!(began.elapsed() < READY, "not ready\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What is in the way of its being ready, as `/readyz` says it; empty: nothing is. `None`: no answer.
    pub async fn troubles(&self) -> Option<String> {
        let url = format!("http://127.0.0.1:{}/readyz", self.ops);
        let answer = reqwest::get(url).await.ok()?;
        if answer.status().is_success() {
            return Some(String::new());
        }
        answer.text().await.ok()
    }

    /// The sum of a metric's lines with this label.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let url = format!("http://127.0.0.1:{}/metrics", self.ops);
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        let lines = text
            .lines()
            .filter(|line| line.split('{').next() == Some(name) && line.contains(label));
        lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Everything it wrote so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.dir.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        // Nothing of a test outlives it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn now_s() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs() as i64
}

/// A token of tenant demo that holds until then.
pub fn token_until(user: &str, role: &str, exp: i64) -> String {
    sign(json!({"tenant":"demo","sub":user,"role":role,"iat":now_s(),"exp":exp}))
}

pub fn token(user: &str, role: &str) -> String {
    token_until(user, role, now_s() + 3600)
}

pub fn sign(claims: Value) -> String {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("dev".into());
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
}
