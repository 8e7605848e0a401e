//! The wire itself: a relay of our frames, in memory, without a log, a history, limits or checks. What a figure of the real server
//! is compared with in the same run, because the machine is never quite the same: `relay 127.0.0.1:PORT`.
//!
//! It answers what `switchboard load` asks: connect, status, request, send, ack, ping. Nothing is kept, and who reconnects
//! begins anew.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::get;
use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::mpsc;
use wire::frames::{Ack, Act, ClientFrame, Send};

/// As the real server's: see `ingress/src/ws.rs`.
const READ_BUFFER_BYTES: usize = 1024;
const WRITE_BUFFER_BYTES: usize = 16 * 1024;
/// Frames that wait for a socket; one that takes no more is cut.
const QUEUED_MAX: usize = 4_096;

#[derive(Deserialize)]
struct Claims {
    sub: String,
    role: String,
}

type Outbox = mpsc::Sender<Message>;

#[derive(Default)]
struct Relay {
    connected: Mutex<HashMap<String, Outbox>>,
    conversations: Mutex<HashMap<String, Arc<Mutex<Talk>>>>,
}

#[derive(Default)]
struct Talk {
    seq: u64,
    customer_out: Option<Outbox>,
    agent_out: Option<Outbox>,
}

/// Who speaks on a connection.
struct Speaker {
    relay: Arc<Relay>,
    user: String,
    customer: bool,
    out: Outbox,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let Some(listen) = std::env::args().nth(1) else {
        eprintln!("usage: relay HOST:PORT");
        std::process::exit(64);
    };
    let app = Router::new()
        .route("/v1/connect", get(connect))
        .with_state(Arc::new(Relay::default()));
    let listener = tokio::net::TcpListener::bind(&listen).await?;
    eprintln!("relay: listening on {listen}");
    axum::serve(
        axum::serve::ListenerExt::tap_io(listener, |stream| {
            // The kernel's own decision is as good as ours would be.
            let _ = stream.set_nodelay(true);
        }),
        app,
    )
    .await
}

async fn connect(State(relay): State<Arc<Relay>>, upgrade: WebSocketUpgrade) -> Response {
    upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_message_size(wire::limits::FRAME_BYTES_MAX)
        .on_upgrade(move |socket| serve(relay, socket))
}

async fn serve(relay: Arc<Relay>, mut socket: WebSocket) {
    let Some(Ok(Message::Text(first))) = socket.recv().await else {
        return;
    };
    let Some(claims) = claims_of(&first) else { return };
    let (out, mut queued) = mpsc::channel(QUEUED_MAX);
    let speaker = Speaker {
        relay,
        customer: claims.role == "customer",
        user: claims.sub,
        out,
    };
    speaker.greet();
    let (mut sink, mut stream) = socket.split();
    let reading = async move {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Text(text) = message {
                speaker.heard(&text);
            }
        }
        speaker.gone();
    };
    let writing = async move {
        while let Some(message) = queued.recv().await {
            if sink.feed(message).await.is_err() {
                return;
            }
            // What one wake-up brought leaves together.
            while let Ok(message) = queued.try_recv() {
                if sink.feed(message).await.is_err() {
                    return;
                }
            }
            if sink.flush().await.is_err() {
                return;
            }
        }
    };
    futures::future::join(reading, writing).await;
}

/// The claims, unchecked: everybody is who they say here.
fn claims_of(first: &str) -> Option<Claims> {
    let Ok(ClientFrame::Connect(connect)) = serde_json::from_str(first) else {
        return None;
    };
    jsonwebtoken::dangerous::insecure_decode::<Claims>(connect.token.as_bytes())
        .ok()
        .map(|token| token.claims)
}

fn text(frame: String) -> Message {
    Message::Text(Utf8Bytes::from(frame))
}

impl Speaker {
    fn say(&self, frame: String) {
        let _ = self.out.try_send(text(frame));
    }

    fn greet(&self) {
        self.relay.connected.lock().insert(self.user.clone(), self.out.clone());
        let (user, role) = (&self.user, if self.customer { "customer" } else { "agent" });
        self.say(format!(
            r#"{{"connected":{{"session":"relay","user":"{user}","role":"{role}","node":"relay","term":1,"ping_s":25}}}}"#
        ));
        if self.customer {
            self.say(format!(
                r#"{{"conversation":{{"conversation":"{user}","last_seq":0,"recv":0,"read":0,"state":"idle"}}}}"#
            ));
        }
    }

    fn gone(&self) {
        self.relay.connected.lock().remove(&self.user);
    }

    fn heard(&self, frame: &str) {
        match serde_json::from_str(frame) {
            Ok(ClientFrame::Send(send)) => self.send(&send),
            Ok(ClientFrame::Ack(ack)) => self.ack(&ack),
            Ok(ClientFrame::Act(act)) => self.act(&act),
            Ok(ClientFrame::Ping(_)) => self.say(r#"{"pong":{}}"#.into()),
            _ => {}
        }
    }

    fn talk(&self, named: Option<&str>) -> Option<Arc<Mutex<Talk>>> {
        let customer = named.unwrap_or(&self.user);
        self.relay.conversations.lock().get(customer).cloned()
    }

    fn send(&self, send: &Send) {
        let Some(talk) = self.talk(send.conversation.as_deref()) else {
            return;
        };
        let mut talk = talk.lock();
        talk.seq += 1;
        let at = UNIX_EPOCH.elapsed().map_or(0, |d| d.as_millis());
        let (seq, id, body) = (talk.seq, &send.id, send.body.get());
        let customer = send.conversation.as_deref().unwrap_or(&self.user);
        let role = if self.customer { "customer" } else { "agent" };
        self.say(format!(r#"{{"sent":{{"id":"{id}"}}}}"#));
        self.say(format!(
            r#"{{"placed":{{"id":"{id}","conversation":"{customer}","seq":{seq},"at":{at}}}}}"#
        ));
        let other = if self.customer {
            &talk.agent_out
        } else {
            &talk.customer_out
        };
        if let Some(other) = other {
            let user = &self.user;
            let _ = other.try_send(text(format!(
                r#"{{"event":{{"conversation":"{customer}","seq":{seq},"at":{at},"id":"{id}","from":{{"role":"{role}","user":"{user}"}},"message":{body}}}}}"#
            )));
        }
    }

    fn ack(&self, ack: &Ack) {
        let Some(talk) = self.talk(ack.conversation.as_deref()) else {
            return;
        };
        let talk = talk.lock();
        let customer = ack.conversation.as_deref().unwrap_or(&self.user);
        let (side, other) = match self.customer {
            true => ("customer", &talk.agent_out),
            false => ("agent", &talk.customer_out),
        };
        if let Some(other) = other {
            let (recv, read) = (ack.recv, ack.read);
            let _ = other.try_send(text(format!(
                r#"{{"receipt":{{"conversation":"{customer}","side":"{side}","recv":{recv},"read":{read}}}}}"#
            )));
        }
    }

    fn act(&self, act: &Act) {
        let wanted: serde_json::Value = match act.request.map(|r| serde_json::from_str(r.get())) {
            Some(Ok(wanted)) => wanted,
            _ => {
                let customer = &self.user;
                return self.say(format!(
                    r#"{{"conversation":{{"conversation":"{customer}","last_seq":0,"recv":0,"read":0,"state":"idle"}}}}"#
                ));
            }
        };
        let agent = wanted["agent"].as_str().unwrap_or_default().to_owned();
        let agent_out = self.relay.connected.lock().get(&agent).cloned();
        let customer = &self.user;
        self.say(format!(r#"{{"done":{{"id":"{}"}}}}"#, act.id));
        let active = format!(
            r#"{{"conversation":{{"conversation":"{customer}","last_seq":0,"recv":0,"read":0,"state":"active","agent":"{agent}"}}}}"#
        );
        if let Some(agent_out) = &agent_out {
            let _ = agent_out.try_send(text(active.clone()));
        }
        self.say(active);
        let talk = Talk {
            seq: 0,
            customer_out: Some(self.out.clone()),
            agent_out,
        };
        self.relay
            .conversations
            .lock()
            .insert(customer.clone(), Arc::new(Mutex::new(talk)));
    }
}
