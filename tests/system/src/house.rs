//! The processes of one test: the built `switchboard`, each with its own ports, log file and command line, in one directory
//! that is kept when the test fails.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::Failed;

/// (name, roles) of several processes. Of everything two, but the desk.
pub const PROCESSES: [(&str, &str); 7] = [
    ("persistence-0", "persistence"),
    ("persistence-1", "persistence"),
    ("worker-0", "delivery"),
    ("worker-1", "delivery"),
    ("desk-0", "desk"),
    ("node-0", "ingress"),
    ("node-1", "ingress"),
];

/// A process may take this long until `/readyz` says yes; long, for machines that do much else.
const READY: Duration = Duration::from_secs(150);

/// The secret of the tests' tenant.
pub const SECRET: &str = "switchboard-dev";

pub fn free_port() -> Result<u16, Failed> {
    ports::claim().map_err(|e| Failed::because("a port", e))
}

/// Makes tables, on a lane of its own: no part of the run, nor of its history.
const MAKER: &str = "maker";

pub struct Proc {
    pub name: String,
    args: Vec<String>,
    /// Beside the house's own; given at the next start.
    pub env: Vec<(String, String)>,
    pub ops_port: u16,
    /// Of a process with the ingress role.
    pub ws_port: Option<u16>,
    /// What clients dial, where something stands before the process.
    pub front_port: Option<u16>,
    log: PathBuf,
    child: Option<Child>,
}

pub struct House {
    bin: PathBuf,
    pub dir: PathBuf,
    pub procs: Vec<Proc>,
    /// Where ports come from; `None`: anywhere.
    ports: Option<Range<u16>>,
}

impl House {
    pub fn new(bin: &Path, dir: &Path) -> Self {
        House {
            bin: bin.to_owned(),
            dir: dir.to_owned(),
            procs: Vec::new(),
            ports: None,
        }
    }

    /// Takes its ports from these only, each once.
    pub fn on_ports(mut self, ports: Range<u16>) -> Self {
        self.ports = Some(ports);
        self
    }

    pub fn port(&mut self) -> Result<u16, Failed> {
        match &mut self.ports {
            Some(ports) => ports
                .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
                .ok_or_else(|| Failed("no free port left in the house's range".into())),
            None => free_port(),
        }
    }

    /// One process with everything in it, on the embedded log and store.
    pub fn dev(&mut self) -> Result<usize, Failed> {
        let (ws, ops) = (self.port()?, self.port()?);
        let data = self.dir.join("data").display().to_string();
        let args = [
            "dev",
            "--listen",
            &format!("127.0.0.1:{ws}"),
            "--ops-listen",
            &format!("127.0.0.1:{ops}"),
            "--data-dir",
            &data,
        ];
        self.add("dev", args.map(String::from).to_vec(), ops, Some(ws))
    }

    /// A process with some roles, configured by the house's file.
    pub fn serve(&mut self, name: &str, roles: &str, config: &Path) -> Result<usize, Failed> {
        self.serve_with(name, roles, config, &[])
    }

    /// The same, with keys of its own, which win over the house's.
    pub fn serve_with(
        &mut self,
        name: &str,
        roles: &str,
        config: &Path,
        own: &[(&str, String)],
    ) -> Result<usize, Failed> {
        let ops = self.port()?;
        let mut args: Vec<String> = vec!["serve".into(), "--roles".into(), roles.into()];
        args.extend(["--config".into(), config.display().to_string()]);
        let mut set = |key: &str, value: String| args.extend(["--set".into(), format!("{key}={value}")]);
        set("listen.ops", format!("127.0.0.1:{ops}"));
        set("node.name", name.into());
        let mut ws = None;
        if roles.contains("ingress") {
            let port = self.port()?;
            ws = Some(port);
            set("listen.ws_http", format!("127.0.0.1:{port}"));
        }
        if roles.contains("delivery") && !own.iter().any(|(key, _)| *key == "link.listen") {
            set("link.listen", format!("127.0.0.1:{}", self.port()?));
        }
        for (key, value) in own {
            set(key, value.clone());
        }
        self.add(name, args, ops, ws)
    }

    /// Makes the keyspace and its tables: `dev` does that at its start, on a lane that nobody else uses.
    pub async fn make_tables(&mut self, kafka: &str, cql: &str, keyspace: &str) -> Result<(), Failed> {
        let (ws, ops) = (self.port()?, self.port()?);
        let mut args: Vec<String> = vec!["dev".into()];
        let mut give = |name: &str, value: String| args.extend([name.into(), value]);
        give("--listen", format!("127.0.0.1:{ws}"));
        give("--ops-listen", format!("127.0.0.1:{ops}"));
        give("--data-dir", self.dir.join("maker").display().to_string());
        give("--kafka", kafka.into());
        give("--cql", cql.into());
        give("--set", format!("store.keyspace={keyspace}"));
        give("--set", format!("lane={keyspace}-maker"));
        let index = self.add(MAKER, args, ops, Some(ws))?;
        self.ready().await?;
        self.kill(index)?;
        self.procs.remove(index);
        Ok(())
    }

    fn add(&mut self, name: &str, mut args: Vec<String>, ops_port: u16, ws_port: Option<u16>) -> Result<usize, Failed> {
        if name != MAKER {
            let file = self.dir.join(format!("history-{name}.jsonl"));
            args.extend(["--set".into(), format!("history.file={}", file.display())]);
        }
        self.procs.push(Proc {
            name: name.into(),
            args,
            env: Vec::new(),
            ops_port,
            ws_port,
            front_port: None,
            log: self.dir.join(format!("{name}.log")),
            child: None,
        });
        let index = self.procs.len() - 1;
        self.start(index)?;
        Ok(index)
    }

    /// Starts it (again), with the same command line; its log goes on.
    pub fn start(&mut self, index: usize) -> Result<(), Failed> {
        let proc = &mut self.procs[index];
        let open = || File::options().create(true).append(true).open(&proc.log);
        let log = open().map_err(|e| Failed::because("a log file", e))?;
        let errors = log.try_clone().map_err(|e| Failed::because("a log file", e))?;
        let child = Command::new(&self.bin)
            .args(&proc.args)
            .envs(proc.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .map_err(|e| Failed::because(&format!("start {}", proc.name), e))?;
        proc.child = Some(child);
        Ok(())
    }

    /// Runs the binary once and gives back what it printed.
    pub fn once(&self, args: &[&str]) -> Result<String, Failed> {
        let out = Command::new(&self.bin)
            .args(args)
            .output()
            .map_err(|e| Failed::because("run the binary", e))?;
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            return Err(Failed(format!(
                "switchboard {}: {}: {said}",
                args.join(" "),
                out.status
            )));
        }
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    pub fn token(&self, role: &str, user: &str) -> Result<String, Failed> {
        self.once(&["token", "--role", role, "--user", user, "--dev-secret", SECRET])
    }

    /// Waits until every process that runs says it is ready, and says so again a moment later.
    pub async fn ready(&mut self) -> Result<(), Failed> {
        self.ready_once().await?;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        self.ready_once().await
    }

    async fn ready_once(&mut self) -> Result<(), Failed> {
        let began = Instant::now();
        for index in 0..self.procs.len() {
            loop {
                let proc = &mut self.procs[index];
                let Some(child) = &mut proc.child else { break };
                if let Ok(Some(status)) = child.try_wait() {
                    return Err(Failed(format!(
                        "{} ended by itself: {status}\n{}",
                        proc.name,
                        proc.last_lines()
                    )));
                }
                let url = format!("http://127.0.0.1:{}/readyz", proc.ops_port);
                let why = match reqwest::get(&url).await {
                    // The ops port may answer before the roles are built; what clients reach is bound last.
                    Ok(answer) if answer.status().is_success() && proc.is_reachable() => break,
                    Ok(answer) if answer.status().is_success() => "not reachable for clients".into(),
                    Ok(answer) => answer.text().await.unwrap_or_default(),
                    Err(e) => e.to_string(),
                };
                if began.elapsed() > READY {
                    return Err(Failed(format!(
                        "{} is not ready: {why}\n{}",
                        proc.name,
                        proc.last_lines()
                    )));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Ok(())
    }

    pub fn urls(&self) -> Vec<String> {
        let ports = self.procs.iter().filter_map(|p| p.front_port.or(p.ws_port));
        ports.map(|port| format!("ws://127.0.0.1:{port}")).collect()
    }

    pub fn kill(&mut self, index: usize) -> Result<(), Failed> {
        let proc = &mut self.procs[index];
        let Some(mut child) = proc.child.take() else {
            return Ok(());
        };
        child.kill().map_err(|e| Failed::because("kill -9", e))?;
        child.wait().map_err(|e| Failed::because("wait", e))?;
        Ok(())
    }

    /// `STOP`, `CONT` or `TERM`.
    pub fn signal(&self, index: usize, name: &str) -> Result<(), Failed> {
        let Some(child) = &self.procs[index].child else {
            return Ok(());
        };
        signal(child.id(), name)
    }

    pub fn index(&self, name: &str) -> Result<usize, Failed> {
        let found = self.procs.iter().position(|p| p.name == name);
        found.ok_or_else(|| Failed(format!("no process {name}")))
    }

    /// Of a process that was started and not killed; it may have ended by itself.
    pub fn pid(&self, index: usize) -> Option<u32> {
        self.procs[index].child.as_ref().map(Child::id)
    }

    /// How it ended, if it did; the house then forgets it.
    pub fn ended(&mut self, index: usize) -> Option<ExitStatus> {
        let proc = &mut self.procs[index];
        let status = proc.child.as_mut()?.try_wait().ok()??;
        proc.child = None;
        Some(status)
    }

    /// What every process wrote of its own deeds, whole lines only: some are still being written.
    pub fn histories(&self) -> Result<String, Failed> {
        let mut all = String::new();
        for proc in &self.procs {
            let file = self.dir.join(format!("history-{}.jsonl", proc.name));
            let text = std::fs::read_to_string(&file).map_err(|e| Failed::because(&file.display().to_string(), e))?;
            all.push_str(&text[..text.rfind('\n').map_or(0, |end| end + 1)]);
        }
        Ok(without_other_runs(&all))
    }

    /// The last lines of every process, for whoever reads a failure.
    pub fn last_words(&self) -> String {
        self.procs
            .iter()
            .map(|p| format!("--- {}\n{}\n", p.name, p.last_lines()))
            .collect()
    }
}

/// The control topic is the platform's: it also says which lanes the runs before this one made on the same broker.
fn without_other_runs(lines: &str) -> String {
    let lane_of = |line: &str| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        let key = entry["key"].as_str().filter(|key| key.starts_with("lane/"))?.to_owned();
        Some((entry["kind"] == "ok", key))
    };
    let about_lanes = |line: &&str| line.contains(r#""op":"control""#);
    let ours: BTreeSet<String> = lines
        .lines()
        .filter(about_lanes)
        .filter_map(lane_of)
        .filter_map(|(made, key)| made.then_some(key))
        .collect();
    let counts = |line: &&str| !about_lanes(line) || lane_of(line).is_none_or(|(_, key)| ours.contains(&key));
    lines.lines().filter(counts).map(|line| format!("{line}\n")).collect()
}

/// Sends a signal to a process by its number.
pub fn signal(pid: u32, name: &str) -> Result<(), Failed> {
    let status = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failed(format!("kill -{name} {pid}: {status}"))),
        Err(e) => Err(Failed::because("kill", e)),
    }
}

impl Proc {
    fn is_reachable(&self) -> bool {
        self.ws_port
            .is_none_or(|port| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
    }

    /// All it has logged so far, over all its starts.
    pub fn logged(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    fn last_lines(&self) -> String {
        let text = self.logged();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

impl Drop for House {
    fn drop(&mut self) {
        for proc in &mut self.procs {
            if let Some(mut child) = proc.child.take() {
                // Whatever happens: nothing of a test outlives it.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_of_earlier_runs_are_no_part_of_this_one() {
        let line = |kind: &str, key: &str| format!("{{\"kind\":\"{kind}\",\"op\":\"control\",\"key\":\"{key}\"}}\n");
        let ours = [
            line("ok", "lane/b"),
            line("info", "lane/b"),
            line("info", "switch/typing"),
        ]
        .concat();
        let other = "{\"op\":\"row\",\"key\":\"lane/a\"}\n";
        let all = [line("info", "lane/a"), ours.clone(), other.to_owned()].concat();
        assert_eq!(without_other_runs(&all), ours + other);
    }
}
