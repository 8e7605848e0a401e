//! Raw TCP, or TLS: a big-endian u32 length before each frame; a length of 0 is the server's ping.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Inbound;
use super::dial::{Stream, TCP, Target, Tls, dial};
use crate::policy::Ended;

/// More than any event: a body, its envelope and room.
const INBOUND_FRAME_BYTES_MAX: usize = 1 << 20;

pub struct Tcp {
    stream: Stream,
    heard: BytesMut,
}

impl Tcp {
    pub async fn open(url: &str, tls: Option<&Tls>, connect: Bytes) -> Result<Self, Ended> {
        let target = Target::of(url, &[TCP])?;
        let mut tcp = Tcp {
            stream: dial(&target, tls).await?,
            heard: BytesMut::new(),
        };
        tcp.write(vec![connect]).await?;
        Ok(tcp)
    }

    pub async fn next(&mut self) -> Result<Inbound, Ended> {
        loop {
            if let Some(inbound) = take_frame(&mut self.heard)? {
                return Ok(inbound);
            }
            // What was read is in `heard` before anything can be cancelled.
            match self.stream.read_buf(&mut self.heard).await {
                Ok(0) => return Err(Ended::lost("closed without a code")),
                Ok(_) => {}
                Err(error) => return Err(Ended::lost(error.to_string())),
            }
        }
    }

    pub async fn write(&mut self, frames: Vec<Bytes>) -> Result<(), Ended> {
        let mut out = Vec::with_capacity(frames.iter().map(|f| f.len() + 4).sum());
        for frame in frames {
            let len = u32::try_from(frame.len()).map_err(|e| Ended::lost(e.to_string()))?;
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(&frame);
        }
        let written = async {
            self.stream.write_all(&out).await?;
            self.stream.flush().await
        };
        written.await.map_err(|e| Ended::lost(e.to_string()))
    }
}

fn take_frame(heard: &mut BytesMut) -> Result<Option<Inbound>, Ended> {
    let Some(head) = heard.first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*head) as usize;
    if len > INBOUND_FRAME_BYTES_MAX {
        return Err(Ended::lost(format!("a frame of {len} bytes was announced")));
    }
    if heard.len() < 4 + len {
        heard.reserve(4 + len - heard.len());
        return Ok(None);
    }
    heard.advance(4);
    if len == 0 {
        return Ok(Some(Inbound::Ping { answer: true }));
    }
    Ok(Some(Inbound::Frame(heard.split_to(len).freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_the_same_however_the_bytes_are_cut() {
        let mut stream = Vec::new();
        for frame in [&b"{\"pong\":{}}"[..], b"", b"abc"] {
            stream.extend_from_slice(&(frame.len() as u32).to_be_bytes());
            stream.extend_from_slice(frame);
        }
        for cut in 1..stream.len() {
            let mut heard = BytesMut::new();
            let mut frames = Vec::new();
            for piece in stream.chunks(cut) {
                heard.extend_from_slice(piece);
                while let Some(inbound) = take_frame(&mut heard).unwrap() {
                    frames.push(match inbound {
                        Inbound::Frame(f) => f.to_vec(),
                        Inbound::Ping { .. } => Vec::new(),
                    });
                }
            }
            assert_eq!(frames, [&b"{\"pong\":{}}"[..], b"", b"abc"]);
        }
        assert!(take_frame(&mut BytesMut::from(&[0xff, 0xff, 0xff, 0xff][..])).is_err());
    }
}
