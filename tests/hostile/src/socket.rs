//! A socket that sends exactly the bytes it is given, and reads with patience and an end.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Nothing takes that long but what hangs: ten times the longest of the platform's own time limits, 10 s.
pub const PATIENCE: Duration = Duration::from_secs(100);

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Bytes,
    /// The peer has closed, or reset.
    End,
    Nothing,
}

pub struct Raw {
    stream: TcpStream,
    /// What has come and was not taken yet.
    pub heard: Vec<u8>,
}

impl Raw {
    pub fn open(at: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect_timeout(&at, PATIENCE).map_err(|e| format!("connect: {e}"))?;
        let because = |e: std::io::Error| e.to_string();
        stream.set_nodelay(true).map_err(because)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(because)?;
        Ok(Raw {
            stream,
            heard: Vec::new(),
        })
    }

    /// A peer that hangs up while we write is an answer too: it is read afterwards.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// In pieces of this size, each a segment of its own as far as the kernel lets us.
    pub fn send_in_pieces(&mut self, bytes: &[u8], size: usize) {
        for piece in bytes.chunks(size.max(1)) {
            self.send(piece);
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Nothing more comes from us.
    pub fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Reads once, until the deadline.
    pub fn read_more(&mut self, deadline: Instant) -> Found {
        let mut piece = [0u8; 16 * 1024];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return Found::Nothing;
            }
            match self.stream.read(&mut piece) {
                Ok(0) => return Found::End,
                Ok(n) => {
                    self.heard.extend_from_slice(&piece[..n]);
                    return Found::Bytes;
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Found::Nothing,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Found::End,
            }
        }
    }

    /// Reads until the peer ends it. `false`: it never does.
    pub fn ends(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.read_more(deadline) {
                Found::Bytes => {}
                Found::End => return true,
                Found::Nothing => return false,
            }
        }
    }

    /// Reads until these bytes stand in what was heard.
    pub fn read_until(&mut self, mark: &[u8]) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !self.heard.windows(mark.len()).any(|w| w == mark) {
            match self.read_more(deadline) {
                Found::Bytes => {}
                Found::End => return Err(format!("the peer hung up after {:?}", self.text())),
                Found::Nothing => return Err(format!("no answer; heard {:?}", self.text())),
            }
        }
        Ok(())
    }

    pub fn text(&self) -> String {
        let heard = &self.heard[..self.heard.len().min(300)];
        String::from_utf8_lossy(heard).into_owned()
    }

    /// The next whole HTTP response; leaves what comes behind it.
    pub fn answer(&mut self) -> Result<Answer, String> {
        self.read_until(b"\r\n\r\n")?;
        let end = find(&self.heard, b"\r\n\r\n").unwrap_or_default();
        let head = String::from_utf8_lossy(&self.heard[..end]).into_owned();
        self.heard.drain(..end + 4);
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|l| l.split(' ').nth(1))
            .and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| format!("no status line: {head:?}"))?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|l| l.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = Answer {
            status,
            headers,
            body: String::new(),
        };
        let deadline = Instant::now() + PATIENCE;
        match answer.header("content-length").and_then(|n| n.parse::<usize>().ok()) {
            Some(length) => {
                while self.heard.len() < length && self.read_more(deadline) == Found::Bytes {}
                let body: Vec<u8> = self.heard.drain(..length.min(self.heard.len())).collect();
                answer.body = String::from_utf8_lossy(&body).into_owned();
            }
            None if status == 101 || status == 204 => {}
            // Chunked, or to the end: read as text, chunk sizes and all.
            None => {
                while self.read_more(deadline) == Found::Bytes && !self.heard.ends_with(b"0\r\n\r\n") {}
                answer.body = String::from_utf8_lossy(&std::mem::take(&mut self.heard)).into_owned();
            }
        }
        Ok(answer)
    }
}

/// An HTTP response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// Sends bytes on a socket of their own and reads one response.
pub fn request(at: SocketAddr, bytes: &[u8]) -> Result<Answer, String> {
    let mut socket = Raw::open(at)?;
    socket.send(bytes);
    socket.answer()
}

pub fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|w| w == needle)
}
