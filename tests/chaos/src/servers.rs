//! The brokers and the CQL server of a run: started by deploy/'s scripts, killed, frozen and started again by their pids, and never left
//! behind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use system::Failed;
use system::house::signal;

use crate::tools;

pub const BROKERS: u16 = 3;
/// A broker's records fit well; a disk fault fills what is left.
const DISK: &str = "size=256m";
/// Between two looks at something that ends.
const PAUSE: Duration = Duration::from_millis(20);

async fn script(path: PathBuf, args: Vec<String>, env: Vec<(&'static str, String)>) -> Result<(), Failed> {
    let name = path.display().to_string();
    let out = tokio::process::Command::new(&path)
        .args(args)
        .envs(env)
        .stdin(std::process::Stdio::null())
        // A start given up (the other server did not come) must not go on by itself.
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|e| Failed::because(&name, e))?;
    if out.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(Failed(format!("{name}: {}: {said}", out.status)))
}

/// The pid in a file, if that process still is the one whose command line names `mark`.
fn pid_of(file: &Path, mark: &str) -> Option<u32> {
    let pid: u32 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    String::from_utf8_lossy(&line).contains(mark).then_some(pid)
}

/// Kills those, and returns when they are gone: the next run may begin at once on the same ports.
fn kill_and_wait(pids: &[u32]) {
    for &pid in pids {
        let _ = signal(pid, "KILL");
    }
    // A process that the kernel cannot end is not waited for without end.
    for _ in 0..500 {
        if pids.iter().all(|&pid| is_gone(pid)) {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether a process holds no socket any more. A killed one's command line is empty while it still does; and its first thread is a
/// zombie while others still end, as the many of a JVM do: it is gone when that zombie is its last thread.
fn is_gone(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    match stat.rsplit(") ").next().and_then(|rest| rest.chars().next()) {
        None | Some('X') => true,
        Some('Z') => std::fs::read_dir(format!("/proc/{pid}/task")).map_or(true, |threads| threads.count() <= 1),
        Some(_) => false,
    }
}

/// Waits until nobody answers there, as what is ending soon will not; a port that stays taken is told by the start script.
async fn until_free(ports: &[u16]) {
    for _ in 0..500 {
        let taken = |&port: &u16| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        if !ports.iter().any(taken) {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Three brokers on `port` …, each with one listener per client process, advertised as a proxy's address.
pub struct Brokers {
    deploy: PathBuf,
    dir: PathBuf,
    pub port: u16,
    clients: u16,
    first_proxy: u16,
    /// Each broker's records are on a small disk of its own.
    pub small_disks: bool,
}

impl Brokers {
    pub fn new(deploy: &Path, dir: &Path, port: u16, clients: u16, first_proxy: u16) -> Self {
        let mut brokers = Brokers {
            deploy: deploy.to_owned(),
            dir: dir.to_owned(),
            port,
            clients,
            first_proxy,
            small_disks: true,
        };
        for id in 1..=BROKERS {
            let disk = brokers.disk(id);
            let mounted = std::fs::create_dir_all(&disk).is_ok()
                && tools::run(
                    "mount",
                    &["-t", "tmpfs", "-o", DISK, "tmpfs", &disk.display().to_string()],
                )
                .is_ok();
            brokers.small_disks &= mounted;
        }
        brokers
    }

    pub fn disk(&self, id: u16) -> PathBuf {
        self.dir.join(format!("disk-{id}"))
    }

    /// Where a broker listens for one client (0 …); before it stands that client's proxy.
    pub fn client_port(&self, client: u16, id: u16) -> u16 {
        self.port + 20 + client * BROKERS + id - 1
    }

    pub fn proxy_port(&self, client: u16, id: u16) -> u16 {
        self.first_proxy + client * BROKERS + id - 1
    }

    /// Where nothing stands between: for the tests' own doings.
    pub fn direct(&self) -> String {
        let each = (0..BROKERS).map(|i| format!("127.0.0.1:{}", self.port + i));
        each.collect::<Vec<_>>().join(",")
    }

    /// Starts these (again); returns when they answer.
    pub async fn start(&self, ids: &[u16]) -> Result<(), Failed> {
        until_free(&ids.iter().map(|id| self.port + id - 1).collect::<Vec<_>>()).await;
        let mut args: Vec<String> = vec!["--brokers".into(), BROKERS.to_string(), "--proxied".into()];
        args.extend([self.clients.to_string(), self.first_proxy.to_string()]);
        args.extend([self.dir.display().to_string(), self.port.to_string()]);
        args.extend(ids.iter().map(u16::to_string));
        let data = self.dir.join("disk-%d").join("data").display().to_string();
        let env = vec![
            ("HEAP", "320m".into()),
            ("FLUSH", "1".into()),
            ("DATA", data),
            ("KAFKA_START_S", "240".into()),
        ];
        script(self.deploy.join("kafka-start"), args, env).await
    }

    pub fn pid(&self, id: u16) -> Option<u32> {
        let home = self.dir.join(format!("broker-{id}"));
        pid_of(&home.join("pid"), &home.join("server.properties").display().to_string())
    }

    /// Whether there was one to send it to.
    pub fn signal(&self, id: u16, name: &str) -> bool {
        self.pid(id).is_some_and(|pid| signal(pid, name).is_ok())
    }

    /// SIGKILL, and gone when this returns.
    pub async fn kill(&self, id: u16) -> bool {
        let Some(pid) = self.pid(id) else {
            return false;
        };
        let killed = signal(pid, "KILL").is_ok();
        while killed && !is_gone(pid) {
            tokio::time::sleep(PAUSE).await;
        }
        killed
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        let pids: Vec<u32> = (1..=BROKERS).filter_map(|id| self.pid(id)).collect();
        kill_and_wait(&pids);
        for id in 1..=BROKERS {
            let disk = self.disk(id).display().to_string();
            let _ = tools::run("umount", &["-l", &disk]);
        }
    }
}

/// One CQL server.
pub struct Store {
    deploy: PathBuf,
    dir: PathBuf,
    pub port: u16,
}

impl Store {
    pub fn new(deploy: &Path, dir: &Path, port: u16) -> Self {
        Store {
            deploy: deploy.to_owned(),
            dir: dir.to_owned(),
            port,
        }
    }

    pub fn direct(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub async fn start(&self) -> Result<(), Failed> {
        until_free(&[self.port]).await;
        let args = vec![self.dir.display().to_string(), self.port.to_string()];
        let env = vec![
            ("CASSANDRA_HEAP", "512m".into()),
            ("CASSANDRA_START_S", "240".into()),
            ("CASSANDRA_STORAGE", (self.port + 1).to_string()),
        ];
        script(self.deploy.join("cassandra-start"), args, env).await
    }

    pub fn pid(&self) -> Option<u32> {
        let yaml = self.dir.join("cassandra.yaml").display().to_string();
        pid_of(&self.dir.join("pid"), &yaml)
    }

    pub fn signal(&self, name: &str) -> bool {
        self.pid().is_some_and(|pid| signal(pid, name).is_ok())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        kill_and_wait(&Vec::from_iter(self.pid()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A JVM that was killed: its first thread has ended, another still holds the socket.
    const FIRST_THREAD_ENDS: &str = "
import ctypes, socket, sys, threading, time
held = socket.create_server(('127.0.0.1', 0))
threading.Thread(target=time.sleep, args=(60,)).start()
print(held.getsockname()[1], flush=True)
ctypes.CDLL(None).pthread_exit(None)
";

    #[test]
    fn a_process_whose_first_thread_has_ended_is_not_gone_before_its_others_have() {
        use std::io::{BufRead, BufReader};
        let mut child = std::process::Command::new("python3")
            .args(["-c", FIRST_THREAD_ENDS])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("python3 is there");
        let pid = child.id();
        let mut port = String::new();
        let said = child.stdout.take().expect("piped");
        BufReader::new(said).read_line(&mut port).expect("a port");
        let port: u16 = port.trim().parse().expect("a number");
        let is_zombie = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.contains(") Z "));
        while !is_zombie() {
            std::thread::sleep(PAUSE);
        }
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        assert!(!is_gone(pid));
        kill_and_wait(&[pid]);
        assert!(is_gone(pid));
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
        let _ = child.wait();
    }
}
