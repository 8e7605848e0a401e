//! A small server that speaks the protocol from memory, for tests of clients: it numbers, drops repeats, resumes by `since`, and can
//! cut a connection after a message is in its log and before anybody hears of it. It trusts every token.

#![allow(dead_code, clippy::unwrap_used)] // a test that cannot go on has failed

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use wire::Seq;
use wire::event::{event_frame, placed_frame, role_of_name, sent_frame};
use wire::frames::{ClientFrame, Since};
use wire::record::{Role, Sender};

const QUEUE_ITEMS: usize = 65_536;

#[derive(Default)]
struct Conversation {
    events: Vec<Bytes>,
    ids: HashMap<(String, String), u64>,
    agent: Option<String>,
    recv: BTreeMap<&'static str, (u64, u64)>,
}

struct Conn {
    user: String,
    out: mpsc::Sender<Bytes>,
}

#[derive(Default)]
struct World {
    conversations: BTreeMap<String, Conversation>,
    conns: BTreeMap<u64, Conn>,
}

#[derive(Default)]
pub struct Fake {
    world: Mutex<World>,
    next_conn: AtomicU64,
    sends: AtomicU64,
    /// Every so many sends the sender's connection is cut, with the message in the log and unanswered. 0: never.
    pub cut_every: AtomicU64,
    pub connects: AtomicU64,
}

impl Fake {
    /// Serves WebSocket and raw TCP until the returned tasks are dropped.
    pub async fn start() -> (Arc<Fake>, SocketAddr, SocketAddr, JoinSet<()>) {
        Self::start_at("127.0.0.1:0").await
    }

    pub async fn start_at(at: &str) -> (Arc<Fake>, SocketAddr, SocketAddr, JoinSet<()>) {
        let fake = Arc::new(Fake::default());
        let ws = TcpListener::bind(at).await.unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (ws_at, tcp_at) = (ws.local_addr().unwrap(), tcp.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        let (a, b) = (fake.clone(), fake.clone());
        tasks.spawn(async move {
            let mut conns = JoinSet::new();
            while let Ok((stream, _)) = ws.accept().await {
                conns.spawn(a.clone().websocket(stream));
            }
        });
        tasks.spawn(async move {
            let mut conns = JoinSet::new();
            while let Ok((stream, _)) = tcp.accept().await {
                conns.spawn(b.clone().raw(stream));
            }
        });
        (fake, ws_at, tcp_at, tasks)
    }

    /// A conversation's events as pushed, in order.
    pub fn history(&self, customer: &str) -> Vec<String> {
        let world = self.world.lock();
        let events = world
            .conversations
            .get(customer)
            .map(|c| c.events.clone())
            .unwrap_or_default();
        events.iter().map(|e| String::from_utf8(e.to_vec()).unwrap()).collect()
    }

    pub fn cut_all(&self) {
        self.world.lock().conns.clear();
    }

    /// Says something to every connection of a user.
    pub fn say(&self, user: &str, frame: &str) {
        let world = self.world.lock();
        for conn in world.conns.values().filter(|c| c.user == user) {
            let _ = conn.out.try_send(Bytes::copy_from_slice(frame.as_bytes()));
        }
    }

    async fn websocket(self: Arc<Self>, stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let Ok(socket) = tokio_tungstenite::accept_async(stream).await else {
            return;
        };
        let (mut sink, mut source) = socket.split();
        let (out, mut pushes) = mpsc::channel::<Bytes>(QUEUE_ITEMS);
        let mut me = None;
        let mut first = Some(out);
        loop {
            tokio::select! {
                heard = source.next() => match heard {
                    Some(Ok(Message::Text(text))) => match &me {
                        None => me = first.take().and_then(|out| self.connect(text.as_bytes(), out)),
                        Some((id, user, role)) => self.frame(*id, user, *role, text.as_bytes()),
                    },
                    Some(Ok(_)) => {}
                    _ => break,
                },
                push = pushes.recv() => match push {
                    Some(push) => {
                        sink.feed(Message::Text(Utf8Bytes::try_from(push).unwrap())).await.ok();
                        while let Ok(push) = pushes.try_recv() {
                            sink.feed(Message::Text(Utf8Bytes::try_from(push).unwrap())).await.ok();
                        }
                        if sink.flush().await.is_err() { break }
                    }
                    None => break,
                },
            }
        }
        if let Some((id, ..)) = me {
            self.world.lock().conns.remove(&id);
        }
    }

    async fn raw(self: Arc<Self>, stream: TcpStream) {
        let (mut reader, mut writer) = stream.into_split();
        let (out, mut pushes) = mpsc::channel::<Bytes>(QUEUE_ITEMS);
        let mut first = Some(out);
        let mut me = None;
        let (frames_in, mut frames) = mpsc::channel::<Vec<u8>>(64);
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            while let Ok(len) = reader.read_u32().await {
                let mut frame = vec![0; len as usize];
                if reader.read_exact(&mut frame).await.is_err() || frames_in.send(frame).await.is_err() {
                    return;
                }
            }
        });
        // A ping first, as a server would some time.
        writer.write_u32(0).await.ok();
        loop {
            tokio::select! {
                frame = frames.recv() => match (frame, &me) {
                    (None, _) => break,
                    (Some(frame), None) => me = first.take().and_then(|out| self.connect(&frame, out)),
                    (Some(frame), Some((id, user, role))) => self.frame(*id, user, *role, &frame),
                },
                push = pushes.recv() => match push {
                    None => break,
                    Some(push) => {
                        writer.write_u32(push.len() as u32).await.ok();
                        writer.write_all(&push).await.ok();
                    }
                },
            }
        }
        if let Some((id, ..)) = me {
            self.world.lock().conns.remove(&id);
        }
    }

    fn connect(&self, frame: &[u8], out: mpsc::Sender<Bytes>) -> Option<(u64, String, Role)> {
        let Ok(ClientFrame::Connect(connect)) = serde_json::from_slice(frame) else {
            return None;
        };
        let (user, role_name) = claims(&connect.token)?;
        let role = role_of_name(&role_name)?;
        let id = self.next_conn.fetch_add(1, Ordering::Relaxed);
        self.connects.fetch_add(1, Ordering::Relaxed);
        let say = |frame: String| out.try_send(frame.into()).unwrap();
        say(format!(
            r#"{{"connected":{{"session":"s{id}","user":"{user}","role":"{role_name}","node":"fake","term":1,"ping_s":25}}}}"#
        ));
        let mut world = self.world.lock();
        if role == Role::Customer {
            let c = world.conversations.entry(user.clone()).or_default();
            let last = c.events.len() as u64;
            let since = match connect.since {
                Some(Since::Own(n)) => n,
                _ => last,
            };
            say(conversation_frame(&user, c));
            for event in &c.events[(since.min(last)) as usize..] {
                out.try_send(event.clone()).unwrap();
            }
        } else {
            for (name, c) in world
                .conversations
                .iter()
                .filter(|(_, c)| c.agent.as_deref() == Some(&user))
            {
                let since = match &connect.since {
                    Some(Since::Conversations(all)) => all.get(name).copied().unwrap_or(0),
                    _ => 0,
                };
                say(conversation_frame(name, c));
                for event in &c.events[(since as usize).min(c.events.len())..] {
                    out.try_send(event.clone()).unwrap();
                }
            }
        }
        let me = user.clone();
        world.conns.insert(id, Conn { user, out });
        Some((id, me, role))
    }

    fn frame(&self, conn: u64, user: &str, role: Role, frame: &[u8]) {
        let mut world = self.world.lock();
        let world = &mut *world;
        let Ok(frame) = serde_json::from_slice::<ClientFrame<'_>>(frame) else {
            return reply(
                world,
                conn,
                r#"{"error":{"code":"bad_frame","message":"not a frame"}}"#.into(),
            );
        };
        match frame {
            ClientFrame::Send(send) => {
                let customer = send.conversation.as_deref().unwrap_or(user).to_owned();
                let sends = self.sends.fetch_add(1, Ordering::Relaxed) + 1;
                let key = (user.to_owned(), send.id.to_string());
                let c = world.conversations.entry(customer.clone()).or_default();
                let repeat = c.ids.get(&key).copied();
                let seq = repeat.unwrap_or(c.events.len() as u64 + 1);
                let from = Sender {
                    role: role.into(),
                    user: user.into(),
                };
                let event = event_frame(
                    &customer,
                    Seq(seq),
                    1,
                    &send.id,
                    &from,
                    format!("\"message\":{}", send.body.get()).as_bytes(),
                );
                if repeat.is_none() {
                    c.ids.insert(key, seq);
                    c.events.push(event.clone());
                    publish(world, &customer, &event, Some(conn));
                }
                let every = self.cut_every.load(Ordering::Relaxed);
                if every > 0 && sends.is_multiple_of(every) {
                    world.conns.remove(&conn);
                    return;
                }
                reply(world, conn, sent_frame(&send.id));
                reply(world, conn, placed_frame(&customer, Seq(seq), 1, &send.id));
            }
            ClientFrame::Act(act) => {
                let customer = act.conversation.as_deref().unwrap_or(user).to_owned();
                #[derive(serde::Deserialize)]
                struct Request {
                    agent: Option<String>,
                }
                let (deed, value) = act.deed().unwrap();
                let request: Request = serde_json::from_str(value.get()).unwrap();
                let agent = (deed == "request").then_some(request.agent).flatten();
                let c = world.conversations.entry(customer.clone()).or_default();
                let was = c.agent.take();
                c.agent.clone_from(&agent);
                let member = match &agent {
                    Some(agent) => format!(r#""assigned":{{"agent":"{agent}"}}"#),
                    None => r#""closed":{}"#.to_owned(),
                };
                let from = Sender {
                    role: Role::System.into(),
                    user: String::new(),
                };
                let event = event_frame(
                    &customer,
                    Seq(c.events.len() as u64 + 1),
                    1,
                    "",
                    &from,
                    member.as_bytes(),
                );
                let fresh = conversation_frame(&customer, c);
                c.events.push(event.clone());
                let frame = conversation_frame(&customer, c);
                for name in was.iter().chain(agent.iter()) {
                    for conn in world.conns.values().filter(|x| x.user == *name) {
                        let _ = conn.out.try_send(fresh.clone().into());
                    }
                }
                publish(world, &customer, &event, None);
                for conn in world
                    .conns
                    .values()
                    .filter(|x| x.user == customer || Some(&x.user) == agent.as_ref() || Some(&x.user) == was.as_ref())
                {
                    let _ = conn.out.try_send(frame.clone().into());
                }
                reply(world, conn, format!(r#"{{"done":{{"id":"{}"}}}}"#, act.id).into());
            }
            ClientFrame::Ping(_) => reply(world, conn, r#"{"pong":{}}"#.into()),
            ClientFrame::Ack(ack) => {
                let customer = ack.conversation.as_deref().unwrap_or(user).to_owned();
                let side = if role == Role::Customer { "customer" } else { "agent" };
                let c = world.conversations.entry(customer.clone()).or_default();
                let marks = c.recv.entry(side).or_default();
                *marks = (marks.0.max(ack.recv).max(ack.read), marks.1.max(ack.read));
                let receipt = format!(
                    r#"{{"receipt":{{"conversation":"{customer}","side":"{side}","recv":{},"read":{}}}}}"#,
                    marks.0, marks.1
                );
                publish(world, &customer, &receipt.into(), Some(conn));
            }
            ClientFrame::Connect(_) | ClientFrame::Typing(_) | ClientFrame::Status(_) | ClientFrame::Refresh(_) => {}
        }
    }
}

fn conversation_frame(name: &str, c: &Conversation) -> String {
    let (state, agent) = match &c.agent {
        Some(agent) => ("active", format!(r#","agent":"{agent}""#)),
        None => ("idle", String::new()),
    };
    format!(
        r#"{{"conversation":{{"conversation":"{name}","last_seq":{},"recv":0,"read":0,"state":"{state}"{agent}}}}}"#,
        c.events.len()
    )
}

fn reply(world: &World, conn: u64, frame: Bytes) {
    if let Some(conn) = world.conns.get(&conn) {
        let _ = conn.out.try_send(frame);
    }
}

fn publish(world: &World, customer: &str, frame: &Bytes, except: Option<u64>) {
    let agent = world.conversations.get(customer).and_then(|c| c.agent.as_deref());
    for (id, conn) in &world.conns {
        if Some(*id) != except && (conn.user == customer || Some(conn.user.as_str()) == agent) {
            let _ = conn.out.try_send(frame.clone());
        }
    }
}

/// A token of the fake: what the claims say, unsigned.
pub fn token(role: &str, user: &str) -> String {
    use std::fmt::Write;
    let claims = format!(r#"{{"sub":"{user}","role":"{role}"}}"#);
    let mut hex = String::new();
    for byte in claims.bytes() {
        write!(hex, "{byte:02x}").unwrap();
    }
    format!("fake.{hex}")
}

/// (sub, role) of a fake token or a JWT.
fn claims(token: &str) -> Option<(String, String)> {
    #[derive(serde::Deserialize)]
    struct Claims {
        sub: String,
        role: String,
    }
    let mut parts = token.split('.');
    let json = match (parts.next()?, parts.next()?) {
        ("fake", hex) => (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect(),
        (_, payload) => base64url(payload),
    };
    let claims: Claims = serde_json::from_slice(&json).ok()?;
    Some((claims.sub, claims.role))
}

fn base64url(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut bits, mut have) = (0u32, 0);
    for c in text.bytes() {
        let v = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'-' => 62,
            _ => 63,
        };
        bits = bits << 6 | u32::from(v);
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
            bits &= (1 << have) - 1;
        }
    }
    out
}
