//! One suite for every `History`: always on the embedded store, and on a CQL server where `SWITCHBOARD_TEST_CQL=host:port` names one.

use std::future::Future;
use std::io::Write;

use crate::suite::Store;
use store::{Cql, CqlOptions, Embedded};
use tokio::sync::OnceCell;

/// An embedded store in a directory that goes with the test.
fn embedded() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    (dir, store)
}

/// The server to test on; where there is none the test says so by its name and ends.
fn cql_options(test: &str) -> Option<CqlOptions> {
    let Ok(server) = std::env::var("SWITCHBOARD_TEST_CQL") else {
        // Not by println!: the harness keeps that to itself where a test succeeds.
        let said = format!("SKIPPED {test}: SWITCHBOARD_TEST_CQL names no server\n");
        std::io::stderr().write_all(said.as_bytes()).unwrap();
        return None;
    };
    Some(CqlOptions {
        contact_points: vec![server],
        keyspace: crate::suite::unique("test").replace('-', "_"),
        request_timeout_ms: 20_000,
        ..Default::default()
    })
}

/// One keyspace for all behaviours that share it: a table takes a server longer to make than a test to run.
async fn shared_keyspace(options: CqlOptions) -> Store {
    static KEYSPACE: OnceCell<String> = OnceCell::const_new();
    let keyspace = KEYSPACE
        .get_or_init(async || {
            Cql::create_schema(&options).await.unwrap();
            options.keyspace.clone()
        })
        .await;
    let keyspace = keyspace.clone();
    Cql::connect(CqlOptions { keyspace, ..options }).await.unwrap()
}

fn run<F: Future<Output = ()>>(behaviour: impl FnOnce() -> F) {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(behaviour());
}

macro_rules! on_both {
    ($($file:ident :: $behaviour:ident),* $(,)?) => {
        mod on_the_embedded_store {
            $(#[test]
            fn $behaviour() {
                let (_dir, store) = super::embedded();
                super::run(|| crate::suite::$file::$behaviour(store));
            })*
        }

        mod on_a_cql_server {
            $(#[test]
            fn $behaviour() {
                let Some(options) = super::cql_options(stringify!($behaviour)) else { return };
                super::run(async || {
                    let store = super::shared_keyspace(options).await;
                    crate::suite::$file::$behaviour(store).await;
                });
            })*
        }
    };
}

on_both! {
    rows::nothing_is_loaded_of_a_conversation_nobody_wrote,
    rows::what_is_written_is_read_back_whole,
    rows::bodies_at_the_limit_and_placeholders_are_kept,
    rows::a_lower_position_never_overwrites,
    rows::a_state_alone_changes_no_event_and_no_last_seq,
    rows::neighbours_and_tenants_never_mix,
    rows::one_write_may_hold_many_conversations_and_marks,
    pages::pages_are_the_same_across_bucket_borders,
    pages::walking_either_way_shows_every_event_once,
    pages::a_limit_beyond_the_cap_is_the_cap_and_zero_is_nothing,
    marks::marks_only_rise_in_any_order,
    marks::equal_sums_from_two_writers_both_count,
    marks::marks_and_state_share_a_row_and_leave_each_other_alone,
    marks::marks_that_say_nothing_write_nothing,
    sessions::open_sessions_are_listed_by_partition,
    sessions::a_closed_session_stays_closed_whatever_is_replayed,
    sessions::closed_sessions_of_an_agent_are_newest_first,
}

/// On stores that keep events for a day.
macro_rules! with_retention {
    ($($behaviour:ident),* $(,)?) => {
        mod with_retention_embedded {
            $(#[test]
            fn $behaviour() {
                let dir = tempfile::tempdir().unwrap();
                let options = store::EmbeddedOptions {
                    retention: crate::suite::retention::a_day(),
                    ..Default::default()
                };
                let store = super::Embedded::open_with(dir.path(), options).unwrap();
                super::run(|| crate::suite::retention::$behaviour(store));
            })*
        }

        mod with_retention_cql {
            $(#[test]
            fn $behaviour() {
                let Some(options) = super::cql_options(stringify!($behaviour)) else { return };
                let retention = crate::suite::retention::a_day();
                super::run(async || {
                    let options = super::CqlOptions { retention, ..options };
                    let store = super::shared_keyspace(options).await;
                    crate::suite::retention::$behaviour(store).await;
                });
            })*
        }
    };
}

with_retention! {
    a_page_begins_after_what_is_over,
    a_conversation_whose_events_are_all_over_keeps_its_row_and_its_end,
    closed_sessions_go_with_their_time,
}

/// Digests are of whole stores: each of these needs stores of its own.
mod on_stores_of_their_own {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn any_stretch_in_any_chunking_changes_nothing_embedded() {
        let dirs = Mutex::new(Vec::new());
        run(|| crate::suite::replay::any_stretch_in_any_chunking_changes_nothing(|| async { fresh(&dirs) }, 24));
    }

    #[test]
    fn a_digest_moves_with_every_kind_of_write_embedded() {
        let dirs = Mutex::new(Vec::new());
        run(|| crate::suite::replay::a_digest_moves_with_every_kind_of_write(|| async { fresh(&dirs) }));
    }

    #[test]
    fn any_stretch_in_any_chunking_changes_nothing_cql() {
        let Some(_) = cql_options("any_stretch_in_any_chunking_changes_nothing_cql") else {
            return;
        };
        run(|| crate::suite::replay::any_stretch_in_any_chunking_changes_nothing(keyspace, 3));
    }

    #[test]
    fn a_digest_moves_with_every_kind_of_write_cql() {
        let Some(_) = cql_options("a_digest_moves_with_every_kind_of_write_cql") else {
            return;
        };
        run(|| crate::suite::replay::a_digest_moves_with_every_kind_of_write(keyspace));
    }

    fn fresh(dirs: &Mutex<Vec<tempfile::TempDir>>) -> Store {
        let (dir, store) = embedded();
        dirs.lock().unwrap().push(dir);
        store
    }

    async fn keyspace() -> Store {
        let options = cql_options("").unwrap();
        Cql::create_schema(&options).await.unwrap();
        Cql::connect(options).await.unwrap()
    }
}
