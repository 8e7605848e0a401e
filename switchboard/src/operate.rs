//! `switchboard control`: what operators decide while the platform runs, as records of the control topic. Every process follows them
//! within 2 s; a revocation closes live connections within 5.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use ordered_log::{Log, LogError, TailEvent, append};
use process::config::LogKind;
use process::control::{ControlState, Feature};
use process::logging::clean;
use process::{Config, Exit};
use prost::Message;
use serde_json::json;
use wire::record::{Control, Revoke, Switch, control};
use wire::topics::CONTROL;
use wire::{Lane, Partition, Tenant, User};

use crate::control::wall_ms;
use crate::{Failed, open};

/// The topic is small; whoever cannot read it in this time cannot reach the log.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// Orders go through Kafka. An embedded log is open in its one process, and nobody else can write to it.
#[derive(Args, Debug)]
pub struct ControlArgs {
    #[command(subcommand)]
    order: Order,
    /// The configuration; see deploy/switchboard.toml for every key
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    /// One key of the configuration, as section.key=value
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = crate::serve::parse_override, global = true)]
    overrides: Vec<(String, String)>,
}

#[derive(Subcommand, Debug)]
enum Order {
    /// Print the switches that count now, and the revocations
    Show,
    /// Hold a feature off, or let it go on
    Switch(SwitchArgs),
    /// End a user's connections, and refuse every token issued until now
    Revoke(UserArgs),
    /// Forget a revocation: older tokens count again, if they have not expired
    Restore(UserArgs),
}

#[derive(Args, Debug)]
struct SwitchArgs {
    /// typing, presence, receipts, history_search, webhooks, attachments or new_sessions
    #[arg(value_parser = feature)]
    feature: Feature,
    setting: Setting,
    /// Only in this lane (default: in all)
    #[arg(long)]
    lane: Option<Lane>,
    /// Only for this tenant (default: for all)
    #[arg(long)]
    tenant: Option<Tenant>,
    /// Counts for so long, and then no more (default: until changed)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    minutes: Option<u32>,
    /// Why; shown with the switch
    #[arg(long)]
    why: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Setting {
    On,
    Off,
    /// Take this switch away: a wider one decides, else the feature is on
    Default,
}

#[derive(Args, Debug)]
struct UserArgs {
    tenant: Tenant,
    user: User,
}

fn feature(name: &str) -> Result<Feature, String> {
    let all = || Feature::ALL.map(Feature::as_str).join(", ");
    Feature::from_name(name).ok_or_else(|| format!("there are {}", all()))
}

/// A record to be: its key, and what it says (`None`: the key is taken away).
struct Decision {
    key: String,
    about: Option<control::About>,
}

impl Decision {
    fn value(&self, version: u64) -> Option<Vec<u8>> {
        let about = self.about.clone()?;
        let record = Control {
            version,
            about: Some(about),
        };
        Some(record.encode_to_vec())
    }
}

/// Above every version that was read, and above those that compaction took from the topic with what was taken back: processes that run
/// on still know them, and what is not above them changes nothing there.
fn next_version(state: &ControlState, now_ms: i64) -> u64 {
    (state.version() + 1).max(u64::try_from(now_ms).unwrap_or(0))
}

impl Order {
    /// A switch taken away has neither an end nor a reason.
    fn makes_sense(&self) -> Result<(), Failed> {
        match self {
            Order::Switch(s) if s.setting == Setting::Default && (s.minutes.is_some() || s.why.is_some()) => {
                let text = "`default` takes the switch away: --minutes and --why go with `on` and `off`";
                Err(Failed::new(Exit::Usage, text))
            }
            _ => Ok(()),
        }
    }

    /// `None`: nothing is decided, only shown.
    fn decision(&self, now_ms: i64) -> Option<Decision> {
        let revocation = |of: &UserArgs| format!("revoke/{}/{}", of.tenant, of.user);
        Some(match self {
            Order::Show => return None,
            Order::Switch(args) => args.decision(now_ms),
            Order::Revoke(of) => Decision {
                key: revocation(of),
                about: Some(control::About::Revoke(Revoke {
                    tenant: of.tenant.to_string(),
                    user: of.user.to_string(),
                    before_ms: now_ms,
                })),
            },
            Order::Restore(of) => Decision {
                key: revocation(of),
                about: None,
            },
        })
    }
}

impl SwitchArgs {
    fn decision(&self, now_ms: i64) -> Decision {
        let lane = self.lane.as_ref().map(Lane::to_string).unwrap_or_default();
        let tenant = self.tenant.as_ref().map(Tenant::to_string).unwrap_or_default();
        let until_ms = self.minutes.map_or(0, |n| now_ms + i64::from(n) * 60_000);
        Decision {
            key: format!("switch/{lane}/{tenant}/{}", self.feature.as_str()),
            about: (self.setting != Setting::Default).then(|| {
                control::About::Switch(Switch {
                    lane,
                    tenant,
                    name: self.feature.as_str().into(),
                    on: self.setting == Setting::On,
                    until_ms,
                    why: self.why.clone().unwrap_or_default(),
                })
            }),
        }
    }
}

pub fn run(args: ControlArgs) -> Result<Exit, Failed> {
    let config = Config::load(args.config.as_deref(), std::env::vars(), &args.overrides)
        .and_then(|config| config.validate().map(|()| config))
        .map_err(|e| Failed::new(Exit::Config, e))?;
    if config.log.kind == LogKind::Embedded {
        let text = "an embedded log belongs to its one process, and takes no orders from another; for Kafka's name the configuration (--config FILE), or --set log.kind=kafka --set 'log.brokers=[\"HOST:PORT\"]'";
        return Err(Failed::new(Exit::Usage, text));
    }
    args.order.makes_sense()?;
    crate::runtime(1)?.block_on(async {
        let log = open::log(&config).await?;
        let mut state = heard(&log).await?;
        if let Some(decision) = args.order.decision(wall_ms()) {
            changes_something(&state, &decision)?;
            decide(&config, &log, &state, &decision).await?;
            state = heard(&log).await?;
            is_in_force(&state, &decision)?;
        }
        print!("{}", shown(&state, wall_ms()));
        Ok(Exit::Ok)
    })
}

/// All that the topic says now.
async fn heard(log: &Arc<dyn Log>) -> Result<ControlState, Failed> {
    let unavailable = |e: LogError| Failed::new(Exit::Unavailable, e);
    let reading = async {
        let mut tail = log.tail(CONTROL.into()).await.map_err(unavailable)?;
        let mut state = ControlState::default();
        while let Some(event) = tail.recv().await {
            let TailEvent::Record(record) = event else {
                return Ok(state);
            };
            if let Some(key) = &record.key {
                // What cannot be read counts nowhere, here neither.
                let _ = state.apply(key, record.value.as_deref());
            }
        }
        let text = "the control topic ended before all of it was read; try again";
        Err(Failed::new(Exit::Unavailable, text))
    };
    let late = |_| Failed::new(Exit::Unavailable, "the control topic cannot be read; is the log there?");
    tokio::time::timeout(READ_WITHIN, reading).await.map_err(late)?
}

/// What is not there cannot be taken away: most likely it stands under another lane or tenant.
fn changes_something(state: &ControlState, what: &Decision) -> Result<(), Failed> {
    if what.about.is_some() || !state.says(what.key.as_bytes(), None) {
        return Ok(());
    }
    let text = format!(
        "there is no {} to take away; give the lane and tenant it was set with. What is set:\n{}",
        clean(&what.key),
        shown(state, wall_ms()).trim_end()
    );
    Err(Failed::new(Exit::Usage, text))
}

async fn decide(config: &Config, log: &Arc<dyn Log>, state: &ControlState, what: &Decision) -> Result<(), Failed> {
    let recorder = open::recorder(config, "operator")?;
    let version = next_version(state, wall_ms());
    // Before it is there: others may apply it before we hear that it is.
    if let Some(about) = &what.about {
        let on = !matches!(about, control::About::Switch(s) if !s.on);
        recorder.ok("control", || json!({ "key": what.key, "version": version, "on": on }));
    }
    let producer = log.producer().await.map_err(|e| Failed::new(Exit::Unavailable, e))?;
    append(
        producer.as_ref(),
        CONTROL.into(),
        Partition(0),
        Some(what.key.clone().into()),
        what.value(version).map(Into::into),
    )
    .await
    .map_err(|e| {
        let text = format!("{e}; whether it counts shows `switchboard control show`: if it does not, decide again");
        Failed::new(Exit::Unavailable, text)
    })?;
    Ok(())
}

/// Two operators at once may have read the same version; then the second one's record counts nowhere.
fn is_in_force(state: &ControlState, what: &Decision) -> Result<(), Failed> {
    if state.says(what.key.as_bytes(), what.about.as_ref()) {
        return Ok(());
    }
    let text = "somebody else decided the same thing at the same moment: theirs counts; look with `switchboard control show`, and try again";
    Err(Failed::new(Exit::Unavailable, text))
}

fn shown(state: &ControlState, now_ms: i64) -> String {
    let mut lines = Vec::new();
    for (feature, lane, tenant, switch) in state.switches(now_ms) {
        let all = |name: &str| {
            if name.is_empty() {
                "(all)".to_owned()
            } else {
                clean(name).to_string()
            }
        };
        let until = match switch.until_ms {
            0 => String::new(),
            ms => format!(", for {} min", (ms - now_ms).max(0) / 60_000 + 1),
        };
        let why = if switch.why.is_empty() {
            String::new()
        } else {
            format!(": {}", clean(&switch.why))
        };
        lines.push(format!(
            "switch  {:<15} {:<4} lane {}, tenant {}{until}{why}",
            feature.as_str(),
            if switch.on { "on" } else { "off" },
            all(lane),
            all(tenant),
        ));
    }
    for (tenant, user, before_ms) in state.revocations() {
        let ago = (now_ms - before_ms).max(0) / 1_000;
        let (tenant, user) = (clean(tenant), clean(user));
        lines.push(format!("revoked {tenant} {user}: tokens issued more than {ago} s ago"));
    }
    if lines.is_empty() {
        lines.push("no switch is set, nobody is revoked".into());
    }
    lines.push(String::new());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use process::control::Applied;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        control: ControlArgs,
    }

    fn parsed(line: &str) -> Order {
        let words = std::iter::once("control").chain(line.split(' '));
        Line::try_parse_from(words).unwrap().control.order
    }

    /// What is written for this command line, as every process then reads it.
    fn applied(state: &mut ControlState, line: &str, now_ms: i64) -> Decision {
        let decision = parsed(line).decision(now_ms).unwrap();
        assert!(changes_something(state, &decision).is_ok(), "{line}");
        let value = decision.value(next_version(state, now_ms));
        state.apply(decision.key.as_bytes(), value.as_deref()).unwrap();
        assert!(is_in_force(state, &decision).is_ok(), "{line}");
        decision
    }

    #[test]
    fn what_is_decided_is_what_processes_read() {
        let (lane, demo) = (Lane::new("standard").unwrap(), Tenant::new("demo").unwrap());
        let mut state = ControlState::default();
        applied(
            &mut state,
            "switch typing off --tenant demo --minutes 2 --why busy",
            1_000,
        );
        assert!(!state.is_on(Feature::Typing, &lane, &demo, 120_999));
        assert!(state.is_on(Feature::Typing, &lane, &demo, 121_000), "its time is over");
        applied(&mut state, "switch typing default --tenant demo", 2_000);
        assert!(state.is_on(Feature::Typing, &lane, &demo, 2_000));
        applied(&mut state, "revoke demo a/b", 5_000);
        assert!(state.is_revoked("demo", "a/b", 4_999) && !state.is_revoked("demo", "a/b", 5_000));
        let text = shown(&state, 8_000);
        assert!(
            text.contains("revoked demo a/b: tokens issued more than 3 s ago"),
            "{text}"
        );
        applied(&mut state, "restore demo a/b", 9_000);
        assert_eq!(shown(&state, 9_000), "no switch is set, nobody is revoked\n");
    }

    #[test]
    fn a_decision_that_lost_against_anothers_is_told() {
        let mut state = ControlState::default();
        let mine = applied(&mut state, "switch typing off", 1_000);
        applied(&mut state, "switch typing on", 1_000);
        assert!(is_in_force(&state, &mine).is_err());
    }

    #[test]
    fn a_second_revocation_counts_where_the_first_is_remembered_though_the_topic_has_forgotten_it() {
        let mut running = ControlState::default();
        for (line, at_ms) in [("switch typing off", 3), ("revoke demo al", 4), ("restore demo al", 5)] {
            applied(&mut running, line, at_ms);
        }
        // Compaction took the revocation and what took it back: an operator's command reads nothing of them.
        let read = ControlState::default();
        let again = parsed("revoke demo al").decision(9_000).unwrap();
        let value = again.value(next_version(&read, 9_000));
        assert_eq!(
            running.apply(again.key.as_bytes(), value.as_deref()),
            Ok(Applied::Changed)
        );
        assert!(running.is_revoked("demo", "al", 8_999));
    }

    #[test]
    fn an_order_that_changes_nothing_is_told() {
        let mut state = ControlState::default();
        applied(&mut state, "switch typing off --tenant demo", 1_000);
        for line in ["switch typing default", "restore demo al"] {
            let why = changes_something(&state, &parsed(line).decision(2_000).unwrap()).unwrap_err();
            assert!(
                why.text.contains("typing") && why.text.contains("tenant demo"),
                "{}",
                why.text
            );
        }
        assert!(parsed("switch typing default --minutes 3").makes_sense().is_err());
        assert!(Line::try_parse_from(["control", "switch", "typing", "off", "--minutes", "0"]).is_err());
        assert!(Line::try_parse_from(["control", "revoke", "demo", ""]).is_err());
    }

    #[test]
    fn an_unknown_feature_is_refused_with_those_there_are() {
        let refused = Line::try_parse_from(["control", "switch", "tping", "off"])
            .err()
            .unwrap()
            .to_string();
        assert!(
            refused.contains("typing") && refused.contains("new_sessions"),
            "{refused}"
        );
    }
}
