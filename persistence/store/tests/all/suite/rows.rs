//! Rows are kept as they were given, and of two writes of one cell the one with the higher position stands.

use bytes::Bytes;
use store::{ConversationWrite, PageRange, StoredMarks};
use wire::{Epoch, Offset, Position, Seq};

use super::*;

pub async fn nothing_is_loaded_of_a_conversation_nobody_wrote(store: Store) {
    let key = fresh("alice");
    assert_eq!(store.load(&key).await.unwrap(), None);
    for range in [PageRange::Newest, PageRange::After(Seq(0)), PageRange::Before(Seq(9))] {
        let page = store.page(&key, range, 10).await.unwrap();
        assert_eq!((page.events, page.last_seq), (vec![], Seq(0)));
    }
    assert_eq!(store.sessions_of_agent(&key.tenant, "bo", 10).await.unwrap(), vec![]);
    store.ping().await.unwrap();
    store.sync().await.unwrap();
}

pub async fn what_is_written_is_read_back_whole(store: Store) {
    let key = fresh("爱丽丝 / \u{1F600}");
    let mut events = stretch(1, 20);
    events[3].entry = Bytes::new();
    events[4].at_ms = now_ms() - 1;
    events[5].entry = Bytes::from_static(b"\x00\xff\x00 not JSON, not text");
    // A gap in the log: positions rise by any step.
    events[19].position = at(1 << 39);
    store.write(of(&partition(), &key, events.clone())).await.unwrap();
    let row = store.load(&key).await.unwrap().unwrap();
    assert_eq!(row.state, Some(Bytes::from_static(b"state at 20")));
    assert_eq!(row.marks, StoredMarks::default());
    let page = store.page(&key, PageRange::Newest, 100).await.unwrap();
    assert_eq!(page.events, events);
    assert_eq!(page.last_seq, Seq(20));
}

pub async fn bodies_at_the_limit_and_placeholders_are_kept(store: Store) {
    let key = fresh("alice");
    let events: Vec<_> = (1..=5)
        .map(|seq| {
            let body = match seq {
                3 => Bytes::from_static(br#""refused":{"bytes":1}"#),
                n => vec![b'a' + n as u8; wire::limits::FRAME_BYTES_MAX].into(),
            };
            event(seq, at(seq), body)
        })
        .collect();
    store.write(of(&partition(), &key, events.clone())).await.unwrap();
    let page = store.page(&key, PageRange::After(Seq(0)), 10).await.unwrap();
    assert_eq!(page.events, events);
}

pub async fn a_lower_position_never_overwrites(store: Store) {
    let (key, partition) = (fresh("alice"), partition());
    let write = |epoch, offset, text: &'static str| {
        let mut write = of(
            &partition,
            &key,
            vec![event(1, Position::new(Epoch(epoch), Offset(offset)), text)],
        );
        write.epoch = Epoch(epoch);
        write.conversations[0].state = Some((text.into(), Position::new(Epoch(epoch), Offset(offset))));
        write
    };
    let expect = async |text: &'static str| {
        let row = store.load(&key).await.unwrap().unwrap();
        assert_eq!(row.state, Some(text.into()));
        let page = store.page(&key, PageRange::Newest, 10).await.unwrap();
        assert_eq!(page.events[0].entry, Bytes::from(text));
        assert_eq!(page.events.len(), 1);
    };
    store.write(write(2, 50, "fifty")).await.unwrap();
    expect("fifty").await;
    store.write(write(2, 49, "forty-nine")).await.unwrap();
    expect("fifty").await;
    // A zombie of an earlier epoch, however far its offsets went.
    store.write(write(1, 900, "of an earlier epoch")).await.unwrap();
    expect("fifty").await;
    store
        .write(write(1, 901, "of an earlier epoch, reading on"))
        .await
        .unwrap();
    expect("fifty").await;
    store.write(write(2, 51, "fifty-one")).await.unwrap();
    expect("fifty-one").await;
    store.write(write(3, 0, "of a later epoch")).await.unwrap();
    expect("of a later epoch").await;
}

pub async fn a_state_alone_changes_no_event_and_no_last_seq(store: Store) {
    let (key, partition) = (fresh("alice"), partition());
    store.write(of(&partition, &key, stretch(1, 3))).await.unwrap();
    let mut write = partition.clone();
    write.conversations.push(ConversationWrite {
        key: Some(key.clone()),
        state: Some((Bytes::from_static(b"decided"), at(9))),
        ..Default::default()
    });
    store.write(write).await.unwrap();
    let page = store.page(&key, PageRange::Newest, 10).await.unwrap();
    assert_eq!((seqs(&page), page.last_seq), (vec![1, 2, 3], Seq(3)));
    assert_eq!(
        store.load(&key).await.unwrap().unwrap().state,
        Some(Bytes::from_static(b"decided"))
    );
}

pub async fn neighbours_and_tenants_never_mix(store: Store) {
    let tenant = unique("t");
    let pairs = [
        (tenant.clone(), "a"),
        (tenant.clone(), "a/b"),
        (tenant.clone(), "ab"),
        (tenant.clone(), "a b"),
        (format!("{tenant}a"), "a"),
        (format!("{tenant}a"), "/a"),
        (unique("t"), "a"),
    ];
    let partition = partition();
    let mut write = partition.clone();
    for (i, (tenant, customer)) in pairs.iter().enumerate() {
        let position = at(i as u64 + 1);
        let one = of(
            &partition,
            &conversation(tenant, customer),
            vec![event(1, position, format!("{i}"))],
        );
        write.conversations.extend(one.conversations);
    }
    store.write(write).await.unwrap();
    for (i, (tenant, customer)) in pairs.iter().enumerate() {
        let page = store
            .page(&conversation(tenant, customer), PageRange::Newest, 10)
            .await
            .unwrap();
        let entries: Vec<_> = page.events.iter().map(|row| row.entry.clone()).collect();
        assert_eq!(entries, vec![Bytes::from(format!("{i}"))], "{tenant} {customer}");
    }
}

pub async fn one_write_may_hold_many_conversations_and_marks(store: Store) {
    let (tenant, partition) = (unique("t"), partition());
    let mut write = partition.clone();
    let keys: Vec<_> = (0..300).map(|i| conversation(&tenant, &format!("c{i}"))).collect();
    for (i, key) in keys.iter().enumerate() {
        let base = i as u64 * 10;
        let events = (1..=3)
            .map(|seq| event(seq, at(base + seq), format!("{i}:{seq}")))
            .collect();
        write.conversations.extend(of(&partition, key, events).conversations);
        write.marks.push((
            key.clone(),
            StoredMarks {
                agent_recv: i as u64,
                ..Default::default()
            },
        ));
    }
    store.write(write).await.unwrap();
    for (i, key) in keys.iter().enumerate() {
        let page = store.page(key, PageRange::Newest, 10).await.unwrap();
        assert_eq!(page.events[2].entry, Bytes::from(format!("{i}:3")));
        assert_eq!(store.load(key).await.unwrap().unwrap().marks.agent_recv, i as u64);
    }
}
