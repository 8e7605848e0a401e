//! A TCP proxy that can fall silent or refuse, to stand between the store and its server.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    Pass,
    /// Accepts and reads, forwards nothing.
    Silent,
    /// Cuts what is there and closes what comes.
    Refuse,
}

pub struct Proxy {
    port: u16,
    mode: Arc<watch::Sender<Mode>>,
}

impl Proxy {
    pub async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mode = Arc::new(watch::Sender::new(Mode::Pass));
        let (server, modes) = (server.to_owned(), mode.clone());
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if *modes.borrow() == Mode::Refuse {
                    continue;
                }
                let (server, modes) = (server.clone(), modes.subscribe());
                tokio::spawn(async move {
                    let Ok(upstream) = TcpStream::connect(server).await else {
                        return;
                    };
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = upstream.into_split();
                    tokio::join!(
                        pump(from_client, to_server, modes.clone()),
                        pump(from_server, to_client, modes)
                    );
                });
            }
        });
        Self { port, mode }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn pump(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut modes: watch::Receiver<Mode>,
) {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        if *modes.borrow_and_update() == Mode::Refuse {
            return;
        }
        let read = tokio::select! {
            changed = modes.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
            read = from.read(&mut bytes) => read,
        };
        // As it is now, not as it was when the read began: nothing passes after `set` has returned.
        let mode = *modes.borrow();
        match (read, mode) {
            (Ok(0) | Err(_), _) | (_, Mode::Refuse) => return,
            (Ok(n), Mode::Pass) => {
                if to.write_all(&bytes[..n]).await.is_err() {
                    return;
                }
            }
            // What was swallowed is gone for good: such a connection never heals, as on a real network.
            (Ok(_), Mode::Silent) => {
                modes.wait_for(|mode| *mode != Mode::Silent).await.ok();
                return;
            }
        }
    }
}
