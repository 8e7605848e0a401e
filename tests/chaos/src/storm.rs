//! Which faults come when: rounds of one to three at a time, drawn from one seed, each followed by a calm in which everything must mend
//! itself. The plan depends on the seed alone; what the faults meet does not.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use system::Failed;
use system::house::PROCESSES;

use crate::acts::Active;
use crate::faults::{FAULTS, Fault, Whom};
use crate::lab::Lab;
use crate::servers::BROKERS;
use crate::tools::Tools;

/// People talk undisturbed for so long between two rounds.
const CALM: Duration = Duration::from_secs(5);
/// Faults of a round begin within this.
const SPREAD_MS: u64 = 4_000;
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// One fault as it was.
pub struct Happened {
    pub fault: &'static Fault,
    pub target: String,
    /// Since the storm began.
    pub at: Duration,
    pub held: Duration,
    pub hits: u64,
    pub sends: usize,
    pub notes: Vec<String>,
}

/// What one storm was.
#[derive(Default)]
pub struct Story {
    pub happened: Vec<Happened>,
    pub rounds: usize,
    /// The longest time from the end of a round's faults until everything was ready.
    pub mended_worst: Duration,
    /// What did not mend itself, or did not leave when told to; the storm ends with the first.
    pub failures: Vec<String>,
    /// Faults that can't be done here, and what they lack.
    pub not_offered: Vec<(&'static str, &'static str)>,
}

/// One fault of a round, before it begins.
pub struct Drawn {
    pub fault: &'static Fault,
    pub targets: Vec<String>,
    pub after: Duration,
    pub hold: Duration,
    pub rng: ChaCha8Rng,
}

/// A round: one to three faults, no two at one target.
pub fn draw(rng: &mut ChaCha8Rng, offered: &[&'static Fault]) -> Vec<Drawn> {
    let many = rng.random_range(1..=3);
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut drawn = Vec::new();
    // Whoever finds no room is not drawn; a few tries find one.
    for _ in 0..20 {
        if drawn.len() == many {
            break;
        }
        let weighed = offered.choose_weighted(rng, |fault| fault.weight.max(1));
        let Ok(&fault) = weighed else { break };
        let targets = targets(rng, fault);
        let rooms: Vec<String> = targets.iter().map(|t| room(t)).collect();
        if rooms.iter().any(|room| taken.contains(room)) {
            continue;
        }
        taken.extend(rooms);
        drawn.push(Drawn {
            fault,
            targets,
            after: Duration::from_millis(rng.random_range(0..SPREAD_MS)),
            hold: Duration::from_millis(rng.random_range(fault.hold_s.0 * 1_000..=fault.hold_s.1 * 1_000)),
            rng: ChaCha8Rng::seed_from_u64(rng.random()),
        });
    }
    drawn
}

/// All brokers are one room: what is done to a few of them is done to the cluster.
fn room(target: &str) -> String {
    let broker = target.starts_with("broker-");
    if broker { "brokers".into() } else { target.into() }
}

fn targets(rng: &mut ChaCha8Rng, fault: &Fault) -> Vec<String> {
    let named = |prefixes: &[&str]| -> Vec<&str> {
        let all = PROCESSES.iter().map(|(name, _)| *name);
        all.filter(|name| prefixes.iter().any(|p| name.starts_with(p)))
            .collect()
    };
    match fault.whom {
        Whom::Process(prefixes) => {
            let of = named(prefixes);
            of.choose(rng).map(|name| (*name).to_owned()).into_iter().collect()
        }
        Whom::Workers => named(&["worker"]).into_iter().map(str::to_owned).collect(),
        Whom::Store => vec!["store".into()],
        Whom::Topics => vec!["topics".into()],
        Whom::Brokers => {
            let first = rng.random_range(0..BROKERS);
            let two = fault.deed == crate::faults::Deed::KillTwoBrokers
                || fault.deed == crate::faults::Deed::FreezeTwoBrokers;
            let many = if two { 2 } else { 1 };
            let ids = (0..many).map(|i| (first + i) % BROKERS + 1);
            ids.map(|id| format!("broker-{id}")).collect()
        }
    }
}

/// What can be done here, of what is wanted; an empty `only`: everything.
pub fn offered(tools: &Tools, only: &[String]) -> (Vec<&'static Fault>, Vec<(&'static str, &'static str)>) {
    let wanted = FAULTS.iter().filter(|fault| {
        if only.is_empty() {
            fault.weight > 0
        } else {
            only.iter()
                .any(|name| name == fault.name || fault.rows.contains(&name.as_str()))
        }
    });
    let (mut can, mut cannot) = (Vec::new(), Vec::new());
    for fault in wanted {
        match fault.lacks(tools) {
            None => can.push(fault),
            Some(what) => cannot.push((fault.name, what)),
        }
    }
    (can, cannot)
}

/// Rounds until the time is over; in the first one `first` alone, if it is named.
pub async fn rage(
    lab: &mut Lab,
    seed: u64,
    lasts: Duration,
    first: Option<&str>,
    only: &[String],
) -> Result<Story, Failed> {
    let (offered, not_offered) = offered(&lab.tools, only);
    if offered.is_empty() {
        return Err(Failed(format!(
            "none of these faults can be done here: {not_offered:?}"
        )));
    }
    let mut story = Story {
        not_offered,
        ..Story::default()
    };
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let began = Instant::now();
    // A first word from everybody.
    tokio::time::sleep(CALM).await;
    while began.elapsed() < lasts {
        let round = match first.and_then(Fault::named).filter(|_| story.rounds == 0) {
            Some(first) => draw(&mut rng, &[first]),
            None => draw(&mut rng, &offered),
        };
        story.rounds += 1;
        println!("round {} at {:.0?}", story.rounds, began.elapsed());
        let mended = match live(lab, round, began, &mut story).await {
            Ok(()) => lab.mended().await,
            Err(why) => Err(why),
        };
        match mended {
            Ok(took) => story.mended_worst = story.mended_worst.max(took),
            // What the people's history says of it is worth more than to leave here.
            Err(Failed(why)) => {
                story.failures.push(why);
                break;
            }
        }
        tokio::time::sleep(CALM).await;
    }
    Ok(story)
}

/// A fault that is on: until when, and when its next step is.
struct On {
    active: Active,
    began: Instant,
    until: Instant,
    next_step: Option<Instant>,
    sends: usize,
}

async fn live(lab: &mut Lab, round: Vec<Drawn>, storm_began: Instant, story: &mut Story) -> Result<(), Failed> {
    let began = Instant::now();
    let mut waiting = round;
    waiting.sort_by_key(|drawn| drawn.after);
    let mut waiting = std::collections::VecDeque::from(waiting);
    let mut on: Vec<On> = Vec::new();
    let sent = |lab: &Lab| lab.run.people.mood.sent.load(Ordering::SeqCst);
    while !waiting.is_empty() || !on.is_empty() {
        if waiting.front().is_some_and(|next| began.elapsed() >= next.after)
            && let Some(next) = waiting.pop_front()
        {
            let mut active = Active::new(next.fault, next.targets, next.rng);
            println!("    {} {}", active.fault.name, active.target());
            let (now, sends) = (Instant::now(), sent(lab));
            active.begin(lab).await?;
            on.push(On {
                next_step: next_step(next.fault),
                until: now + next.hold,
                began: now,
                sends,
                active,
            });
        }
        for one in &mut on {
            if one.next_step.is_some_and(|at| at <= Instant::now()) {
                one.active.step(lab).await?;
                one.next_step = next_step(one.active.fault);
            }
        }
        while let Some(over) = on.iter().position(|one| one.until <= Instant::now()) {
            let mut one = on.swap_remove(over);
            one.active.end(lab).await?;
            let (name, target, hits) = (one.active.fault.name, one.active.target(), one.active.hits);
            println!(
                "    {name} {target} is over after {:.1?}, {hits} hits",
                one.began.elapsed()
            );
            story.happened.push(Happened {
                fault: one.active.fault,
                target,
                at: one.began - storm_began,
                held: one.began.elapsed(),
                hits,
                sends: sent(lab) - one.sends,
                notes: one.active.notes,
            });
        }
        lab.supervise()?;
        tokio::time::sleep(LOOK_AFTER).await;
    }
    Ok(())
}

fn next_step(fault: &Fault) -> Option<Instant> {
    (fault.step_ms > 0).then(|| Instant::now() + Duration::from_millis(fault.step_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> Vec<String> {
        let all: Vec<&Fault> = FAULTS.iter().collect();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let rounds = (0..20).flat_map(|_| draw(&mut rng, &all));
        rounds
            .map(|d| format!("{} {} {:?} {:?}", d.fault.name, d.targets.join(" "), d.after, d.hold))
            .collect()
    }

    #[test]
    fn the_same_seed_plans_the_same_storm() {
        assert_eq!(plan(7), plan(7));
        assert_ne!(plan(7), plan(8));
    }

    #[test]
    fn a_round_has_one_to_three_faults_and_no_two_at_one_target() {
        let all: Vec<&Fault> = FAULTS.iter().collect();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut seen = BTreeSet::new();
        for _ in 0..2_000 {
            let round = draw(&mut rng, &all);
            assert!((1..=3).contains(&round.len()));
            let rooms: Vec<String> = round.iter().flat_map(|d| d.targets.iter().map(|t| room(t))).collect();
            let brokers = |t: &&String| t.as_str() == "brokers";
            // Two brokers of one fault are one room.
            let others: BTreeSet<&String> = rooms.iter().filter(|t| !brokers(t)).collect();
            assert_eq!(others.len(), rooms.iter().filter(|t| !brokers(t)).count(), "{rooms:?}");
            let broker_faults = round.iter().filter(|d| d.fault.whom == Whom::Brokers).count();
            assert!(broker_faults <= 1);
            seen.extend(round.iter().map(|d| d.fault.name));
        }
        assert_eq!(seen.len(), FAULTS.len(), "every fault is drawn some time");
    }

    #[test]
    fn only_takes_names_and_rows() {
        let all = Tools {
            strace: true,
            ..Tools::default()
        };
        let names = |only: &[&str]| -> Vec<&str> {
            let only: Vec<String> = only.iter().map(|s| (*s).to_owned()).collect();
            offered(&all, &only).0.iter().map(|f| f.name).collect()
        };
        assert_eq!(names(&["frozen"]), ["frozen"]);
        assert_eq!(names(&["F13"]), ["stutter", "slow-disk"]);
        assert_eq!(offered(&all, &["F26".into()]).1.len(), 1);
    }
}
