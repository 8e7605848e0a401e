//! Programs of the machine that some faults need; a fault whose tool is missing is not offered, and the report says so.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use system::Failed;

/// Runs a program to its end; what it said, if it failed.
pub fn run(program: &str, args: &[&str]) -> Result<String, Failed> {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Failed::because(program, e))?;
    let said = String::from_utf8_lossy(if out.status.success() { &out.stdout } else { &out.stderr }).into_owned();
    if out.status.success() {
        Ok(said)
    } else {
        Err(Failed(format!("{program} {}: {}: {said}", args.join(" "), out.status)))
    }
}

/// What is there.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    pub faketime: Option<PathBuf>,
    pub strace: bool,
    pub prlimit: bool,
    pub nft: bool,
    /// Whether a tmpfs could be mounted for every broker; set by the lab.
    pub small_disks: bool,
}

/// Where Debian puts the library, by architecture.
const FAKETIME: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

impl Tools {
    pub fn look() -> Self {
        let works = |program: &str, args: &[&str]| run(program, args).is_ok();
        Tools {
            faketime: FAKETIME.iter().map(PathBuf::from).find(|path| Path::exists(path)),
            strace: works("strace", &["-V"]),
            prlimit: works("prlimit", &["--version"]),
            nft: works("nft", &["list", "tables"]),
            small_disks: false,
        }
    }
}
