//! Who owns what: sharing, handing over, losing, and what a former owner may still do (nothing).

use std::sync::Arc;
use std::time::Duration;

use ordered_log::*;
use wire::Offset;

use crate::harness::*;
use crate::world::World;

behaviours![
    an_assigned_partition_is_silent_until_it_is_started,
    a_start_out_of_range_is_refused,
    a_started_partition_comes_in_order_and_goes_live,
    what_is_appended_around_a_start_comes_without_a_hole,
    two_members_share_all_partitions_and_none_is_owned_twice,
    groups_do_not_share,
    a_partition_far_behind_holds_nobody_up,
    what_is_gathered_comes_whole_in_fewer_batches,
    what_is_handed_over_goes_on_at_the_commit,
    committed_offsets_can_be_asked_by_anybody,
    a_commit_by_somebody_who_does_not_own_it_is_fenced,
    a_member_that_stops_answering_loses_its_partitions,
    a_dropped_member_frees_its_partitions,
    a_paused_partition_is_silent_and_resumes_without_a_hole,
    a_slow_reader_loses_neither_membership_nor_a_record,
    generations_rise_with_each_rebalance,
];

async fn one_member(world: &World, partitions: u32) -> (Topic, String, TestMember) {
    let (topic, group) = (topic(world, partitions).await, unique("g"));
    let mut member = TestMember::join(&world.log, &group, std::slice::from_ref(&topic)).await;
    member.until_owns(partitions as usize).await;
    (topic, group, member)
}

/// Two hundred records, one after the other: for who wants them at once, up to two hundred batches; gathered, one or so in each
/// `GATHER_MS`, however slow the machine.
async fn what_is_gathered_comes_whole_in_fewer_batches(world: &World) {
    const RECORDS: usize = 200;
    let topic = topic(world, 1).await;
    let at = at(&topic, 0);
    let join = async |pace| {
        let mut member = TestMember::join_at(&world.log, &unique("g"), std::slice::from_ref(&topic), pace).await;
        member.until_owns(1).await;
        member.start(&at).await;
        member
    };
    let (mut at_once, mut gathered) = (join(Pace::AtOnce).await, join(Pace::Gathered).await);
    let filling = async {
        let (producer, sink) = (
            world.log.producer().await.expect("a producer"),
            Arc::new(Sink::default()),
        );
        for (value, token) in numbered(0..RECORDS).zip(0..) {
            let one = record(&at, "k", value, token, &sink);
            producer.produce(one).expect("handed over");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sink.wait(RECORDS).await;
    };
    let began = std::time::Instant::now();
    tokio::join!(
        filling,
        at_once.until_got(&at, RECORDS),
        gathered.until_got(&at, RECORDS)
    );
    let lasted = began.elapsed();
    for member in [&at_once, &gathered] {
        assert_eq!(texts(&member.got[&at]), numbered(0..RECORDS).collect::<Vec<_>>());
        member.consumer.control.close().await;
    }
    // Twice: a window's records may be handed over in two pieces.
    let (windows, batches) = (lasted.as_millis() as usize / GATHER_MS as usize + 2, gathered.batches);
    assert!(batches <= 2 * windows, "{batches} batches in {windows} windows");
}

async fn an_assigned_partition_is_silent_until_it_is_started(world: &World) {
    let (topic, _, mut member) = one_member(world, 2).await;
    fill(&world.log, &at(&topic, 0), numbered(0..5)).await;
    fill(&world.log, &at(&topic, 1), numbered(0..5)).await;
    member.quiet(700).await;
    member.start(&at(&topic, 1)).await;
    member.until_got(&at(&topic, 1), 5).await;
    member.quiet(300).await;
    assert_eq!(member.got.get(&at(&topic, 0)), None);
    member.consumer.control.close().await;
}

async fn a_start_out_of_range_is_refused(world: &World) {
    let (topic, _, member) = one_member(world, 1).await;
    let at = at(&topic, 0);
    fill(&world.log, &at, numbered(0..5)).await;
    let refused = member.consumer.control.start(&at, Offset(6)).await;
    assert!(
        matches!(
            refused,
            Err(LogError::OutOfRange {
                wanted: Offset(6),
                start: Offset(0),
                end: Offset(5)
            })
        ),
        "{refused:?}"
    );
    assert!(
        member.consumer.control.start(&at, Offset(5)).await.is_ok(),
        "the end is a place to start"
    );
    let stranger = TopicPartition {
        topic: unique("absent").into(),
        ..at
    };
    assert!(member.consumer.control.start(&stranger, Offset(0)).await.is_err());
    member.consumer.control.close().await;
}

async fn a_started_partition_comes_in_order_and_goes_live(world: &World) {
    let (topic, _, mut member) = one_member(world, 1).await;
    let at = at(&topic, 0);
    fill(&world.log, &at, numbered(0..2_000)).await;
    member.consumer.control.start(&at, Offset(100)).await.expect("started");
    member.until_got(&at, 1_900).await;
    fill(&world.other, &at, numbered(2_000..2_050)).await;
    member.until_got(&at, 1_950).await;
    assert_eq!(texts(&member.got[&at]), numbered(100..2_050).collect::<Vec<_>>());
    member.consumer.control.close().await;
}

/// librdkafka once moved a partition to the end, half a second after it was started elsewhere.
async fn what_is_appended_around_a_start_comes_without_a_hole(world: &World) {
    let (topic, _, mut member) = one_member(world, 6).await;
    let producer = world.log.producer().await.expect("a producer");
    let sink = std::sync::Arc::new(Sink::default());
    for partition in 0..6 {
        member
            .consumer
            .control
            .start(&at(&topic, partition), Offset::ZERO)
            .await
            .expect("started");
    }
    for round in 0..75u64 {
        for partition in 0..6 {
            let value = format!("v{round}");
            producer
                .produce(record(&at(&topic, partition), "k", value, round, &sink))
                .expect("handed over");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for partition in 0..6 {
        let at = at(&topic, partition);
        member.until_got(&at, 75).await;
        assert_eq!(texts(&member.got[&at]), numbered(0..75).collect::<Vec<_>>());
    }
    member.consumer.control.close().await;
}

async fn both_own(one: &mut TestMember, two: &mut TestMember, each: usize) {
    let settled = async {
        loop {
            tokio::select! {
                more = one.step() => assert!(more),
                more = two.step() => assert!(more),
            }
            one.let_go();
            two.let_go();
            if one.owned.len() == each && two.owned.len() == each {
                break;
            }
        }
    };
    if tokio::time::timeout(SOON, settled).await.is_err() {
        panic!("not shared: {:?} and {:?}", one.owned.keys(), two.owned.keys());
    }
}

async fn two_members_share_all_partitions_and_none_is_owned_twice(world: &World) {
    let (topic, group, mut one) = one_member(world, 6).await;
    let mut two = TestMember::join(&world.other, &group, std::slice::from_ref(&topic)).await;
    both_own(&mut one, &mut two, 3).await;
    let mut all: Vec<_> = one.owned.keys().chain(two.owned.keys()).cloned().collect();
    all.sort();
    assert_eq!(all, (0..6).map(|p| at(&topic, p)).collect::<Vec<_>>());
    for partition in 0..6 {
        fill(&world.log, &at(&topic, partition), numbered(0..3)).await;
    }
    for member in [&mut one, &mut two] {
        let owned: Vec<_> = member.owned.keys().cloned().collect();
        for at in &owned {
            member.start(at).await;
        }
        for at in &owned {
            member.until_got(at, 3).await;
        }
    }
    one.consumer.control.close().await;
    two.until_owns(6).await;
    two.consumer.control.close().await;
}

/// One partition with a long backlog, read from the disk, must not keep the others waiting until it has caught up. The backlog
/// is longer than what a member holds ready for an owner that does not look (some 26 MiB), as here between the two starts.
async fn a_partition_far_behind_holds_nobody_up(world: &World) {
    let topic = topic(world, 2).await;
    let (behind, fresh) = (at(&topic, 0), at(&topic, 1));
    let backlog = 640;
    fill(&world.log, &behind, std::iter::repeat_n("x".repeat(65_536), backlog)).await;
    fill(&world.log, &fresh, numbered(0..1)).await;
    let mut member = TestMember::join(&world.log, &unique("fair"), &[topic]).await;
    member.until_owns(2).await;
    member.start(&behind).await;
    member.start(&fresh).await;
    member.until_got(&fresh, 1).await;
    let read = member.got.get(&behind).map_or(0, Vec::len);
    assert!(read < backlog, "the other's {read} records came first");
    member.until_got(&behind, backlog).await;
}

async fn groups_do_not_share(world: &World) {
    let (topic, _, mut one) = one_member(world, 1).await;
    let mut two = TestMember::join(&world.other, &unique("g"), std::slice::from_ref(&topic)).await;
    two.until_owns(1).await;
    fill(&world.log, &at(&topic, 0), numbered(0..5)).await;
    for member in [&mut one, &mut two] {
        member.start(&at(&topic, 0)).await;
        member.until_got(&at(&topic, 0), 5).await;
        member.consumer.control.close().await;
    }
}

async fn what_is_handed_over_goes_on_at_the_commit(world: &World) {
    let (topic, group, mut one) = one_member(world, 2).await;
    for partition in 0..2 {
        fill(&world.log, &at(&topic, partition), numbered(0..10)).await;
        one.start(&at(&topic, partition)).await;
        one.until_got(&at(&topic, partition), 10).await;
    }
    let mut two = TestMember::join(&world.other, &group, std::slice::from_ref(&topic)).await;
    one.until("revoked", |m| m.revoked.is_some()).await;
    let before = tokio::time::timeout(Duration::from_millis(200), two.step()).await;
    assert!(before.is_err(), "nobody is assigned before the owner let go");
    let commits = (0..2).map(|p| (at(&topic, p), Offset(7))).collect();
    one.consumer
        .control
        .commit(commits)
        .await
        .expect("the owner commits until it lets go");
    one.let_go();
    both_own(&mut one, &mut two, 1).await;
    for member in [&mut one, &mut two] {
        let (at, share) = member
            .owned
            .first_key_value()
            .map(|(k, v)| (k.clone(), v.clone()))
            .expect("one");
        assert_eq!(share.committed, Some(Offset(7)));
        member.got.clear();
        member.start(&at).await;
        member.until_got(&at, 3).await;
        assert_eq!(texts(&member.got[&at]), ["v7", "v8", "v9"]);
    }
    one.consumer.control.close().await;
    two.consumer.control.close().await;
}

async fn committed_offsets_can_be_asked_by_anybody(world: &World) {
    let (topic, group, member) = one_member(world, 2).await;
    fill(&world.log, &at(&topic, 1), numbered(0..5)).await;
    let both = [at(&topic, 0), at(&topic, 1)];
    assert_eq!(world.other.committed(&group, &both).await.expect("asked"), [None, None]);
    member
        .consumer
        .control
        .commit(vec![(at(&topic, 1), Offset(4))])
        .await
        .expect("committed");
    assert_eq!(
        world.other.committed(&group, &both).await.expect("asked"),
        [None, Some(Offset(4))]
    );
    assert_eq!(
        world.other.committed(&unique("g"), &both).await.expect("asked"),
        [None, None]
    );
    member.consumer.control.close().await;
}

async fn a_commit_by_somebody_who_does_not_own_it_is_fenced(world: &World) {
    let (topic, group, mut one) = one_member(world, 2).await;
    let mut two = TestMember::join(&world.other, &group, std::slice::from_ref(&topic)).await;
    both_own(&mut one, &mut two, 1).await;
    let foreign = two.owned.keys().next().cloned().expect("one");
    let own = one.owned.keys().next().cloned().expect("one");
    assert_eq!(
        one.consumer.control.commit(vec![(foreign.clone(), Offset(0))]).await,
        Err(CommitError::Fenced)
    );
    one.consumer
        .control
        .commit(vec![(own, Offset(0))])
        .await
        .expect("one's own");
    assert_eq!(world.log.committed(&group, &[foreign]).await.expect("asked"), [None]);
    one.consumer.control.close().await;
    two.consumer.control.close().await;
}

async fn a_member_that_stops_answering_loses_its_partitions(world: &World) {
    let (topic, group) = (topic(world, 1).await, unique("g"));
    let zombie_log = world.zombie.clone();
    let mut zombie = TestMember::join(&zombie_log, &group, std::slice::from_ref(&topic)).await;
    zombie.until_owns(1).await;
    let at = at(&topic, 0);
    fill(&world.log, &at, numbered(0..5)).await;
    zombie.start(&at).await;
    zombie.until_got(&at, 5).await;
    world.freeze_zombie(true);
    let mut heir = TestMember::join(&world.log, &group, std::slice::from_ref(&topic)).await;
    heir.until_owns(1).await;
    heir.start(&at).await;
    heir.until_got(&at, 5).await;
    heir.consumer
        .control
        .commit(vec![(at.clone(), Offset(5))])
        .await
        .expect("the heir commits");
    world.freeze_zombie(false);
    let late = tokio::time::timeout(SOON, zombie.consumer.control.commit(vec![(at.clone(), Offset(2))]));
    assert_eq!(late.await.expect("an answer"), Err(CommitError::Fenced));
    assert_eq!(
        world
            .log
            .committed(&group, std::slice::from_ref(&at))
            .await
            .expect("asked"),
        [Some(Offset(5))]
    );
    zombie.until("told of its loss", |m| m.owned.is_empty()).await;
    zombie.let_go();
    zombie.consumer.control.close().await;
    heir.consumer.control.close().await;
}

async fn a_dropped_member_frees_its_partitions(world: &World) {
    let (topic, group, one) = one_member(world, 2).await;
    drop(one);
    let mut two = TestMember::join(&world.other, &group, std::slice::from_ref(&topic)).await;
    two.until_owns(2).await;
    two.consumer.control.close().await;
    let ends = async { while two.step().await {} };
    tokio::time::timeout(SOON, ends)
        .await
        .expect("the events end with the close");
}

async fn a_paused_partition_is_silent_and_resumes_without_a_hole(world: &World) {
    let (topic, _, mut member) = one_member(world, 2).await;
    let (paused, other) = (at(&topic, 0), at(&topic, 1));
    for at in [&paused, &other] {
        fill(&world.log, at, numbered(0..10)).await;
        member.start(at).await;
        member.until_got(at, 10).await;
    }
    member.consumer.control.pause(&paused);
    // What was read already still comes: a moment for that.
    tokio::time::sleep(Duration::from_millis(300)).await;
    for at in [&paused, &other] {
        fill(&world.log, at, numbered(10..50)).await;
    }
    member.until_got(&other, 50).await;
    member.quiet(500).await;
    assert_eq!(member.got[&paused].len(), 10);
    member.consumer.control.resume(&paused);
    member.until_got(&paused, 50).await;
    assert_eq!(texts(&member.got[&paused]), numbered(0..50).collect::<Vec<_>>());
    member.consumer.control.close().await;
}

async fn a_slow_reader_loses_neither_membership_nor_a_record(world: &World) {
    let (topic, group, mut member) = one_member(world, 2).await;
    let (one, two) = (at(&topic, 0), at(&topic, 1));
    let body = "x".repeat(1_000);
    member.start(&one).await;
    member.start(&two).await;
    for at in [&one, &two] {
        fill(&world.log, at, numbered(0..30_000).map(|v| format!("{v} {body}"))).await;
    }
    // Longer than a session or the largest poll interval of the suite.
    tokio::time::sleep(world.longer_than_a_session()).await;
    for at in [&one, &two] {
        member.until_got(at, 30_000).await;
        assert!(
            texts(&member.got[at])
                .iter()
                .enumerate()
                .all(|(i, t)| t.starts_with(&format!("v{i} ")))
        );
    }
    assert_eq!((member.owned.len(), member.lost.len()), (2, 0));
    member
        .consumer
        .control
        .commit(vec![(one.clone(), Offset(30_000))])
        .await
        .expect("still a member");
    assert_eq!(
        world.log.committed(&group, &[one]).await.expect("asked"),
        [Some(Offset(30_000))]
    );
    member.consumer.control.close().await;
}

async fn generations_rise_with_each_rebalance(world: &World) {
    let (topic, group, mut one) = one_member(world, 2).await;
    let first = one.owned.values().map(|a| a.generation).max().expect("two");
    let mut two = TestMember::join(&world.other, &group, std::slice::from_ref(&topic)).await;
    both_own(&mut one, &mut two, 1).await;
    let later: Vec<u64> = one
        .owned
        .values()
        .chain(two.owned.values())
        .map(|a| a.generation)
        .collect();
    if world.tells_generations() {
        assert!(first > 0 && later.iter().all(|g| *g > first), "{first} then {later:?}");
        assert_eq!(later[0], later[1], "one generation for the whole group");
    } else {
        assert!(
            later.iter().chain([&first]).all(|g| *g == 0),
            "0 where it cannot be read"
        );
    }
    one.consumer.control.close().await;
    two.consumer.control.close().await;
}
