//! What every record must be before a log takes it, and how a refusal is counted: the same for each implementation.

use process::metrics::LOG_PRODUCE_ERRORS_TOTAL;

use crate::{ProduceError, ToProduce};

/// The largest record, as Kafka's `max.message.bytes` is by default.
pub(crate) const LOG_RECORD_BYTES_MAX: usize = 1_048_588;
/// Of a header's name.
const NAME_BYTES_MAX: usize = u16::MAX as usize;

/// The record's bytes (key, value, headers), if a log may take it.
pub(crate) fn bytes_of(record: &ToProduce) -> Result<usize, ProduceError> {
    let part = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    let headers = record.headers.iter().map(|(name, value)| name.len() + value.len());
    let bytes = part(&record.key) + part(&record.value) + headers.sum::<usize>();
    if bytes > LOG_RECORD_BYTES_MAX || record.headers.iter().any(|(name, _)| name.len() > NAME_BYTES_MAX) {
        return Err(ProduceError::TooLarge);
    }
    Ok(bytes)
}

/// Counts `records` that a log did not take, or of which it does not know.
pub(crate) fn count_errors(log: &'static str, error: &ProduceError, records: u64) {
    let outcome = match error {
        ProduceError::Unavailable(_) => "unavailable",
        ProduceError::Unknown(_) => "unknown",
        ProduceError::TooLarge => "too_large",
    };
    LOG_PRODUCE_ERRORS_TOTAL
        .with(&[("log", log), ("outcome", outcome)])
        .increment(records);
}
