//! How many sockets each address holds, where that is limited. A slot is given back when the socket is gone, whatever it became.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Counts by address; cheap to clone.
#[derive(Clone, Default)]
pub struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One socket's share.
pub struct Slot {
    addresses: Addresses,
    ip: IpAddr,
}

impl Addresses {
    /// `None`: the address holds `max` already.
    pub fn enter(&self, ip: IpAddr, max: usize) -> Option<Arc<Slot>> {
        let mut counts = self.0.lock();
        let count = counts.entry(ip).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Arc::new(Slot {
            addresses: self.clone(),
            ip,
        }))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.addresses.0.lock();
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

    #[test]
    fn an_address_gets_its_slots_back() {
        let addresses = Addresses::default();
        let (here, there) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let (one, _two) = (addresses.enter(here, 2).unwrap(), addresses.enter(here, 2).unwrap());
        assert!(addresses.enter(here, 2).is_none());
        assert!(addresses.enter(there, 2).is_some());
        drop(one);
        assert!(addresses.enter(here, 2).is_some());
        assert_eq!(addresses.0.lock().len(), 1);
    }
}
