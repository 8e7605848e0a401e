//! Tells a journal that was damaged from one that only ends early.
//!
//! fjall cuts a journal where it cannot be read on, whatever lies behind. After a crash that is right: one batch may be half
//! written, and nobody was told of it. If whole batches lie behind the cut, their records were reported, and a byte between
//! was changed on the disk: going on would lose them silently. So the ends of batches are counted before fjall opens the
//! directory; if more than one is gone afterwards, what was cut off is kept beside the database and the open is refused, once.
//! (One end alone may be the last batch itself, whose pages a loss of power can leave in any order.)

use std::path::{Path, PathBuf};

/// What fjall writes behind the checksum that ends a batch: tag, 8 bytes, these.
const BATCH_END: &[u8; 4] = b"FJL\x03";
const END_TAG: u8 = 3;
const END_BYTES: usize = 13;

/// A journal as it was before the open.
pub(super) struct Journal {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// Every journal of the database in `dir`.
pub(super) fn journals(dir: &Path) -> std::io::Result<Vec<Journal>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let mut bytes = std::fs::read(&path)?;
            // Room that was made beforehand and never written.
            bytes.truncate(bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1));
            found.push(Journal { path, bytes });
        }
    }
    Ok(found)
}

impl Journal {
    /// Where whole batches end behind `from`.
    fn ends_behind(&self, from: usize) -> usize {
        let tail = self.bytes.get(from..).unwrap_or_default();
        let is_end = |w: &&[u8]| w[0] == END_TAG && &w[END_BYTES - BATCH_END.len()..] == BATCH_END;
        tail.windows(END_BYTES).filter(is_end).count()
    }

    /// If more was cut off than a half-written batch: it is kept in `beside`, and this says so.
    pub fn damage(self, beside: &Path) -> std::io::Result<Option<String>> {
        let cut_at = match std::fs::metadata(&self.path) {
            Ok(now) => now.len() as usize,
            // Read whole, and not needed any more.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let lost = self.ends_behind(cut_at);
        if lost < 2 {
            return Ok(None);
        }
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let kept = beside.join(format!("damaged-{name}-{cut_at}"));
        std::fs::write(&kept, &self.bytes[cut_at..])?;
        std::fs::File::open(&kept)?.sync_all()?;
        Ok(Some(format!(
            "the journal {} is damaged at byte {cut_at}: {lost} batches behind it that were reported are lost to this log. They are \
             kept in {}. Look at the disk and restore a copy if there is one; the next start goes on without them",
            self.path.display(),
            kept.display()
        )))
    }
}
