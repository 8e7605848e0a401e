//! What only one implementation of the log promises; what both do is in `conformance`, with a harness of its own.

mod disk;
mod kafka_changes;
mod kill;
