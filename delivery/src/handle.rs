//! The service's door: nodes of this process attach here, and so does the gRPC server on behalf of the others.

use tokio::sync::mpsc;
use wire::WorkerId;
use wire::link::{ToNode, ToWorker};

use crate::LINK_MESSAGES;

/// A new link's far end, as the driver gets it.
pub(crate) struct NewLink {
    pub incoming: mpsc::Receiver<ToWorker>,
    pub outgoing: mpsc::Sender<ToNode>,
}

/// Cheap to clone; works before the service runs (what is sent waits) and after it ended (the channels are closed).
#[derive(Clone)]
pub struct Handle {
    pub(crate) worker: WorkerId,
    pub(crate) links: mpsc::Sender<NewLink>,
}

impl Handle {
    /// This worker's incarnation, as `owners` names it.
    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    /// A link inside this process: the node sends its hello and what follows, and receives what the worker has for it. Both
    /// channels are bounded. The link is down when either side drops its end. Never waits: if too many links wait to be
    /// taken, or the service has ended, the channels come back closed, which a node treats as a link that went down.
    pub fn attach(&self) -> (mpsc::Sender<ToWorker>, mpsc::Receiver<ToNode>) {
        let (sender, incoming) = mpsc::channel(LINK_MESSAGES);
        let (outgoing, receiver) = mpsc::channel(LINK_MESSAGES);
        // Refused: both far ends are dropped here.
        let _ = self.links.try_send(NewLink { incoming, outgoing });
        (sender, receiver)
    }
}
