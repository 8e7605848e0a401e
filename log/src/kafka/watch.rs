//! Sees partitions that stand still: the log holds more, nobody paused them, and no record comes (gotcha 7 of
//! RELIABILITY.md). Each is shown in a gauge and in the log, told to the member's owner, and fetched anew.
//!
//! A thread of its own, because it asks the broker: neither polling nor commits wait for that. A partition whose place is
//! outside the log is told and left alone: going on elsewhere would be a silent loss.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use process::metrics::{Gauge, PARTITION_STALLED};
use wire::Offset;

use super::consumer::Command;
use super::reader::Reader;
use super::rebalance::Member;
use crate::{Bounds, TopicPartition};

const LOOK: Duration = Duration::from_secs(1);

/// A place, since when a partition has been there, and its gauge if it was found stalled.
struct Seen {
    next: Offset,
    since: Instant,
    stalled: Option<Gauge>,
}

impl Seen {
    fn at(next: Offset) -> Self {
        Self {
            next,
            since: Instant::now(),
            stalled: None,
        }
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        if let Some(gauge) = &self.stalled {
            gauge.set(0.0);
        }
    }
}

/// Until the member ends.
pub(super) fn run(member: &Member, reader: &Reader) {
    let stalled_after = Duration::from_millis(member.options.stalled_after_ms);
    let mut seen: HashMap<TopicPartition, Seen> = HashMap::new();
    while !member.closing.load(Ordering::Acquire) && !member.is_deserted() {
        std::thread::sleep(LOOK.min(stalled_after));
        let wanting: HashMap<TopicPartition, Offset> = member.polled.lock().wanting().into_iter().collect();
        // Moved on, paused, or not ours any more.
        seen.retain(|at, seen| {
            let stays = wanting.get(at) == Some(&seen.next);
            if !stays && seen.stalled.is_some() {
                tracing::info!(topic = %at.topic, partition = at.partition.0, "a stalled partition goes on");
            }
            stays
        });
        for (at, next) in wanting {
            let seen = seen.entry(at.clone()).or_insert_with(|| Seen::at(next));
            if seen.since.elapsed() >= stalled_after {
                seen.since = Instant::now();
                // A broker that does not answer is told of by whoever needs it.
                if let Ok(bounds) = reader.bounds(&at) {
                    look_at(member, &at, seen, bounds);
                }
            }
        }
    }
}

fn look_at(member: &Member, at: &TopicPartition, seen: &mut Seen, Bounds { start, end }: Bounds) {
    let next = seen.next;
    if next == end {
        return;
    }
    let is_inside = next >= start && next < end;
    let what = if is_inside {
        format!(
            "{} {} stands still at {next} though the log holds {start}..{end}",
            at.topic, at.partition
        )
    } else {
        format!(
            "{} {} is read at {next}, but the log holds {start}..{end}",
            at.topic, at.partition
        )
    };
    if seen.stalled.is_none() {
        let partition = at.partition.to_string();
        let gauge = PARTITION_STALLED.with(&[("group", role_of(&member.group)), ("partition", &partition)]);
        gauge.set(1.0);
        seen.stalled = Some(gauge);
    }
    tracing::error!(group = member.group, "{what}");
    member.polled.lock().note(Some(what));
    if is_inside {
        member.commands.lock().push_back(Command::Revive(at.clone()));
    }
    member.wake.ring();
}

/// `persistence` of `switchboard.core.persistence.e1`: what the roles call their groups in metrics.
fn role_of(group: &str) -> &str {
    let role = group.rsplit_once('.').and_then(|(rest, _)| rest.rsplit_once('.'));
    role.map_or(group, |(_, role)| role)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_role_is_the_part_before_its_epoch() {
        let topics = wire::LaneTopics {
            lane: wire::Lane::new("core").unwrap(),
            epoch: wire::Epoch(7),
            partitions: 1,
        };
        assert_eq!(role_of(&topics.persistence_group()), "persistence");
        assert_eq!(role_of(&topics.delivery_group()), "delivery");
        assert_eq!(role_of("g"), "g");
    }
}
