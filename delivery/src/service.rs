//! The service as it is built: the topic checked, the group joined, the link server bound, then the driver runs.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use delivery_core::Worker;
use ordered_log::{Log, Pace, Topic};
use process::metrics::LOADS_TOTAL;
use process::{Drain, Kind};
use store::History;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use wire::WorkerId;

use crate::Options;
use crate::clock::Clock;
use crate::driver::Driver;
use crate::error::{Alarm, Error};
use crate::handle::{Handle, NewLink};
use crate::link_server::{LinkTls, serve};
use crate::owners::Announcer;
use crate::work::Tools;

/// Links that wait to be taken by the driver.
const NEW_LINKS: usize = 256;

/// The delivery role of one process, for one lane.
pub struct Service {
    options: Options,
    log: Arc<dyn Log>,
    store: Arc<dyn History>,
    handle: Handle,
    links: mpsc::Receiver<NewLink>,
    server: Option<(TcpListener, Option<LinkTls>)>,
}

impl Service {
    pub fn new(options: Options, log: Arc<dyn Log>, store: Arc<dyn History>) -> Self {
        // Drawn afresh: a restarted worker is a stranger.
        let mut random = std::hash::RandomState::new().build_hasher();
        random.write_u64(Clock::new().now_ms());
        let worker = WorkerId(random.finish().max(1));
        let (sender, links) = mpsc::channel(NEW_LINKS);
        let handle = Handle { worker, links: sender };
        Self {
            options,
            log,
            store,
            handle,
            links,
            server: None,
        }
    }

    /// For nodes of this process.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Takes links of other processes' nodes too, on a listener bound already.
    pub fn with_link_server(mut self, listener: TcpListener, tls: Option<LinkTls>) -> Self {
        self.server = Some((listener, tls));
        self
    }

    /// Delivers until the drain begins, then hands its partitions over.
    pub async fn run(self, drain: Drain) -> Result<(), Error> {
        let topics = &self.options.lane_topics;
        let topic: Topic = topics.messages().into();
        let other_topic = self.other_topic(&topic).await?;
        let producer = self.log.producer().await?;
        let consumer = self
            .log
            .consume(&topics.delivery_group(), &[topic], Pace::AtOnce)
            .await?;
        let tools = Tools {
            log: self.log,
            store: self.store,
            producer,
            control: Arc::clone(&consumer.control),
            announcer: Announcer {
                topic: topics.owners().into(),
                worker: self.handle.worker,
                name: self.options.name.clone(),
                link_address: self.options.link_advertise.clone().unwrap_or_default(),
            },
            persistence_group: topics.persistence_group(),
            load_failed: LOADS_TOTAL.with(&[("outcome", "failed")]),
        };
        if let Some((listener, tls)) = self.server {
            let serving = serve(listener, tls, self.handle.clone(), self.options.tasks.clone());
            self.options.tasks.spawn(Kind::Essential, "link-server", serving);
        }
        let core = Worker::new(delivery_core::Options {
            worker: self.handle.worker,
            name: self.options.name.clone(),
            topics: topics.clone(),
            bytes_budget: self.options.bytes_budget,
        });
        // The driver keeps no sender of its own links: only handles outside do.
        drop(self.handle);
        let mut driver = Driver::new(self.options, tools, consumer, core, self.links, other_topic);
        let end = driver.run(&drain).await;
        driver.let_go_of_all().await;
        end
    }

    /// The alarm of a topic that was re-made under its epoch.
    async fn other_topic(&self, topic: &Topic) -> Result<Option<Alarm>, Error> {
        let recorded = &self.options.messages_topic_id;
        if recorded.is_empty() {
            return Ok(None);
        }
        let found = self.log.topic(topic).await?;
        let found = found
            .ok_or_else(|| ordered_log::LogError::NoTopic(topic.to_string()))?
            .id;
        Ok((found != *recorded).then(|| Alarm::OtherTopic {
            topic: topic.to_string(),
            found,
            recorded: recorded.clone(),
            epoch: self.options.lane_topics.epoch,
        }))
    }
}
