//! The control port: one order a line, `NAME [up|down] VERB …`, `NAME heal`, or `list`; each is answered with one line (`list`: one
//! per proxy). So a person, or a script, can hurt a running system by hand: `echo 'node-0 up stall' | nc 127.0.0.1 PORT`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Order, Proxy};

/// A line longer than this is not one of ours.
const LINE_BYTES_MAX: usize = 1_024;

/// All proxies of a run, by name.
pub type Proxies = BTreeMap<String, Arc<Proxy>>;

/// Answers orders until dropped.
pub async fn serve(listener: TcpListener, proxies: Arc<Proxies>) {
    let mut conns = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while conns.try_join_next().is_some() {}
        let proxies = Arc::clone(&proxies);
        conns.spawn(async move {
            // Whoever gave the orders has gone: nothing to tell.
            let _ = converse(stream, &proxies).await;
        });
    }
}

async fn converse(mut stream: TcpStream, proxies: &Proxies) -> std::io::Result<()> {
    let (reads, mut writes) = stream.split();
    let mut lines = BufReader::new(reads).lines();
    while let Some(line) = lines.next_line().await? {
        if line.len() > LINE_BYTES_MAX {
            return Ok(());
        }
        let answer = obey(&line, proxies);
        writes.write_all(answer.as_bytes()).await?;
        writes.write_all(b"\n").await?;
    }
    Ok(())
}

fn obey(line: &str, proxies: &Proxies) -> String {
    let line = line.trim();
    if line == "list" {
        let all = proxies
            .values()
            .map(|p| format!("{} {} {} hits", p.name, p.address, p.hits()));
        return all.collect::<Vec<_>>().join("\n");
    }
    let Some((name, order)) = line.split_once(' ') else {
        return "error: write NAME ORDER, NAME heal, or list".into();
    };
    let Some(proxy) = proxies.get(name) else {
        return format!("error: no proxy {name}");
    };
    if order.trim() == "heal" {
        proxy.heal();
        return "ok".into();
    }
    match order.parse::<Order>() {
        Ok(order) => {
            proxy.order(order);
            "ok".into()
        }
        Err(why) => format!("error: {why}"),
    }
}
