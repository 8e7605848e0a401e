//! librdkafka's settings, and why each differs from its default. "Gotcha" numbers are RELIABILITY.md's.

use rdkafka::ClientConfig;
use wire::limits::{PRODUCE_IN_FLIGHT_BYTES_MAX, PRODUCE_IN_FLIGHT_MAX};

use super::KafkaOptions;
use crate::record::LOG_RECORD_BYTES_MAX;
use crate::{GATHER_MS, Pace};

/// So many bytes of all partitions of a broker are answered without waiting for more.
const GATHER_BYTES: &str = "65536";

fn client(options: &KafkaOptions) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &options.brokers)
        .set("client.id", &options.client_id)
        // Reconnect at once after a short cut, and at most every second in a long one.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.keepalive.enable", "true")
        .set("socket.nagle.disable", "true")
        .set("socket.timeout.ms", "10000")
        .set("allow.auto.create.topics", "false")
        .set("log.connection.close", "false");
    config
}

fn put_extra(mut config: ClientConfig, options: &KafkaOptions) -> ClientConfig {
    for (key, value) in &options.extra {
        config.set(key, value);
    }
    config
}

/// For questions: metadata, watermarks, administration.
pub(super) fn asking(options: &KafkaOptions) -> ClientConfig {
    put_extra(client(options), options)
}

pub(super) fn producing(options: &KafkaOptions) -> ClientConfig {
    let mut config = client(options);
    config
        .set("acks", "all")
        // Off by default. With it on, records that wait for a producer id (at the start, after any timeout) make librdkafka's
        // broker thread poll without a pause (librdkafka#2565), which starves a broker on the same core until requests time
        // out; and frozen brokers leave gaps (gotcha 2). Without it a retried request may be in the log twice: the fold drops
        // repeats, and a client keeps fewer sends unconfirmed than its window is wide.
        .set("enable.idempotence", options.idempotent.to_string())
        // With one, a broker's partitions would wait for each other. With more, a retry may overtake: of sends that nobody has
        // got a `sent` for yet.
        .set("max.in.flight.requests.per.connection", "5")
        .set("message.timeout.ms", options.produce_timeout_ms.to_string())
        .set("linger.ms", options.linger_ms.to_string())
        .set("retry.backoff.ms", "50")
        // Beyond what our own permits allow, so that a full queue is seen at our call (gotcha 11).
        .set("queue.buffering.max.messages", (PRODUCE_IN_FLIGHT_MAX * 2).to_string())
        .set(
            "queue.buffering.max.kbytes",
            (PRODUCE_IN_FLIGHT_BYTES_MAX / 512).to_string(),
        )
        .set("message.max.bytes", LOG_RECORD_BYTES_MAX.to_string())
        .set("partitioner", "consistent");
    put_extra(config, options)
}

/// For anything that fetches; without a group's protocol.
fn fetching(options: &KafkaOptions, group: &str) -> ClientConfig {
    let mut config = client(options);
    config
        .set("group.id", group)
        // Offsets are committed by us, after the work (gotcha 10).
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Never silently the newest, nor the oldest (gotcha 10).
        .set("auto.offset.reset", "error")
        .set("fetch.min.bytes", "1")
        // How long the broker holds an answer back while there is nothing: what an idle consumer costs it, and what a partition
        // that was just assigned or resumed may wait.
        .set("fetch.wait.max.ms", "50")
        .set("fetch.error.backoff.ms", "50")
        // What librdkafka holds unread, per client.
        .set("queued.min.messages", "10000")
        .set("queued.max.messages.kbytes", "16384")
        // Once it holds that much it looks again after this long, not after a second (its default): a consumer with more than
        // that before it, behind or at full load, would read for a fraction of each second (librdkafka#2879).
        .set("fetch.queue.backoff.ms", "10")
        .set("check.crcs", "true");
    config
}

pub(super) fn member(options: &KafkaOptions, group: &str, pace: Pace) -> ClientConfig {
    let mut config = fetching(options, group);
    if pace == Pace::Gathered {
        config
            .set("fetch.min.bytes", GATHER_BYTES)
            .set("fetch.wait.max.ms", GATHER_MS.to_string());
    }
    config
        // Not "consumer" (KIP-848) and not cooperative: gotchas 5 and 6.
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "range")
        .set("session.timeout.ms", options.session_timeout_ms.to_string())
        // A member hears of a rebalance with its next heartbeat: this is what a hand-over waits for.
        .set("heartbeat.interval.ms", (options.session_timeout_ms / 12).to_string())
        .set("max.poll.interval.ms", options.poll_interval_max_ms.to_string());
    put_extra(config, options)
}

/// Reads a named place without being a member of `group`, which nobody else uses.
pub(super) fn reading(options: &KafkaOptions, group: &str) -> ClientConfig {
    let mut config = fetching(options, group);
    config
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", "4096");
    put_extra(config, options)
}

/// Reads everything there is, oldest first, for ever; what was trimmed meanwhile does not matter to it.
pub(super) fn tailing(options: &KafkaOptions, group: &str) -> ClientConfig {
    let mut config = reading(options, group);
    config.set("auto.offset.reset", "earliest");
    // What comes is answered at once all the same; this is how late an empty topic is known to be at its end, once.
    config.set("fetch.wait.max.ms", "250");
    config
}
