//! Pages of history from a server that keeps to the protocol, and from one that does not.

use std::net::SocketAddr;

use client::pages::{PageError, Pages};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wire::Seq;
use wire::event::{entry_of, event_frame};
use wire::record::{Role, Sender};

/// What is answered to `after=…`: the seqs on the page, and how far the history goes.
type Script = fn(u64) -> (Vec<u64>, u64);

async fn serve(script: Script) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut asked = Vec::new();
                let mut piece = [0; 1024];
                while let Ok(read @ 1..) = socket.read(&mut piece).await {
                    asked.extend_from_slice(&piece[..read]);
                    if !asked.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let answer = answer(&String::from_utf8_lossy(&asked), script);
                    asked.clear();
                    if socket.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    at
}

fn answer(asked: &str, script: Script) -> String {
    let after = asked.split("after=").nth(1).unwrap_or_default();
    let after: String = after.chars().take_while(char::is_ascii_digit).collect();
    let (seqs, last_seq) = script(after.parse().expect("a number"));
    let from = Sender {
        role: Role::Customer.into(),
        user: "alice".into(),
    };
    let entry = |seq: &u64| {
        let frame = event_frame("alice", Seq(*seq), 1, "", &from, br#""body":{"text":"hi"}"#);
        String::from_utf8_lossy(&entry_of(&frame)).into_owned()
    };
    let events: Vec<String> = seqs.iter().map(entry).collect();
    let body = format!(r#"{{"events":[{}],"last_seq":{last_seq}}}"#, events.join(","));
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn all(script: Script, upto: u64) -> Result<Vec<u64>, PageError> {
    let pages = Pages::new(&format!("http://{}", serve(script).await))?;
    let events = pages.all("a token", "alice", 0, upto).await?;
    Ok(events.iter().map(|e| e.seq).collect())
}

#[tokio::test]
async fn pages_are_read_to_where_one_asked_or_the_history_ends() {
    let two_of_five: Script = |after| ((after + 1..=(after + 2).min(5)).collect(), 5);
    assert_eq!(all(two_of_five, 4).await.expect("pages"), [1, 2, 3, 4]);
    // Two more were said and are not stored yet: no hole.
    assert_eq!(all(two_of_five, 7).await.expect("pages"), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn an_empty_page_before_the_end_is_an_error_and_no_end() {
    let lost: Script = |after| if after < 2 { (vec![1, 2], 5) } else { (Vec::new(), 5) };
    let why = all(lost, 5).await.expect_err("events 3 to 5 are missing").to_string();
    assert!(
        why.contains("the page after 2 is empty, and the history goes to 5"),
        "{why}"
    );
    assert_eq!(all(lost, 2).await.expect("nobody asked for them"), [1, 2]);
}
