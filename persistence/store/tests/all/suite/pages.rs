//! Pages rise, hold at most `limit` events, and know no bucket borders.

use store::PageRange::{After, Before, Newest};
use wire::{Seq, limits};

use super::*;

/// Far enough that two bucket borders lie within, wherever the buckets begin.
const LAST: u64 = 2 * limits::BUCKET_EVENTS + 37;

pub async fn pages_are_the_same_across_bucket_borders(store: Store) {
    let key = fresh("alice");
    let all = stretch(1, LAST);
    write_all(&store, &key, &all).await;
    let borders = [1, limits::BUCKET_EVENTS, 2 * limits::BUCKET_EVENTS, LAST];
    let places = borders.iter().flat_map(|b| b.saturating_sub(3)..=b + 3);
    for place in places {
        for limit in [1, 2, 7, 100] {
            let n = u64::from(limit);
            for (range, from, to) in [
                (After(Seq(place)), place + 1, (place + n).min(LAST)),
                (
                    Before(Seq(place)),
                    place.min(LAST + 1).saturating_sub(n).max(1),
                    place.saturating_sub(1).min(LAST),
                ),
            ] {
                let page = store.page(&key, range, limit).await.unwrap();
                let expected = if from <= to {
                    &all[from as usize - 1..to as usize]
                } else {
                    &[]
                };
                assert_eq!(page.events, expected, "{range:?} limit {limit}");
                assert_eq!(page.last_seq, Seq(LAST));
            }
        }
    }
    let newest = store.page(&key, Newest, 50).await.unwrap();
    assert_eq!(newest.events, all[LAST as usize - 50..]);
    let far = store.page(&key, Before(Seq(u64::MAX)), 50).await.unwrap();
    assert_eq!(far.events, newest.events);
    let beyond = store.page(&key, After(Seq(u64::MAX)), 50).await.unwrap();
    assert_eq!((beyond.events, beyond.last_seq), (vec![], Seq(LAST)));
}

pub async fn walking_either_way_shows_every_event_once(store: Store) {
    let key = fresh("alice");
    let first = limits::BUCKET_EVENTS - 700;
    // What came before has expired: the conversation begins in the middle of a bucket.
    let all = stretch(first, limits::BUCKET_EVENTS + 900);
    write_all(&store, &key, &all).await;
    let (mut forwards, mut place) = (Vec::new(), 0);
    loop {
        let page = store.page(&key, After(Seq(place)), 333).await.unwrap();
        let Some(last) = page.events.last() else { break };
        place = last.seq.0;
        forwards.extend(page.events);
    }
    assert_eq!(forwards, all);
    let (mut backwards, mut range) = (Vec::new(), Newest);
    loop {
        let mut page = store.page(&key, range, 333).await.unwrap();
        let Some(first) = page.events.first() else { break };
        range = Before(first.seq);
        page.events.append(&mut backwards);
        backwards = page.events;
    }
    assert_eq!(backwards, all);
}

pub async fn a_limit_beyond_the_cap_is_the_cap_and_zero_is_nothing(store: Store) {
    let key = fresh("alice");
    write_all(&store, &key, &stretch(1, u64::from(limits::PAGE_EVENTS_MAX) + 5)).await;
    for range in [After(Seq(0)), Newest, Before(Seq(u64::MAX))] {
        let page = store.page(&key, range, u32::MAX).await.unwrap();
        assert_eq!(page.events.len() as u32, limits::PAGE_EVENTS_MAX);
        let page = store.page(&key, range, 0).await.unwrap();
        assert_eq!(
            (page.events.len(), page.last_seq.0),
            (0, u64::from(limits::PAGE_EVENTS_MAX) + 5)
        );
    }
}
