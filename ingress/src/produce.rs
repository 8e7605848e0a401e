//! Steps of a session → records of the log. The one place where a client's frame becomes a record.

use std::sync::Arc;

use bytes::Bytes;
use ingress_core::{NewAct, NewRecord, Reported};
use ordered_log::{Appended, ProduceError, Reports, ToProduce, Topic};
use process::Recorder;
use serde_json::{Value, json};
use wire::codec::{self, RECORD_VERSION};
use wire::record::{self, Audience, DeskRecord, Kind, Origin, Record, Role, Sender, desk_record};
use wire::{ConnectionId, ConversationKey, NodeId, Partition, Tenant, User};

use crate::clock::Clock;
use crate::conn::{Conn, report_token};
use crate::node::Node;

/// On whose behalf, and for which connection, something is produced.
pub struct Author<'a> {
    pub tenant: &'a Tenant,
    pub user: &'a User,
    pub role: Role,
    pub groups: &'a [String],
    pub priority: u32,
    /// `None` for a request without a session.
    pub origin: Option<(NodeId, ConnectionId)>,
}

impl Author<'_> {
    fn sender(&self) -> Sender {
        Sender {
            role: self.role.into(),
            user: self.user.as_str().to_owned(),
        }
    }

    fn origin(&self) -> Option<Origin> {
        self.origin.map(|(node, connection)| Origin {
            node: node.0,
            connection: connection.0,
        })
    }
}

/// Where a record goes, and who hears how it fared.
struct Destination {
    topic: Topic,
    partition: Partition,
    key: Bytes,
    token: u64,
    reports: Arc<dyn Reports>,
}

/// Writes into the history that the log has a record, before anybody can be told `sent` (I13).
struct Recorded {
    recorder: Recorder,
    record: Value,
    reports: Arc<dyn Reports>,
}

impl Recorded {
    fn wrap(
        node: &Node,
        author: &Author<'_>,
        new: &NewRecord<'_>,
        partition: Partition,
        reports: Arc<dyn Reports>,
    ) -> Arc<dyn Reports> {
        Arc::new(Recorded {
            recorder: node.recorder.clone(),
            record: json!({
                "partition": partition.0,
                "tenant": author.tenant.as_str(),
                "conversation": new.conversation.as_str(),
                "id": new.id.as_str(),
                "from_user": author.user.as_str(),
            }),
            reports,
        })
    }
}

impl Reports for Recorded {
    fn report(&self, token: u64, outcome: Result<Appended, ProduceError>) {
        if let Ok(appended) = &outcome {
            self.recorder.ok("record", || {
                let mut record = self.record.clone();
                record["offset"] = json!(appended.offset.0);
                record
            });
        }
        self.reports.report(token, outcome);
    }

    fn flush(&self) {
        self.reports.flush();
    }
}

impl Node {
    /// A numbered record into `messages`. An error is definite: the record will not appear.
    pub fn produce_record(
        &self,
        author: &Author<'_>,
        new: &NewRecord<'_>,
        received_ms: u64,
        reports: Arc<dyn Reports>,
    ) -> Result<(), ProduceError> {
        let record = Record {
            version: RECORD_VERSION,
            kind: Kind::Message.into(),
            numbered: true,
            wants_agent: new.wants_agent,
            audience: if new.staff_only {
                Audience::Staff
            } else {
                Audience::Everyone
            }
            .into(),
            from: Some(author.sender()),
            id: new.id.as_str().to_owned(),
            origin: author.origin(),
            member: new.member_bytes(),
            received_at_ms: Clock::wall_ms() as i64,
            ..Record::default()
        };
        self.meters.accepted.increment(1);
        let key = ConversationKey::new(author.tenant.clone(), new.conversation.clone()).to_key();
        let partition = wire::topics::partition_of(&key, self.topics.partitions);
        let reports = match self.recorder.is_on() {
            true => Recorded::wrap(self, author, new, partition, reports),
            false => reports,
        };
        self.hand_over(
            Destination {
                topic: Arc::clone(&self.messages_topic),
                partition,
                key,
                token: report_token(new.token, received_ms),
                reports,
            },
            codec::encode(&record),
        )
    }

    /// A deed into `desk`.
    pub fn produce_act(
        &self,
        author: &Author<'_>,
        act: &NewAct,
        reports: Arc<dyn Reports>,
    ) -> Result<(), ProduceError> {
        let input = desk_record::Input::Act(record::Act {
            from: Some(author.sender()),
            id: act.id.as_ref().map_or("", |id| id.as_str()).to_owned(),
            origin: author.origin(),
            customer: act.customer.as_ref().map_or("", |c| c.as_str()).to_owned(),
            deed: act.deed.clone(),
            seen_seq: act.seen_seq,
            groups: author.groups.to_vec(),
            priority: author.priority,
            received_at_ms: Clock::wall_ms() as i64,
        });
        // Without a time: deeds are not counted as messages.
        self.produce_desk(author.tenant, input, report_token(act.token, 0), reports)
    }

    /// Any input of the desk.
    pub fn produce_desk(
        &self,
        tenant: &Tenant,
        input: desk_record::Input,
        token: u64,
        reports: Arc<dyn Reports>,
    ) -> Result<(), ProduceError> {
        let record = DeskRecord {
            version: RECORD_VERSION,
            input: Some(input),
        };
        self.hand_over(
            Destination {
                topic: Arc::clone(&self.desk_topic),
                partition: self.topics.desk_partition_of(tenant),
                key: Bytes::copy_from_slice(tenant.as_str().as_bytes()),
                token,
                reports,
            },
            prost::Message::encode_to_vec(&record).into(),
        )
    }

    fn hand_over(&self, to: Destination, value: Bytes) -> Result<(), ProduceError> {
        self.produce(ToProduce {
            topic: to.topic,
            partition: to.partition,
            key: Some(to.key),
            value: Some(value),
            headers: Vec::new(),
            token: to.token,
            reports: to.reports,
        })
    }

    /// The author of what comes over a connection.
    pub fn author<'a>(&self, conn: &'a Conn, role: Role) -> Author<'a> {
        Author {
            tenant: conn.tenant(),
            user: &conn.account.user,
            role,
            groups: &conn.groups,
            priority: conn.priority,
            origin: Some((self.id, conn.id)),
        }
    }
}

/// What an error at the hand-over means to the sender.
pub fn refused(error: &ProduceError) -> Reported {
    match error {
        ProduceError::TooLarge => Reported::TooLarge,
        _ => Reported::Unavailable,
    }
}
