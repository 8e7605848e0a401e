//! One scenario over each of the four transports, by the client everybody uses, against the built binary.

use std::collections::HashSet;
use std::time::Duration;

use client::pages::Pages;
use client::{Incoming, Transport};
use wire::frames::Side;
use wire::limits;

use crate::house::{House, binary, now_s, token, token_until};
use crate::person::{Hello, Person, WAYS, pair, url};

#[tokio::test]
async fn the_same_scenario_over_every_transport() {
    if binary().is_none() {
        return;
    }
    // Falling behind by more than a resume allows takes many messages of one user.
    let mut house = House::dev(
        &[
            ("limits.user_sends_per_s", "100000"),
            ("limits.user_sends_burst", "100000"),
        ],
        &[],
    );
    house.ready().await;
    let all = WAYS.map(|way| scenario(&house, way));
    futures::future::join_all(all).await;
}

async fn scenario(house: &House, way: Transport) {
    let name = format!("{way:?}");
    let customer = format!("customer-{name}");
    let (mut alice, mut bo) = pair(house, way, None, &name).await;
    let to = Some(customer.as_str());
    let mut laptop = Person::connect(house, Transport::WebSocket, "customer", &customer, device("laptop"));
    laptop.begun().await;

    // A message, its place, the other side's event and the sender's other device's.
    let first = alice.say(None, "hello").await;
    assert_eq!(bo.hears("hello").await, first, "{name}");
    assert_eq!(laptop.hears("hello").await, first, "{name}: echo");
    // An ack, and the receipt for it.
    bo.handle.read(to, first).await.unwrap();
    alice
        .until(
            "the receipt",
            |i| matches!(i, Incoming::Receipt { side: Side::Agent, read, recv, .. } if *read >= first && recv >= read),
        )
        .await;
    bo.handle.typing(to).await.unwrap();
    alice.until("typing", |i| matches!(i, Incoming::Typing { .. })).await;

    // Cut off, and back where it was.
    alice.handle.cut().await.unwrap();
    alice
        .until("the cut", |i| matches!(i, Incoming::Disconnected { .. }))
        .await;
    for text in ["one", "two", "three"] {
        bo.say(to, text).await;
    }
    alice.heard.clear();
    let last = alice.hears("three").await;
    let heard: Vec<u64> = alice.heard.iter().map(|e| e.seq).collect();
    assert_eq!(heard, [last - 2, last - 1, last], "{name}: each once, in order");

    refreshed_in_time(house, way, &name).await;
    replaced(house, way, &name).await;
    behind_and_ahead(house, way, &customer, &mut alice).await;
    alice.handle.close().await.unwrap();
}

fn device(name: &str) -> Hello<'_> {
    Hello {
        device: Some(name),
        ..Hello::default()
    }
}

/// A token that would end in fifteen seconds, and a new one.
async fn refreshed_in_time(house: &House, way: Transport, name: &str) {
    let user = format!("refreshed-{name}");
    let until = now_s() + 15 - limits::TOKEN_LEEWAY_S as i64;
    let hello = Hello {
        token: Some(token_until(&user, "customer", until)),
        ..Hello::default()
    };
    let mut person = Person::connect(house, way, "customer", &user, hello);
    person.begun().await;
    person.handle.refresh(token(&user, "customer")).await.unwrap();
    tokio::time::sleep(Duration::from_secs(17)).await;
    let session = person.session.clone();
    person.say(None, "still here").await;
    assert_eq!(person.session, session, "{name}: on the same connection");
}

/// Of two connections of one device the older goes, and does not come back.
async fn replaced(house: &House, way: Transport, name: &str) {
    let user = format!("twice-{name}");
    let mut older = Person::connect(house, way, "customer", &user, device("phone"));
    older.begun().await;
    let mut newer = Person::connect(house, way, "customer", &user, device("phone"));
    newer.begun().await;
    older
        .until("replaced", |i| {
            matches!(
                i,
                Incoming::Disconnected {
                    code: Some(3501),
                    retry_in_ms: None,
                    ..
                }
            )
        })
        .await;
    newer.say(None, "mine now").await;
}

/// Too far behind: `reset`, and the rest is history. Ahead of what is: `rewind`.
async fn behind_and_ahead(house: &House, way: Transport, customer: &str, alice: &mut Person) {
    let many = limits::RESUME_EVENTS_MAX + 20;
    let mut last = 0;
    let mut waiting = HashSet::new();
    for n in 0..many {
        waiting.insert(alice.handle.say(None, &format!("{n}")).await.unwrap());
        // Half of what may be without an answer.
        while waiting.len() == 64 || (n + 1 == many && !waiting.is_empty()) {
            // From the store the sender gets its event in place of `placed`.
            let place_of = |i: &Incoming| match i {
                Incoming::Placed { id, seq, .. } => Some((id.clone(), *seq)),
                Incoming::Event(e) => Some((e.id.clone()?, e.seq)),
                _ => None,
            };
            let placed = alice.until("a place", |i| place_of(i).is_some()).await;
            if let Some((id, seq)) = place_of(&placed) {
                waiting.remove(&id);
                last = seq.max(last);
            }
        }
    }
    let since = |seq| Hello {
        since: Some(seq),
        ..Hello::default()
    };
    let mut behind = Person::connect(house, way, "customer", customer, since(1));
    let reset = behind.until("reset", |i| matches!(i, Incoming::Reset { .. })).await;
    let Incoming::Reset { had, last_seq, .. } = reset else {
        unreachable!()
    };
    assert_eq!(had, 1);
    // As far as it is stored; what is younger is pushed.
    assert!((had + 1..=last).contains(&last_seq), "{way:?}: {last_seq} of {last}");
    let pages = Pages::new(&url(house, Transport::Events, false)).unwrap();
    let token = token(customer, "customer");
    let events = pages.all(&token, customer, had, last_seq).await.unwrap();
    let seqs: Vec<u64> = events.iter().map(|e| e.seq).collect();
    assert_eq!(
        seqs,
        (had + 1..=last_seq).collect::<Vec<_>>(),
        "{way:?}: history has what was left out"
    );
    let live = alice.say(None, "live").await;
    assert_eq!(behind.hears("live").await, live);
    let pushed: Vec<u64> = behind.heard.iter().map(|e| e.seq).collect();
    assert_eq!(
        pushed,
        (last_seq + 1..=live).collect::<Vec<_>>(),
        "{way:?}: the rest, once and in order"
    );

    let mut ahead = Person::connect(house, way, "customer", customer, since(live + 100));
    let rewind = ahead.until("rewind", |i| matches!(i, Incoming::Rewind { .. })).await;
    assert!(
        matches!(rewind, Incoming::Rewind { last_seq, .. } if last_seq == live),
        "{way:?}: {rewind:?}"
    );
    let next = alice.say(None, "after").await;
    assert_eq!(ahead.hears("after").await, next);
}
