//! Places for requests: what one key holder or one host has under way, others do not wait for.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Requests that one key has signed and that are read or done at once. Nodes send one after the other; one that was given up
/// may still be under way.
const OF_ONE_KEY: u32 = 4;
/// Requests of one address, whoever has signed them: a node may hold many keys, and several nodes may share an address.
const OF_ONE_CLIENT: u32 = 16;

/// Counts requests that are under way.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: Mutex<HashMap<Holder, u32>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Key(String),
    Client(IpAddr),
}

impl Holder {
    fn most(&self) -> u32 {
        match self {
            Self::Key(_) => OF_ONE_KEY,
            Self::Client(_) => OF_ONE_CLIENT,
        }
    }
}

/// The places of one request; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    holders: [Holder; 2],
}

impl Places {
    /// Takes a place for a request that was signed with the key of `identity` and came from `client`; none if there is
    /// none left for one of the two.
    pub(super) fn take(self: &Arc<Self>, identity: &str, client: IpAddr) -> Option<Place> {
        let holders = [Holder::Key(identity.to_owned()), Holder::Client(client.to_canonical())];
        let mut taken = self.taken.lock();
        if holders.iter().any(|holder| taken.get(holder).is_some_and(|taken| *taken >= holder.most())) {
            return None;
        }
        for holder in &holders {
            *taken.entry(holder.clone()).or_default() += 1;
        }
        Some(Place { places: Arc::clone(self), holders })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        for holder in &self.holders {
            if let Some(count) = taken.get_mut(holder) {
                *count -= 1;
                if *count == 0 {
                    taken.remove(holder);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_own_and_they_come_back() {
        let places = Arc::<Places>::default();
        let (here, there): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let take = |key: &str, client| places.take(key, client);
        let one_key: Vec<_> = (0..OF_ONE_KEY).map(|_| take("a", here).unwrap()).collect();
        assert!(take("a", here).is_none() && take("a", there).is_none());
        let others: Vec<_> = (0..).map_while(|n| take(&format!("b{n}"), here)).collect();
        assert_eq!(one_key.len() + others.len(), OF_ONE_CLIENT as usize);
        assert!(take("c", "::ffff:192.0.2.1".parse().unwrap()).is_none(), "a mapped address is the same client");
        let elsewhere = take("c", there);
        assert!(elsewhere.is_some());
        drop(one_key);
        assert!(take("a", here).is_some());
        drop((others, elsewhere));
        assert!(places.taken.lock().is_empty());
    }
}
