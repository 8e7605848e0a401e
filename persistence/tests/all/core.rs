//! The pure part: any chunking gives equal rows, a death at any step and the replay after it change nothing, and every
//! record is accounted for.

use crate::support::{Rows, effect, logged, logged_record, marks, message};
use ordered_log::LogRecord;
use persistence::core::{Core, Counts, Loaded, Place};
use proptest::prelude::*;
use wire::record::SessionState;
use wire::{Epoch, Lane, Offset, Partition};

fn place() -> Place {
    Place {
        lane: Lane::new("core").unwrap(),
        epoch: Epoch(1),
        partition: Partition(0),
        partitions: 1,
    }
}

const CUSTOMERS: [&str; 4] = ["alice", "bob", "爱丽丝", "d/d"];

/// One record of the log: what it is, without its offset.
#[derive(Clone, Debug)]
enum Entry {
    Message {
        customer: usize,
        from_customer: bool,
        id: u32,
    },
    Effect {
        customer: usize,
        state: SessionState,
        seen: u64,
        numbered: bool,
        decision: u64,
    },
    Marks {
        customer: usize,
        recv: u64,
    },
    Garbage(Vec<u8>),
}

fn entry() -> impl Strategy<Value = Entry> {
    let state = prop_oneof![
        Just(SessionState::SessionActive),
        Just(SessionState::SessionQueued),
        Just(SessionState::SessionIdle)
    ];
    prop_oneof![
        8 => (0usize..4, any::<bool>(), 0u32..60)
            .prop_map(|(customer, from_customer, id)| Entry::Message { customer, from_customer, id }),
        2 => (0usize..4, state, 0u64..20, any::<bool>(), 0u64..60)
            .prop_map(|(customer, state, seen, numbered, decision)| Entry::Effect { customer, state, seen, numbered, decision }),
        1 => (0usize..4, 0u64..50).prop_map(|(customer, recv)| Entry::Marks { customer, recv }),
        1 => prop::collection::vec(any::<u8>(), 0..30).prop_map(Entry::Garbage),
    ]
}

fn log_of(entries: &[Entry]) -> Vec<LogRecord> {
    let at = |(i, e): (usize, &Entry)| {
        let offset = i as u64;
        match e {
            Entry::Message {
                customer,
                from_customer,
                id,
            } => {
                let user = if *from_customer { CUSTOMERS[*customer] } else { "bo" };
                let record = message(*from_customer, user, &format!("id-{id}"), &format!("text {i}"));
                logged_record(offset, CUSTOMERS[*customer], &record)
            }
            Entry::Effect {
                customer,
                state,
                seen,
                numbered,
                decision,
            } => logged_record(
                offset,
                CUSTOMERS[*customer],
                &effect(*decision, *state, *seen, *numbered),
            ),
            Entry::Marks { customer, recv } => logged(
                offset,
                None,
                Some(wire::codec::encode(&marks(0, CUSTOMERS[*customer], *recv))),
            ),
            Entry::Garbage(bytes) => logged(offset, Some("demo/alice".into()), Some(bytes.clone().into())),
        }
    };
    entries.iter().enumerate().map(at).collect()
}

/// Where a run dies: after so many steps (batch written, cut written, commit).
struct Run<'a> {
    rows: &'a mut Rows,
    committed: Offset,
    steps_left: usize,
    counts: Counts,
    dead_letters: Vec<u64>,
}

impl Run<'_> {
    fn step(&mut self) -> Option<()> {
        self.steps_left = self.steps_left.checked_sub(1)?;
        Some(())
    }

    /// `None`: it died. `chunks` are the batch sizes, in turn; a cut follows every `cut_every`-th batch.
    fn go(&mut self, log: &[LogRecord], chunks: &[usize], cut_every: usize, budget: usize) -> Option<()> {
        let mut core = Core::new(place(), self.committed, budget);
        let mut from = self.committed.0 as usize;
        let mut batch = 0;
        while from < log.len() {
            let size = chunks[batch % chunks.len()];
            let to = (from + size).min(log.len());
            let mut read = core.read(log[from..to].to_vec());
            for key in std::mem::take(&mut read.missing) {
                let stored = self.rows.load(&key);
                core.loaded(key, stored).unwrap();
            }
            let folded = core.fold(read);
            assert_eq!(folded.counts.records, folded.counts.accounted());
            add(&mut self.counts, &folded.counts);
            self.dead_letters
                .extend(folded.dead_letters.iter().map(|l| l.record.offset.0));
            self.step()?;
            // A write may stand in part: each conversation's rows are a batch of their own.
            let mut first = folded.write.clone();
            first.conversations.truncate(folded.write.conversations.len() / 2);
            self.rows.apply(first);
            self.step()?;
            self.rows.apply(folded.write);
            batch += 1;
            from = to;
            if batch % cut_every == 0 || from == log.len() {
                self.step()?;
                let cut = core.cut().expect("records were folded");
                self.rows.apply(cut.write);
                self.step()?;
                self.committed = cut.through;
                core.cut_done();
            }
        }
        Some(())
    }
}

fn add(sum: &mut Counts, more: &Counts) {
    sum.records += more.records;
    sum.rows += more.rows;
    sum.dead_letters += more.dead_letters;
    sum.repeats += more.repeats;
}

fn whole(log: &[LogRecord], chunks: &[usize], cut_every: usize, budget: usize) -> (Rows, Counts) {
    let mut rows = Rows::default();
    let mut run = Run {
        rows: &mut rows,
        committed: Offset(0),
        steps_left: usize::MAX,
        counts: Counts::default(),
        dead_letters: Vec::new(),
    };
    run.go(log, chunks, cut_every, budget).unwrap();
    assert_eq!(run.committed.0, log.len() as u64);
    let counts = run.counts;
    (rows, counts)
}

proptest! {
    #[test]
    fn any_chunking_and_any_memory_give_the_same_rows(
        entries in prop::collection::vec(entry(), 1..200),
        chunks in prop::collection::vec(1usize..40, 1..6),
        cut_every in 1usize..6,
        budget in prop_oneof![Just(1usize), Just(2_000), Just(usize::MAX)],
    ) {
        let log = log_of(&entries);
        let (one_by_one, counts) = whole(&log, &[1], 1, usize::MAX);
        let (chunked, chunked_counts) = whole(&log, &chunks, cut_every, budget);
        prop_assert_eq!(&one_by_one, &chunked);
        prop_assert_eq!(counts, chunked_counts);
        prop_assert_eq!(counts.records, log.len() as u64);
        prop_assert_eq!(counts.rows as usize, one_by_one.events.len());
    }

    #[test]
    fn a_death_at_any_step_and_the_replay_after_it_change_nothing(
        entries in prop::collection::vec(entry(), 1..120),
        chunks in prop::collection::vec(1usize..30, 1..4),
        cut_every in 1usize..5,
        deaths in prop::collection::vec(0usize..40, 1..6),
    ) {
        let log = log_of(&entries);
        let (want, _) = whole(&log, &[7], 2, usize::MAX);
        let mut rows = Rows::default();
        let mut committed = Offset(0);
        for steps in deaths.iter().copied().chain([usize::MAX]) {
            let mut run = Run { rows: &mut rows, committed, steps_left: steps, counts: Counts::default(), dead_letters: Vec::new() };
            let _ = run.go(&log, &chunks, cut_every, 2_000);
            committed = run.committed;
        }
        prop_assert_eq!(committed.0, log.len() as u64);
        prop_assert_eq!(&rows, &want);
        // I14: the group is set back to 0 and everything runs again.
        let mut again = Run { rows: &mut rows, committed: Offset(0), steps_left: usize::MAX, counts: Counts::default(), dead_letters: Vec::new() };
        again.go(&log, &chunks, cut_every, 2_000).unwrap();
        prop_assert_eq!(&rows, &want);
    }
}

#[test]
fn a_conversation_that_is_not_written_yet_is_never_let_go() {
    let log: Vec<LogRecord> = (0..40)
        .map(|i| logged_record(i, &format!("c{i}"), &message(true, &format!("c{i}"), "1", "hello")))
        .collect();
    let mut core = Core::new(place(), Offset(0), 1);
    let fold = |core: &mut Core, records: &[LogRecord]| {
        let mut read = core.read(records.to_vec());
        for key in std::mem::take(&mut read.missing) {
            core.loaded(key, None).unwrap();
        }
        core.fold(read)
    };
    fold(&mut core, &log[..20]);
    let cut = core.cut().unwrap();
    assert_eq!(cut.write.conversations.len(), 20);
    // While the cut is being written, more is folded; none of it may leave.
    fold(&mut core, &log[20..]);
    core.cut_done();
    assert_eq!(core.resident().0, 20);
    assert_eq!(core.cut().unwrap().write.conversations.len(), 20);
    core.cut_done();
    assert_eq!(core.resident().0, 0);
}

#[test]
fn a_conversation_that_a_batch_waits_for_is_never_let_go() {
    let log: Vec<LogRecord> = (0..3)
        .map(|i| logged_record(i, "alice", &message(true, "alice", &i.to_string(), "hello")))
        .collect();
    let mut core = Core::new(place(), Offset(0), 1);
    let mut read = core.read(log[..2].to_vec());
    for key in std::mem::take(&mut read.missing) {
        core.loaded(key, None).unwrap();
    }
    core.fold(read);
    assert!(core.cut().is_some());
    // Read before the cut is done, folded after it: alice must still be there with seq 2.
    let read = core.read(log[2..].to_vec());
    core.cut_done();
    let folded = core.fold(read);
    assert_eq!(folded.write.conversations[0].events[0].seq.0, 3);
}

#[test]
fn a_state_ahead_of_the_reading_is_reported() {
    let mut core = Core::new(place(), Offset(0), usize::MAX);
    let log = [logged_record(0, "alice", &message(true, "alice", "1", "hello"))];
    let mut read = core.read(log.to_vec());
    core.loaded(read.missing.pop().unwrap(), None).unwrap();
    core.fold(read);
    let mut rows = Rows::default();
    rows.apply(core.cut().unwrap().write);
    let stored = rows.load(&crate::support::key("alice"));
    let mut behind = Core::new(place(), Offset(0), usize::MAX);
    assert!(
        matches!(behind.loaded(crate::support::key("alice"), stored), Ok(Loaded::AheadOfReading(at)) if at.offset == Offset(0))
    );
}
