//! Appending: own permits, delivery reports from a thread of our own, a new inner producer after a fatal error.
//!
//! The `sent` rule: a report is `Ok` only if its offset is above every offset reported before for that partition by this
//! producer. librdkafka reports a duplicate sequence number as success, with an offset that says nothing (gotcha 2).
//!
//! rdkafka's `poll` returns only at its deadline, but waits in librdkafka's queue and hands each report over as it comes; it spins
//! through the deadline's last millisecond. So the thread polls for long while something is in flight, and sleeps while nothing is.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::RwLock;
use process::metrics::{
    Counter, Gauge, Histogram, KAFKA_ERRORS_TOTAL, KAFKA_PRODUCER_REPLACED_TOTAL, LOG_APPEND_SECONDS,
    LOG_APPENDED_TOTAL, PRODUCE_IN_FLIGHT,
};
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, NoCustomPartitioner, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use wire::Offset;
use wire::limits::{PRODUCE_IN_FLIGHT_BYTES_MAX, PRODUCE_IN_FLIGHT_MAX};

use super::wake::Wake;
use super::{InFlight, KafkaOptions, code_of, settings, unavailable};
use crate::record::{bytes_of, count_errors};
use crate::{Appended, LogError, ProduceError, Producer, Reports, ToProduce, TopicPartition};

/// While something is in flight, the thread looks up from the reports this often: for a fatal error and for the end.
const ROUND: Duration = Duration::from_millis(250);
const IDLE_ROUND: Duration = Duration::from_millis(500);
/// What a record in flight costs besides its bytes.
const RECORD_OVERHEAD_BYTES: usize = 256;
/// The new inner producer after a fatal error is tried again this often.
const REPLACE_AGAIN: Duration = Duration::from_millis(500);

pub(super) struct KafkaProducer {
    inner: Arc<Inner>,
}

struct Inner {
    config: ClientConfig,
    current: RwLock<BaseProducer<Context>>,
    flight: Arc<Flight>,
    marks: RwLock<HashMap<TopicPartition, Arc<AtomicI64>>>,
}

/// What the delivery callback needs; outlives any inner producer.
struct Flight {
    process: Arc<InFlight>,
    /// Of this producer.
    records: AtomicUsize,
    wake: Wake,
    fatal: AtomicBool,
    stopping: AtomicBool,
    appended: Counter,
    append_seconds: Histogram,
    in_flight: Gauge,
}

pub(super) struct Pending {
    token: u64,
    reports: Arc<dyn Reports>,
    bytes: usize,
    handed_over: Instant,
    /// The highest offset reported for the partition.
    mark: Arc<AtomicI64>,
}

struct Context(Arc<Flight>);

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        if code_of(&error) == Some(RDKafkaErrorCode::Fatal) {
            tracing::error!(reason, "the Kafka producer failed fatally and is replaced");
            self.0.fatal.store(true, Ordering::Release);
            self.0.wake.ring();
        } else {
            KAFKA_ERRORS_TOTAL
                .with(&[("kind", super::kind_of(&error))])
                .increment(1);
            tracing::warn!(%error, reason, "Kafka producer");
        }
    }
}

impl ProducerContext<NoCustomPartitioner> for Context {
    type DeliveryOpaque = Box<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, pending: Box<Pending>) {
        let outcome = match result {
            Ok(message) if pending.mark.fetch_max(message.offset(), Ordering::AcqRel) < message.offset() => {
                Ok(Appended {
                    offset: Offset(message.offset().unsigned_abs()),
                })
            }
            Ok(message) => Err(ProduceError::Unknown(format!(
                "the broker named offset {}, not above the last one",
                message.offset()
            ))),
            Err((error, _)) => Err(failed(error)),
        };
        self.0.report(*pending, outcome);
    }
}

/// What a failed delivery means. Only what the broker refused by its size is known not to be in the log.
fn failed(error: &KafkaError) -> ProduceError {
    match code_of(error) {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => ProduceError::TooLarge,
        _ => ProduceError::Unknown(error.to_string()),
    }
}

impl Flight {
    fn take(&self, bytes: usize) -> bool {
        let records = self.process.records.fetch_add(1, Ordering::AcqRel);
        let before = self.process.bytes.fetch_add(bytes, Ordering::AcqRel);
        if records >= PRODUCE_IN_FLIGHT_MAX || before + bytes > PRODUCE_IN_FLIGHT_BYTES_MAX {
            self.process.records.fetch_sub(1, Ordering::AcqRel);
            self.process.bytes.fetch_sub(bytes, Ordering::AcqRel);
            return false;
        }
        if self.records.fetch_add(1, Ordering::AcqRel) == 0 {
            self.wake.ring();
        }
        true
    }

    fn release(&self, bytes: usize) {
        self.process.records.fetch_sub(1, Ordering::AcqRel);
        self.process.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.records.fetch_sub(1, Ordering::AcqRel);
    }

    fn report(&self, pending: Pending, outcome: Result<Appended, ProduceError>) {
        match &outcome {
            Ok(_) => {
                self.appended.increment(1);
                self.append_seconds.record(pending.handed_over.elapsed().as_secs_f64());
            }
            Err(error) => count_errors("kafka", error, 1),
        }
        pending.reports.report(pending.token, outcome);
        pending.reports.flush();
        self.release(pending.bytes);
    }
}

impl KafkaProducer {
    /// Blocking, briefly.
    pub fn start(options: KafkaOptions, process: Arc<InFlight>) -> Result<Self, LogError> {
        let config = settings::producing(&options);
        let flight = Arc::new(Flight {
            process,
            records: AtomicUsize::new(0),
            wake: Wake::default(),
            fatal: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            appended: LOG_APPENDED_TOTAL.with(&[("log", "kafka")]),
            append_seconds: LOG_APPEND_SECONDS.get(),
            in_flight: PRODUCE_IN_FLIGHT.get(),
        });
        let current = config
            .create_with_context(Context(flight.clone()))
            .map_err(unavailable)?;
        let inner = Arc::new(Inner {
            config,
            current: RwLock::new(current),
            flight,
            marks: RwLock::default(),
        });
        let last_words = Duration::from_millis(options.produce_timeout_ms);
        let polled = inner.clone();
        std::thread::Builder::new()
            .name("kafka-producer".into())
            .spawn(move || polled.poll(last_words))
            .map_err(|e| LogError::Failed(e.to_string()))?;
        Ok(Self { inner })
    }
}

impl Inner {
    /// Until the producer is dropped and everything is reported, or `last_words` after that.
    fn poll(&self, last_words: Duration) {
        let mut deadline = None;
        loop {
            let idle = self.flight.records.load(Ordering::Acquire) == 0;
            self.flight
                .in_flight
                .set(self.flight.process.records.load(Ordering::Acquire) as f64);
            if idle && self.flight.stopping.load(Ordering::Acquire) {
                return;
            }
            if self.flight.fatal.load(Ordering::Acquire) {
                self.replace();
            }
            if self.flight.stopping.load(Ordering::Acquire) {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + last_words);
                if Instant::now() > deadline {
                    // Dropping the inner producer reports what is left as unknown.
                    return;
                }
            }
            if idle {
                self.flight.wake.sleep(IDLE_ROUND);
            } else {
                self.current.read().poll(ROUND);
            }
        }
    }

    fn replace(&self) {
        match self.config.create_with_context(Context(self.flight.clone())) {
            Ok(fresh) => {
                let old = std::mem::replace(&mut *self.current.write(), fresh);
                // Purges what it holds: each gets its report, `Unknown`.
                drop(old);
                self.flight.fatal.store(false, Ordering::Release);
                KAFKA_PRODUCER_REPLACED_TOTAL.get().increment(1);
            }
            Err(error) => {
                tracing::error!(%error, "a new Kafka producer could not be made");
                std::thread::sleep(REPLACE_AGAIN);
            }
        }
    }

    fn mark(&self, at: &TopicPartition) -> Arc<AtomicI64> {
        if let Some(mark) = self.marks.read().get(at) {
            return mark.clone();
        }
        self.marks
            .write()
            .entry(at.clone())
            .or_insert_with(|| Arc::new(AtomicI64::new(-1)))
            .clone()
    }
}

impl Drop for KafkaProducer {
    fn drop(&mut self) {
        self.inner.flight.stopping.store(true, Ordering::Release);
        self.inner.flight.wake.ring();
    }
}

fn owned_headers(headers: &[(String, bytes::Bytes)]) -> OwnedHeaders {
    headers
        .iter()
        .fold(OwnedHeaders::new_with_capacity(headers.len()), |all, (key, value)| {
            all.insert(Header {
                key,
                value: Some(&value[..]),
            })
        })
}

#[async_trait]
impl Producer for KafkaProducer {
    fn produce(&self, record: ToProduce) -> Result<(), ProduceError> {
        self.hand_over(record)
            .inspect_err(|error| count_errors("kafka", error, 1))
    }

    async fn flush(&self, deadline_ms: u64) {
        let deadline = tokio::time::Instant::now() + Duration::from_millis(deadline_ms);
        while self.inner.flight.records.load(Ordering::Acquire) > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl KafkaProducer {
    fn hand_over(&self, record: ToProduce) -> Result<(), ProduceError> {
        let bytes = bytes_of(&record)? + RECORD_OVERHEAD_BYTES;
        let ToProduce {
            topic,
            partition,
            key,
            value,
            headers,
            token,
            reports,
        } = record;
        let flight = &self.inner.flight;
        if flight.fatal.load(Ordering::Acquire) {
            return Err(ProduceError::Unavailable("the Kafka producer is being replaced".into()));
        }
        if !flight.take(bytes) {
            return Err(ProduceError::Unavailable("too many records wait for Kafka".into()));
        }
        let at = TopicPartition { topic, partition };
        let pending = Box::new(Pending {
            token,
            reports,
            bytes,
            handed_over: Instant::now(),
            mark: self.inner.mark(&at),
        });
        let mut sent = BaseRecord::with_opaque_to(&at.topic, pending).partition(at.partition.0 as i32);
        sent.key = key.as_deref();
        sent.payload = value.as_deref();
        if !headers.is_empty() {
            sent = sent.headers(owned_headers(&headers));
        }
        // Copies key and value once, into librdkafka's own memory.
        let refused = self.inner.current.read().send(sent).err();
        let Some((error, _)) = refused else { return Ok(()) };
        flight.release(bytes);
        Err(match code_of(&error) {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => ProduceError::TooLarge,
            Some(RDKafkaErrorCode::Fatal) => {
                flight.fatal.store(true, Ordering::Release);
                flight.wake.ring();
                ProduceError::Unavailable(error.to_string())
            }
            _ => ProduceError::Unavailable(error.to_string()),
        })
    }
}
