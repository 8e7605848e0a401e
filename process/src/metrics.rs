//! Every metric of the platform: name, labels, help, buckets. Nothing else in the house spells a metric's name.
//!
//! A look-up in the registry costs more than a message should: take the handle once, keep it, count on it.
//!
//! ```
//! use process::metrics::{self, Counter};
//!
//! struct Counters {
//!     accepted: Counter,
//!     refused_rate: Counter,
//! }
//!
//! let counters = Counters {
//!     accepted: metrics::ACCEPTED_TOTAL.get(),
//!     refused_rate: metrics::REFUSALS_TOTAL.with(&[("code", "rate_limited")]),
//! };
//! counters.accepted.increment(1); // the hot path: one atomic addition
//! # let _ = counters.refused_rate;
//! ```
//!
//! Labels have few values, known beforehand: never a user, a conversation or a tenant. `lane` and `node` are put on every
//! line by [`install_recorder`]. Take handles after it: one taken before counts nowhere.
//!
//! **Stages** of a message's way are measured from `received_at_ms` (the node read the frame) to: `logged` (the delivery
//! report came), `folded` (the worker numbered it), `pushed` (the node of an addressee wrote it to the socket), `acked`
//! (that client's `recv` passed it), `stored` (its row is written). Use [`Stages`].

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use wire::CloseCode;

pub use metrics::{Counter, Gauge, Histogram};

/// What a metric is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Count,
    Seconds,
    Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// One row of [`ALL`].
#[derive(Clone, Copy, Debug)]
pub struct Description {
    pub name: &'static str,
    pub kind: MetricKind,
    pub unit: Unit,
    pub help: &'static str,
    pub labels: &'static [&'static str],
    /// Upper bounds of a histogram's buckets; empty for others.
    pub buckets: &'static [f64],
}

/// Stage latencies: fine between 0.1 ms and 1 s.
const STAGE_BUCKETS: &[f64] = &[
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5,
    0.75, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];
/// One operation of the log or the store.
const OPERATION_BUCKETS: &[f64] = &[
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// Sizes of batches.
const COUNT_BUCKETS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0,
];
/// How long a person waits.
const WAIT_BUCKETS: &[f64] = &[
    0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
];

macro_rules! metric_type {
    ($(#[$doc:meta])* $type:ident, $handle:ident, $macro:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $type {
            name: &'static str,
            labels: &'static [&'static str],
        }

        impl $type {
            pub fn name(self) -> &'static str {
                self.name
            }

            /// The metric of a row of [`ALL`], which is of this kind.
            pub fn described(row: &Description) -> Self {
                Self { name: row.name, labels: row.labels }
            }

            /// The handle of a metric without labels. Keep it.
            pub fn get(self) -> $handle {
                self.with(&[])
            }

            /// The handle for these label values, given in the declared order. Keep it.
            ///
            /// # Panics
            /// In debug builds, if the labels are not the declared ones.
            pub fn with(self, labels: &[(&'static str, &str)]) -> $handle {
                debug_assert!(
                    labels.iter().map(|(name, _)| *name).eq(self.labels.iter().copied()),
                    "{} has the labels {:?}",
                    self.name,
                    self.labels,
                );
                let labels: Vec<metrics::Label> =
                    labels.iter().map(|(name, value)| metrics::Label::new(*name, (*value).to_owned())).collect();
                metrics::$macro!(self.name, labels)
            }
        }
    };
}
metric_type!(
    /// A metric that only rises.
    CounterName, Counter, counter
);
metric_type!(
    /// A metric that is what it is now.
    GaugeName, Gauge, gauge
);
metric_type!(
    /// A metric that shows a distribution.
    HistogramName, Histogram, histogram
);

macro_rules! metric_table {
    ($($kind:ident $name:ident $text:literal $unit:ident [$($label:literal),*] $(($buckets:ident))? $help:literal;)*) => {
        $(metric_table!(@const $kind $name $text [$($label),*] $help);)*

        /// Every metric, in the order a message meets them.
        pub const ALL: &[Description] = &[$(Description {
            name: $text,
            kind: metric_table!(@kind $kind),
            unit: Unit::$unit,
            help: $help,
            labels: &[$($label),*],
            buckets: metric_table!(@buckets $($buckets)?),
        }),*];
    };
    (@const counter $name:ident $text:literal [$($label:literal),*] $help:literal) => {
        #[doc = $help]
        pub const $name: CounterName = CounterName { name: $text, labels: &[$($label),*] };
    };
    (@const gauge $name:ident $text:literal [$($label:literal),*] $help:literal) => {
        #[doc = $help]
        pub const $name: GaugeName = GaugeName { name: $text, labels: &[$($label),*] };
    };
    (@const histogram $name:ident $text:literal [$($label:literal),*] $help:literal) => {
        #[doc = $help]
        pub const $name: HistogramName = HistogramName { name: $text, labels: &[$($label),*] };
    };
    (@kind counter) => { MetricKind::Counter };
    (@kind gauge) => { MetricKind::Gauge };
    (@kind histogram) => { MetricKind::Histogram };
    (@buckets) => { &[] };
    (@buckets $buckets:ident) => { $buckets };
}

metric_table! {
    // the way of a message
    histogram STAGE_SECONDS "switchboard_stage_seconds" Seconds ["stage"] (STAGE_BUCKETS) "Time from a frame's arrival at the node to the stage: logged, folded, pushed, acked, stored.";

    // ingress
    gauge CONNECTIONS "switchboard_connections" Count ["transport"] "Open client connections: ws, tcp, sse, poll.";
    counter HANDSHAKES_TOTAL "switchboard_handshakes_total" Count ["outcome"] "Connects by outcome: ok, bad_token, forbidden, timeout, too_many, overloaded, draining, bad_frame.";
    counter ACCEPT_ERRORS_TOTAL "switchboard_accept_errors_total" Count [] "Sockets the listener could not accept, for example for want of file descriptors.";
    counter FRAMES_RECEIVED_TOTAL "switchboard_frames_received_total" Count ["kind"] "Client frames by their key: send, ack, act, typing, status, refresh, ping, bad.";
    counter REFUSALS_TOTAL "switchboard_refusals_total" Count ["code"] "Frames and requests answered with an error, by error code.";
    counter CLOSES_TOTAL "switchboard_closes_total" Count ["code"] "Connections closed, by close code's name; gone: the client went without one.";
    counter ACCEPTED_TOTAL "switchboard_accepted_total" Count [] "Sends accepted and handed to the log's producer.";
    counter LOGGED_TOTAL "switchboard_logged_total" Count [] "Sends the log has confirmed (`sent`).";
    counter PRODUCE_REFUSED_TOTAL "switchboard_produce_refused_total" Count [] "Sends the log's producer refused (`unavailable`): they will not appear.";
    counter PRODUCE_UNKNOWN_TOTAL "switchboard_produce_unknown_total" Count [] "Sends whose fate the log did not tell (`unknown`): they may appear.";
    gauge PRODUCE_IN_FLIGHT "switchboard_produce_in_flight" Count [] "Records handed to the producer that have no report yet.";
    gauge OUTBOUND_BYTES "switchboard_outbound_bytes" Bytes [] "Bytes queued to be written to clients, all connections together.";
    counter WRITTEN_TOTAL "switchboard_written_total" Count [] "Events (and `placed`) written to client connections.";
    counter DELIVERED_TOTAL "switchboard_delivered_total" Count [] "Events that clients have acked with recv.";
    counter PUSHES_DROPPED_TOTAL "switchboard_pushes_dropped_total" Count ["reason"] "Pushes a node did not write: not_next, gone, detached.";
    counter OWNER_CHANGES_TOTAL "switchboard_owner_changes_total" Count [] "Owners of partitions this node has learnt of.";

    // link
    gauge LINK_UP "switchboard_link_up" Count ["side"] "Links that are up, counted at the side: node, worker.";
    gauge LINK_QUEUE_ITEMS "switchboard_link_queue_items" Count ["side"] "Items waiting in link queues of this side: node (to workers), worker (to nodes).";
    counter LINK_CONNECTS_TOTAL "switchboard_link_connects_total" Count ["outcome"] "Attempts to bring a link up: ok, failed.";
    counter LINK_LOST_TOTAL "switchboard_link_lost_total" Count ["reason"] "Links that went down: closed, timeout, error.";
    counter STALE_GENERATION_REFUSED_TOTAL "switchboard_stale_generation_refused_total" Count ["kind"] "What was refused because it came from, or named, an owner of a lower generation: push, conversation, frame, reset, rewind, ack, register.";

    // the fold, in delivery and in persistence
    counter CONSUMED_TOTAL "switchboard_consumed_total" Count ["group"] "Records read from `messages`, by group: delivery, persistence.";
    counter FOLDED_TOTAL "switchboard_folded_total" Count ["group"] "Events the fold has numbered.";
    counter REPEATS_DROPPED_TOTAL "switchboard_repeats_dropped_total" Count ["group"] "Records dropped because their client id was seen before.";
    counter RECORDS_SKIPPED_TOTAL "switchboard_records_skipped_total" Count ["group", "reason"] "Records that were not folded: applied (at or before the loaded state), decode, wrong_partition, old_decision.";
    gauge PARTITION_OWNED "switchboard_partition_owned" Count ["group", "partition"] "1 while this process owns the partition in the group: delivery, persistence, desk.";
    gauge PARTITION_LAG_RECORDS "switchboard_partition_lag_records" Count ["group", "partition"] "Records between the group's place and the partition's end.";
    gauge PARTITION_LAG_SECONDS "switchboard_partition_lag_seconds" Seconds ["group", "partition"] "Age of the oldest record the group has not done; 0 when there is none.";
    gauge PARTITION_STOPPED "switchboard_partition_stopped" Count ["group", "partition"] "1 while the partition is stopped because log and store disagree; an operator must look.";
    gauge PARTITION_STALLED "switchboard_partition_stalled" Count ["group", "partition"] "1 while a partition stands still though the log holds more: its reader has lost it.";
    counter COMMITS_TOTAL "switchboard_commits_total" Count ["group", "outcome"] "Offset commits: ok, fenced, failed.";
    counter REBALANCES_TOTAL "switchboard_rebalances_total" Count ["group", "kind"] "Changes of what this member owns: assigned, revoked, lost.";

    // delivery
    counter PUSHED_TOTAL "switchboard_pushed_total" Count [] "Events handed to links, once per connection addressed.";
    gauge ROUTES "switchboard_routes" Count [] "Connections registered with this worker, once per partition.";
    counter REGISTRATIONS_TOTAL "switchboard_registrations_total" Count ["outcome"] "Registrations of connections: fresh, again, replaced, not_owner.";
    gauge RESIDENT_CONVERSATIONS "switchboard_resident_conversations" Count [] "Conversations a worker holds in memory.";
    gauge RESIDENT_BYTES "switchboard_resident_bytes" Bytes [] "Memory a worker uses for conversations, as it accounts for it.";
    gauge WORKER_BYTES_BUDGET "switchboard_worker_bytes_budget" Bytes [] "Memory a worker may use for conversations.";
    gauge WORKER_PAUSED "switchboard_worker_paused" Count [] "1 while a worker has stopped reading because its memory budget is spent.";
    counter LOADS_TOTAL "switchboard_loads_total" Count ["outcome"] "Loads of cold conversations from the store: ok, missing, failed.";
    gauge RECORDS_PARKED "switchboard_records_parked" Count [] "Records that wait for a load from the store.";
    counter CATCH_UP_READS_TOTAL "switchboard_catch_up_reads_total" Count ["source"] "Reads for cursors behind the head: memory, store, log.";
    counter RESETS_TOTAL "switchboard_resets_total" Count [] "Connections told to read history because they were too far behind.";
    counter REWINDS_TOTAL "switchboard_rewinds_total" Count [] "Connections told that they saw more than exists.";
    counter MARKS_WRITTEN_TOTAL "switchboard_marks_written_total" Count [] "Watermarks written to the log.";

    // persistence
    counter STORED_TOTAL "switchboard_stored_total" Count [] "Event rows written.";
    counter STATE_ROWS_TOTAL "switchboard_state_rows_total" Count [] "Conversation rows written.";
    counter MARKS_ROWS_TOTAL "switchboard_marks_rows_total" Count [] "Watermark cells written.";
    counter PLACEHOLDERS_TOTAL "switchboard_placeholders_total" Count [] "Events stored as a placeholder because the store refused the body.";
    counter DEAD_LETTERS_TOTAL "switchboard_dead_letters_total" Count ["reason"] "Records put aside with topic, partition and offset: decode, wrong_partition, too_large, behind_seal.";
    counter RECORDS_READ_TOTAL "switchboard_records_read_total" Count ["partition"] "Records of `messages` that persistence has read. With nothing under way it equals the sum of what became of them (I20).";
    counter RECORDS_DONE_TOTAL "switchboard_records_done_total" Count ["partition", "outcome"] "What became of records persistence has read: row (stored), state (a session's change without a row), repeat, superseded (an old decision), skipped (in the loaded state already), unnumbered (marks, notices, seals), dead_letter (put aside).";
    gauge PERSISTENCE_PAUSED "switchboard_persistence_paused" Count [] "1 while persistence waits for the store.";

    // the store
    histogram STORE_SECONDS "switchboard_store_seconds" Seconds ["op"] (OPERATION_BUCKETS) "Time of a store operation: load, page, open_sessions, write, sync, sessions.";
    counter STORE_ERRORS_TOTAL "switchboard_store_errors_total" Count ["op"] "Store operations that failed.";
    histogram STORE_BATCH_ROWS "switchboard_store_batch_rows" Count [] (COUNT_BUCKETS) "Rows in one batch written to the store.";

    // the desk
    gauge DESK_WAITING "switchboard_desk_waiting" Count [] "Conversations in line for an agent.";
    gauge DESK_ASSIGNED "switchboard_desk_assigned" Count [] "Conversations an agent is answering.";
    gauge DESK_AGENTS "switchboard_desk_agents" Count ["state"] "Agents by state: available, busy, away, gone.";
    counter DESK_DECISIONS_TOTAL "switchboard_desk_decisions_total" Count ["cause"] "Decisions by cause: requested, wanted, accepted, transferred, closed, agent_gone, agent_back, capacity, left.";
    counter DESK_EFFECTS_TOTAL "switchboard_desk_effects_total" Count ["outcome"] "Effects produced to conversations: logged, repeated, failed.";
    histogram DESK_WAIT_SECONDS "switchboard_desk_wait_seconds" Seconds [] (WAIT_BUCKETS) "Time a customer waited in line until an agent was assigned.";

    // the log
    histogram LOG_APPEND_SECONDS "switchboard_log_append_seconds" Seconds [] (OPERATION_BUCKETS) "Time from handing a record to the log's producer to its report.";
    counter LOG_APPENDED_TOTAL "switchboard_log_appended_total" Count ["log"] "Records reported durable, by log: embedded, kafka.";
    counter LOG_PRODUCE_ERRORS_TOTAL "switchboard_log_produce_errors_total" Count ["log", "outcome"] "Records whose report was an error: unknown, unavailable, too_large.";
    histogram LOG_COMMIT_SECONDS "switchboard_log_commit_seconds" Seconds [] (OPERATION_BUCKETS) "Time of one synced batch of the embedded log.";
    histogram LOG_BATCH_RECORDS "switchboard_log_batch_records" Count [] (COUNT_BUCKETS) "Records in one commit of the embedded log, or one batch handed over by the Kafka consumer.";
    counter KAFKA_PRODUCER_REPLACED_TOTAL "switchboard_kafka_producer_replaced_total" Count [] "Kafka producers replaced after a fatal error.";
    gauge KAFKA_PRODUCER_QUEUE_RECORDS "switchboard_kafka_producer_queue_records" Count [] "Records in librdkafka's own producer queue.";
    counter KAFKA_ERRORS_TOTAL "switchboard_kafka_errors_total" Count ["kind"] "Errors librdkafka reported: transport, all_brokers_down, authentication, other.";

    // the process
    counter TASKS_FAILED_TOTAL "switchboard_tasks_failed_total" Count ["kind"] "Tasks that failed or panicked: essential, worker, background.";
    gauge DRAINING "switchboard_draining" Count [] "1 from the start of the drain on.";
    gauge READY "switchboard_ready" Count [] "1 while every health condition is good and no drain has begun.";
    gauge CONDITION "switchboard_condition" Count ["name"] "1 while the named health condition is good.";
    gauge BUILD_INFO "switchboard_build_info" Count ["version"] "Always 1; the label says which build runs.";
    gauge CONTROL_VERSION "switchboard_control_version" Count [] "Highest version of a control record this process has applied.";
    counter CONTROL_RECORDS_TOTAL "switchboard_control_records_total" Count ["outcome"] "Control records: applied, stale, garbage.";
    gauge SWITCHED_OFF "switchboard_switched_off" Count ["feature"] "Switches that hold a feature off now, over all lanes and tenants.";
}

/// Installs the recorder that `/metrics` renders, with `lane` and `node` on every line. Once per process, before any handle is taken.
pub fn install_recorder(lane: &str, node: &str) -> Result<PrometheusHandle, BuildError> {
    let handle = builder(lane, node)?.install_recorder()?;
    describe_all();
    BUILD_INFO.with(&[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
    Ok(handle)
}

fn builder(lane: &str, node: &str) -> Result<PrometheusBuilder, BuildError> {
    let mut builder = PrometheusBuilder::new()
        .add_global_label("lane", lane)
        .add_global_label("node", node);
    for metric in ALL.iter().filter(|m| m.kind == MetricKind::Histogram) {
        builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), metric.buckets)?;
    }
    Ok(builder)
}

/// Counters whose label values are known beforehand. They start at 0 at once: a counter that is born at 1 has no increase,
/// and an alert on its first event would never fire.
fn counted_from_the_start() -> Vec<(CounterName, Vec<&'static str>)> {
    let mut close_codes: Vec<_> = CloseCode::ALL.into_iter().map(CloseCode::reason).collect();
    close_codes.push("gone");
    vec![
        (CLOSES_TOTAL, close_codes),
        (REFUSALS_TOTAL, ERROR_CODES.to_vec()),
        (
            HANDSHAKES_TOTAL,
            vec![
                "ok",
                "bad_token",
                "forbidden",
                "timeout",
                "too_many",
                "overloaded",
                "draining",
                "bad_frame",
            ],
        ),
        (LINK_LOST_TOTAL, vec!["closed", "timeout", "error"]),
        (
            STALE_GENERATION_REFUSED_TOTAL,
            vec!["push", "conversation", "frame", "reset", "rewind", "ack", "register"],
        ),
        (
            DEAD_LETTERS_TOTAL,
            vec!["decode", "wrong_partition", "too_large", "behind_seal"],
        ),
        (
            STORE_ERRORS_TOTAL,
            vec!["load", "page", "open_sessions", "write", "sync", "sessions"],
        ),
        (TASKS_FAILED_TOTAL, vec!["essential", "worker", "background"]),
        (CONTROL_RECORDS_TOTAL, vec!["applied", "stale", "garbage"]),
    ]
}

/// All of `wire::ErrorCode`.
const ERROR_CODES: [&str; 13] = [
    "bad_frame",
    "invalid_body",
    "too_large",
    "forbidden",
    "not_assigned",
    "not_found",
    "conflict",
    "rate_limited",
    "overloaded",
    "degraded",
    "unavailable",
    "unknown",
    "closing",
];

/// Tells the recorder units and help, and starts at 0 every counter without labels and those whose label values are known.
/// The others start when their handle is taken.
pub fn describe_all() {
    for metric in ALL {
        let unit = match metric.unit {
            Unit::Count => metrics::Unit::Count,
            Unit::Seconds => metrics::Unit::Seconds,
            Unit::Bytes => metrics::Unit::Bytes,
        };
        match metric.kind {
            MetricKind::Counter => metrics::describe_counter!(metric.name, unit, metric.help),
            MetricKind::Gauge => metrics::describe_gauge!(metric.name, unit, metric.help),
            MetricKind::Histogram => metrics::describe_histogram!(metric.name, unit, metric.help),
        }
        if metric.kind == MetricKind::Counter && metric.labels.is_empty() {
            metrics::counter!(metric.name).absolute(0);
        }
    }
    for (counter, values) in counted_from_the_start() {
        for value in values {
            counter.with(&[(counter.labels[0], value)]).absolute(0);
        }
    }
    DRAINING.get().set(0.0);
}

/// The stage histograms' handles. A process records only the stages it sees.
#[derive(Clone)]
pub struct Stages {
    pub logged: Histogram,
    pub folded: Histogram,
    pub pushed: Histogram,
    pub acked: Histogram,
    pub stored: Histogram,
}

impl Stages {
    pub fn new() -> Self {
        let stage = |name| STAGE_SECONDS.with(&[("stage", name)]);
        Self {
            logged: stage("logged"),
            folded: stage("folded"),
            pushed: stage("pushed"),
            acked: stage("acked"),
            stored: stage("stored"),
        }
    }
}

impl Default for Stages {
    fn default() -> Self {
        Self::new()
    }
}

/// Records the time since a message was received, both in Unix milliseconds; nothing if `received_at_ms` is 0 (unknown).
/// Clocks of two machines may differ: what would be negative counts as 0.
pub fn record_since(histogram: &Histogram, received_at_ms: i64, now_ms: i64) {
    if received_at_ms > 0 {
        histogram.record((now_ms - received_at_ms).max(0) as f64 / 1000.0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_follow_prometheus_customs() {
        let names: BTreeSet<_> = ALL.iter().map(|m| m.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let (name, is_counter) = (metric.name, metric.kind == MetricKind::Counter);
            assert!(name.starts_with("switchboard_"), "{name}");
            assert_eq!(
                name.ends_with("_total"),
                is_counter,
                "{name}: counters, and only counters, end in _total"
            );
            assert!(metric.unit != Unit::Seconds || name.ends_with("_seconds"), "{name}");
            assert!(metric.help.ends_with('.'), "{name}: help is a sentence");
            assert_eq!(
                metric.kind == MetricKind::Histogram,
                !metric.buckets.is_empty(),
                "{name}"
            );
            assert!(metric.buckets.is_sorted(), "{name}");
        }
    }

    #[test]
    fn no_label_has_as_many_values_as_there_are_people() {
        for metric in ALL {
            for label in metric.labels {
                assert!(
                    !["tenant", "user", "conversation", "customer", "agent", "device"].contains(label),
                    "{}",
                    metric.name
                );
            }
        }
    }

    #[test]
    fn what_is_recorded_is_rendered_with_lane_and_classic_buckets() {
        let recorder = builder("core", "n1").unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            describe_all();
            REFUSALS_TOTAL.with(&[("code", "rate_limited")]).increment(2);
            record_since(&Stages::new().logged, 1_000, 1_004);
            record_since(&Stages::new().logged, 0, 1_004);
        });
        let text = recorder.handle().render();
        assert!(
            text.contains(r#"switchboard_refusals_total{lane="core",node="n1",code="rate_limited"} 2"#),
            "{text}"
        );
        assert!(
            text.contains(r#"switchboard_accepted_total{lane="core",node="n1"} 0"#),
            "{text}"
        );
        assert!(text.contains(r#"stage="logged",le="0.005"} 1"#), "{text}");
        assert!(
            text.contains(r#"switchboard_stage_seconds_count{lane="core",node="n1",stage="logged"} 1"#),
            "{text}"
        );
    }

    #[test]
    fn counters_with_known_labels_exist_before_their_first_event() {
        let recorder = builder("core", "n1").unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, describe_all);
        let text = recorder.handle().render();
        assert!(
            text.contains(r#"dead_letters_total{lane="core",node="n1",reason="decode"} 0"#),
            "{text}"
        );
        for code in ERROR_CODES {
            let parsed: Result<wire::ErrorCode, _> = serde_json::from_value(code.into());
            assert!(parsed.is_ok(), "{code} is no error code");
            assert!(text.contains(&format!("code=\"{code}\"}} 0")));
        }
    }

    #[test]
    #[should_panic(expected = "has the labels")]
    fn a_wrong_label_is_found_in_tests() {
        let _ = REFUSALS_TOTAL.with(&[("reason", "x")]);
    }
}
