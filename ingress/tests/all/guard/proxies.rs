//! Connections of one address: behind a trusted proxy the address is the client's; from anybody else the header is nothing.

use reqwest::header::HeaderMap;
use serde_json::json;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::way::Way;
use crate::common::*;

fn limited(trusted: &[&str]) -> process::Config {
    let mut config = config();
    config.limits.connections_per_address_max = 1;
    config.http.client_address_header = "x-forwarded-for".into();
    config.http.trusted_proxies = trusted.iter().map(|p| p.parse().unwrap()).collect();
    config
}

/// Opens a connection that says it comes from there, and keeps it. False: refused.
async fn open(node: &TestNode, way: Way, forwarded: &[&str], kept: &mut Vec<Box<dyn std::any::Any + Send>>) -> bool {
    if way == Way::WebSocket {
        let url = format!("ws://{}/v1/connect", node.handle.addresses.ws_http.unwrap());
        let mut request = url.into_client_request().unwrap();
        for value in forwarded {
            request.headers_mut().append("x-forwarded-for", value.parse().unwrap());
        }
        return match soon(tokio_tungstenite::connect_async(request)).await {
            Ok(opened) => {
                kept.push(Box::new(opened));
                true
            }
            Err(_) => false,
        };
    }
    let path = if way == Way::Stream { "/v1/stream" } else { "/v1/poll" };
    let mut headers = HeaderMap::new();
    for value in forwarded {
        headers.append("x-forwarded-for", value.parse().unwrap());
    }
    let connect = json!({"connect":{"token":token("alice", "customer")}}).to_string();
    let request = reqwest::Client::new().post(format!("{}{path}", node.http()));
    match soon(request.headers(headers).body(connect).send()).await {
        Ok(response) => {
            let status = response.status().as_u16();
            assert!([200, 429].contains(&status), "{status}");
            kept.push(Box::new(response));
            status == 200
        }
        // A socket that was one too many was hung up.
        Err(_) => false,
    }
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_has_its_own_share() {
    for way in [Way::WebSocket, Way::Stream, Way::Poll] {
        let node = start_with(limited(&["127.0.0.0/8"]), |_| {}).await;
        let mut kept = vec![];
        assert!(open(&node, way, &["203.0.113.1"], &mut kept).await, "{way:?}");
        assert!(
            open(&node, way, &["203.0.113.2"], &mut kept).await,
            "{way:?}: another client"
        );
        assert!(
            !open(&node, way, &["203.0.113.1"], &mut kept).await,
            "{way:?}: the same again"
        );
        for spoofed in [&["9.9.9.9, 203.0.113.1"][..], &["9.9.9.9", "203.0.113.1, 127.0.0.7"]] {
            assert!(!open(&node, way, spoofed, &mut kept).await, "{way:?}: {spoofed:?}");
        }
        if way != Way::Poll {
            kept.clear();
            until("the share is given back", || node.handle.open_connections() == 0).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            assert!(
                open(&node, way, &["203.0.113.1"], &mut kept).await,
                "{way:?}: given back"
            );
        }
    }
}

#[tokio::test]
async fn a_stranger_cannot_name_an_address() {
    // Between two polls there is no socket to count.
    for way in [Way::WebSocket, Way::Stream] {
        let node = start_with(limited(&["10.0.0.0/8"]), |_| {}).await;
        let mut kept = vec![];
        assert!(open(&node, way, &["203.0.113.1"], &mut kept).await, "{way:?}");
        assert!(
            !open(&node, way, &["203.0.113.2"], &mut kept).await,
            "{way:?}: the socket's peer counts"
        );
        assert!(
            !open(&node, way, &["10.0.0.1"], &mut kept).await,
            "{way:?}: nor can it be the proxy"
        );
    }
}
