//! The vocabulary of the platform: ids, positions, records, client frames, link frames, topic names and the partition
//! function, limits, close and error codes. Everything that two parts must understand alike is here and nowhere else.

pub mod codec;
pub mod codes;
pub mod event;
pub mod frames;
pub mod ids;
pub mod limits;
pub mod position;
pub mod row;
pub mod schema;
pub mod topics;

/// Values of the topics; generated from `proto/record.proto`.
#[allow(clippy::all, clippy::unwrap_used)]
pub mod record {
    tonic::include_proto!("switchboard.record");
}

/// The stream between a node and a worker; generated from `proto/link.proto`.
#[allow(clippy::all, clippy::unwrap_used)]
pub mod link {
    tonic::include_proto!("switchboard.link");
}

pub use codes::{CloseCode, ErrorCode};
pub use ids::{ClientId, ConnectionId, ConversationKey, Device, Lane, NodeId, Tenant, User, WorkerId};
pub use position::{Epoch, Generation, Offset, Partition, Position, Seq};
pub use topics::LaneTopics;
