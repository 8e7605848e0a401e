//! Retention, on a store that keeps events for a day: what is over is not shown, a page begins after it, and the conversation
//! still knows where it ends. A `since` below the first event then finds a page that does not begin at its next: `reset`.

use std::time::Duration;

use store::{ClosedSession, ConversationWrite, PageRange, Retention};
use wire::limits;

use super::*;

pub const DAY_S: i64 = 86_400;

/// What the store under test is opened with.
pub fn a_day() -> Retention {
    Retention {
        ttl_s: DAY_S as u64,
        ..Default::default()
    }
}

pub fn aged(seq: u64, age_s: i64) -> EventRow {
    EventRow {
        at_ms: now_ms() - age_s * 1_000,
        ..event(seq, at(seq), format!("\"entry {seq}\""))
    }
}

pub async fn a_page_begins_after_what_is_over(store: Store) {
    let key = fresh("alice");
    let bucket = limits::BUCKET_EVENTS;
    // A bucket of old events, a few that live for another second or two, and a few for a day.
    let mut events: Vec<_> = (1..=bucket).map(|seq| aged(seq, 2 * DAY_S)).collect();
    events.extend((bucket + 1..=bucket + 5).map(|seq| aged(seq, DAY_S - 2)));
    events.extend((bucket + 6..=bucket + 9).map(|seq| aged(seq, 0)));
    write_all(&store, &key, &events).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let seqs = async |range, limit| -> Vec<u64> {
        let page = store.page(&key, range, limit).await.unwrap();
        assert_eq!(page.last_seq, Seq(bucket + 9));
        page.events.iter().map(|row| row.seq.0 - bucket).collect()
    };
    assert_eq!(seqs(PageRange::After(Seq(0)), 3).await, [6, 7, 8]);
    assert_eq!(seqs(PageRange::After(Seq(bucket)), 10).await, [6, 7, 8, 9]);
    assert_eq!(seqs(PageRange::Newest, 100).await, [6, 7, 8, 9]);
    assert_eq!(seqs(PageRange::Before(Seq(bucket + 8)), 100).await, [6, 7]);
    assert!(seqs(PageRange::Before(Seq(bucket)), 10).await.is_empty());
}

pub async fn a_conversation_whose_events_are_all_over_keeps_its_row_and_its_end(store: Store) {
    let key = fresh("alice");
    let events: Vec<_> = (1..=40).map(|seq| aged(seq, 2 * DAY_S)).collect();
    let write = of(&partition(), &key, events);
    for _ in 0..2 {
        // Written again, as by a replay: it prolongs nothing.
        store.write(write.clone()).await.unwrap();
        let page = store.page(&key, PageRange::Newest, 10).await.unwrap();
        assert_eq!((page.events.len(), page.last_seq), (0, Seq(40)));
        let stored = store.load(&key).await.unwrap().expect("the row never expires");
        assert_eq!(stored.state.unwrap(), "state at 40");
    }
    // Somebody speaks again, years later: the next seq follows.
    let mut later = partition();
    later.lane = write.lane.clone();
    store.write(of(&later, &key, vec![aged(41, 0)])).await.unwrap();
    let page = store.page(&key, PageRange::After(Seq(12)), 10).await.unwrap();
    assert_eq!((seqs(&page), page.last_seq), (vec![41], Seq(41)));
}

pub async fn closed_sessions_go_with_their_time(store: Store) {
    let key = fresh("alice");
    let mut write = partition();
    for (n, age_s) in [(1, 2 * DAY_S), (2, 10)] {
        let closed_at_ms = now_ms() - age_s * 1_000;
        write.conversations.push(ConversationWrite {
            key: Some(key.clone()),
            sessions_closed: vec![ClosedSession {
                agent: "bo".into(),
                opened_at_ms: closed_at_ms - 5,
                closed_at_ms,
                first_seq: Seq(n),
                last_seq: Seq(n),
                position: at(n),
            }],
            ..Default::default()
        });
    }
    store.write(write).await.unwrap();
    let sessions = store.sessions_of_agent(&key.tenant, "bo", 10).await.unwrap();
    assert_eq!(sessions.iter().map(|(_, s)| s.first_seq.0).collect::<Vec<_>>(), [2]);
}
