//! Every verb of the proxy does what it says, and nothing to the other direction.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

use std::sync::Arc;
use std::time::{Duration, Instant};

use chaos::proxy::{Proxies, Proxy, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// What must not come is waited for this long.
const NOTHING_COMES: Duration = Duration::from_millis(150);
const SOON: Duration = Duration::from_secs(60);

/// A client and its server, with a proxy between them.
struct Pair {
    proxy: Proxy,
    client: TcpStream,
    server: TcpStream,
    /// The server still listens.
    _listener: TcpListener,
}

async fn pair() -> Pair {
    pair_of_seed(1).await
}

async fn pair_of_seed(seed: u64) -> Pair {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap().to_string();
    let proxy = Proxy::start("p", "127.0.0.1:0", &upstream, seed, None).await.unwrap();
    let client = TcpStream::connect(proxy.address).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    Pair {
        proxy,
        client,
        server,
        _listener: listener,
    }
}

impl Pair {
    fn order(&self, text: &str) {
        self.proxy.order(text.parse().unwrap());
    }
}

async fn get(stream: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    timeout(SOON, stream.read_exact(&mut bytes))
        .await
        .expect("in time")
        .expect("bytes");
    bytes
}

async fn nothing_comes(stream: &mut TcpStream) {
    let mut byte = [0];
    let came = timeout(NOTHING_COMES, stream.read(&mut byte)).await;
    assert!(came.is_err(), "{came:?}");
}

async fn is_reset(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let ended = timeout(SOON, stream.read_to_end(&mut rest)).await.expect("in time");
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn without_orders_everything_passes_both_ways_and_ends_pass_too() {
    let mut p = pair().await;
    p.client.write_all(b"hello").await.unwrap();
    assert_eq!(get(&mut p.server, 5).await, b"hello");
    p.server.write_all(b"you").await.unwrap();
    assert_eq!(get(&mut p.client, 3).await, b"you");
    p.client.shutdown().await.unwrap();
    assert_eq!(p.server.read(&mut [0; 8]).await.unwrap(), 0);
    // The other direction is still open.
    p.server.write_all(b"more").await.unwrap();
    assert_eq!(get(&mut p.client, 4).await, b"more");
    assert_eq!(p.proxy.hits(), 0);
}

#[tokio::test]
async fn delay_makes_late_and_keeps_the_order() {
    let mut p = pair().await;
    p.order("up delay 2000..2100");
    let began = Instant::now();
    for i in 0..20_u8 {
        p.client.write_all(&[i]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    p.server.write_all(b"x").await.unwrap();
    get(&mut p.client, 1).await;
    let other_way = began.elapsed();
    assert_eq!(get(&mut p.server, 20).await, (0..20).collect::<Vec<u8>>());
    let this_way = began.elapsed();
    assert!(
        this_way >= Duration::from_secs(2) && other_way < this_way,
        "{other_way:?}, {this_way:?}"
    );
    assert!(p.proxy.hits() > 0);
}

#[tokio::test]
async fn rate_lets_so_many_bytes_through_a_second() {
    let mut p = pair().await;
    p.order("up rate 10000");
    let began = Instant::now();
    p.client.write_all(&[7; 3_000]).await.unwrap();
    get(&mut p.server, 3_000).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(250), "{took:?}");
}

#[tokio::test]
async fn stall_holds_one_way_back_and_loses_nothing() {
    let mut p = pair().await;
    p.order("up stall");
    p.client.write_all(b"held").await.unwrap();
    nothing_comes(&mut p.server).await;
    p.server.write_all(b"free").await.unwrap();
    assert_eq!(get(&mut p.client, 4).await, b"free");
    p.proxy.heal();
    assert_eq!(get(&mut p.server, 4).await, b"held");
}

#[tokio::test]
async fn blackhole_swallows_and_the_connection_does_not_outlive_it() {
    let mut p = pair().await;
    p.order("down blackhole");
    p.server.write_all(b"lost").await.unwrap();
    nothing_comes(&mut p.client).await;
    p.client.write_all(b"heard").await.unwrap();
    assert_eq!(get(&mut p.server, 5).await, b"heard");
    // Not even the end of the server is seen by the client.
    p.server.shutdown().await.unwrap();
    nothing_comes(&mut p.client).await;
    p.proxy.heal();
    is_reset(&mut p.client).await;
}

#[tokio::test]
async fn a_blackhole_that_swallowed_nothing_leaves_the_connection() {
    let mut p = pair().await;
    p.order("blackhole");
    p.proxy.heal();
    p.client.write_all(b"still").await.unwrap();
    assert_eq!(get(&mut p.server, 5).await, b"still");
}

#[tokio::test]
async fn rst_resets_what_is_there_and_lets_in_what_comes() {
    let mut p = pair().await;
    p.order("rst");
    is_reset(&mut p.client).await;
    is_reset(&mut p.server).await;
    let again = TcpStream::connect(p.proxy.address).await;
    assert!(again.is_ok());
    assert_eq!(p.proxy.hits(), 1);
}

#[tokio::test]
async fn refuse_resets_whatever_comes_until_healed() {
    let mut p = pair().await;
    p.order("refuse");
    is_reset(&mut p.client).await;
    let mut again = TcpStream::connect(p.proxy.address).await.unwrap();
    is_reset(&mut again).await;
    p.proxy.heal();
    let mut third = TcpStream::connect(p.proxy.address).await.unwrap();
    nothing_comes(&mut third).await;
}

#[tokio::test]
async fn fin_ends_one_side_only() {
    let mut p = pair().await;
    p.order("up fin");
    let n = timeout(SOON, p.server.read(&mut [0; 8])).await.unwrap().unwrap();
    assert_eq!(n, 0);
    p.server.write_all(b"still").await.unwrap();
    assert_eq!(get(&mut p.client, 5).await, b"still");
}

#[tokio::test]
async fn cut_passes_so_many_bytes_and_no_more() {
    let mut p = pair().await;
    p.client.write_all(b"before").await.unwrap();
    get(&mut p.server, 6).await;
    p.order("up cut 4");
    p.client.write_all(b"abcdefgh").await.unwrap();
    assert_eq!(get(&mut p.server, 4).await, b"abcd");
    is_reset(&mut p.server).await;
    is_reset(&mut p.client).await;
}

#[tokio::test]
async fn split_writes_small_pieces_of_the_same_bytes() {
    let mut p = pair().await;
    p.order("up split 3");
    p.client.write_all(b"abcdefgh").await.unwrap();
    let first = p.server.read(&mut [0; 64]).await.unwrap();
    assert!(first < 8, "{first} bytes came at once");
    assert_eq!(get(&mut p.server, 8 - first).await, &b"abcdefgh"[first..]);
}

#[tokio::test]
async fn coalesce_makes_one_write_of_many() {
    let mut p = pair().await;
    p.order("up coalesce 1500");
    for byte in b"abcdefgh" {
        p.client.write_all(&[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut bytes = [0; 64];
    let n = timeout(SOON, p.server.read(&mut bytes)).await.unwrap().unwrap();
    assert_eq!(&bytes[..n], b"abcdefgh");
}

#[tokio::test]
async fn flip_falsifies_one_bit_of_one_byte_once() {
    let mut p = pair().await;
    p.order("up flip 5");
    p.client.write_all(&[0; 16]).await.unwrap();
    let came = get(&mut p.server, 16).await;
    let wrong: Vec<usize> = (0..16).filter(|i| came[*i] != 0).collect();
    assert_eq!(wrong, [5]);
    assert_eq!(came[5].count_ones(), 1);
}

#[tokio::test]
async fn the_same_seed_falsifies_the_same_bit() {
    let mut bits = Vec::new();
    for seed in [3, 3, 4, 5, 6, 7, 8] {
        let mut p = pair_of_seed(seed).await;
        p.order("up flip 0");
        p.client.write_all(&[0]).await.unwrap();
        bits.push(get(&mut p.server, 1).await[0]);
    }
    assert_eq!(bits[0], bits[1]);
    assert!(bits.iter().any(|b| *b != bits[0]), "{bits:?}");
}

#[tokio::test]
async fn one_in_two_leaves_every_other_connection_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap().to_string();
    let proxy = Proxy::start("p", "127.0.0.1:0", &upstream, 1, None).await.unwrap();
    let mut pairs = Vec::new();
    for _ in 0..2 {
        let client = TcpStream::connect(proxy.address).await.unwrap();
        pairs.push((client, listener.accept().await.unwrap().0));
    }
    proxy.order_one_in("up stall".parse().unwrap(), 2);
    for (client, _) in &mut pairs {
        client.write_all(b"x").await.unwrap();
    }
    nothing_comes(&mut pairs[0].1).await;
    assert_eq!(get(&mut pairs[1].1, 1).await, b"x");
}

#[tokio::test]
async fn the_control_port_obeys_and_says_what_it_did_not_understand() {
    let mut p = pair().await;
    let mut proxies = Proxies::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut control = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let proxy = Arc::new(p.proxy);
    proxies.insert("p".into(), Arc::clone(&proxy));
    let serving = tokio::spawn(serve(listener, Arc::new(proxies)));
    control.write_all(b"p up stall\nq heal\np dance\n").await.unwrap();
    let mut answers = String::new();
    while answers.lines().count() < 3 {
        let mut bytes = [0; 512];
        let n = timeout(SOON, control.read(&mut bytes)).await.unwrap().unwrap();
        answers.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
    }
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers[0], "ok");
    assert!(
        answers[1].contains("no proxy q") && answers[2].contains("dance"),
        "{answers:?}"
    );
    p.client.write_all(b"held").await.unwrap();
    nothing_comes(&mut p.server).await;
    control.write_all(b"p heal\n").await.unwrap();
    assert_eq!(get(&mut p.server, 4).await, b"held");
    serving.abort();
}
