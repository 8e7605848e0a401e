//! WebSocket: one text frame is one frame.

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::dial::{HTTP, Stream, Target, Tls, WS, dial};
use super::{Inbound, refused};
use crate::policy::Ended;

/// A test holds thousands of these: small buffers.
const BUFFER_BYTES: usize = 4_096;
/// More than any event: a body, its envelope and room.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

pub struct Ws(WebSocketStream<Stream>);

impl Ws {
    pub async fn open(url: &str, tls: Option<&Tls>, connect: Bytes) -> Result<Self, Ended> {
        let target = Target::of(url, &[WS, HTTP])?;
        let host = &target.host;
        let path = match target.path.as_str() {
            "" | "/" => "/v1/connect",
            path => path,
        };
        let stream = dial(&target, tls).await?;
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let (socket, _) =
            tokio_tungstenite::client_async_with_config(format!("ws://{host}{path}"), stream, Some(config))
                .await
                .map_err(|e| match e {
                    Error::Http(response) => {
                        let retry = response.headers().get("retry-after");
                        refused(
                            response.status().as_u16(),
                            response.body().as_deref().unwrap_or_default(),
                            retry.and_then(|v| v.to_str().ok()?.parse().ok()),
                        )
                    }
                    other => Ended::lost(format!("no WebSocket at {host}{path}: {other}")),
                })?;
        let mut ws = Ws(socket);
        ws.write(vec![connect]).await?;
        Ok(ws)
    }

    pub async fn next(&mut self) -> Result<Inbound, Ended> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => return Ok(Inbound::Frame(text.into())),
                // tungstenite answers pings itself, at the next read or write.
                Some(Ok(Message::Ping(_))) => return Ok(Inbound::Ping { answer: false }),
                Some(Ok(Message::Close(Some(frame)))) => {
                    return Err(Ended::closed(frame.code.into(), frame.reason.as_str()));
                }
                Some(Ok(Message::Close(None))) | None => return Err(Ended::lost("closed without a code")),
                Some(Ok(Message::Binary(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Err(Ended::lost(error.to_string())),
            }
        }
    }

    pub async fn write(&mut self, frames: Vec<Bytes>) -> Result<(), Ended> {
        for frame in frames {
            let text = Utf8Bytes::try_from(frame).map_err(|e| Ended::lost(e.to_string()))?;
            self.0.feed(Message::Text(text)).await.map_err(lost)?;
        }
        self.0.flush().await.map_err(lost)
    }

    pub async fn close(mut self: Box<Self>) {
        // The server may be gone already.
        let _ = self.0.close(None).await;
    }
}

/// A write that failed says less than the close frame that may be waiting to be read; the reader finds that.
fn lost(error: Error) -> Ended {
    Ended::lost(error.to_string())
}
