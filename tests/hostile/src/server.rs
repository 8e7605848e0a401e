//! The process under attack: started on ports of its own, asked for its metrics, its log read for panics.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::socket::{Answer, request};
use crate::ws::Ws;
use crate::{Outcome, expect, token};

/// A debug build on a busy machine.
const READY: Duration = Duration::from_secs(180);
const STOPPED: Duration = Duration::from_secs(180);

/// Where the process is reached.
#[derive(Clone, Copy)]
pub struct Place {
    pub http: SocketAddr,
    pub tcp: SocketAddr,
    pub ops: SocketAddr,
}

impl Place {
    /// A good client is let in and answered.
    pub fn serves(&self) -> Outcome {
        Ws::customer(self, &token::somebody("good"))?.lives()
    }

    /// The sum of a metric's lines with these labels (`name="value"`).
    pub fn metric(&self, name: &str, labels: &[&str]) -> Result<u64, String> {
        let answer = self.get_ops("/metrics")?;
        let lines = answer.body.lines().filter(|line| {
            let end = line.find(['{', ' ']).unwrap_or(line.len());
            &line[..end] == name && labels.iter().all(|label| line.contains(label))
        });
        let numbers = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(numbers.sum::<f64>() as u64)
    }

    /// Records of every topic that the log has taken.
    pub fn appended(&self) -> Result<u64, String> {
        self.metric("switchboard_log_appended_total", &[])
    }

    /// Waits until nothing more is appended, and says how much there is.
    pub fn quiet(&self) -> Result<u64, String> {
        let began = Instant::now();
        let mut last = (self.appended()?, Instant::now());
        while last.1.elapsed() < Duration::from_millis(2_500) {
            expect(began.elapsed() < READY, || "the log is never quiet".into())?;
            std::thread::sleep(Duration::from_millis(250));
            let now = self.appended()?;
            if now != last.0 {
                last = (now, Instant::now());
            }
        }
        Ok(last.0)
    }

    fn get_ops(&self, path: &str) -> Result<Answer, String> {
        request(
            self.ops,
            format!("GET {path} HTTP/1.1\r\nHost: ops\r\nConnection: close\r\n\r\n").as_bytes(),
        )
    }
}

/// One running process.
pub struct Server {
    pub place: Place,
    pub data: PathBuf,
    bin: PathBuf,
    log: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// `switchboard dev` with everything in it, and these arguments more.
    pub fn start(bin: &Path, dir: &Path, more: &[&str]) -> Result<Self, String> {
        let [http, tcp, ops] = [free_port()?, free_port()?, free_port()?];
        let data = dir.join("data");
        let mut args: Vec<String> = ["dev", "--listen"].map(String::from).to_vec();
        args.extend([http.to_string(), "--tcp-listen".into(), tcp.to_string()]);
        args.extend(["--ops-listen".into(), ops.to_string()]);
        args.extend(["--data-dir".into(), data.display().to_string()]);
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        let mut server = Server {
            place: Place { http, tcp, ops },
            data,
            bin: bin.to_owned(),
            log: dir.join("dev.log"),
            args,
            child: None,
        };
        server.run()?;
        Ok(server)
    }

    /// Starts it (again) and waits until it serves.
    pub fn run(&mut self) -> Outcome {
        let because = |e: std::io::Error| format!("cannot start {}: {e}", self.bin.display());
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(because)?;
        let errors = log.try_clone().map_err(because)?;
        let mut command = Command::new(&self.bin);
        command.args(&self.args).stdin(Stdio::null()).stdout(log).stderr(errors);
        self.child = Some(command.spawn().map_err(because)?);
        let began = Instant::now();
        loop {
            if self.place.get_ops("/readyz").is_ok_and(|a| a.status == 200) && self.place.serves().is_ok() {
                return Ok(());
            }
            let ended = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten());
            if ended.is_some() || began.elapsed() > READY {
                return Err(format!(
                    "the process does not come up ({ended:?}):\n{}",
                    self.last_lines()
                ));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Drains it; a drain leaves with 0.
    pub fn stop(&mut self) -> Outcome {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        expect(told.is_ok_and(|s| s.success()), || "the process is gone already".into())?;
        let began = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return expect(status.success(), || format!("it left with {status}")),
                _ if began.elapsed() > STOPPED => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err("it does not leave when told".into());
                }
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// It runs, no task of it has failed, and it never panicked.
    pub fn is_sound(&mut self) -> Outcome {
        let ended = self.child.as_mut().and_then(|c| c.try_wait().ok().flatten());
        expect(ended.is_none(), || {
            format!("the process has ended: {ended:?}\n{}", self.last_lines())
        })?;
        let failed = self.place.metric("switchboard_tasks_failed_total", &[])?;
        expect(failed == 0, || format!("{failed} tasks have failed"))?;
        let text = self.text();
        let panic = text.lines().find(|line| line.contains("panicked"));
        expect(panic.is_none(), || {
            format!("it panicked: {}", panic.unwrap_or_default())
        })
    }

    /// All it has written so far.
    pub fn text(&self) -> String {
        std::fs::read(&self.log).map_or_else(|_| String::new(), |b| String::from_utf8_lossy(&b).into_owned())
    }

    pub fn last_lines(&self) -> String {
        self.last_lines_of(12, &[""])
    }

    /// The last `most` lines with one of these in them.
    pub fn last_lines_of(&self, most: usize, these: &[&str]) -> String {
        let text = self.text();
        let told = text.lines().filter(|line| these.iter().any(|of| line.contains(of)));
        let lines: Vec<&str> = told.collect();
        lines[lines.len().saturating_sub(most)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Whatever happens: nothing of a test outlives it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_port() -> Result<SocketAddr, String> {
    let port = ports::claim().map_err(|e| e.to_string())?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}
