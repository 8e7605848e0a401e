//! Exit codes: what a supervisor, a script or a person may conclude from them. The numbers are those of sysexits.h where it has one.

use std::process::ExitCode;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Drained in time, or the command did what was asked.
    Ok = 0,
    /// The drain's deadline passed with work left over. Nothing `sent` is lost; clients were cut instead of told.
    DrainDeadline = 1,
    /// The command line makes no sense; nothing was started.
    Usage = 2,
    /// Input that was asked for cannot be read as what it should be.
    Data = 65,
    /// Something needed from outside (the log, the store, an address to listen on) cannot be had. Worth trying again.
    Unavailable = 69,
    /// A task that must live ended, failed or panicked. Worth restarting; the log says which.
    Software = 70,
    /// A file could not be read or written.
    Io = 74,
    /// The configuration is wrong: a restart will not help.
    Config = 78,
    /// A second SIGINT: left at once.
    Interrupted = 130,
    /// A second SIGTERM: left at once.
    Terminated = 143,
}

impl Exit {
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_never_mistaken_for_success() {
        for exit in [
            Exit::DrainDeadline,
            Exit::Usage,
            Exit::Unavailable,
            Exit::Software,
            Exit::Config,
        ] {
            assert_ne!(exit.code(), 0);
        }
        assert_eq!(Exit::Ok.code(), 0);
    }
}
