//! Caps on connections: in all, and for each client address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use portsplice_model::Scope;

/// Counts open connections.
#[derive(Debug, Default)]
pub struct ConnectionLimits {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    open: usize,
    by_client: HashMap<IpAddr, u32>,
}

/// A connection that was admitted; dropping it gives its place back.
#[derive(Debug)]
pub struct Admission {
    limits: Arc<ConnectionLimits>,
    client: IpAddr,
}

impl ConnectionLimits {
    /// Counters at zero.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.counts.lock().open
    }

    /// Admits a connection of `client` unless `all` or `each` (0: no limit) are reached already.
    ///
    /// # Errors
    /// Which cap was reached.
    pub fn admit(self: &Arc<Self>, client: IpAddr, all: u32, each: u32) -> Result<Admission, Scope> {
        let client = client.to_canonical();
        let mut counts = self.counts.lock();
        if all != 0 && counts.open >= all as usize {
            return Err(Scope::Node);
        }
        let of_client = counts.by_client.entry(client).or_default();
        if each != 0 && *of_client >= each {
            return Err(Scope::Client);
        }
        *of_client += 1;
        counts.open += 1;
        Ok(Admission { limits: self.clone(), client })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let mut counts = self.limits.counts.lock();
        counts.open -= 1;
        if let Some(of_client) = counts.by_client.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                counts.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_hold_and_places_come_back() {
        let limits = ConnectionLimits::new();
        let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let first = limits.admit(one, 2, 1).unwrap();
        assert_eq!(limits.admit(one, 2, 1).unwrap_err(), Scope::Client);
        let second = limits.admit(two, 2, 1).unwrap();
        assert_eq!(limits.admit("192.0.2.3".parse().unwrap(), 2, 1).unwrap_err(), Scope::Node);
        drop(first);
        let again = limits.admit("::ffff:192.0.2.1".parse().unwrap(), 2, 1).unwrap();
        assert_eq!(limits.admit(one, 0, 1).unwrap_err(), Scope::Client, "a mapped address is the same client");
        drop((second, again));
        assert_eq!(limits.open(), 0);
        assert!(limits.counts.lock().by_client.is_empty());
    }
}
