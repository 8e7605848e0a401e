//! How many connections each client's address holds, where that is limited. A slot is given back when the connection is gone,
//! whatever it became. Behind a trusted proxy the address is the one the proxy names; from anybody else that header is nothing.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use process::config::Network;

/// Who counts as a client, and how many connections each may have; cheap to clone.
#[derive(Clone, Default)]
pub struct Addresses(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// 0: not limited.
    max: usize,
    header: Option<HeaderName>,
    proxies: Vec<Network>,
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's share.
pub struct Slot {
    addresses: Addresses,
    ip: IpAddr,
}

/// The address holds as many as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl Addresses {
    pub fn new(max: usize, header: Option<HeaderName>, proxies: Vec<Network>) -> Self {
        Self(Arc::new(Inner {
            max,
            header,
            proxies,
            counts: Mutex::default(),
        }))
    }

    /// A socket was accepted. One of a proxy that names its clients is many clients': each of their connections counts by itself.
    pub fn enter_socket(&self, peer: IpAddr, names_clients: bool) -> Result<Option<Arc<Slot>>, Full> {
        if self.0.max == 0 || (names_clients && self.is_proxy(peer)) {
            return Ok(None);
        }
        self.enter(peer).map(Some)
    }

    /// A request on a socket of `peer` begins a connection. The socket of anybody but a proxy is counted already.
    pub fn enter_request(&self, peer: IpAddr, headers: &HeaderMap) -> Result<Option<Arc<Slot>>, Full> {
        if self.0.max == 0 || !self.is_proxy(peer) {
            return Ok(None);
        }
        self.enter(self.client(peer, headers)).map(Some)
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        self.0.header.is_some() && self.0.proxies.iter().any(|p| p.contains(address))
    }

    /// The client as the trusted proxies say: read from the right, the last address that is not a proxy's. What stands left of it
    /// anybody could have written. Where nothing can be read, the proxy itself counts.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut last = peer;
        let Some(header) = &self.0.header else { return last };
        for value in headers.get_all(header).iter().rev() {
            let Ok(list) = value.to_str() else { return last };
            for item in list.rsplit(',') {
                let Ok(address) = item.trim().parse::<IpAddr>() else {
                    return last;
                };
                last = address;
                if !self.is_proxy(address) {
                    return last;
                }
            }
        }
        last
    }

    fn enter(&self, address: IpAddr) -> Result<Arc<Slot>, Full> {
        let ip = counted(address);
        let mut counts = self.0.counts.lock();
        let count = counts.entry(ip).or_default();
        if *count >= self.0.max {
            return Err(Full);
        }
        *count += 1;
        Ok(Arc::new(Slot {
            addresses: self.clone(),
            ip,
        }))
    }
}

/// Whoever has one IPv6 address has its whole /64.
fn counted(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.addresses.0.counts.lock();
        if let Some(count) = counts.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn behind_proxies(max: usize) -> Addresses {
        let header = HeaderName::from_static("x-forwarded-for");
        let proxies = ["10.0.0.0/8", "::1"].map(|p| p.parse().unwrap());
        Addresses::new(max, Some(header), proxies.to_vec())
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn an_address_gets_its_slots_back() {
        let addresses = Addresses::new(2, None, vec![]);
        let enter = |address| addresses.enter_socket(ip(address), false);
        let (one, _two) = (enter("10.0.0.1").unwrap(), enter("10.0.0.1").unwrap());
        assert!(enter("10.0.0.1").is_err());
        assert!(enter("10.0.0.2").is_ok());
        drop(one);
        assert!(enter("10.0.0.1").is_ok());
        assert_eq!(addresses.0.counts.lock().len(), 1);
    }

    #[test]
    fn one_host_of_ipv6_is_its_whole_network() {
        let addresses = Addresses::new(1, None, vec![]);
        let _one = addresses.enter_socket(ip("2001:db8::1"), false).unwrap();
        assert!(addresses.enter_socket(ip("2001:db8::2"), false).is_err());
        assert!(addresses.enter_socket(ip("2001:db8:0:1::1"), false).is_ok());
        let _four = addresses.enter_socket(ip("192.0.2.1"), false).unwrap();
        assert!(addresses.enter_socket(ip("::ffff:192.0.2.1"), false).is_err());
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_proxys() {
        let addresses = behind_proxies(1);
        for (given, client) in [
            (&["203.0.113.9"][..], "203.0.113.9"),
            (&["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
            (&["1.1.1.1,203.0.113.9,10.1.1.1"], "203.0.113.9"),
            (&["1.1.1.1", "203.0.113.9, 10.1.1.1"], "203.0.113.9"),
            (&["10.1.1.1"], "10.1.1.1"),
            (&[], "10.0.0.1"),
            (&["unknown"], "10.0.0.1"),
            (&["203.0.113.9, rubbish, 10.2.2.2"], "10.2.2.2"),
            (&["203.0.113.9,"], "10.0.0.1"),
            (&["2001:db8::7"], "2001:db8::7"),
        ] {
            assert_eq!(
                addresses.client(ip("10.0.0.1"), &headers(given)),
                ip(client),
                "{given:?}"
            );
        }
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        let addresses = behind_proxies(1);
        let stranger = ip("203.0.113.1");
        let _socket = addresses
            .enter_socket(stranger, true)
            .unwrap()
            .expect("a stranger's socket counts");
        assert!(addresses.enter_socket(stranger, true).is_err());
        assert!(
            addresses
                .enter_request(stranger, &headers(&["9.9.9.9"]))
                .unwrap()
                .is_none()
        );
        let proxy = ip("10.0.0.1");
        assert!(addresses.enter_socket(proxy, true).unwrap().is_none());
        let _one = addresses.enter_request(proxy, &headers(&["9.9.9.9"])).unwrap().unwrap();
        assert!(addresses.enter_request(proxy, &headers(&["9.9.9.9"])).is_err());
        assert!(
            addresses.enter_request(proxy, &headers(&["8.8.8.8, 9.9.9.9"])).is_err(),
            "the left is anybody's"
        );
        assert!(
            addresses
                .enter_request(proxy, &headers(&["9.9.9.8"]))
                .unwrap()
                .is_some()
        );
        assert!(
            addresses.enter_socket(proxy, false).unwrap().is_some(),
            "raw TCP names nobody"
        );
    }
}
