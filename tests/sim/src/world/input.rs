//! What can happen to a modelled process.

use bytes::Bytes;
use wire::link::{FromNode, FromWorker};

use super::log::Group;
use super::store::Answer;

/// One record as read.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRecord {
    pub offset: u64,
    pub at_ms: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    Logged { offset: u64 },
    Unavailable,
    Unknown,
}

#[derive(Debug)]
pub enum Input {
    Tick,
    // the log
    Reported {
        token: u64,
        report: Report,
    },
    Assigned {
        group: Group,
        generation: u64,
        /// With the group's committed offset.
        partitions: Vec<(u32, Option<u64>)>,
    },
    Revoked {
        group: Group,
        round: u64,
    },
    Lost {
        group: Group,
    },
    Records {
        group: Group,
        partition: u32,
        records: Vec<LogRecord>,
    },
    Committed {
        group: Group,
        partition: u32,
        token: u64,
        fenced: bool,
    },
    Offsets {
        group: Group,
        partition: u32,
        token: u64,
        committed: u64,
        end: u64,
    },
    /// A record of `owners`.
    Tailed(LogRecord),
    /// A record of `control`.
    Control(LogRecord),
    // the store
    Stored {
        token: u64,
        answer: Answer,
    },
    // links
    LinkDialed {
        link: u64,
    },
    LinkAccepted {
        link: u64,
    },
    LinkClosed {
        link: u64,
    },
    FromNode {
        link: u64,
        items: Vec<FromNode>,
    },
    FromWorker {
        link: u64,
        items: Vec<FromWorker>,
    },
    // clients
    ClientFrame {
        wire: u64,
        frame: Bytes,
    },
    ClientGone {
        wire: u64,
    },
}

impl Input {
    /// For the trace.
    pub fn label(&self) -> String {
        match self {
            Input::Tick => "tick".into(),
            Input::Reported { token, report } => format!("reported {token} {report:?}"),
            Input::Assigned {
                group,
                generation,
                partitions,
            } => format!("assigned {group:?} {generation} {partitions:?}"),
            Input::Revoked { group, round } => format!("revoked {group:?} {round}"),
            Input::Lost { group } => format!("lost {group:?}"),
            Input::Records {
                group,
                partition,
                records,
            } => {
                format!(
                    "records {group:?} {partition} {:?}",
                    records.iter().map(|r| r.offset).collect::<Vec<_>>()
                )
            }
            Input::Committed {
                group,
                partition,
                fenced,
                ..
            } => format!("committed {group:?} {partition} fenced {fenced}"),
            Input::Offsets {
                group,
                partition,
                committed,
                end,
                ..
            } => format!("offsets {group:?} {partition} {committed} {end}"),
            Input::Tailed(record) => format!("tailed {}", record.offset),
            Input::Control(record) => format!("control {}", record.offset),
            Input::Stored { token, .. } => format!("stored {token}"),
            Input::LinkDialed { link } => format!("link {link} dialed"),
            Input::LinkAccepted { link } => format!("link {link} accepted"),
            Input::LinkClosed { link } => format!("link {link} closed"),
            Input::FromNode { link, items } => format!("link {link} from node {}", items.len()),
            Input::FromWorker { link, items } => format!("link {link} from worker {}", items.len()),
            Input::ClientFrame { wire, frame } => format!("client frame {wire} {}", frame.len()),
            Input::ClientGone { wire } => format!("client gone {wire}"),
        }
    }
}
