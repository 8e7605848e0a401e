//! One client for the four transports, so that one table holds for all of them.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use wire::CloseCode;

use crate::common::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    WebSocket,
    Tcp,
    Stream,
    Poll,
}

impl Way {
    pub const ALL: [Way; 4] = [Way::WebSocket, Way::Tcp, Way::Stream, Way::Poll];
}

enum Down {
    WebSocket(Box<Ws>),
    Tcp(TcpStream),
    Stream { response: reqwest::Response, text: String },
    Poll,
}

pub struct Client {
    base: String,
    pub token: String,
    pub session: String,
    down: Down,
    heard: VecDeque<Value>,
}

/// The refusal in one word, the same whichever way it came.
pub type Refused = String;

impl Client {
    /// Connects; the answer of a refusal is the close's reason or the problem's code.
    pub async fn open(node: &TestNode, way: Way, token: &str) -> Result<Client, Refused> {
        Self::open_with(node, way, token, json!({})).await
    }

    /// `more` joins the `connect` frame.
    pub async fn open_with(node: &TestNode, way: Way, token: &str, more: Value) -> Result<Client, Refused> {
        let mut connect = json!({"token": token});
        connect
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let connect = json!({ "connect": connect });
        let mut client = Client {
            base: node.http(),
            token: token.to_owned(),
            session: String::new(),
            down: Down::Poll,
            heard: VecDeque::new(),
        };
        match way {
            Way::WebSocket => client.down = Down::WebSocket(Box::new(node.ws().await)),
            Way::Tcp => {
                let stream = TcpStream::connect(node.handle.addresses.tcp.unwrap()).await.unwrap();
                client.down = Down::Tcp(stream);
            }
            Way::Stream | Way::Poll => {
                let path = if way == Way::Stream { "/v1/stream" } else { "/v1/poll" };
                let request = reqwest::Client::new().post(format!("{}{path}", client.base));
                let response = soon(request.body(connect.to_string()).send()).await.unwrap();
                if response.status() != 200 {
                    let problem: Value = soon(response.json()).await.unwrap();
                    return Err(problem["code"].as_str().unwrap().to_owned());
                }
                if way == Way::Stream {
                    let text = String::new();
                    client.down = Down::Stream { response, text };
                } else {
                    client.heard = soon(response.json()).await.unwrap();
                }
            }
        }
        if matches!(way, Way::WebSocket | Way::Tcp) {
            client.say(connect).await;
        }
        let first = client.hear().await;
        match first["close"]["reason"].as_str() {
            Some(reason) => Err(reason.to_owned()),
            None => {
                client.session = first["connected"]["session"].as_str().unwrap().to_owned();
                Ok(client)
            }
        }
    }

    /// Says a frame; over HTTP its answers wait to be heard like all else.
    pub async fn say(&mut self, frame: Value) {
        match &mut self.down {
            Down::WebSocket(ws) => drop(ws.0.send(Message::text(frame.to_string())).await),
            Down::Tcp(stream) => {
                let text = frame.to_string();
                let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
                bytes.extend_from_slice(text.as_bytes());
                // A peer that closed says why when it is read.
                let _ = stream.write_all(&bytes).await;
            }
            Down::Stream { .. } | Down::Poll => {
                let body = json!({"session": self.session, "frames": [frame]});
                let (status, answer) = post(&self.base, "/v1/frames", &self.token, body).await;
                if status == 200 {
                    self.heard.extend(answer.as_array().unwrap().iter().cloned());
                } else {
                    self.heard.push_back(json!({"refused": answer["code"]}));
                }
            }
        }
    }

    /// The next frame; a WebSocket's close as the others' last frame.
    pub async fn hear(&mut self) -> Value {
        soon(self.next()).await
    }

    /// The next frame, if it comes within this time.
    pub async fn hear_within(&mut self, ms: u64) -> Option<Value> {
        tokio::time::timeout(Duration::from_millis(ms), self.next()).await.ok()
    }

    async fn next(&mut self) -> Value {
        loop {
            if let Some(frame) = self.heard.pop_front() {
                return frame;
            }
            match &mut self.down {
                Down::WebSocket(ws) => match ws.0.next().await {
                    Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                    Some(Ok(Message::Close(Some(frame)))) => {
                        let code = CloseCode::from_number(frame.code.into()).unwrap();
                        return json!({"close":{"code":code.number(),"reason":code.reason()}});
                    }
                    Some(Ok(_)) => {}
                    other => panic!("{other:?}"),
                },
                Down::Tcp(stream) => {
                    let length = stream.read_u32().await.unwrap();
                    if length > 0 {
                        let mut frame = vec![0; length as usize];
                        stream.read_exact(&mut frame).await.unwrap();
                        return serde_json::from_slice(&frame).unwrap();
                    }
                }
                Down::Stream { response, text } => {
                    if let Some((event, rest)) = text.split_once("\n\n") {
                        let data: String = event.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
                        *text = rest.to_owned();
                        if !data.is_empty() {
                            return serde_json::from_str(&data).unwrap();
                        }
                    } else {
                        let chunk = response.chunk().await.unwrap().expect("the stream goes on");
                        text.push_str(std::str::from_utf8(&chunk).unwrap());
                    }
                }
                Down::Poll => {
                    let (status, answer) =
                        post(&self.base, "/v1/poll", &self.token, json!({"session": self.session})).await;
                    match status {
                        200 => self.heard.extend(answer.as_array().unwrap().iter().cloned()),
                        _ => return json!({"close":{"reason": answer["code"]}}),
                    }
                }
            }
        }
    }

    /// Passes over everything until the connection is closed; the reason.
    pub async fn closed(&mut self) -> String {
        loop {
            if let Some(reason) = self.next().await["close"]["reason"].as_str() {
                return reason.to_owned();
            }
        }
    }
}

/// Status and body of a POST with this token.
pub async fn post(base: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("{base}{path}")).bearer_auth(token);
    let response = soon(request.body(body.to_string()).send()).await.unwrap();
    (response.status().as_u16(), soon(response.json()).await.unwrap())
}

pub async fn get(base: &str, path: &str, token: &str) -> (u16, Value) {
    let request = reqwest::Client::new().get(format!("{base}{path}")).bearer_auth(token);
    let response = soon(request.send()).await.unwrap();
    (response.status().as_u16(), soon(response.json()).await.unwrap())
}
