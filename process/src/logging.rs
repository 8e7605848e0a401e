//! Logs: lines for people (`text`) or for machines (`json`), on stderr. What strangers sent is shown escaped, secrets never.

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error("the log filter {0:?} cannot be read: {1}; write for example \"info,delivery=debug\"")]
    Filter(String, String),
    #[error("logging was started already")]
    Twice,
}

/// Libraries that print frames and headers as they came, tokens and bodies in them, at their more verbose levels. No filter brings
/// those out.
const SPEAKS_OF_WHAT_CAME: [&str; 4] = ["tungstenite", "tokio_tungstenite", "hyper", "h2"];

/// Starts logging, once per process; panics become log lines too. The environment's `RUST_LOG` wins over `filter`.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LoggingError> {
    let text = std::env::var("RUST_LOG").unwrap_or_else(|_| filter.to_owned());
    let mut filter = EnvFilter::try_new(&text).map_err(|e| LoggingError::Filter(text, e.to_string()))?;
    for target in SPEAKS_OF_WHAT_CAME {
        let quieter = format!("{target}=info");
        // A literal that is a directive.
        filter = filter.add_directive(quieter.parse().expect("a target and a level"));
    }
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(at, cause = panic.payload_as_str().unwrap_or("without a text"), "panic");
    }));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    }
    .map_err(|_| LoggingError::Twice)
}

/// A string from outside, safe to log: control characters (ANSI escapes and line breaks among them), bidirectional
/// overrides and backslashes are escaped, and at most 256 characters are shown. Use as `%clean(text)`.
pub fn clean(text: &str) -> Clean<'_> {
    Clean(text)
}

const SHOWN_CHARS_MAX: usize = 256;

pub struct Clean<'a>(&'a str);

impl fmt::Display for Clean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, c) in self.0.chars().enumerate() {
            if i == SHOWN_CHARS_MAX {
                return write!(f, "… ({} bytes)", self.0.len());
            }
            let reorders = matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if c.is_control() || reorders || c == '\\' {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Clean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_can_neither_colour_nor_forge_nor_reorder_a_log_line() {
        let shown = clean("a\u{1b}[31m\nINFO forged\r\u{202e}x\u{9b}\\").to_string();
        assert_eq!(shown, "a\\u{1b}[31m\\nINFO forged\\r\\u{202e}x\\u{9b}\\\\");
    }

    #[test]
    fn plain_text_of_any_language_is_shown_as_it_is_and_long_text_is_cut() {
        assert_eq!(clean("爱丽丝 سلام").to_string(), "爱丽丝 سلام");
        assert!(clean(&"x".repeat(1000)).to_string().ends_with("… (1000 bytes)"));
    }
}
