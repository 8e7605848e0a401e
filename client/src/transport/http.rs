//! HTTP: server-sent events or long polling down, `POST /v1/frames` up, one POST in flight at a time.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::value::RawValue;

use super::Inbound;
use super::dial::Tls;
use super::request::{Api, Asked, good, lost};
use crate::policy::Ended;

/// Frames in one POST.
const POST_FRAMES_MAX: usize = 64;

type Answer = BoxFuture<'static, Result<Vec<Bytes>, Ended>>;

enum Down {
    Events { body: Incoming, heard: BytesMut },
    Poll { answer: Option<Answer> },
}

pub struct Http {
    /// Polls and posts wait at the same time: each has its own connection.
    polls: Api,
    posts: Api,
    token: String,
    /// The frame that opened it; long polling says it again each time, with the session.
    session: Option<String>,
    down: Down,
    heard: VecDeque<Inbound>,
    outbox: VecDeque<Bytes>,
    posting: Option<Answer>,
}

impl Http {
    pub async fn stream(url: &str, tls: Option<&Tls>, token: &str, connect: Bytes) -> Result<Self, Ended> {
        let mut http = Self::new(url, tls, token)?;
        let asked = asked("/v1/stream", token, "text/event-stream", connect);
        let response = http.polls.open(asked).await?;
        if !response.status().is_success() {
            let (parts, body) = response.into_parts();
            let body = body.collect().await.map_err(lost)?.to_bytes();
            good(Response::from_parts(parts, body))?;
            return Err(Ended::lost("the stream was refused"));
        }
        http.down = Down::Events {
            body: response.into_body(),
            heard: BytesMut::new(),
        };
        Ok(http)
    }

    pub async fn poll(url: &str, tls: Option<&Tls>, token: &str, connect: Bytes) -> Result<Self, Ended> {
        let mut http = Self::new(url, tls, token)?;
        let first = ask(&http.polls, token, "/v1/poll", connect).await?;
        http.take(first);
        Ok(http)
    }

    fn new(url: &str, tls: Option<&Tls>, token: &str) -> Result<Self, Ended> {
        Ok(Self {
            polls: Api::new(url, tls.cloned())?,
            posts: Api::new(url, tls.cloned())?,
            token: token.to_owned(),
            session: None,
            down: Down::Poll { answer: None },
            heard: VecDeque::new(),
            outbox: VecDeque::new(),
            posting: None,
        })
    }

    pub fn set_token(&mut self, token: &str) {
        token.clone_into(&mut self.token);
    }

    pub fn post(&mut self, frames: Vec<Bytes>) {
        self.outbox.extend(frames);
    }

    pub async fn next(&mut self) -> Result<Inbound, Ended> {
        loop {
            if let Some(inbound) = self.heard.pop_front() {
                return Ok(inbound);
            }
            self.post_next();
            self.poll_next();
            let idle = || std::future::pending().boxed();
            let mut no_post: Answer = idle();
            let mut no_poll: Answer = idle();
            let posting = self.posting.as_mut().unwrap_or(&mut no_post);
            let frames = match &mut self.down {
                Down::Events { body, heard } => tokio::select! {
                    frame = body.frame() => {
                        let frame = frame.ok_or_else(|| Ended::lost("the stream ended"))?.map_err(lost)?;
                        heard.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
                        take_events(heard, &mut self.heard);
                        continue_with(&mut self.heard, &mut self.session)?;
                        continue;
                    }
                    answer = posting => { self.posting = None; answer? }
                },
                Down::Poll { answer } => tokio::select! {
                    polled = answer.as_mut().unwrap_or(&mut no_poll) => { *answer = None; polled? }
                    answer = posting => { self.posting = None; answer? }
                },
            };
            self.take(frames);
        }
    }

    fn take(&mut self, frames: Vec<Bytes>) {
        if frames.is_empty() {
            // An empty answer shows that the server lives, as a ping does.
            self.heard.push_back(Inbound::Ping { answer: false });
        }
        self.heard.extend(frames.into_iter().map(Inbound::Frame));
        // Of these frames only `connected` matters here; a bad one is the core's to judge.
        let _ = continue_with(&mut self.heard, &mut self.session);
    }

    fn post_next(&mut self) {
        let (None, Some(session), false) = (&self.posting, &self.session, self.outbox.is_empty()) else {
            return;
        };
        let mut body = Vec::new();
        body.extend_from_slice(br#"{"session":"#);
        wire::event::push_json_str(&mut body, session);
        body.extend_from_slice(br#","frames":["#);
        for at in 0..POST_FRAMES_MAX.min(self.outbox.len()) {
            if at > 0 {
                body.push(b',');
            }
            if let Some(frame) = self.outbox.pop_front() {
                body.extend_from_slice(&frame);
            }
        }
        body.extend_from_slice(b"]}");
        self.posting = Some(ask(&self.posts, &self.token, "/v1/frames", body.into()));
    }

    fn poll_next(&mut self) {
        if let (Down::Poll { answer: answer @ None }, Some(session)) = (&mut self.down, &self.session) {
            let mut body = Vec::new();
            body.extend_from_slice(br#"{"session":"#);
            wire::event::push_json_str(&mut body, session);
            body.push(b'}');
            *answer = Some(ask(&self.polls, &self.token, "/v1/poll", body.into()));
        }
    }
}

fn asked<'a>(path: &'a str, token: &'a str, accept: &'static str, body: Bytes) -> Asked<'a> {
    Asked {
        method: Method::POST,
        path,
        token,
        accept,
        body,
    }
}

fn ask(api: &Api, token: &str, path: &'static str, body: Bytes) -> Answer {
    let (api, token) = (api.clone(), token.to_owned());
    async move {
        let bytes = good(api.ask(asked(path, &token, "application/json", body)).await?)?;
        let frames: Vec<&RawValue> =
            serde_json::from_slice(&bytes).map_err(|e| Ended::lost(format!("not an array of frames: {e}")))?;
        Ok(frames.iter().map(|f| bytes.slice_ref(f.get().as_bytes())).collect())
    }
    .boxed()
}

/// Remembers the session that `connected` names.
fn continue_with(heard: &mut VecDeque<Inbound>, session: &mut Option<String>) -> Result<(), Ended> {
    #[derive(serde::Deserialize)]
    struct Connected {
        connected: Session,
    }
    #[derive(serde::Deserialize)]
    struct Session {
        session: String,
    }
    for inbound in heard.iter() {
        if let Inbound::Frame(frame) = inbound
            && frame.starts_with(br#"{"connected""#)
        {
            let c: Connected = serde_json::from_slice(frame).map_err(|e| Ended::lost(e.to_string()))?;
            *session = Some(c.connected.session);
        }
    }
    Ok(())
}

/// Takes whole events out of a stream of server-sent events: `data:` lines joined until an empty line; a comment is a ping.
fn take_events(heard: &mut BytesMut, out: &mut VecDeque<Inbound>) {
    loop {
        let Some((end, skip)) = event_end(heard) else {
            return;
        };
        let event = heard.split_to(end).freeze();
        heard.advance(skip);
        let mut data: Vec<u8> = Vec::new();
        let mut lines = 0;
        for line in event.split(|b| *b == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if let Some(value) = line.strip_prefix(b"data:") {
                if lines > 0 {
                    data.push(b'\n');
                }
                data.extend_from_slice(value.strip_prefix(b" ").unwrap_or(value));
                lines += 1;
            }
        }
        out.push_back(if lines > 0 {
            Inbound::Frame(data.into())
        } else {
            Inbound::Ping { answer: true }
        });
    }
}

/// Where the first event ends, and how many bytes its empty line has.
fn event_end(heard: &[u8]) -> Option<(usize, usize)> {
    let lf = heard.windows(2).position(|w| w == b"\n\n").map(|at| (at, 2));
    let crlf = heard.windows(4).position(|w| w == b"\r\n\r\n").map(|at| (at, 4));
    match (lf, crlf) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_however_the_stream_is_cut() {
        let stream = b"data: {\"a\":1}\n\n: ping\n\nid: 4\ndata:{\"b\":\ndata: 2}\n\n";
        for cut in 1..stream.len() {
            let mut heard = BytesMut::new();
            let mut out = VecDeque::new();
            for piece in stream.chunks(cut) {
                heard.extend_from_slice(piece);
                take_events(&mut heard, &mut out);
            }
            let all: Vec<String> = out
                .iter()
                .map(|i| match i {
                    Inbound::Frame(f) => String::from_utf8(f.to_vec()).unwrap(),
                    Inbound::Ping { .. } => "ping".into(),
                })
                .collect();
            assert_eq!(all, ["{\"a\":1}", "ping", "{\"b\":\n2}"]);
        }
    }
}
