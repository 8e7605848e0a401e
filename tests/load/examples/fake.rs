//! The clients' small test server on a port, to try the load generator by hand: `cargo run --release -p load --example fake -- 127.0.0.1:8090`.

#[path = "../../../client/tests/all/fake/mod.rs"]
mod fake;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let at = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8090".into());
    let (_fake, ws, tcp, mut tasks) = fake::Fake::start_at(&at).await;
    eprintln!("ws://{ws} and tcp://{tcp}; every token is trusted");
    tasks.join_next().await;
}
