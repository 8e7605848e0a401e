//! TLS for the generator: its own sockets speak in the clear to a relay inside the process, which speaks TLS to the node. So the
//! hot path stays as it is; figures taken over TLS contain the relay.

use std::net::SocketAddr;
use std::path::Path;

use client::Tls;
use tokio::net::{TcpListener, TcpStream};

use crate::Error;

/// Believes the authorities of this file, or the system's.
pub fn authorities(ca: Option<&Path>) -> Result<Tls, Error> {
    let tls = match ca {
        Some(file) => Tls::of_file(file),
        None => Tls::of_system(),
    };
    tls.map_err(|e| Error::Args(e.to_string()))
}

/// A local address that leads to the `wss://` URL's node. Tried once, so that a certificate nobody believes is told at once.
pub async fn relay(url: &str, tls: Tls) -> Result<SocketAddr, Error> {
    let failed = |why: String| Error::Connect {
        host: url.to_owned(),
        why,
    };
    client::dial(url, &tls).await.map_err(failed)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await;
    let listener = listener.map_err(|e| failed(e.to_string()))?;
    let at = listener.local_addr().map_err(|e| failed(e.to_string()))?;
    let url = url.to_owned();
    tokio::spawn(async move {
        while let Ok((local, _)) = listener.accept().await {
            tokio::spawn(pass_on(local, url.clone(), tls.clone()));
        }
    });
    Ok(at)
}

async fn pass_on(mut local: TcpStream, url: String, tls: Tls) {
    // Small frames must not wait for each other's acknowledgements; a socket where that fails works all the same.
    let _ = local.set_nodelay(true);
    match client::dial(&url, &tls).await {
        // However it ends, the generator sees its own socket's end.
        Ok(mut node) => drop(tokio::io::copy_bidirectional(&mut local, &mut node).await),
        Err(why) => eprintln!("load: {url}: {why}"),
    }
}
