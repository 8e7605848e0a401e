//! Real dialogues, played by customers and agents through real sockets; then the whole history is read and compared byte for byte.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::pages::Pages;
use client::{Client, Handle, Incoming, Options, Tls};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;
use wire::frames::{AgentState, ConversationState};

use crate::Error;
use crate::args::Args;
use crate::corpus::{self, Topic};
use crate::report::{Language, Replay, Report};
use crate::stats::{Faults, Stats};
use crate::tokens::Signer;

/// Topics played at once.
const AT_ONCE: usize = 32;

pub async fn replay(args: &Args, dir: &Path, run: &str) -> Result<Report, Error> {
    let topics = corpus::read(dir)?;
    let signer = Arc::new(Signer::new(&args.tenant, &args.dev_secret));
    let prefix = args.prefix.clone().unwrap_or_else(|| format!("replay-{run}"));
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let secure = args
        .url
        .iter()
        .any(|u| u.starts_with("wss://") || u.starts_with("https://"));
    let tls = secure
        .then(|| crate::tls::authorities(args.ca.as_deref()))
        .transpose()?;
    let mut tasks = JoinSet::new();
    let all = topics.len();
    eprintln!("load: playing {all} topics …");
    for (i, topic) in topics.into_iter().enumerate() {
        let play = Play {
            url: args.url[i % args.url.len()].clone(),
            customer: format!("{prefix}-{}-{}", topic.language, topic.name),
            agent: format!("{prefix}-agent-{}-{}", topic.language, topic.name),
            patience: args.patience,
            tls: tls.clone(),
        };
        let (signer, room) = (signer.clone(), room.clone());
        tasks.spawn(async move {
            let _permit = room.acquire().await;
            let name = format!("{}/{}", topic.language, topic.name);
            let found = play.topic(&topic, &signer).await;
            (topic.language, name, found)
        });
    }
    let mut replay = Replay::default();
    let mut faults = Faults::default();
    let mut done = 0;
    while let Some(ended) = tasks.join_next().await {
        let (language, name, found) = ended.map_err(|e| Error::Task(e.to_string()))?;
        done += 1;
        if done % 50 == 0 {
            eprintln!("load: {done} of {all} topics …");
        }
        let found = found.map_err(|e| Error::Corpus(format!("{name}: {e}")))?;
        let sum = replay.languages.entry(language).or_default();
        sum.dialogues += found.counts.dialogues;
        sum.texts += found.counts.texts;
        sum.bytes += found.counts.bytes;
        sum.equal += found.counts.equal;
        sum.different += found.counts.different;
        for case in found.cases {
            faults.case(|| format!("{name}: {case}"));
        }
    }
    let mut report = Report::new(args, 0, &Stats::default());
    report.faults = faults;
    report.replay = Some(replay);
    Ok(report)
}

struct Play {
    url: String,
    customer: String,
    agent: String,
    patience: Duration,
    tls: Option<Tls>,
}

#[derive(Default)]
struct Found {
    counts: Language,
    cases: Vec<String>,
}

type Person = (Handle, Receiver<Incoming>);

impl Play {
    /// The customer begins, and they take turns; each waits until it has heard the other.
    async fn topic(&self, topic: &Topic, signer: &Signer) -> Result<Found, Error> {
        let tokens = [
            signer.token("customer", &self.customer)?,
            signer.token("agent", &self.agent)?,
        ];
        let mut agent = Client::connect(self.options(&tokens[1]));
        self.wait(&mut agent, "connected", |i| matches!(i, Incoming::Connected { .. }))
            .await?;
        agent
            .0
            .status(AgentState::Available, Some(crate::pair::AGENT_CAPACITY))
            .await
            .map_err(gone)?;
        let mut customer = Client::connect(self.options(&tokens[0]));
        self.wait(&mut customer, "connected", |i| matches!(i, Incoming::Connected { .. }))
            .await?;
        let request = format!(r#"{{"agent":"{}","only":true}}"#, self.agent);
        let request = RawValue::from_string(request).map_err(|e| Error::Corpus(e.to_string()))?;
        customer.0.act(None, "request", request).await.map_err(gone)?;
        for person in [&mut customer, &mut agent] {
            self.wait(person, "a conversation with its agent", |i| {
                matches!(i, Incoming::Conversation { conversation, state: ConversationState::Active, agent: Some(a), .. }
                    if *conversation == self.customer && *a == self.agent)
            })
            .await?;
        }
        let mut said: Vec<Box<RawValue>> = Vec::new();
        let mut last_seq = 0;
        for dialogue in &topic.dialogues {
            for (turn, text) in dialogue.iter().enumerate() {
                let body = client::text_body(text);
                let (speaker, listener) = match turn % 2 {
                    0 => (&mut customer, &mut agent),
                    _ => (&mut agent, &mut customer),
                };
                let id = speaker.0.send(Some(&self.customer), body.clone()).await.map_err(gone)?;
                self.wait(listener, "the other's text", |i| match i {
                    Incoming::Event(e) if e.id.as_deref() == Some(&id) => {
                        last_seq = e.seq;
                        true
                    }
                    _ => false,
                })
                .await?;
                // What the speaker hears about it is read away, so that nothing piles up.
                while speaker.1.try_recv().is_ok() {}
                said.push(body);
            }
        }
        let mut found = self.compare(&said, &tokens[0], last_seq).await?;
        found.counts.dialogues = topic.dialogues.len() as u64;
        Ok(found)
    }

    fn options(&self, token: &str) -> Options {
        Options {
            tls: self.tls.clone(),
            ..Options::new(&self.url, token)
        }
    }

    async fn wait(&self, person: &mut Person, what: &str, mut is: impl FnMut(&Incoming) -> bool) -> Result<(), Error> {
        let waiting = async {
            loop {
                match person.1.recv().await {
                    None => return Err(Error::Corpus("the connection ended".into())),
                    Some(Incoming::Refused { code, message, .. }) => {
                        return Err(Error::Corpus(format!("refused {}: {message}", code.as_str())));
                    }
                    Some(Incoming::Disconnected { code, reason, .. }) => {
                        eprintln!("load: {}: disconnected {code:?} {reason}", self.customer);
                    }
                    Some(incoming) if is(&incoming) => return Ok(()),
                    Some(_) => {}
                }
            }
        };
        match tokio::time::timeout(self.patience, waiting).await {
            Ok(waited) => waited,
            Err(_) => Err(Error::Corpus(format!("waited in vain for {what}"))),
        }
    }

    /// History has every text, in order, with the bytes that were sent.
    async fn compare(&self, said: &[Box<RawValue>], token: &str, last_seq: u64) -> Result<Found, Error> {
        let pages = Pages::over(&self.url, self.tls.clone())?;
        let begun = Instant::now();
        let events = loop {
            let events = pages.all(token, &self.customer, 0, u64::MAX).await?;
            // The store follows the log.
            if events.last().is_some_and(|e| e.seq >= last_seq) || begun.elapsed() > self.patience {
                break events;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let mut found = Found::default();
        for (at, event) in events.iter().enumerate() {
            if event.seq != at as u64 + 1 {
                found
                    .cases
                    .push(format!("place {} of the history has seq {}", at + 1, event.seq));
                found.counts.different += 1;
                break;
            }
        }
        let bodies: Vec<&str> = events.iter().filter_map(|e| e.body()).collect();
        for (at, body) in said.iter().enumerate() {
            found.counts.texts += 1;
            found.counts.bytes += body.get().len() as u64;
            if bodies.get(at) == Some(&body.get()) {
                found.counts.equal += 1;
            } else {
                found.counts.different += 1;
                let stored = bodies.get(at).unwrap_or(&"nothing");
                found
                    .cases
                    .push(format!("text {at}: sent {}, history has {stored}", body.get()));
            }
        }
        if bodies.len() > said.len() {
            found.counts.different += 1;
            found
                .cases
                .push(format!("{} texts were sent, history has {}", said.len(), bodies.len()));
        }
        Ok(found)
    }
}

fn gone(_: client::Gone) -> Error {
    Error::Corpus("the connection ended".into())
}
