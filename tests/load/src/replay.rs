//! Real dialogues, played by customers and agents through real sockets; then the whole history is read and compared byte for byte.

use std::path::Path;

use crate::Error;
use crate::args::Args;
use crate::report::Report;

pub async fn replay(_args: &Args, _dir: &Path, _run: &str) -> Result<Report, Error> {
    Err(Error::Corpus("not built yet".into()))
}
